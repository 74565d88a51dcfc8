"""What the cache cannot do, it says; what went past it, it says too."""

from typing import Any

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    DynamicCache,
    Gemma2Config,
    Gemma3nTextConfig,
    Gemma3TextConfig,
    Gemma4TextConfig,
    GptOssConfig,
    GptOssForCausalLM,
    Llama4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    T5Config,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from sparsemm.cache import ATTENTION_NAME, RaggedCache, register
from sparsemm.cache.attention import sparsemm_attention
from sparsemm.cache.stock import cache_argument
from sparsemm.methods import FullKV, SnapKV
from tests.families import build, inputs
from tests.families.vocabulary import TEXT

METHOD = SnapKV(16, window=8)
EXPERTS: dict[str, Any] = TEXT | {"head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1}
LATENT: dict[str, Any] = TEXT | {
    **{"num_key_value_heads": 4, "kv_lora_rank": 8, "q_lora_rank": 8, "first_k_dense_replace": 2},
    **{"qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8},
}


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**TEXT)).eval()
    model.set_attn_implementation(ATTENTION_NAME)
    return model


def with_attention(config: Any) -> Any:
    config._attn_implementation = ATTENTION_NAME
    return config


def test_registering_twice_changes_nothing() -> None:
    register()
    register()
    assert ALL_ATTENTION_FUNCTIONS[ATTENTION_NAME] is sparsemm_attention


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_another_attention_is_refused_at_construction(attention: str) -> None:
    model, _ = build("qwen2_vl", attention)
    with pytest.raises(ValueError, match=f"attention is '{attention}'.*attn_implementation="):
        RaggedCache(model.config, METHOD)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_model_switched_to_another_attention_afterwards_says_so(attention: str) -> None:
    model = llama()
    cache = RaggedCache(model.config, METHOD)
    model.set_attn_implementation(attention)
    with pytest.raises((AttributeError, TypeError), match=r"KVHandle|cache gave its K/V handle"):
        model(input_ids=torch.arange(6, 30)[None], **cache_argument(cache))
    with pytest.raises(RuntimeError, match='did not run through "sparsemm"'):
        cache.stats()


def test_a_prompt_that_no_attention_saw_is_not_reported() -> None:
    model = llama()
    cache = RaggedCache(model.config, METHOD)
    states = torch.randn(1, 2, 20, 8)
    cache.update(states, states, 0)
    with pytest.raises(
        RuntimeError, match='20 tokens seen, but their attention did not run through "sparsemm"'
    ):
        cache.stats()
    with pytest.raises(RuntimeError, match='did not run through "sparsemm"'):
        cache.update(states[:, :, :1], states[:, :, :1], 0)


def test_an_incomplete_prompt_is_not_reported() -> None:
    model = llama()
    cache = RaggedCache(model.config, METHOD, prompt_length=40)
    with torch.no_grad():
        model(input_ids=torch.arange(6, 30)[None], **cache_argument(cache))
    with pytest.raises(RuntimeError, match="no complete prompt yet: 24 tokens seen of prompt_length=40"):
        cache.stats()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Gemma2Config(), "capped attention logits"),
        (Gemma3TextConfig(attn_logit_softcapping=50.0), "capped attention logits"),
        (Gemma3nTextConfig(), "K/V shared between layers"),
        (Gemma4TextConfig(), "layers of different sizes"),
        (Llama4TextConfig(layer_types=["chunked_attention"] * 48), "no full-attention layer"),
        (MistralConfig(sliding_window=8), "no full-attention layer"),
        (T5Config(), "encoder-decoder"),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_models_that_cannot_be_compressed_right_are_refused(config: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        RaggedCache(with_attention(config), METHOD)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: GptOssForCausalLM(GptOssConfig(**EXPERTS)), "attention sinks"),
        (lambda: DeepseekV3ForCausalLM(DeepseekV3Config(**LATENT)), "layers of different sizes"),
    ],
    ids=["gpt_oss", "deepseek_v3"],
)
def test_models_that_only_their_attention_gives_away_are_refused(model: Any, message: str) -> None:
    model = model()
    model.set_attn_implementation(ATTENTION_NAME)
    with pytest.raises(ValueError, match=message), torch.no_grad():
        model(input_ids=torch.arange(6, 30)[None], **cache_argument(RaggedCache(model.config, METHOD)))


def test_a_model_without_interchangeable_attention_is_refused() -> None:
    model = BloomForCausalLM(BloomConfig(vocab_size=50, hidden_size=32, n_layer=2, n_head=4))
    model.set_attn_implementation(ATTENTION_NAME)
    with pytest.raises(ValueError, match="attention is 'eager'"):
        RaggedCache(model.config, METHOD)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"softcap": 50.0}, "capped attention logits"),
        ({"s_aux": torch.zeros(4)}, "attention sinks"),
        ({"position_bias": torch.zeros(1, 4, 20, 20)}, "position bias"),
        ({"sliding_window": 8}, "sliding window"),
        ({"dropout": 0.1}, "dropout"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_attention_arguments_unknown_to_eviction_are_refused(argument: dict[str, Any], message: str) -> None:
    model = llama()
    cache = RaggedCache(model.config, METHOD)
    states = torch.randn(1, 2, 20, 8)
    key, value = cache.update(states, states, 0)
    module = model.get_submodule("model.layers.0.self_attn")
    with pytest.raises(ValueError, match=message):
        sparsemm_attention(module, torch.randn(1, 4, 20, 8), key, value, None, **argument)


def test_masks_that_cannot_be_read_are_refused() -> None:
    model = llama()
    ids = torch.arange(6, 30)[None].repeat(2, 1)
    right = torch.ones(2, 24, dtype=torch.long)
    right[0, -3:] = 0
    with torch.no_grad():
        with pytest.raises(ValueError, match="padding must be on the left"):
            model(input_ids=ids, attention_mask=right, **cache_argument(RaggedCache(model.config, METHOD)))
        additive = torch.zeros(2, 1, 24, 24)
        with pytest.raises(ValueError, match="boolean attention mask"):
            model(input_ids=ids, attention_mask=additive, **cache_argument(RaggedCache(model.config, METHOD)))
        per_head = torch.ones(2, 4, 24, 24, dtype=torch.bool).tril()
        with pytest.raises(ValueError, match=r"attention mask \[B, 1, q, 24\]"):
            model(input_ids=ids, attention_mask=per_head, **cache_argument(RaggedCache(model.config, METHOD)))
        nothing = torch.ones(2, 24, dtype=torch.long)
        nothing[1] = 0
        with pytest.raises(ValueError, match="nothing but padding"):
            model(input_ids=ids, attention_mask=nothing, **cache_argument(RaggedCache(model.config, METHOD)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"backend": "flash"},
            "backend must be one of grouped, loop, padded, triton, torch_varlen, flash_attn, got 'flash'",
        ),
        ({"prompt_length": 0}, "prompt_length must be positive"),
        ({"max_new_tokens": -1}, "max_new_tokens must be positive"),
        ({"head_mask": torch.zeros(2, 3, dtype=torch.bool)}, r"head_mask must be bool \[2, 4\]"),
        ({"head_mask": torch.zeros(2, 4)}, r"head_mask must be bool \[2, 4\]"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RaggedCache(llama().config, METHOD, **options)


def test_assisted_decoding_is_refused() -> None:
    model, _ = build("qwen2_vl")
    cache = RaggedCache(model.config, METHOD)
    with pytest.raises(ValueError, match="assisted decoding is not supported"):
        model.generate(  # pyright: ignore[reportCallIssue]
            **inputs("qwen2_vl", 1), **cache_argument(cache), max_new_tokens=8, prompt_lookup_num_tokens=3
        )


def test_other_caches_go_on_to_sdpa_to_the_bit() -> None:
    """Also the whole of training and any cache of transformers' own."""
    model = llama()
    ids = torch.arange(6, 30)[None]
    with torch.no_grad():
        ours = model(input_ids=ids, **cache_argument(DynamicCache(config=model.config))).logits
        model.set_attn_implementation("sdpa")
        theirs = model(input_ids=ids, **cache_argument(DynamicCache(config=model.config))).logits
    assert torch.equal(ours, theirs)


def test_full_kv_is_a_cache_like_any_other_until_told() -> None:
    """FullKV evicts nothing, so more prompt tokens are no harm."""
    model = llama()
    ids = torch.arange(6, 30)[None]
    cache = RaggedCache(model.config, FullKV())
    with torch.no_grad():
        model(input_ids=ids[:, :10], **cache_argument(cache))
        later = model(input_ids=ids[:, 10:], **cache_argument(cache)).logits
        whole = model(input_ids=ids).logits[:, 10:]
    torch.testing.assert_close(later, whole, rtol=0, atol=1e-5)
