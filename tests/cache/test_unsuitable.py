"""Models, caches and uses that do not go together: one line that is true, before a wrong answer."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    BloomConfig,
    BloomForCausalLM,
    DiffLlamaConfig,
    DiffLlamaForCausalLM,
    GPT2Config,
    GPTNeoConfig,
    LlamaConfig,
    MllamaConfig,
    Phi3Config,
    Phi3ForCausalLM,
    PhimoeConfig,
    ReformerConfig,
    RwkvConfig,
    xLSTMConfig,
)

from sparsemm.cache import ATTENTION_NAME, RaggedCache, fan_out
from sparsemm.cache.stock import cache_argument
from sparsemm.methods import FullKV, KVMethod, SnapKV
from tests.cache.reference import generate
from tests.cache.test_refusals import METHOD, llama, with_attention
from tests.families import build
from tests.families.vocabulary import TEXT

LIMIT = 32
ROPE: dict[str, Any] = {
    **{"rope_type": "longrope", "rope_theta": 100.0, "original_max_position_embeddings": LIMIT},
    **{"short_factor": [1.0] * 4, "long_factor": [2.0] * 4},
}
LONG: dict[str, Any] = TEXT | {
    **{"original_max_position_embeddings": LIMIT, "max_position_embeddings": 4 * LIMIT},
    **{"rope_parameters": ROPE, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None},
}
MOE: dict[str, Any] = LONG | {"rope_parameters": ROPE | {"short_mscale": 1.0, "long_mscale": 1.0}}
PROMPT = {"input_ids": torch.arange(6, 34)[None], "attention_mask": torch.ones(1, 28, dtype=torch.long)}
EVICTING = pytest.mark.parametrize("method", [FullKV(), METHOD], ids=lambda method: method.name)


def long_phi() -> Any:
    torch.manual_seed(0)
    model = Phi3ForCausalLM(Phi3Config(**LONG)).eval()
    model.set_attn_implementation(ATTENTION_NAME)
    return model


def mllama() -> MllamaConfig:
    config = MllamaConfig()
    with_attention(config.text_config)
    return config


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Phi3Config(**LONG), "phi3 drops the cache when a text outgrows 32 tokens"),
        (
            lambda: PhimoeConfig(**MOE),
            "phimoe drops the cache when a text outgrows 32 tokens",
        ),
        (mllama, "cross-attention layers among the text model's"),
        (lambda: GPT2Config(add_cross_attention=True), "cross-attention in the text model's layers"),
        (lambda: BertConfig(is_decoder=True, add_cross_attention=True), "cross-attention in the text"),
        (BloomConfig, "bloom: its attention is 'sparsemm' and cannot be exchanged"),
        (GPTNeoConfig, "gpt_neo: its attention is 'sparsemm' and cannot be exchanged"),
        (ReformerConfig, "reformer: its attention is 'sparsemm' and cannot be exchanged"),
        (RwkvConfig, "rwkv"),
        (xLSTMConfig, "xlstm"),
    ],
)
@EVICTING
def test_a_model_is_refused_when_the_cache_is_made(
    make: Callable[[], Any], message: str, method: KVMethod
) -> None:
    config = make()
    if not isinstance(config, MllamaConfig):
        with_attention(config)
    with pytest.raises(ValueError, match=message) as caught:
        RaggedCache(config, method)
    assert "\n" not in str(caught.value)


def test_an_attention_that_was_asked_for_in_vain_is_not_advised() -> None:
    model = BloomForCausalLM._from_config(
        BloomConfig(vocab_size=50, hidden_size=32, n_layer=2, n_head=4), attn_implementation=ATTENTION_NAME
    )
    with pytest.raises(ValueError, match="cannot be exchanged") as caught:
        RaggedCache(model.config, METHOD)
    assert "load the model" not in str(caught.value)


def test_a_model_that_works_on_cached_keys_says_so() -> None:
    torch.manual_seed(0)
    model = DiffLlamaForCausalLM(DiffLlamaConfig(**TEXT)).eval()
    model.set_attn_implementation(ATTENTION_NAME)
    with pytest.raises((TypeError, AttributeError), match="does something of its own with cached K and V"):
        generate(model, PROMPT, RaggedCache(model.config, METHOD))


def test_layers_that_see_something_else_than_the_text_are_refused() -> None:
    """A cross-attention layer that its configuration does not name."""
    cache = RaggedCache(llama().config, METHOD)
    for index, tokens in enumerate((24, 29)):
        states, query = torch.randn(1, 2, tokens, 8), torch.randn(1, 4, tokens, 8)
        cache.update(states, states, index)
        if index == 0:
            cache.compressible_layers[0].observe(query, None, 1.0)
            continue
        with pytest.raises(ValueError, match="attends to 29 tokens, another to 24"):
            cache.compressible_layers[1].observe(query, None, 1.0)


def test_a_text_may_grow_up_to_the_length_at_which_a_cache_is_dropped() -> None:
    model = long_phi()
    within = RaggedCache(model.config, METHOD, prompt_length=28, max_new_tokens=4)
    assert generate(model, PROMPT, within, tokens=4).sequences.shape[1] == LIMIT
    assert within.get_seq_length() == LIMIT - 1
    with pytest.raises(ValueError, match="stay within that"):
        RaggedCache(model.config, METHOD, prompt_length=28, max_new_tokens=12)
    with pytest.raises(ValueError, match="stay within that"):
        RaggedCache(model.config, METHOD, prompt_length=36)  # the first step drops it, too
    assert len(fan_out(model, PROMPT, [METHOD], max_new_tokens=4).tokens[0][0]) == 4
    with pytest.raises(ValueError, match="phi3 drops the cache"):
        fan_out(model, PROMPT, [METHOD], max_new_tokens=12)


@EVICTING
@pytest.mark.parametrize("static", [False, True])
def test_a_cache_of_another_depth_is_refused(method: KVMethod, static: bool) -> None:
    model = llama()
    for layers, message in ((1, "more than the 1 layers"), (4, "2 of the 4 full-attention layers")):
        sizes: dict[str, Any] = TEXT | {"num_hidden_layers": layers}
        config = with_attention(LlamaConfig(**sizes))
        cache = RaggedCache(config, method, static=static, max_new_tokens=8)
        with pytest.raises(ValueError, match=message):
            generate(model, PROMPT, cache)
    cache = RaggedCache(config, method)
    with torch.no_grad():
        model(**PROMPT, **cache_argument(cache))
    with pytest.raises(ValueError, match="2 of the 4 full-attention layers"):
        cache.stats()


@EVICTING
@pytest.mark.parametrize("repeating", [False, True])
def test_assisted_decoding_is_refused_whatever_the_data(method: KVMethod, repeating: bool) -> None:
    """Also where no draft is found, or where all of it would be right."""
    model = build("llama")[0]
    ids = torch.full((1, 28), 7) if repeating else torch.arange(6, 34)[None]
    given: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "max_new_tokens": 4}
    for helper in ({"prompt_lookup_num_tokens": 3}, {"assistant_model": build("llama", "sdpa")[0]}):
        cache = RaggedCache(model.config, method)
        with pytest.raises(ValueError, match=r"assisted decoding is not supported.*drafted tokens"):
            model.generate(**given, **helper, **cache_argument(cache))  # pyright: ignore


@pytest.mark.parametrize("backend", ["grouped", "loop", "padded"])
def test_there_is_a_gradient_through_the_prompt_alone(backend: Any) -> None:
    model = llama()
    cache = RaggedCache(model.config, METHOD, backend=backend)
    prompt = model(**PROMPT, **cache_argument(cache)).logits[:, -1].sum()
    steps = [model(input_ids=torch.tensor([[7]]), **cache_argument(cache)).logits.sum() for _ in range(3)]
    prompt.backward(retain_graph=True)
    weight = model.get_parameter("model.layers.0.self_attn.k_proj.weight")
    assert weight.grad is not None
    assert bool(weight.grad.any())
    with pytest.raises(RuntimeError, match="no gradient through steps after eviction"):
        sum(steps).backward()  # pyright: ignore[reportAttributeAccessIssue]


def test_where_nothing_was_evicted_there_is_a_gradient_as_with_a_stock_cache() -> None:
    model = llama()
    cache = RaggedCache(model.config, SnapKV(200))
    model(**PROMPT, **cache_argument(cache))
    model(input_ids=torch.tensor([[7]]), **cache_argument(cache)).logits.sum().backward()
