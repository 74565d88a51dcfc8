"""CIDEr of single captions: the official score is their mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sparsemm.evaluation.aggregation import quiet


def cider(inputs: Sequence[Mapping[str, Any]]) -> list[float]:
    """CIDEr of each document, by pycocoevalcap (arXiv 1411.5726), as lmms-eval's textcaps calls it.

    How much a word counts depends on the references of all documents. Resamples keep these weights, as is
    usual; the task's own function would start three Java programs for every resample.

    Parameters
    ----------
    inputs : sequence of mappings
        Each document's input to ``textcaps_cider``: ``answer`` (reference captions) and ``pred``.
    """
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    tokenizer = PTBTokenizer()
    references = {
        number: [{"caption": text} for text in given["answer"]] for number, given in enumerate(inputs)
    }
    captions = {number: [{"caption": given["pred"]}] for number, given in enumerate(inputs)}
    with quiet():  # the tokenizer, a program of its own, tells how fast it was
        _, scores = Cider().compute_score(tokenizer.tokenize(references), tokenizer.tokenize(captions))
    return [float(score) for score in scores]
