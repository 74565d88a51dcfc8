"""Which text models the engine can serve, and in one line why it cannot serve the others."""

from sparsemm.cache.stock import PretrainedConfig, can_exchange_attention

ATTENTION_NAME = "sparsemm"

REREADS = ("phi3", "phi4_multimodal", "phimoe")
"""Models that read a text anew, with a cache of their own, once it outgrows the positions they were first
trained on: ``prepare_inputs_for_generation`` then drops the cache that it was given."""


def text_config(
    config: PretrainedConfig, prompt_length: int | None = None, max_new_tokens: int | None = None
) -> PretrainedConfig:
    """Return the text decoder's config of any model config, after checking that its attention can be served.

    Parameters
    ----------
    config
        Of the model, or of its text model.
    prompt_length, max_new_tokens
        Tokens that will come, if they are known.

    Raises
    ------
    ValueError
        When the attention implementation is not "sparsemm", or the model caps its attention logits, shares
        K/V between layers, has layers that attend to something else than the text, or drops the cache.
    """
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"{config.model_type}: encoder-decoder models are not supported")
    text = config.get_text_config(decoder=True)
    _check_attention(text, nested=text is not config)
    for attribute, meaning in (
        ("attn_logit_softcapping", "capped attention logits"),
        ("cross_attention_layers", "cross-attention layers among the text model's"),
        ("add_cross_attention", "cross-attention in the text model's layers"),
    ):
        if getattr(text, attribute, None) not in (None, False, []):
            raise ValueError(f"{text.model_type}: {meaning} ({attribute}) are not supported")
    shared = getattr(text, "kv_sharing_modes", None) or []
    if getattr(text, "num_kv_shared_layers", None) or any(mode == "reuse" for mode in shared):
        raise ValueError(f"{text.model_type}: K/V shared between layers is not supported")
    _check_rereading(text, prompt_length, max_new_tokens)
    return text


def _check_attention(text: PretrainedConfig, nested: bool) -> None:
    """Raise ValueError unless the text model's attention is ours."""
    found = text._attn_implementation
    if not can_exchange_attention(text):
        raise ValueError(
            f"{text.model_type}: its attention is {found!r} and cannot be exchanged, since the model does "
            "not ask transformers' registry for it"
        )
    if found == ATTENTION_NAME:
        return
    wanted = {"text_config": ATTENTION_NAME} if nested else ATTENTION_NAME
    raise ValueError(
        f"the text model's attention is {found!r}: load the model with attn_implementation={wanted!r} "
        "or call model.set_attn_implementation with that"
    )


def _check_rereading(text: PretrainedConfig, prompt_length: int | None, max_new_tokens: int | None) -> None:
    """Raise ValueError where a text may outgrow the length at which a model drops the cache."""
    limit = getattr(text, "original_max_position_embeddings", None)
    if text.model_type not in REREADS or limit is None:
        return
    rope = getattr(text, "rope_parameters", None) or {}
    if text.max_position_embeddings <= limit and rope.get("rope_type") != "longrope":
        return  # its texts end there
    if prompt_length and max_new_tokens and prompt_length + max_new_tokens <= limit:
        return
    raise ValueError(
        f"{text.model_type} drops the cache when a text outgrows {limit} tokens, and goes on with one of its "
        "own: give a prompt_length and max_new_tokens that stay within that"
    )
