"""The registered model, as lmms-eval sees it."""

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.models import get_model
from lmms_eval.protocol import ChatMessages
from loguru import logger

from sparsemm.configs import InputError
from sparsemm.documents import make_page
from sparsemm.evaluation.generation import generate
from sparsemm.evaluation.model import RequestFigures, SparseMMChat
from sparsemm.evaluation.model_arguments import own_device
from sparsemm.evaluation.requests import (
    Document,
    arguments,
    in_batches,
    refuse_sampling,
    stop_strings,
)
from sparsemm.tiny import OCR_PROMPT

PAGES = [make_page(seed, tokens=32) for seed in range(5)]


def requests(settings: list[dict]) -> list[Instance]:
    def to_messages(doc):
        content = [{"type": "image", "url": PAGES[doc].image}, {"type": "text", "text": OCR_PROMPT}]
        return [{"role": "user", "content": content}]

    metadata = {"task": "pages", "doc_id": 0, "repeats": 1}
    return [
        Instance("generate_until", ("", to_messages, one, index, "pages", "test"), 0, metadata)
        for index, one in enumerate(settings)
    ]


def answer(chat: SparseMMChat, settings: list[dict]) -> list[str]:
    chat.task_dict["pages"] = {"test": range(len(PAGES))}
    return [result.text for result in chat.generate_until(requests(settings))]


@pytest.fixture(scope="module")
def chat(untrained: Path) -> SparseMMChat:
    return SparseMMChat(str(untrained), method="snapkv", budget=16, window=8, batch_size=2, device="cpu")


def test_lmms_eval_finds_the_model_by_its_entry_point():
    assert get_model("sparsemm") is SparseMMChat


def test_arguments_come_from_the_string_of_the_command_line(untrained, untrained_scores):
    arguments = f"pretrained={untrained},method=sparsemm_flat,budget=0.5,window=8,ratio=0.3,dtype=bfloat16"
    chat = SparseMMChat.create_from_arg_string(
        f"{arguments},head_scores={untrained_scores}", {"batch_size": "3", "device": None}
    )
    assert (chat.method.budget, chat.method.window, chat.batch_size) == (0.5, 8, 3)
    assert (getattr(chat.method, "ratio"), getattr(chat.method, "control")) == (0.3, "flat")  # noqa: B009
    assert str(chat.checkpoint.dtype) == "torch.bfloat16"


def test_quotes_are_for_commas(tmp_path, untrained):
    (folder := tmp_path / "a, b").symlink_to(untrained)
    string = f"pretrained='{folder}',method=\"snapkv\",budget='16',window=8,dtype=auto"
    chat = SparseMMChat.create_from_arg_string(string, {"batch_size": 1, "device": "cpu"})
    assert (chat.method.name, chat.method.budget) == ("snapkv", 16)


@pytest.mark.parametrize(
    ("string", "message"),
    [
        ("tiny", "--model_args are NAME=VALUE,NAME=VALUE, got 'tiny'"),
        ("pretrained=tiny,batch_size=4", "batch_size is not for --model_args: lmms-eval's own option is --b"),
        ("pretrained=7", "no model '7'"),
        ("pretrained=tiny,budget=24", "budget has no effect: fullkv evicts nothing; choose a method"),
        ("pretrained=tiny,method=fullkv,window=8", "window has no effect: fullkv evicts nothing"),
        ("prompt=question_after_compression", "prompt has no effect: fullkv evicts nothing"),
        ("backend=loop", "backend has no effect: fullkv evicts nothing"),
        ("method=snapkv,budget=24,head_scores=x", "head_scores has no effect: snapkv uses none"),
        ("method=snapkv,budget=24,budget=32", "budget is given twice"),
        ("method=snapkv,budget=24,dtype=", "dtype has no value"),
        ("self=3", "unknown argument 'self'"),
        ("method=random,budget=32,seed=[0,1]", r"seed must be an integer from 0 on, got '\[0,1\]'"),
    ],
)
def test_wrong_strings_give_one_line(string, message):
    with pytest.raises(InputError, match=message):
        SparseMMChat.create_from_arg_string(string, {"batch_size": 1, "max_batch_size": None})


def test_batches_hold_one_set_of_settings_and_keep_the_order(chat):
    short, long = {"max_new_tokens": 4}, {"max_new_tokens": 12}
    settings = [long, long, long, short, short]
    documents = [Document.of(request, range(len(PAGES))) for request in requests(settings)]
    batches = in_batches(documents, 2)
    assert [[document.doc_id for document in batch] for batch in batches] == [[0, 1], [2], [3, 4]]
    mixed = answer(chat, settings)
    all_long, all_short = answer(chat, [long] * 5), answer(chat, [short] * 5)
    assert mixed == [*all_long[:3], *all_short[3:]]
    assert all_long[3:] != all_short[3:]


def test_own_limit_and_stop_strings_of_the_task(chat, untrained):
    free = answer(chat, [{"max_new_tokens": 12, "until": ["\n\n"]}] * 2)
    stop = free[0][2]
    assert answer(chat, [{"max_new_tokens": 12, "until": stop}] * 2) == [text.split(stop)[0] for text in free]
    other = SparseMMChat(str(untrained), method="snapkv", budget=16, window=8, max_new_tokens=4, device="cpu")
    assert answer(other, [{"max_new_tokens": 12}] * 2) == answer(chat, [{"max_new_tokens": 4}] * 2)


@contextmanager
def warnings() -> Iterator[list[str]]:
    """What is warned of inside."""
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(str(message)), level="WARNING")
    try:
        yield lines
    finally:
        logger.remove(sink)


@pytest.mark.parametrize(("budget", "warned"), [(16, False), (4096, True)])
def test_says_once_when_nothing_was_compressed(untrained, budget, warned):
    chat = SparseMMChat(str(untrained), method="snapkv", budget=budget, window=8, device="cpu")
    with warnings() as lines:
        answer(chat, [{"max_new_tokens": 2}] * 3)
    assert len([line for line in lines if "evicted nothing" in line]) == warned


def test_requests_that_only_pad_are_not_answered(chat):
    chat.task_dict["pages"] = {"test": range(len(PAGES))}
    given = requests([{"max_new_tokens": 4}] * 3)
    for padding in (given[1], given[2]):
        padding.metadata = {**padding.metadata, "__padding_only__": True}
    first, *padded = chat.generate_until(given)
    assert first.text == answer(chat, [{"max_new_tokens": 4}])[0] != ""
    assert padded == [GenerationResult(""), GenerationResult("")]
    with warnings() as lines:
        assert chat.generate_until(given[1:]) == padded
    assert not lines


def test_generation_settings_that_change_nothing_are_named(chat):
    with warnings() as lines:
        answer(chat, [{"max_new_tokens": 2, "repetition_penalty": 1.5, "top_p": None, "num_beams": 1}] * 3)
    assert [line.split(" - ")[-1].strip() for line in lines] == [
        "generation settings that sparsemm does not heed: repetition_penalty"
    ]


def test_stop_strings_are_texts():
    for given, read in [
        (None, ()),
        ("4", ("4",)),
        ("[END]", ("[END]",)),
        ("[4]", ("[4]",)),
        ('["4", "a,b"]', ("4", "a,b")),
        (["\n", "Q:"], ("\n", "Q:")),
    ]:
        assert stop_strings(given) == read
    for wrong in (4, 4.5, True, [4, "a"], ["a", None], {"a": 1}, float("nan")):
        with pytest.raises(InputError, match="until: a stop string must be a text, got "):
            stop_strings(wrong)


def test_each_of_several_processes_has_its_own_device():
    def of(count: int, device: str, asked: str | None) -> str | None:
        accelerator: Any = SimpleNamespace(num_processes=count, device=torch.device(device))
        return own_device(accelerator, asked)

    assert [of(1, "cuda", asked) for asked in (None, "cpu", "cuda:1")] == [None, "cpu", "cuda:1"]
    assert [of(2, "cuda:1", asked) for asked in (None, "cuda", "cuda:1")] == ["cuda:1"] * 3
    assert of(2, "cpu", "cpu") == "cpu"
    for asked in ("cuda:0", "cpu"):
        with pytest.raises(InputError, match="accelerate gives cuda:1 to this process, one of 2"):
            of(2, "cuda:1", asked)


def test_warns_where_accelerate_started_one_process_for_several(chat, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with warnings() as lines:
        own_device(chat.accelerator, None)
    assert "torch.distributed.run" in lines[0]
    monkeypatch.delenv("MASTER_ADDR")  # as after accelerate launch --num_processes 1
    with warnings() as lines:
        own_device(chat.accelerator, None)
    assert not lines


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "snapkw", "budget": 16}, r"unknown method 'snapkw'; did you mean snapkv"),
        ({"method": "snapkv"}, "needs a budget"),
        ({"method": "snapkv", "budget": 16}, "smaller than the window"),
        ({"method": "snapkv", "budget": 64, "ratio": 0.2}, "unknown argument 'ratio'"),
        ({"method": "fullkv", "dtyp": "float32"}, "did you mean dtype"),
        ({"method": "sparsemm", "budget": 64}, "needs head scores"),
        ({"method": "sparsemm", "budget": 64, "head_scores": "none.safetensors"}, "no such file"),
        ({"method": "fullkv", "dtype": "float8"}, "unknown dtype 'float8'"),
        ({"method": "fullkv", "device": "tpu"}, "device 'tpu' cannot be used"),
        ({"method": "fullkv", "batch_size": 0}, "batch_size must be a positive integer"),
        ({"method": "fullkv", "batch_size": "auto"}, "batch_size must be a positive integer, got 'auto'"),
        ({"method": "snapkv", "budget": 1.5}, r"method snapkv: a float budget is a share"),
        ({"method": "snapkv", "budget": "many"}, "method snapkv: budget must be an int"),
        ({"method": "snapkv", "budget": 64, "window": 0}, "window must be a positive integer"),
        ({"method": "snapkv", "budget": 64, "_target_": "x"}, "unknown argument '_target_'"),
    ],
)
def test_wrong_arguments_give_one_line(untrained, arguments, message):
    with pytest.raises(InputError, match=message) as error:
        SparseMMChat(str(untrained), **arguments)
    assert "\n" not in str(error.value)


def test_unknown_checkpoints_name_the_near_ones(tmp_path):
    with pytest.raises(InputError, match="did you mean tiny"):
        SparseMMChat("tiney")
    with pytest.raises(InputError, match=r"no config\.json"):
        SparseMMChat(str(tmp_path))


def test_only_greedy_generation(chat):
    refuse_sampling({"temperature": 0, "do_sample": False, "num_beams": 1, "top_p": 1.0})
    for settings in (
        {"do_sample": True},
        {"temperature": 0.7},
        {"num_beams": 4},
        {"num_beams": "four"},
        {"temperature": 0.7, "do_sample": False},
    ):
        with pytest.raises(InputError, match="greedily"):
            answer(chat, [settings])
    for wrong in ("few", 2.5):
        with pytest.raises(InputError, match="max_new_tokens must be a positive integer"):
            answer(chat, [{"max_new_tokens": wrong}])
    with pytest.raises(InputError, match="likelihood"):
        chat.loglikelihood([])
    with pytest.raises(InputError, match="several rounds"):
        chat.generate_until_multi_round([])


def test_the_guide_has_the_arguments_of_the_docstring():
    guide = (Path(__file__).parents[2] / "docs/lmms-eval.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| `([^`]+)` \| ([^|]*) \| (.*) \|$", guide.split("## Arguments")[1].split("\n## ")[0], re.M
    )
    text = (inspect.getdoc(SparseMMChat) or "").split("----------\n", 1)[1].split("\n\n")[0]
    described = re.findall(r"^(\S.*?)(?: : (.*))?\n((?:    .*\n?)+)", text, re.M)
    assert len(described) == 13
    assert rows == [
        (name, kind.replace('"', "`"), " ".join(lines.replace("``", "`").split()))
        for name, kind, lines in described
    ]


def test_a_decode_backend_may_be_chosen(untrained):
    """Another one gives the same texts; one that pads all heads to the longest takes more bytes."""
    options: dict[str, Any] = {"method": "adakv", "budget": 16, "window": 8, "batch_size": 3, "device": "cpu"}
    settings = [{"max_new_tokens": 6}] * 3
    other: Any = {"backend": "padded"}
    wrong: Any = {"backend": "flash"}
    chats = [SparseMMChat(str(untrained), **options, **more) for more in ({}, other)]
    assert answer(chats[0], settings) == answer(chats[1], settings)
    default, padded = (chat.generate_until(requests(settings))[0].token_counts for chat in chats)
    assert isinstance(default, RequestFigures)
    assert isinstance(padded, RequestFigures)
    assert padded.kv_bytes is not None
    assert default.kv_bytes is not None
    assert padded.kv_bytes > default.kv_bytes
    with pytest.raises(InputError, match="backend must be one of grouped, loop, padded, triton"):
        SparseMMChat(str(untrained), **options, **wrong)


def test_a_prompt_may_be_compressed_before_its_question(untrained):
    """As a sweep's cell: the same texts; a text before an image is refused by its document."""
    options = {"method": "snapkv", "budget": 16, "window": 8, "batch_size": 2, "device": "cpu"}
    chat = SparseMMChat(str(untrained), prompt="question_after_compression", **options)
    plain = SparseMMChat(str(untrained), **options)
    settings = [{"max_new_tokens": 6}] * 3
    conversations = [
        ChatMessages(messages=arguments(request)[1](index)).to_hf_messages()
        for index, request in enumerate(requests(settings))
    ]
    expected = [
        response.text
        for start in (0, 2)
        for response in generate(
            chat.checkpoint,
            conversations[start : start + 2],
            chat.method,
            max_new_tokens=6,
            prefill=chat.prefill,
        )
    ]
    assert answer(chat, settings) == expected
    assert answer(plain, settings) != expected
    with pytest.raises(InputError, match="prompt must be image_question or question_after_compression"):
        SparseMMChat(str(untrained), prompt="after")
    question = ("", lambda doc: [{"role": "user", "content": [{"type": "text", "text": "what"}]}])
    chat.task_dict["pages"] = {"test": range(5)}
    request = requests(settings)[1]
    request.arguments = (*question, *arguments(request)[2:])
    with pytest.raises(InputError, match="document 1 cannot be asked with prompt=question_after_compression"):
        chat.generate_until([request])
