"""The registered model, as lmms-eval sees it."""

from pathlib import Path

import pytest
from lmms_eval.api.instance import Instance
from lmms_eval.models import get_model
from loguru import logger

from sparsemm.configs import InputError
from sparsemm.documents import make_page
from sparsemm.evaluation.model import SparseMMChat
from sparsemm.evaluation.requests import Document, in_batches, refuse_sampling
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


@pytest.mark.parametrize(("budget", "warned"), [(16, False), (4096, True)])
def test_says_once_when_nothing_was_compressed(untrained, budget, warned):
    chat = SparseMMChat(str(untrained), method="snapkv", budget=budget, window=8, device="cpu")
    logger.enable("sparsemm.evaluation.model")
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(str(message)), level="WARNING")
    try:
        answer(chat, [{"max_new_tokens": 2}] * 3)
    finally:
        logger.remove(sink)
    assert len([line for line in lines if "evicted nothing" in line]) == warned


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
    ],
)
def test_wrong_arguments_give_one_line(untrained, arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        SparseMMChat(str(untrained), **arguments)
    assert "\n" not in str(error.value)


def test_unknown_checkpoints_name_the_near_ones(tmp_path):
    with pytest.raises(InputError, match="did you mean tiny"):
        SparseMMChat("tiney")
    with pytest.raises(InputError, match=r"no config\.json"):
        SparseMMChat(str(tmp_path))


def test_only_greedy_generation(chat):
    refuse_sampling({"temperature": 0, "do_sample": False, "num_beams": 1, "top_p": 1.0})
    for settings in ({"do_sample": True}, {"temperature": 0.7}, {"num_beams": 4}):
        with pytest.raises(InputError, match="greedily"):
            answer(chat, [settings])
    with pytest.raises(InputError, match="likelihood"):
        chat.loglikelihood([])
    with pytest.raises(InputError, match="several rounds"):
        chat.generate_until_multi_round([])
