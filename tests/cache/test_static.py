"""A static cache: the growing one's answers, in one graph for all steps."""

from typing import Any

import pytest
import torch
from torch._inductor.utils import run_and_get_code
from transformers import CompileConfig

from sparsemm.cache import RaggedCache
from sparsemm.cache.decode import ragged_attention
from sparsemm.cache.stock import cache_argument
from sparsemm.cache.storage import FlatStorage
from sparsemm.methods import AdaKV, FullKV, SnapKV
from tests.cache.compiling import graphs_of, own, whole
from tests.cache.reference import assert_same, generate
from tests.cache.test_life import converse, piece, text_step
from tests.cache.test_matrix import BELOW, WINDOW, method_of
from tests.cache.triton_here import in_the_interpreter
from tests.families import FAMILIES, build, inputs
from tests.methods.cases import METHODS

ADA = AdaKV(BELOW, window=WINDOW)
ROOM = 40
backends = pytest.mark.parametrize(
    "backend", ["grouped", "loop", "padded", pytest.param("triton", marks=in_the_interpreter)]
)


def static(model: Any, method: Any, tokens: int = ROOM, **options: Any) -> RaggedCache:
    return RaggedCache(model.config, method, max_new_tokens=tokens, static=True, **options)


@pytest.mark.parametrize(
    ("family", "name", "batch"),
    [(family, name, 2) for family in FAMILIES for name in ("fullkv", "sparsemm")]
    + [("qwen2_vl", name, 1) for name in METHODS],
)
def test_it_gives_the_growing_ones_answers(family: str, name: str, batch: int) -> None:
    prompts = inputs(family, batch)
    model, _ = build(family)
    method = method_of(name, BELOW, family)
    growing, cache = RaggedCache(model.config, method), static(model, method, 8)
    assert_same(generate(model, prompts, cache), generate(model, prompts, growing))
    assert cache.is_compileable
    assert not growing.is_compileable
    assert cache.get_seq_length() == growing.get_seq_length()
    mine, theirs = cache.stats(), growing.stats()
    assert torch.equal(mine.realised_per_head, theirs.realised_per_head)
    assert mine.tokens_evicted == theirs.tokens_evicted
    assert mine.full_kv_bytes == theirs.full_kv_bytes


@pytest.mark.parametrize(
    ("family", "name", "batch"),
    [("qwen2_vl", name, 2) for name in ("fullkv", "snapkv", "adakv", "sparsemm")]
    + [("llava_next", "snapkv", 1)],
)
def test_generate_compiles_all_steps_as_one_graph(family: str, name: str, batch: int) -> None:
    model = own(family)
    method = method_of(name, BELOW, family)
    cache = static(model, method)
    with graphs_of() as (graphs, backend):
        for turn, rows in enumerate(([1, 0], [1, 0], [2, 3])):
            prompts = inputs(family, rows[:batch])
            cache.reset()
            result = generate(model, prompts, cache, **whole(backend))
            assert_same(result, generate(model, prompts, RaggedCache(model.config, method)))
            assert len(graphs) == 1 or turn == 2
        assert len(graphs) == 1 or name != "snapkv"


@backends
def test_a_loop_of_ones_own_compiles_all_steps_as_one_graph(backend: Any) -> None:
    """Without a mask, and with one as long as all that may come, as one gives it with a static cache."""
    model = own("llama")
    for prompts, padded in ((inputs("llama", 1), False), (inputs("llama", 2), True)):
        ids, mask = prompts["input_ids"], prompts["attention_mask"]
        method = method_of("sparsemm", BELOW, "llama")
        given = {"attention_mask": torch.cat([mask, mask.new_ones(len(ids), ROOM)], dim=1)} if padded else {}
        with graphs_of() as (graphs, compiler), torch.no_grad():
            step = torch.compile(model, fullgraph=True, backend=compiler, dynamic=False)
            found: list[list[torch.Tensor]] = []
            for cache, call in (
                (RaggedCache(model.config, method, backend=backend), model),
                (static(model, method, backend=backend), step),
            ):
                growing = call is model
                logits = model(**prompts, **cache_argument(cache)).logits[:, -1:]
                found.append([])
                position = mask.sum(1, keepdim=True)
                for count in range(4):
                    if padded:
                        given["attention_mask"] = torch.cat(
                            [mask, mask.new_ones(len(ids), count + 1 if growing else ROOM)], dim=1
                        )
                        given["position_ids"] = position + count
                    logits = call(input_ids=logits.argmax(-1), **cache_argument(cache), **given).logits
                    found[-1].append(logits)
            assert len(graphs) == 1
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@in_the_interpreter
@pytest.mark.parametrize("name", ["adakv", "sparsemm"])
def test_the_kernels_graph_holds_for_prompts_that_share_budgets_out_otherwise(name: str) -> None:
    model = own("llava_next")
    method = method_of(name, BELOW, "llava_next")
    cache = static(model, method, backend="triton")
    shares = []
    with graphs_of("aot_eager") as (graphs, backend):
        for rows in ([0, 1], [2, 3]):
            prompts = inputs("llava_next", rows)
            cache.reset()
            result = generate(model, prompts, cache, **whole(backend))
            assert_same(result, generate(model, prompts, RaggedCache(model.config, method)))
            shares.append(cache.stats().realised_per_head)
        assert len(graphs) == 1
    assert name != "adakv" or not torch.equal(*shares)


def test_chunks_of_a_prompt_are_not_compiled() -> None:
    model = own("llama")
    prompts = inputs("llama", 2)
    cache = static(model, ADA, prompt_length=prompts["input_ids"].shape[1])
    with graphs_of() as (graphs, backend):
        result = generate(model, prompts, cache, prefill_chunk_size=10, **whole(backend))
        assert graphs == []
    assert cache.is_compileable
    assert_same(result, generate(model, prompts, RaggedCache(model.config, ADA)))


@pytest.mark.parametrize("backend", ["grouped", pytest.param("triton", marks=in_the_interpreter)])
def test_a_compiled_step_copies_no_storage(backend: Any) -> None:
    """Inductor writes new entries where they belong, also through the operator of the kernels."""
    entries, new = torch.randn(1, 2, 37, 16), torch.randn(1, 2, 1, 16)
    kept = torch.arange(37) < torch.tensor([[9, 37]])[..., None]
    storage = FlatStorage.from_dense(entries, entries, kept, 5, backend, static=True)
    query, visible = torch.randn(1, 4, 1, 16), torch.ones(1, 1, 5, dtype=torch.bool)
    visible[..., 1:] = False

    def step() -> torch.Tensor:
        return ragged_attention(query, storage, 0.3, visible, (new, new))

    torch.compiler.reset()
    with torch.no_grad():
        output, code = run_and_get_code(torch.compile(step, fullgraph=True))
    torch.compiler.reset()
    text = "\n".join(code)
    assert f"({len(storage.keys)}, 16)" in text
    assert f"empty_strided_cpu(({len(storage.keys)}, 16)" not in text
    assert storage.appended == 1
    torch.testing.assert_close(output, ragged_attention(query, storage, 0.3, visible))


def test_generate_as_it_compiles_on_a_gpu() -> None:
    """With inductor; its CUDA graphs are the only thing that is missing here."""
    model = own("llama")
    prompts = inputs("llama", 2)
    config = CompileConfig()
    config._compile_all_devices = True  # pyright: ignore[reportAttributeAccessIssue]
    torch.compiler.reset()
    result = generate(model, prompts, static(model, ADA), compile_config=config)
    torch.compiler.reset()
    assert_same(result, generate(model, prompts, RaggedCache(model.config, ADA)))


@backends
@pytest.mark.parametrize("method", [ADA, FullKV()], ids=lambda method: method.name)
def test_turns_are_the_growing_ones(backend: Any, method: Any) -> None:
    prompts = inputs("qwen2_vl", 2)
    pieces = [piece(2, count, seed) for seed, count in enumerate([1, 5, 1])]
    pieces[1][1][0, :2] = 0  # the turn of the first row is shorter: left-padded
    model, _ = build("qwen2_vl")
    expected = converse(model, RaggedCache(model.config, method), prompts, pieces)
    cache = static(model, method, backend=backend)
    result = converse(model, cache, prompts, pieces)
    for (_, valid), mine, theirs in zip(pieces, result[1:], expected[1:], strict=True):
        torch.testing.assert_close(mine[valid.bool()], theirs[valid.bool()], rtol=0, atol=1e-5)
    assert cache.get_seq_length() == prompts["input_ids"].shape[1] + 7


def test_a_turn_without_a_mask_is_causal() -> None:
    model, _ = build("llama")
    ids = torch.arange(6, 30)[None]
    found = []
    for cache in (RaggedCache(model.config, ADA), static(model, ADA)):
        with torch.no_grad():
            model(input_ids=ids, **cache_argument(cache))
            model(input_ids=ids[:, :1], **cache_argument(cache))
            found.append(model(input_ids=ids[:, : ROOM - 20], **cache_argument(cache)).logits)
    torch.testing.assert_close(*found, rtol=0, atol=1e-5)


def test_rows_and_cropping() -> None:
    prompts = inputs("llama", 2)
    model, _ = build("llama")
    ids, valid = piece(2, 1, seed=0)
    mask = torch.cat([prompts["attention_mask"], valid], dim=1)
    rows = torch.tensor([1, 0, 0])
    found = []
    for cache in (RaggedCache(model.config, ADA), static(model, ADA)):
        converse(model, cache, prompts, [piece(2, 1, 3), piece(2, 4, 4)])
        cache.crop(-5)
        assert cache.get_seq_length() == mask.shape[1] - 1
        cache.batch_repeat_interleave(2)  # 0 0 1 1
        cache.batch_select_indices(torch.tensor([2, 0, 1]))
        found.append(text_step(model, cache, ids[rows], mask[rows]))
        with pytest.raises(ValueError, match="only 1 came after the prompt"):
            cache.crop(-2)
    torch.testing.assert_close(*found, rtol=0, atol=1e-5)


@pytest.mark.parametrize("compiled", [False, True])
def test_more_tokens_than_it_was_made_for_are_refused(compiled: bool) -> None:
    model = own("llama")
    with graphs_of("aot_eager") as (_, backend):
        options = whole(backend) if compiled else {}
        generate(model, inputs("llama", 1), static(model, ADA, 5), tokens=6, **options)
        with pytest.raises(RuntimeError, match="room for 5 tokens after the prompt: give a larger max_new"):
            generate(model, inputs("llama", 1), static(model, ADA, 5), tokens=7, **options)


def test_a_second_prompt_is_refused() -> None:
    model, _ = build("llama")
    prompts = inputs("llama", 1)
    cache = static(model, ADA, 100)
    converse(model, cache, prompts, [])
    with pytest.raises(ValueError, match=r"before any was generated.*cache\.reset\(\)"):
        converse(model, cache, prompts, [])
    cache.reset()
    generate(model, prompts, cache)
    with pytest.raises(ValueError, match=r"does not reach the newest tokens.*cache\.reset\(\)"):
        converse(model, cache, inputs("llama", 1), [])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": None}, "a static cache never grows: give max_new_tokens"),
        ({"backend": "flash_attn"}, "backend 'flash_attn' needs a GPU"),
    ],
)
def test_what_it_cannot_be_is_said(options: dict[str, Any], message: str) -> None:
    model, _ = build("llama")
    with pytest.raises(ValueError, match=message):
        RaggedCache(
            model.config, SnapKV(BELOW, window=WINDOW), **{"max_new_tokens": 8, "static": True, **options}
        )
