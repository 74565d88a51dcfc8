"""Models with sliding-window layers, another scaling, and heads removed."""

import pytest
import torch
from transformers import DynamicCache, Lfm2Config, Lfm2ForCausalLM
from transformers.cache_utils import DynamicSlidingWindowLayer

from sparsemm.cache import RaggedCache, fan_out
from sparsemm.cache.layer import RaggedLayer
from sparsemm.methods import FullKV, KVMethod, SnapKV, SparseMM
from tests.cache.reference import Reference, assert_same, generate
from tests.cache.test_matrix import BELOW, WINDOW, method_of, shape_of
from tests.families import FAMILIES, build, inputs
from tests.families.vocabulary import TEXT
from tests.methods.cases import METHODS

HYBRID = "gemma3"


@pytest.mark.parametrize("name", METHODS)
def test_only_full_layers_are_compressed_and_counted(name: str) -> None:
    model, _ = build(HYBRID)
    shape = shape_of(HYBRID)
    assert shape.num_hidden_layers == 2
    method = METHODS[name](BELOW, WINDOW, shape)
    prompts = inputs(HYBRID, 2)
    expected = Reference(method, shape).generate(HYBRID, prompts)
    cache = RaggedCache(model.config, method)
    assert cache.settings.shape == shape
    assert [type(layer) for layer in cache.layers] == [DynamicSlidingWindowLayer, RaggedLayer] * 2
    assert_same(generate(model, prompts, cache), expected)
    stats = cache.stats()
    assert stats.realised_per_head.shape == (2, 2, 2)
    sliding = (
        2 * (2 * 2 * 11 * 8 * 4) * 2
    )  # K, V: rows, KV heads, window less one, head_dim, float32; two layers
    assert stats.kv_bytes > sliding
    if not method.evicts:
        assert stats.kv_bytes == stats.full_kv_bytes


def test_reset_also_renews_sliding_layers() -> None:
    model, _ = build(HYBRID)
    cache = RaggedCache(model.config, FullKV())
    first = generate(model, inputs(HYBRID, 2), cache)
    cache.reset()
    assert_same(generate(model, inputs(HYBRID, 2), cache), first, tolerance=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", [FullKV(), SparseMM(BELOW, [[1.0] * 4] * 2, window=WINDOW)])
def test_heads_are_switched_off_in_prompt_and_generation(family: str, method: KVMethod) -> None:
    removed = torch.tensor([[True, False, False, True], [False, True, False, False]])
    model, _ = build(family)
    prompts = inputs(family, 2)
    expected = Reference(method, shape_of(family), removed).generate(family, prompts)
    result = generate(model, prompts, RaggedCache(model.config, method, head_mask=removed))
    assert_same(result, expected)
    uniform = Reference(method, shape_of(family), uniform=removed).generate(family, prompts)
    zeroed = RaggedCache(model.config, method, head_mask=removed, head_mask_mode="uniform")
    assert_same(generate(model, prompts, zeroed), uniform)
    assert not torch.allclose(uniform.logits[0], result.logits[0], atol=1e-3)
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


def test_layers_with_a_state_of_their_own_stay_as_they_are() -> None:
    """LFM2: convolutions between full-attention layers. They cannot be fanned out, and say so."""
    torch.manual_seed(0)
    model = Lfm2ForCausalLM(Lfm2Config(**TEXT, layer_types=["conv", "full_attention"])).eval()
    model.set_attn_implementation("sparsemm")
    prompt = {"input_ids": torch.arange(6, 34)[None], "attention_mask": torch.ones(1, 28, dtype=torch.long)}
    cache = RaggedCache(model.config, SnapKV(BELOW, window=WINDOW))
    generate(model, prompt, cache)
    assert cache.stats().realised_per_head.tolist() == [[[BELOW] * 2]]
    full = generate(model, prompt, RaggedCache(model.config, FullKV()))
    model.set_attn_implementation("sdpa")
    assert_same(full, generate(model, prompt, DynamicCache(config=model.config)), tolerance=0)
    model.set_attn_implementation("sparsemm")
    with pytest.raises(ValueError, match="LinearAttentionLayer cannot be fanned out"):
        fan_out(model, prompt, [FullKV()], max_new_tokens=2)
