"""The embedded model is an ordinary checkpoint, and a window of 8 prompt tokens sees its questions."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, Qwen2VLForConditionalGeneration

from sparsemm.documents import KINDS, make_page
from sparsemm.documents.words import ALPHABET
from sparsemm.tiny import OCR_PROMPT, PRESETS, build_model


def chat(question, image):
    content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    return [{"role": "user", "content": content}]


def test_auto_classes_open_it_offline(untrained):
    model: Any = AutoModelForImageTextToText.from_pretrained(untrained)
    assert type(model) is Qwen2VLForConditionalGeneration
    assert model.dtype == torch.float32
    shape = PRESETS["tiny"]
    text: Any = model.config.text_config
    assert text.num_hidden_layers == shape.num_hidden_layers
    same = build_model("tiny")
    for name, weight in same.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name]), name
    with pytest.raises(ValueError, match="unknown preset"):
        build_model("huge")


QUESTION = "What is the value of ABC?"


@pytest.mark.parametrize(("question", "length"), [(OCR_PROMPT, 3), (QUESTION, 7)])
def test_prompt_is_image_question_assistant(untrained, question, length):
    processor = AutoProcessor.from_pretrained(untrained)
    page = make_page(0)
    inputs = processor.apply_chat_template(
        chat(question, page.image),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    ids = inputs["input_ids"][0].tolist()
    image = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert ids.count(image) == page.tokens
    assert len(ids) == 1 + page.tokens + length
    assert processor.tokenizer.decode(ids[-length:]) == f"<|vision_end|>{question}<|assistant|>"


@pytest.mark.parametrize("kind", KINDS)
def test_a_window_of_eight_holds_every_question(untrained, kind):
    tokenizer = AutoProcessor.from_pretrained(untrained).tokenizer
    for seed in range(40):
        for question in make_page(seed, kind=kind, tokens=288).questions:
            assert len(tokenizer.tokenize(question.text + "<|assistant|>")) <= 8
            assert tokenizer.decode(tokenizer(question.text)["input_ids"]) == question.text


def test_tokenizer_round_trips_what_can_stand_on_a_page(untrained):
    tokenizer = AutoProcessor.from_pretrained(untrained).tokenizer
    text = ALPHABET + " \n A1"
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(text)
    assert tokenizer.decode(ids) == text


def test_left_padded_batch_of_different_pages_generates_as_alone(untrained):
    processor = AutoProcessor.from_pretrained(untrained)
    model: Any = AutoModelForImageTextToText.from_pretrained(untrained).eval()
    pages = [make_page(0, tokens=32), make_page(1, tokens=96)]

    def answer(some):
        chats = [chat(QUESTION, page.image) for page in some]
        text = processor.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
        images = [page.image for page in some]
        inputs = processor(text=text, images=images, padding=True, return_tensors="pt")
        tokens = model.generate(**inputs, max_new_tokens=6, do_sample=False, eos_token_id=None)
        return tokens[:, inputs["input_ids"].shape[1] :]

    together = answer(pages)
    for row, page in enumerate(pages):
        assert torch.equal(together[row], answer([page])[0])
