"""The documents of a task as lmms-eval poses them: conversations, and how the answer is to be generated."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from lmms_eval.api.instance import Instance
from lmms_eval.protocol import ChatMessages
from lmms_eval.tasks import TaskManager, get_task_dict
from loguru import logger
from PIL import Image

from sparsemm.configs import InputError
from sparsemm.documents.opening import whole_pictures
from sparsemm.evaluation.embedded import embedded
from sparsemm.evaluation.official import BENCHMARKS, build
from sparsemm.evaluation.tables import IMAGE_QUESTION, QUESTION_AFTER
from sparsemm.evaluation.tasks import check_data, include_path
from sparsemm.models.prompts import check_question_last, images_of

DEFAULT_NEW_TOKENS = 128
"""Upper limit of generated tokens where neither the user nor the task gives one."""


@dataclass(frozen=True)
class Settings:
    """How answers are generated: at most `max_new_tokens`, cut before the first stop string of `until`."""

    max_new_tokens: int
    until: tuple[str, ...]

    @classmethod
    def of(cls, asked: dict[str, Any], max_new_tokens: int | None = None) -> Settings:
        """Read a task's ``generation_kwargs``; `max_new_tokens` takes the place of the task's own.

        Raises
        ------
        InputError
            If the task asks for anything but greedy decoding, or a stop string is no text.
        """
        refuse_sampling(asked)
        limit = max_new_tokens or asked.get("max_new_tokens")
        return cls(DEFAULT_NEW_TOKENS if limit is None else limit, stop_strings(asked.get("until")))


def stop_strings(until: Any) -> tuple[str, ...]:
    """Stop strings as a task's YAML or ``--gen_kwargs`` gives them: a text, a list of texts, or nothing.

    lmms-eval reads what looks like a number on its command line as one, and a list as its text.

    Raises
    ------
    InputError
        One is no text: how it was written cannot be known any more (007, 1e3, TRUE).
    """
    if until is None:
        return ()
    if isinstance(until, str):
        texts: Any = [until]
        if until.startswith("["):
            with suppress(ValueError):
                texts = json.loads(until)  # a list of texts in JSON; else the text itself, such as [END]
        listed = isinstance(texts, list) and all(isinstance(text, str) for text in texts)
        return tuple(texts) if listed else (until,)
    texts = list(until) if isinstance(until, list | tuple) else [until]
    for text in texts:
        if not isinstance(text, str):
            raise InputError(
                f"until: a stop string must be a text, got {text!r}; a list in JSON keeps it one on the "
                f"command line (--gen_kwargs 'until=[\"{text}\"]'), quotes in YAML"
            )
    return tuple(texts)


@dataclass(frozen=True)
class Document:
    """One request of a task."""

    doc_id: int
    settings: Settings
    to_messages: Callable[[Any], Any]
    dataset: Any

    @classmethod
    def of(cls, request: Instance, dataset: Any, max_new_tokens: int | None = None) -> Document:
        """Read a request; `dataset` holds its documents, `max_new_tokens` as in `Settings.of`."""
        _, to_messages, asked, doc_id, _, _ = arguments(request)
        return cls(doc_id, Settings.of(asked, max_new_tokens), to_messages, dataset)

    def conversation(self, prompt: str = IMAGE_QUESTION) -> list[dict[str, Any]]:
        """The chat messages, in transformers' form, with their images read.

        Raises
        ------
        ValueError
            If they cannot be given in the form `prompt`: text before an image, or no image; if they hold a
            video or a sound.
        OSError
            If an image is no picture, or cut off. A task's own code may raise anything else.
        """
        with whole_pictures():
            row = self.dataset[self.doc_id]
            if isinstance(row, Mapping) and not isinstance(row.get("question", ""), str):
                raise ValueError(f"its question is no text: {row['question']!r}")
            messages = ChatMessages(messages=self.to_messages(row)).to_hf_messages()
            for image in images_of(messages):
                if isinstance(image, Image.Image):
                    image.load()
        if prompt == QUESTION_AFTER:
            check_question_last(messages)
        return messages


def arguments(request: Instance) -> tuple[Any, ...]:
    """(context, doc_to_messages, generation settings, doc_id, task, split)."""
    return request.args


def in_batches(documents: Sequence[Document], size: int) -> list[list[Document]]:
    """Batches of documents of equal settings, in order; they depend on nothing but these."""
    return [
        batch
        for _, same in groupby(documents, key=lambda document: document.settings)
        for batch in _batched(same, size)
    ]


def _batched(documents: Iterator[Document], size: int) -> Iterator[list[Document]]:
    while batch := list(islice(documents, size)):
        yield batch


@contextmanager
def quiet(task: str) -> Iterator[None]:
    """Hold back lmms-eval's progress bars and logs; say in one line if it, or the task's own code, fails."""
    held = io.StringIO()
    logger.disable("lmms_eval")
    try:
        with redirect_stderr(held), redirect_stdout(held):
            yield
    except InputError:
        raise
    except Exception as error:  # whatever a task's own code may raise
        cause = error.__cause__ or error  # lmms-eval tries often; the last error then says only that
        # lmms-eval and datasets write below the home folder
        hint = "HF_HOME names another folder for data; " if isinstance(cause, PermissionError) else ""
        raise InputError(
            f"lmms-eval failed at the task {task}: {type(cause).__name__}: {cause} "
            f"({hint}HYDRA_FULL_ERROR=1 shows where)"
        ) from cause
    finally:
        logger.enable("lmms_eval")


def load_documents(
    task: str,
    limit: int | None,
    max_new_tokens: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[Document]:
    """The first documents of a task, in order, as lmms-eval builds its requests.

    Parameters
    ----------
    task : str
    limit : int or None
        Documents; None: all.
    max_new_tokens : int, optional
        In the place of the task's own.
    options : mapping, optional
        The task's file of ``eval_configs/task``; official tasks need it.

    Raises
    ------
    InputError
        If the task has no documents, its data are damaged, or its requests are not to generate a text.
    """
    if task not in BENCHMARKS:
        check_data(task)
    with quiet(task):
        loaded: Any = build(task, options or {}) if task in BENCHMARKS else local_task(task, include_path())
        with _texts_are_made_later(loaded):
            loaded.build_all_requests(limit=limit, rank=0, world_size=1)
    requests: Sequence[Instance] = loaded.instances
    if not requests:
        raise InputError(f"the task {task} has no documents")
    if {request.request_type for request in requests} != {"generate_until"}:
        raise InputError(f"the task {task} does not ask for one generated text for each document")
    data = {split: embedded(loaded.dataset[split]) for split in {arguments(one)[5] for one in requests}}
    found = [Document.of(one, data[arguments(one)[5]], max_new_tokens) for one in requests]
    return sorted(found, key=lambda document: document.doc_id)


@contextmanager
def _texts_are_made_later(loaded: Any) -> Iterator[None]:
    """Let requests be built although the texts of some documents cannot be made.

    A text is made again when its document is asked, and fails that document alone.

    Raises
    ------
    Exception
        No text could be made: what the first one raised.
    """
    make, made, errors = loaded.doc_to_text, 0, []

    def text(*given: Any, **named: Any) -> Any:
        nonlocal made
        try:
            result = make(*given, **named)
        except Exception as error:  # whatever a task's own code may raise
            errors.append(error)
            return ""
        made += 1
        return result

    loaded.doc_to_text = text
    try:
        yield
    finally:
        del loaded.doc_to_text
    if errors and not made:
        raise errors[0]


def local_task(task: str, folder: Path) -> Any:
    """A new task object of lmms-eval for a task of a folder."""
    manager = TaskManager("ERROR", include_path=str(folder), include_defaults=False, model_name="sparsemm")
    return get_task_dict([task], manager, "chat")[task]


def refuse_sampling(settings: dict[str, Any]) -> None:
    """Raise `InputError` if a task asks for anything but greedy decoding."""
    sampled = settings.get("do_sample", bool(settings.get("temperature")))
    if sampled or (settings.get("num_beams") or 1) != 1:
        asked = {
            name: settings[name] for name in ("do_sample", "temperature", "num_beams") if name in settings
        }
        raise InputError(f"sparsemm decodes greedily; the task asks for {asked}")
