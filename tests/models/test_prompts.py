"""Conversations become inputs as transformers' own ``apply_chat_template(tokenize=True)`` makes them."""

import copy
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from sparsemm.models.loading import Checkpoint
from sparsemm.models.prompts import asked, prepare
from tests.families import VISUAL, build, image
from tests.families.vocabulary import END, build_tokenizer, number

QUESTIONS = ("what is this", "and what is that over there")


def checkpoint_of(family: str, processor: Any) -> Checkpoint:
    return Checkpoint(build(family)[0], processor, torch.device("cpu"), torch.float32)


def conversations() -> list[Any]:
    return [asked(image(row), question) for row, question in enumerate(QUESTIONS)]


@pytest.mark.parametrize("family", VISUAL)
def test_inputs_are_transformers_own(family: str) -> None:
    processor = build(family)[1]
    ours = prepare(checkpoint_of(family, processor), conversations())
    theirs = processor.apply_chat_template(
        conversations(),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "left"},
    )
    assert set(ours) == set(theirs)
    for name, values in ours.items():
        assert torch.equal(values, theirs[name]), name


@pytest.mark.parametrize("written", [True, False], ids=["by the template", "by the tokenizer"])
def test_the_first_token_is_written_once(written: bool) -> None:
    """A template that writes it, as Gemma's, and one that leaves it to the tokenizer."""
    processor = copy.copy(build("llava")[1])
    tokenizer = build_tokenizer()
    tokenizer.bos_token = END
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{END} $A", special_tokens=[(END, number(END))]
    )
    processor.tokenizer = tokenizer
    processor.chat_template = (END if written else "") + processor.chat_template
    inputs = prepare(checkpoint_of("llava", processor), conversations())
    for ids, valid in zip(inputs["input_ids"], inputs["attention_mask"].bool(), strict=True):
        prompt = ids[valid].tolist()
        assert prompt[0] == number(END)
        assert prompt.count(number(END)) == 1


def test_the_number_format_is_the_models() -> None:
    processor = build("llava")[1]
    half = Checkpoint(build("llava")[0], processor, torch.device("cpu"), torch.bfloat16)
    assert prepare(half, conversations())["pixel_values"].dtype == torch.bfloat16
