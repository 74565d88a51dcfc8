"""Conversations become inputs as transformers' own ``apply_chat_template(tokenize=True)`` makes them."""

import copy
from typing import Any

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from sparsemm.models.image_tokens import image_tokens
from sparsemm.models.loading import Checkpoint
from sparsemm.models.prompts import asked, check_question_last, prepare, question_tokens
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


@pytest.mark.parametrize("family", VISUAL)
def test_the_question_is_what_comes_behind_the_image(family: str) -> None:
    """Its text is behind the cut, the image before it, and the cut is the same for every question."""
    model, processor = build(family)
    checkpoint = checkpoint_of(family, processor)
    inputs = prepare(checkpoint, conversations())
    contexts = []
    for row, (count, asks) in enumerate(zip(question_tokens(checkpoint, inputs), QUESTIONS, strict=True)):
        ids = inputs["input_ids"][row]
        parts = ids[:-count], ids[-count:]
        before, behind = ("".join(processor.tokenizer.decode(part).split()) for part in parts)
        assert asks.replace(" ", "") in behind
        assert asks[:4] not in before
        contexts.append(int(inputs["attention_mask"][row].sum()) - count)
    sizes = [[image(row).size] for row in range(2)]
    for row, [tokens] in enumerate(image_tokens(model.config, processor, inputs, sizes)):
        assert (
            int(tokens.positions.max())
            < inputs["input_ids"].shape[1] - question_tokens(checkpoint, inputs)[row]
        )
    other = prepare(checkpoint, [asked(image(row), "something else altogether") for row in range(2)])
    lengths = other["attention_mask"].sum(1) - torch.tensor(question_tokens(checkpoint, other))
    assert lengths.tolist() == contexts


def test_a_prompt_without_an_image_token_is_refused() -> None:
    checkpoint = checkpoint_of("llava", build("llava")[1])
    inputs = {"input_ids": torch.full((1, 5), 7)}
    with pytest.raises(ValueError, match="row 0 has no image"):
        question_tokens(checkpoint, inputs)


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


PICTURE = {"type": "image", "image": None}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([PICTURE, text("what")], None),
        ([text(" "), PICTURE, PICTURE, text("what")], None),
        ([text("what"), PICTURE], "text before the last image"),
        ([PICTURE, text("and"), PICTURE, text("what")], "text before the last image"),
        ([text("what")], "without an image"),
    ],
)
def test_text_before_an_image_cannot_be_hidden_from_it(parts: list[Any], message: str | None) -> None:
    conversation = [{"role": "system", "content": [text("be brief")]}, {"role": "user", "content": parts}]
    if message is None:
        check_question_last(conversation)
        return
    with pytest.raises(ValueError, match=message):
        check_question_last(conversation)
