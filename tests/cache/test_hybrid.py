"""Models with sliding-window layers, another scaling, and heads removed."""

import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig
from transformers.cache_utils import DynamicSlidingWindowLayer

from sparsemm.cache import RaggedCache
from sparsemm.cache.layer import RaggedLayer
from sparsemm.methods import FullKV, KVMethod, SparseMM
from tests import families
from tests.cache.reference import Reference, assert_same, generate
from tests.cache.test_matrix import BELOW, WINDOW, method_of, shape_of
from tests.families import FAMILIES, TEXT, build, inputs
from tests.methods.cases import METHODS

LAYERS = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]


def gemma() -> tuple[Gemma3ForCausalLM, None]:
    """Two full layers among sliding ones, and a scaling that is not head_dim ** -0.5."""
    config = Gemma3TextConfig(
        **{**TEXT, "num_hidden_layers": 4},
        head_dim=8,
        layer_types=LAYERS,
        sliding_window=12,
        query_pre_attn_scalar=2,
        pad_token_id=0,
    )
    return Gemma3ForCausalLM(config), None


@pytest.fixture
def hybrid(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(families.FAMILIES, "gemma3_text", gemma)
    return "gemma3_text"


def text_inputs() -> dict[str, torch.Tensor]:
    ids = torch.randint(6, 34, (2, 40), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 40, dtype=torch.long)
    mask[0, :7] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("name", METHODS)
def test_only_full_layers_are_compressed_and_counted(hybrid: str, name: str) -> None:
    model, _ = build(hybrid)
    shape = shape_of(hybrid)._replace(num_hidden_layers=2)
    method = METHODS[name](BELOW, WINDOW, shape)
    expected = Reference(method, shape).generate(hybrid, text_inputs())
    cache = RaggedCache(model.config, method)
    assert cache.settings.shape == shape
    assert [type(layer) for layer in cache.layers] == [DynamicSlidingWindowLayer, RaggedLayer] * 2
    assert_same(generate(model, text_inputs(), cache), expected)
    stats = cache.stats()
    assert stats.realised_per_head.shape == (2, 2, 2)
    sliding = (
        2 * (2 * 2 * 11 * 8 * 4) * 2
    )  # K, V: rows, KV heads, window less one, head_dim, float32; two layers
    assert stats.kv_bytes > sliding
    if not method.evicts:
        assert stats.kv_bytes == stats.full_kv_bytes


def test_reset_also_renews_sliding_layers(hybrid: str) -> None:
    model, _ = build(hybrid)
    cache = RaggedCache(model.config, FullKV())
    first = generate(model, text_inputs(), cache)
    cache.reset()
    assert_same(generate(model, text_inputs(), cache), first, tolerance=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", [FullKV(), SparseMM(BELOW, [[1.0] * 4] * 2, window=WINDOW)])
def test_removed_heads_give_zero_in_prompt_and_generation(family: str, method: KVMethod) -> None:
    removed = torch.tensor([[True, False, False, True], [False, True, False, False]])
    model, _ = build(family)
    prompts = inputs(family, 2)
    expected = Reference(method, shape_of(family), removed).generate(family, prompts)
    result = generate(model, prompts, RaggedCache(model.config, method, head_mask=removed))
    assert_same(result, expected)
    none = RaggedCache(model.config, method, head_mask=torch.zeros_like(removed))
    whole = generate(model, prompts, none)
    assert_same(whole, generate(model, prompts, RaggedCache(model.config, method)), tolerance=0)
    assert not torch.allclose(whole.logits[0], result.logits[0], atol=1e-3)


def test_a_mixed_budget_leaves_short_rows_whole() -> None:
    """One row's prompt fits the budget, the other's does not: only that one is evicted from."""
    prompts = inputs("llava_next", 2)
    lengths = prompts["attention_mask"].sum(1).tolist()
    method = method_of("snapkv", min(lengths), "llava_next")
    model, _ = build("llava_next")
    cache = RaggedCache(model.config, method)
    expected = Reference(method, shape_of("llava_next")).generate("llava_next", prompts)
    assert_same(generate(model, prompts, cache), expected)
    stats = cache.stats()
    assert sorted(stats.evicted_per_row) == [0, 4 * (max(lengths) - min(lengths))]
