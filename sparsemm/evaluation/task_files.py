"""What lmms-eval reads of the local tasks: the official benchmarks' code and settings, other data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_HEAD = """\
task: {task}
dataset_path: parquet
dataset_kwargs:
  data_files:
    {split}: {task}.parquet
test_split: {split}
output_type: generate_until
doc_to_visual: !function lmms_eval.tasks.{code}_doc_to_visual
doc_to_text: !function lmms_eval.tasks.{code}_doc_to_text
doc_to_target: {target}
generation_kwargs:
  max_new_tokens: {max_new_tokens}
  temperature: 0
  do_sample: false
lmms_eval_specific_kwargs:
  default:
    pre_prompt: ""
    post_prompt: ""
metadata:
  version: 2
"""

_DOCVQA = """\
metric_list:
  - metric: anls
    aggregation: mean
    higher_is_better: true
"""

_OCRBENCH = """\
process_results: !function lmms_eval.tasks.ocrbench.utils.ocrbench_process_results
metric_list:
  - metric: ocrbench_accuracy
    aggregation: !function sparsemm.evaluation.task_files.share_found
    higher_is_better: true
"""

_CHARTQA = """\
process_results: !function lmms_eval.tasks.chartqa.utils.chartqa_process_results
metric_list:
  - metric: relaxed_overall
    aggregation: mean
    higher_is_better: true
  - metric: relaxed_human_split
    aggregation: mean
    higher_is_better: true
  - metric: relaxed_augmented_split
    aggregation: mean
    higher_is_better: true
"""

_TEXTVQA = """\
process_results: !function sparsemm.evaluation.task_files.textvqa_score
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
    ignore_case: true
    ignore_punctuation: true
"""


def _file(task: str, split: str, code: str, target: str, max_new_tokens: int, metrics: str) -> str:
    head = _HEAD.format(task=task, split=split, code=code, target=target, max_new_tokens=max_new_tokens)
    return head + metrics


TASK_FILES = {
    "tiny_docvqa": _file("tiny_docvqa", "validation", "docvqa.utils.docvqa", "answers", 32, _DOCVQA),
    "tiny_ocr": _file("tiny_ocr", "test", "ocrbench.utils.ocrbench", "answer", 224, _OCRBENCH),
    "tiny_chartqa": _file("tiny_chartqa", "test", "chartqa.utils.chartqa", "answer", 16, _CHARTQA),
    "tiny_textvqa": _file("tiny_textvqa", "validation", "textvqa.utils.textvqa", "answers", 64, _TEXTVQA),
}
"""The YAML of each local task. The official ocrbench divides by 1000 whatever the number of documents."""


def share_found(results: Sequence[Mapping[str, Any]]) -> float:
    """Mean of ocrbench's score per sample (0 or 1)."""
    return sum(result["score"] for result in results) / len(results)


def textvqa_score(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """textvqa_val's own score; its entry of a submission file, which nobody takes here, is left out."""
    from lmms_eval.tasks.textvqa.utils import textvqa_process_results

    return {"exact_match": textvqa_process_results(doc, results)["exact_match"]}
