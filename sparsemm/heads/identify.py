"""Find a model's visual heads: where each head looks when a character is produced."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import LogitsProcessorList
from transformers.utils import logging

from sparsemm.cache.greedy import NOT_FINITE, FiniteLogits
from sparsemm.configs import InputError, output_folder
from sparsemm.heads.chosen import choose
from sparsemm.heads.concentration import write_statistics
from sparsemm.heads.probe import probe
from sparsemm.heads.progress import Progress
from sparsemm.heads.rules import RULES
from sparsemm.heads.scores import HeadScores
from sparsemm.heads.sources import Boxed
from sparsemm.heads.standing import standing, top_heads
from sparsemm.models import Views, check_views, image_tokens
from sparsemm.models.checkpoint import check_settings, fingerprint, locate
from sparsemm.models.loading import ANSWERING, Checkpoint, load
from sparsemm.models.prompts import asked, prepare

MAX_NEW_TOKENS = 1024


def check_rule(rule: str) -> None:
    """Raise InputError for an unknown rule."""
    if rule not in list(RULES):
        raise InputError(f"unknown rule {rule!r}; known: {', '.join(RULES)}")


def score_batch(
    checkpoint: Checkpoint, pages: Sequence[Boxed], prompt: str, rule: str, views: Views = "tiles"
) -> np.ndarray:
    """Hits of each page: [pages, layers, query heads] float32.

    A head gains 1 / (tokens of the region) whenever its most attended position, over all keys, lies in the
    region that the produced token was read from (arXiv 2506.05344, section 3.1). `views` says which tokens
    count where the family shows an image several times; see `ImageTokens.of_box`.
    """
    model, processor = checkpoint.model, checkpoint.processor
    images = [page.image for page in pages]
    inputs = prepare(checkpoint, [asked(image, prompt) for image in images])
    sizes = [[image.size] for image in images]
    placed = image_tokens(model.config, processor, inputs, sizes, **checkpoint.images_kwargs)
    with torch.inference_mode(), probe(model) as steps:
        finite = FiniteLogits(model.generation_config.eos_token_id)
        options: dict[str, Any] = {"logits_processor": LogitsProcessorList([finite]), "num_beams": 1}
        output: Any = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False, **options)  # pyright: ignore
    if finite.lost is not None and bool(finite.lost.any()):
        raise ValueError(NOT_FINITE)
    looked = torch.stack([torch.stack(layers) for layers in steps]).cpu().numpy()  # [steps, layers, B, heads]
    generated = output[:, inputs["input_ids"].shape[1] :].tolist()
    special = set(processor.tokenizer.all_special_ids)
    hits = np.zeros((len(pages), looked.shape[1], looked.shape[3]), dtype=np.float32)
    for row, page in enumerate(pages):
        end = next((i for i, token in enumerate(generated[row]) if token in special), len(generated[row]))
        tokens = [processor.tokenizer.decode([token]) for token in generated[row][:end]]
        regions = [placed[row][0].of_box(word.box, views) for line in page.lines for word in line]
        for step, region in RULES[rule](tokens, page):
            if inside := regions[region]:  # a family may cut a word off
                hits[row] += np.isin(looked[step, :, row], inside) / len(inside)
    return hits


def identify(
    checkpoint: Checkpoint,
    pages: Sequence[Boxed],
    *,
    prompt: str,
    rule: str = "aligned",
    views: Views = "tiles",
    batch_size: int = 16,
    card: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> HeadScores:
    """Score all query heads on documents with boxes.

    With `progress`, batches that are done are kept there, and those that it holds are not done again.

    Raises
    ------
    ValueError
        Unknown rule; a family without box mapping; no document, or a model that read nothing.
    """
    check_rule(rule)
    if not pages:
        raise ValueError("head identification needs at least one document")
    hits = [held[: len(pages)] for held in progress.load()] if progress else []
    done = sum(map(len, hits))
    starts = range(done, len(pages), batch_size)
    before = math.ceil(done / batch_size)
    with tqdm(desc="heads", unit="batch", initial=before, total=before + len(starts)) as bar:
        bar.set_postfix_str(standing(hits))
        for start in starts:
            hits.append(score_batch(checkpoint, pages[start : start + batch_size], prompt, rule, views))
            if progress:
                progress.save(hits)
            bar.set_postfix_str(standing(hits), refresh=False)
            bar.update()
    table = np.concatenate(hits)
    if not table.any():
        raise ValueError("no head ever looked at what was read: this model does not read these documents")
    config = json.dumps(checkpoint.model.config.get_text_config().to_dict(), sort_keys=True, default=str)
    facts = {
        "rule": rule,
        "views": views,
        "prompt": prompt,
        "n": len(pages),
        "config_hash": hashlib.sha256(config.encode()).hexdigest()[:16],
        "versions": {name: version(name) for name in ("torch", "transformers")},
    }
    return HeadScores(table, {**(card or {}), **facts})


def _check_model(output: Path, progress: Progress) -> None:
    """Look that scores which were measured before, or were begun, are not another model's of the same name.

    Raises
    ------
    InputError
        They are.
    """
    try:
        held = HeadScores.load(output).card.get("fingerprint")
    except (ValueError, OSError):  # none, or none that could be used
        held = None
    for path, measured in ((output, held), (progress.path, progress.measured())):
        if measured not in (None, progress.identity["fingerprint"]):
            raise InputError(
                f"{path} is of another model (fingerprint {measured}; this one's is "
                f"{progress.identity['fingerprint']}): name another file (output=FILE.safetensors), "
                "or delete that one"
            )


def run(config: dict[str, Any]) -> Path:
    """``sparsemm heads``: identify the heads of ``config["model"]`` and write ``config["output"]``.

    Raises
    ------
    InputError
        Wrong options, or the file that would be written is another model's.
    """
    check_views(config["views"])
    check_rule(config["rule"])
    size = config["batch_size"]
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise InputError(f"batch_size must be a positive integer, got {size!r}")
    check_settings(config["model"], None)
    output = Path(str(config["output"]))
    if output.suffix != ".safetensors":
        raise InputError(f"output must end with .safetensors, got {output.name!r}")
    if output.is_dir():
        raise InputError(f"output={output} is a folder: name a file in it")
    output_folder(str(output.parent))
    chosen = choose(config)
    logging.disable_progress_bar()
    folder = locate(config["model"]["pretrained"])
    identity = {
        **{name: config[name] for name in ("rule", "views", "batch_size")},
        **chosen.identity,
        "prompt": config["model"]["ocr_prompt"],
        "dtype": config["model"]["dtype"],
        **{name: config["model"].get(name) for name in ANSWERING},
        "fingerprint": fingerprint(folder),
    }
    progress = Progress(output, identity)
    _check_model(output, progress)
    checkpoint = load(config["model"])
    scores = identify(
        checkpoint,
        chosen.documents,
        prompt=config["model"]["ocr_prompt"],
        rule=config["rule"],
        views=config["views"],
        batch_size=config["batch_size"],
        card={"model": config["model"]["name"], "fingerprint": fingerprint(folder), **chosen.facts},
        progress=progress,
    )
    path = scores.save(output)
    write_statistics(scores, path)
    progress.done()
    top = ", ".join(top_heads(scores.scores, 5))
    print(f"{path}: {len(scores.hits)} documents; highest heads (layer-head): {top}")
    return path
