"""The chat model that lmms-eval calls: ``--model sparsemm --model_args method=snapkv,budget=32``."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from loguru import logger
from tqdm import tqdm

from sparsemm.cache.checks import check_backend
from sparsemm.cache.layout import Backend
from sparsemm.configs import InputError, names, own_model, read, refuse_idle
from sparsemm.evaluation.exit_codes import exit_codes
from sparsemm.evaluation.generation import generate
from sparsemm.evaluation.model_arguments import idle_arguments, method_by_name, own_device, parse, positive
from sparsemm.evaluation.posed import PosedTasks
from sparsemm.evaluation.prefill import Prefill
from sparsemm.evaluation.requests import Document, arguments, in_batches
from sparsemm.evaluation.responses import Response
from sparsemm.evaluation.tables import IMAGE_QUESTION, PROMPTS
from sparsemm.methods import KVMethod
from sparsemm.models.checkpoint import fingerprint, locate
from sparsemm.models.loading import load
from sparsemm.models.prompts import images_of

OWN_FIGURES = ("realised_budget", "evicted_tokens", "prefill_s", "decode_s", "kv_bytes", "full_kv_bytes")

HEEDED = {"max_new_tokens", "until", "do_sample", "temperature", "num_beams", "top_p", "top_k"}
"""Generation settings that are followed, or refused, or mean nothing to greedy decoding."""


@dataclass
class RequestFigures(TokenCounts):
    """What was counted for one request; lmms-eval writes it into the samples log.

    ``input_tokens`` counts the prompt without padding, ``output_tokens`` what was generated with the end
    token; the other names are those of `Response`, whose bytes and seconds are shares of a batch's.
    """

    realised_budget: float = 0.0
    evicted_tokens: int = 0
    prefill_s: float | None = None
    decode_s: float | None = None
    kv_bytes: float | None = 0.0
    full_kv_bytes: float | None = 0.0

    @classmethod
    def of(cls, response: Response) -> RequestFigures:
        """The figures of a response."""
        return cls(
            input_tokens=response.prompt_tokens,
            output_tokens=response.new_tokens,
            **{name: getattr(response, name) for name in OWN_FIGURES},
        )

    def to_dict(self) -> dict[str, Any]:
        """All figures, lmms-eval's own names first."""
        return {**super().to_dict(), **{name: getattr(self, name) for name in OWN_FIGURES}}


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
        Entries kept per (layer, KV head), window included: tokens, or a share of the prompt in (0, 1].
        FullKV needs none.
    head_scores : path, optional
        Head scores for the methods that use them; default: the model's.
    window : int, optional
        Observation window; default: the model's, else 32.
    prompt : str, default "image_question"
        ``question_after_compression``: the question is read behind what was kept of the image, unseen by the
        choice.
    dtype : str, optional
        ``float32``, ``bfloat16``, ``float16`` or ``auto``; default: the model's, else ``auto``.
    device : str, optional
        Default: ``cuda`` where there is one, else ``cpu``; among several processes, each one's own.
    batch_size : int, default 1
        Requests per batch, in document order.
    max_new_tokens : int, optional
        In place of the task's own limit, and of that in ``--gen_kwargs``.
    backend : str, optional
        How generated tokens attend; default: `RaggedCache`'s own choice.
    trust_remote_code : bool, default False
        Run Python code that comes with the checkpoint.
    **method_parameters
        Parameters of the method in place of those in its file, such as ``ratio=0.2``.

    Raises
    ------
    InputError
        Unknown names, with the nearest known ones, values that cannot be used, and arguments that have no
        effect. lmms-eval's command line ends with exit code 2 then; see `exit_codes`.
    """

    is_simple = False

    def __init__(
        self,
        /,  # a method's parameter of this name is an unknown one
        pretrained: str = "tiny",
        method: str = "fullkv",
        budget: float | None = None,
        head_scores: str | None = None,
        window: int | None = None,
        prompt: str = IMAGE_QUESTION,
        dtype: str | None = None,
        device: str | None = None,
        batch_size: int | str = 1,
        max_new_tokens: int | None = None,
        backend: Backend | None = None,
        trust_remote_code: bool | None = None,
        **method_parameters: Any,
    ) -> None:
        super().__init__()
        self.task_dict = PosedTasks()
        pretrained = str(pretrained)  # lmms-eval reads a folder's name of digits as a number
        described = read("model", pretrained) if pretrained in names("model") else own_model(pretrained)
        folder: Path = locate(described["pretrained"])
        self.method: KVMethod = method_by_name(
            method,
            method_parameters,
            [*inspect.signature(SparseMMChat.__init__).parameters][1:-1],
            budget=budget,
            window=described["window"] if window is None else window,
            head_scores=described["head_scores"] if head_scores is None else head_scores,
            fingerprint=fingerprint(folder),
        )
        if prompt not in PROMPTS:
            raise InputError(f"prompt must be {' or '.join(PROMPTS)}, got {prompt!r}")
        settings = {"budget": budget, "window": window, "head_scores": head_scores, "backend": backend}
        refuse_idle(
            [name for name, value in settings.items() if value is not None]
            + ["prompt"] * (prompt != IMAGE_QUESTION)
            + ["device"] * (device is not None),
            idle_arguments(self.method, method, described),
        )
        self.prefill = Prefill(prompt)
        if backend is not None:
            try:
                check_backend(backend)
            except ValueError as error:
                raise InputError(str(error)) from error
        self.backend: Backend | None = backend
        self.batch_size = positive("batch_size", batch_size)
        self.max_new_tokens = None if max_new_tokens is None else positive("max_new_tokens", max_new_tokens)
        self.accelerator = Accelerator()  # the one of lmms-eval's command line, where that runs
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        place = own_device(self.accelerator, device)
        given = {"dtype": dtype, "trust_remote_code": trust_remote_code}
        chosen = {name: value for name, value in given.items() if value is not None}
        self.checkpoint = load(described | chosen, place)
        self.device = self.checkpoint.device

    @classmethod
    @exit_codes()
    def create_from_arg_string(
        cls, arg_string: str, additional_config: dict[str, Any] | None = None
    ) -> SparseMMChat:
        """Make the model from ``--model_args`` and, in `additional_config`, lmms-eval's own options.

        Values that are quoted, for the commas in them, lose their quotes.
        """
        options = {name: value for name, value in (additional_config or {}).items() if value is not None}
        given = parse(arg_string)
        for name in given.keys() & options.keys():
            raise InputError(f"{name} is not for --model_args: lmms-eval's own option is --{name}")
        return cls(**given, **options)

    @exit_codes()
    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answer requests in the order given, in batches with fixed boundaries and equal settings.

        lmms-eval pads the shorter shares of its processes with copies of requests, for models whose processes
        compute together. Ours do not: a copy gets an empty text, which lmms-eval throws away.
        """
        padding = [bool(request.metadata.get("__padding_only__")) for request in requests]
        answered = iter(self._answer([one for one, pads in zip(requests, padding, strict=True) if not pads]))
        return [GenerationResult("") if pads else next(answered) for pads in padding]

    def _answer(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        _check_settings(requests)
        documents = [
            Document.of(request, self.task_dict[task][split], self.max_new_tokens)
            for request in requests
            for *_, task, split in [arguments(request)]
        ]
        responses: list[Response] = []
        with tqdm(total=len(requests), desc="sparsemm", disable=self.rank != 0) as bar:
            for batch in in_batches(documents, self.batch_size):
                answers = generate(
                    self.checkpoint,
                    [self._conversation(document) for document in batch],
                    self.method,
                    prefill=self.prefill,
                    backend=self.backend,
                    max_new_tokens=positive("max_new_tokens", batch[0].settings.max_new_tokens),
                    until=batch[0].settings.until,
                )
                for document, response in zip(batch, answers, strict=True):
                    if response.error is not None:
                        raise InputError(f"document {document.doc_id} has no answer: {response.error}")
                responses += answers
                bar.update(len(batch))
        if responses and self.method.evicts and not any(response.evicted_tokens for response in responses):
            logger.warning(
                f"{self.method.name} at budget {self.method.budget} evicted nothing from any of "
                f"{len(responses)} prompts: the result is FullKV's"
            )
        return [GenerationResult(response.text, RequestFigures.of(response)) for response in responses]

    def _conversation(self, document: Document) -> list[dict[str, Any]]:
        how = f" with prompt={self.prefill.prompt}"
        try:
            conversation = document.conversation(self.prefill.prompt)
            how = ""
            images_of(conversation)
        except ValueError as error:
            raise InputError(f"document {document.doc_id} cannot be asked{how}: {error}") from error
        except OSError as error:
            raise InputError(f"document {document.doc_id} cannot be read: {error}") from error
        return conversation

    def clean(self) -> None:
        """Keep the model: lmms-eval calls this after a run, to make room for judges on the same device."""

    @exit_codes()
    def loglikelihood(self, requests: list[Instance]) -> NoReturn:
        """Refuse: a compressed prompt has no likelihood of a continuation that it did not generate."""
        raise InputError(
            "sparsemm generates; tasks that compare likelihoods (multiple_choice, loglikelihood) cannot run"
        )

    @exit_codes()
    def generate_until_multi_round(self, requests: list[Instance]) -> NoReturn:
        """Refuse: tasks of several rounds are not supported."""
        raise InputError("sparsemm answers single prompts; tasks of several rounds cannot run")


def _check_settings(requests: Sequence[Instance]) -> None:
    """Refuse a temperature, and warn of generation settings that change nothing.

    Also beside a task's ``do_sample: false``, which stays when ``--gen_kwargs temperature=0.7`` is given.
    """
    settings = [
        (name, value)
        for request in requests
        for name, value in arguments(request)[2].items()
        if value is not None
    ]
    for name, value in settings:
        if name == "temperature" and value != 0:
            raise InputError(
                f"sparsemm decodes greedily, and the task or --gen_kwargs asks for a temperature of {value}; "
                "--gen_kwargs do_sample=False,temperature=0 takes its place"
            )
    if unheeded := sorted({name for name, _ in settings} - HEEDED):
        logger.warning(f"generation settings that sparsemm does not heed: {', '.join(unheeded)}")
