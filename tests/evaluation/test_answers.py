"""Whole grids for a batch: the same responses as one method at a time, whatever memory there is."""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsemm.cache import RaggedCache, model_shape
from sparsemm.cache.greedy import GREEDY
from sparsemm.evaluation import answers
from sparsemm.evaluation.answers import answer
from sparsemm.evaluation.generation import generate
from sparsemm.evaluation.memory import Limits, Step, document_bytes, row_bytes, steps_that_fit
from sparsemm.evaluation.responses import Response
from sparsemm.methods import AdaKV, FullKV, SnapKV
from sparsemm.models.loading import Checkpoint, load, without_weights
from sparsemm.models.prompts import prepare
from tests.evaluation.test_generation import CONVERSATIONS, NEW_TOKENS

METHODS = [FullKV(), SnapKV(24, window=8), AdaKV(0.3, window=8), SnapKV(4096, window=8)]


@pytest.fixture(scope="module")
def checkpoint(untrained: Path) -> Checkpoint:
    return load({"pretrained": str(untrained), "dtype": "float32"}, "cpu")


@pytest.fixture(scope="module")
def expected(checkpoint: Checkpoint) -> list[list[Response]]:
    return answer(checkpoint, CONVERSATIONS, METHODS, max_new_tokens=NEW_TOKENS)


def stated(response: Response) -> dict[str, Any]:
    """What does not depend on the clock."""
    return {name: value for name, value in vars(response).items() if not name.endswith("_s")}


def test_responses_and_figures_are_those_of_separate_runs(checkpoint, expected):
    for method, responses in zip(METHODS, expected, strict=True):
        alone = generate(checkpoint, CONVERSATIONS, method, max_new_tokens=NEW_TOKENS)
        assert [stated(response) for response in responses] == [stated(response) for response in alone]
        assert all(response.prefill_s is None for response in responses)


def test_bytes_are_those_of_a_run_alone_whatever_the_batch(checkpoint, expected):
    """Measured: each document through a `RaggedCache` of its own."""
    for method, responses in zip(METHODS, expected, strict=True):
        for conversation, response in zip(CONVERSATIONS, responses, strict=True):
            inputs = prepare(checkpoint, [conversation])
            cache = RaggedCache(checkpoint.model.config, method, max_new_tokens=NEW_TOKENS)
            options: dict[str, Any] = {**GREEDY, "past_key_values": cache, "max_new_tokens": NEW_TOKENS}
            checkpoint.model.generate(**inputs, **options)
            stats = cache.stats()
            assert response.kv_bytes == stats.kv_bytes - stats.slack_bytes
            assert response.full_kv_bytes == stats.full_kv_bytes


def test_logits_that_are_not_finite_fail_their_document_alone(checkpoint, expected):
    def spoil(module: Any, inputs: Any, output: Any) -> Any:
        """The second document's hidden states become NaN while its prompt is read."""
        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.shape[1] > 1:
            hidden[1] = torch.nan
        return output

    hook = checkpoint.model.model.language_model.layers[5].register_forward_hook(spoil)
    try:
        found = answer(checkpoint, CONVERSATIONS, METHODS, max_new_tokens=NEW_TOKENS)
        alone = [generate(checkpoint, CONVERSATIONS, one, max_new_tokens=NEW_TOKENS) for one in METHODS]
    finally:
        hook.remove()
    for responses, real, wanted in zip(found, alone, expected, strict=True):
        assert [stated(response) for response in responses] == [stated(response) for response in real]
        assert "FloatingPointError: the model's logits are not finite" in (responses[1].error or "")
        assert (responses[1].text, responses[1].tokens) == ("", ())
        assert [responses[row] for row in (0, 2, 3)] == [wanted[row] for row in (0, 2, 3)]


def test_stop_strings_end_the_texts(checkpoint, expected):
    stop = expected[0][1].text[3:5]
    cut = answer(checkpoint, CONVERSATIONS, METHODS, max_new_tokens=NEW_TOKENS, until=[stop])
    assert [[one.text for one in row] for row in cut] == [
        [one.text.split(stop)[0] for one in row] for row in expected
    ]


@pytest.mark.parametrize(
    ("capacity", "documents", "rows", "lines"),
    [(8, 2, None, 1), (4, 1, None, 2), (2, 1, 2, 3)],
    ids=["two documents", "one document", "two rows of one document"],
)
def test_out_of_memory_gives_the_same_responses(
    monkeypatch, checkpoint, expected, capacity, documents, rows, lines
):
    """A device that holds so many rows: the same error as CUDA's, raised where a step has more."""
    forward = checkpoint.model.forward

    @functools.wraps(forward)  # generate reads the signature
    def small_device(*args: Any, input_ids: torch.Tensor, **kwargs: Any) -> Any:
        if input_ids.shape[1] == 1 and len(input_ids) > capacity:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return forward(*args, input_ids=input_ids, **kwargs)

    monkeypatch.setattr(checkpoint.model, "forward", small_device)
    said: list[str] = []
    limits = Limits(say=said.append)
    for _ in range(2):  # what was learned holds for the next batch
        found = answer(checkpoint, CONVERSATIONS, METHODS, max_new_tokens=NEW_TOKENS, limits=limits)
        assert found == expected
    assert (limits.documents, limits.rows) == (documents, rows)
    assert len(said) == lines
    assert all("out of memory" in line for line in said)


def test_documents_that_do_not_fit_are_answered_one_after_the_other(checkpoint, expected):
    taken: list[Step] = []

    def fit(wanted: Step, prompt_length: int, question: int) -> Step:
        taken.append(Step(1, 2))
        return taken[-1]

    limits = Limits(fit=fit)
    assert answer(checkpoint, CONVERSATIONS, METHODS, max_new_tokens=NEW_TOKENS, limits=limits) == expected
    assert len(taken) >= len(CONVERSATIONS)
    assert limits.documents is None, "a bound of these prompts, not of all"


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_a_lack_of_memory_on_the_cpu_is_one(monkeypatch, checkpoint, expected, error):
    fan_out, held = answers.fan_out, []

    def full_once(*args: Any, **kwargs: Any) -> Any:
        held.append(kwargs["max_rows"])
        if len(held) == 1:
            raise error
        return fan_out(*args, **kwargs)

    monkeypatch.setattr(answers, "fan_out", full_once)
    found = answer(checkpoint, CONVERSATIONS, METHODS, max_new_tokens=NEW_TOKENS)
    assert found == expected
    assert held[1] < held[0]


def test_what_never_fits_is_an_error(monkeypatch, checkpoint):
    def no_device(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr(answers, "fan_out", no_device)
    with pytest.raises(torch.OutOfMemoryError):
        answer(checkpoint, CONVERSATIONS[:1], METHODS, max_new_tokens=4)


def test_other_errors_are_not_taken_for_a_lack_of_memory(monkeypatch, checkpoint):
    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(answers, "fan_out", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        answer(checkpoint, CONVERSATIONS, METHODS, max_new_tokens=4)


def test_estimated_memory_bounds_a_step(untrained):
    checkpoint = without_weights({"pretrained": str(untrained), "dtype": "float32"}, "cpu")
    text = checkpoint.model.config.text_config
    shape = model_shape(text)
    prompt = document_bytes(shape, 100, 4)
    row = row_bytes(shape, 100, 20, 4, text.vocab_size)
    wanted = Step(3, 60)
    for rows in (1, 7, 50):
        fit = steps_that_fit(3 * prompt + rows * row + row // 2, text, torch.float32, max_new_tokens=20)
        assert fit(wanted, 100, 0) == (3, rows)
        assert fit(Step(3, 5), 100, 0) == (3, min(rows, 5))
        step = fit(wanted, 200, 0)
        size = step.documents * document_bytes(shape, 200, 4)
        size += step.rows * row_bytes(shape, 200, 20, 4, text.vocab_size)
        assert step == (1, 1) or size <= 3 * prompt + rows * row + row // 2
    # Documents that leave no room for a row are taken one after the other.
    fewer = steps_that_fit(2 * prompt + row + row // 2, text, torch.float32, max_new_tokens=20)
    assert fewer(wanted, 100, 0) == (2, 1)
    assert steps_that_fit(1, text, torch.float32, max_new_tokens=20)(wanted, 100, 0) == (1, 1)
    capped = steps_that_fit(10**9, text, torch.float32, max_new_tokens=20, max_rows=5)
    assert capped(wanted, 100, 0) == (3, 5)
    # A question after compression is held like what is generated.
    longer = 3 * prompt + 7 * row_bytes(shape, 100, 20 + 30, 4, text.vocab_size)
    assert steps_that_fit(longer, text, torch.float32, max_new_tokens=20)(wanted, 100, 30) == (3, 7)
    # K/V of a document: keys and values of all layers and KV heads, twice.
    assert document_bytes(shape, 100, 4) == 2 * 2 * 8 * 4 * 100 * 24 * 4
