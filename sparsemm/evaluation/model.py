"""The chat model that lmms-eval calls: ``--model sparsemm --model_args method=snapkv,budget=32``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NoReturn

from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.api.model import lmms
from lmms_eval.protocol import ChatMessages
from loguru import logger
from tqdm import tqdm

from sparsemm.configs import InputError, names, nearest, read
from sparsemm.evaluation.generation import Response, generate
from sparsemm.evaluation.methods import build_method
from sparsemm.methods import KVMethod
from sparsemm.models.checkpoint import default_device, load, locate

DEFAULT_WINDOW = 32
"""Observation window of a checkpoint that no file of ``eval_configs/model`` describes."""


class SparseMMChat(lmms):
    """A transformers checkpoint whose prompts are compressed by a KV method.

    Parameters
    ----------
    pretrained : str, default "tiny"
        Name of a file in ``eval_configs/model`` (it sets the defaults of the others), a checkpoint folder,
        or a hub name.
    method : str, default "fullkv"
        Name of a file in ``eval_configs/method``, the source of the method's parameters.
    budget : int or float, optional
        Entries kept per (layer, KV head), window included; FullKV needs none.
    head_scores : path, optional
        Head scores for the methods that use them.
    window : int, optional
        Observation window; default: the model's, else 32.
    dtype : str, optional
        Default: the model's, else ``auto``.
    device : str, optional
        Default: ``cuda`` where there is one, else ``cpu``.
    batch_size : int, default 1
        Requests per batch, in document order.
    max_new_tokens : int, optional
        In place of the task's own limit.
    **method_parameters
        Parameters of the method in place of those in its file, such as ``ratio=0.2``.

    Raises
    ------
    InputError
        Unknown names, with the nearest known ones.
    """

    is_simple = False

    def __init__(
        self,
        pretrained: str = "tiny",
        method: str = "fullkv",
        budget: float | None = None,
        head_scores: str | None = None,
        window: int | None = None,
        dtype: str | None = None,
        device: str | None = None,
        batch_size: int | str = 1,
        max_new_tokens: int | None = None,
        **method_parameters: Any,
    ) -> None:
        super().__init__()
        described = read("model", pretrained) if pretrained in names("model") else {"pretrained": pretrained}
        self.method: KVMethod = _method_by_name(
            method,
            method_parameters,
            budget=budget,
            window=window or described.get("window", DEFAULT_WINDOW),
            head_scores=head_scores or described.get("head_scores"),
        )
        self.batch_size = _positive("batch_size", batch_size)
        self.max_new_tokens = None if max_new_tokens is None else _positive("max_new_tokens", max_new_tokens)
        folder: Path = locate(described["pretrained"])
        self.checkpoint = load(
            folder, dtype or described.get("dtype", "auto"), str(device or default_device())
        )
        self.device = self.checkpoint.device
        self.on_batch: Callable[[int], None] | None = None
        """Called with the number of requests answered, after each batch; None: a bar on the terminal."""

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answer requests in document order, in batches with fixed boundaries and equal settings."""
        responses: list[Response] = []
        bar = tqdm(total=len(requests), desc="sparsemm", disable=self.on_batch is not None or self.rank != 0)
        for settings, group in groupby(requests, key=lambda request: _arguments(request)[2]):
            members = list(group)
            for start in range(0, len(members), self.batch_size):
                batch = members[start : start + self.batch_size]
                responses += self._answer(batch, settings)
                bar.update(len(batch))
                if self.on_batch is not None:
                    self.on_batch(len(batch))
        bar.close()
        if self.method.evicts and not any(response.figures.evicted_tokens for response in responses):
            logger.warning(
                f"{self.method.name} at budget {self.method.budget} evicted nothing from any of "
                f"{len(responses)} prompts: the result is FullKV's"
            )
        return [GenerationResult(response.text, response.figures) for response in responses]

    def _answer(self, batch: Sequence[Instance], settings: dict[str, Any]) -> list[Response]:
        conversations = []
        for request in batch:
            _, to_messages, _, doc_id, task, split = _arguments(request)
            messages = ChatMessages(messages=to_messages(self.task_dict[task][split][doc_id]))
            conversations.append(messages.to_hf_messages())
        refuse_sampling(settings)
        until = settings.get("until") or []
        return generate(
            self.checkpoint,
            conversations,
            self.method,
            max_new_tokens=self.max_new_tokens or settings.get("max_new_tokens", 128),
            until=[until] if isinstance(until, str) else until,
        )

    def clean(self) -> None:
        """Keep the model: lmms-eval calls this after a run, to make room for judges on the same device."""

    def loglikelihood(self, requests: list[Instance]) -> NoReturn:
        """Refuse: a compressed prompt has no likelihood of a continuation that it did not generate."""
        raise InputError(
            "sparsemm generates; tasks that compare likelihoods (multiple_choice, loglikelihood) cannot run"
        )

    def generate_until_multi_round(self, requests: list[Instance]) -> NoReturn:
        """Refuse: tasks of several rounds are not supported."""
        raise InputError("sparsemm answers single prompts; tasks of several rounds cannot run")


def _arguments(request: Instance) -> tuple[Any, ...]:
    """(context, doc_to_messages, generation settings, doc_id, task, split)."""
    return request.args


def refuse_sampling(settings: dict[str, Any]) -> None:
    """Raise `InputError` if a task asks for anything but greedy decoding."""
    sampled = settings.get("do_sample", bool(settings.get("temperature")))
    if sampled or (settings.get("num_beams") or 1) > 1:
        asked = {
            name: settings[name] for name in ("do_sample", "temperature", "num_beams") if name in settings
        }
        raise InputError(f"sparsemm decodes greedily; the task asks for {asked}")


def _method_by_name(name: str, changes: dict[str, Any], **values: Any) -> KVMethod:
    """The method of a file in ``eval_configs/method`` with some parameters changed."""
    parameters = read("method", name)
    arguments = [*inspect.signature(SparseMMChat.__init__).parameters][1:-1]
    for change in changes:
        if change not in parameters:
            raise InputError(
                f"unknown argument {change!r}; {nearest(change, [*arguments, *list(parameters)[1:]])}"
            )
    return build_method({**parameters, **changes}, **values)


def _positive(name: str, value: int | str) -> int:
    if not str(value).isdigit() or int(value) < 1:
        raise InputError(f"{name} must be a positive integer, got {value!r}")
    return int(value)
