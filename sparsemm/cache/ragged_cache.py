"""The public cache."""

from typing import Any

from torch import Tensor

from sparsemm.cache import stats
from sparsemm.cache.backbone import model_shape, with_held
from sparsemm.cache.checks import check_backend, check_static
from sparsemm.cache.head_mask import HeadMask, MaskMode
from sparsemm.cache.layer import RaggedLayer
from sparsemm.cache.layout import Backend
from sparsemm.cache.question import QuestionTokens
from sparsemm.cache.settings import Settings
from sparsemm.cache.stock import Cache, CacheLayerMixin, PretrainedConfig, static_form, stock_layers
from sparsemm.cache.suitable import text_config
from sparsemm.methods import KVMethod


class RaggedCache(Cache):
    """A KV cache that keeps, head by head, only what a method chooses.

    Pass it as ``past_key_values`` (``cache`` from transformers 5.24 on) to ``forward`` or ``generate`` of a
    model loaded with ``attn_implementation={"text_config": "sparsemm"}``. The prompt is attended to in full;
    right after each layer's attention the method picks that layer's entries and the rest is freed before the
    next layer runs. Generated tokens and later turns are appended and never evicted. Sliding-window layers
    stay as transformers makes them.

    Parameters
    ----------
    config
        Config of the model, or of its text model.
    method
        What to keep.
    prompt_length
        Tokens of the prompt, padding included, when it comes in several chunks: compression then waits for
        the last. None: the first forward holds the whole prompt.
    max_new_tokens
        Tokens that will be generated, to size the room for them. None: the room grows as needed.
    head_mask
        Query heads to switch off, bool [compressible layers, heads], in prompt and generation. None: none.
    head_mask_mode
        "remove": their outputs are zero; "uniform": their queries are (see `HeadMask`).
    question_tokens
        Tokens at the end of the prompt that come after compression: what is kept of the tokens before them is
        chosen without seeing them, and the window lies before them. They attend to what was kept, and are
        kept whole, beside the budget. One number for all rows, or one for each. None: none.
    backend
        How generated tokens attend: "grouped" pads heads of similar length to each other, little; "loop"
        takes head by head; "padded" pads all heads of a layer to its longest; "triton" reads every head's
        entries in chunks of one size, with no padding, by a kernel for GPUs that needs the package triton
        (under TRITON_INTERPRET=1 on the CPU too, for tests); "torch_varlen" and "flash_attn" do with the
        functions of torch and of the package flash-attn, on GPUs, in float16 and bfloat16. None: "triton" on
        a GPU where it is installed, else "grouped".
    static
        Whether decode steps can be compiled: all sizes stay as they are after the prompt, and what changes in
        a step changes on the device. Needs `max_new_tokens`, and takes no more. ``generate`` then compiles
        by itself on a GPU, as it does with transformers' `StaticCache`.

    Raises
    ------
    ValueError
        When the model's text attention is not "sparsemm", no layer can be compressed, the model needs
        what eviction does not support, the backend cannot run here, or a static cache cannot be made.

    Examples
    --------
    >>> cache = RaggedCache(model.config, SnapKV(budget=256))  # doctest: +SKIP
    >>> model.generate(**inputs, past_key_values=cache)  # doctest: +SKIP
    >>> cache.stats().realised_budget  # doctest: +SKIP
    256.0
    """

    def __init__(
        self,
        config: PretrainedConfig,
        method: KVMethod,
        *,
        prompt_length: int | None = None,
        max_new_tokens: int | None = None,
        head_mask: Tensor | None = None,
        head_mask_mode: MaskMode = "remove",
        question_tokens: QuestionTokens | None = None,
        backend: Backend | None = None,
        static: bool = False,
    ) -> None:
        self._config = text_config(config, prompt_length, max_new_tokens)
        shape = model_shape(self._config)
        if backend is not None:
            check_backend(backend)
        for name, count in (("prompt_length", prompt_length), ("max_new_tokens", max_new_tokens)):
            if count is not None and count < 1:
                raise ValueError(f"{name} must be positive, got {count}")
        if question_tokens is not None and prompt_length is not None:
            raise ValueError("a prompt with question_tokens cannot come in chunks (prompt_length)")
        if static:
            check_static(max_new_tokens, backend)
        self.settings = Settings(
            method=method,
            shape=shape,
            prompt_length=prompt_length,
            max_new_tokens=max_new_tokens,
            head_mask=HeadMask.checked(head_mask, head_mask_mode, shape),
            question_tokens=question_tokens,
            backend=backend,
            static=static,
        )
        super().__init__(layers=[*self._new_layers()])

    @property
    def compressible_layers(self) -> list[RaggedLayer]:
        """The layers that evict, in order."""
        return [layer for layer in self.layers if isinstance(layer, RaggedLayer)]

    def stats(self) -> stats.CacheStats:
        """Return what is kept and what it takes.

        Raises
        ------
        RuntimeError
            Before a complete prompt went through the registered attention.
        """
        return stats.collect(self, self.compressible_layers)

    def reset(self) -> None:
        """Forget everything: the next forward begins a new prompt."""
        # Stock layers are made anew: before transformers 5.18 their own reset keeps zeroed entries.
        self.settings.begin()
        self.layers = [*self._new_layers()]

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Any, Any]:
        """Pass K and V on to a layer; see `RaggedLayer.update`.

        Raises
        ------
        ValueError
            For a layer that the config does not have; and as the layer.
        """
        if layer_idx >= len(self.layers):
            raise ValueError(
                f"the model has more than the {len(self.layers)} layers of this cache's config: make the "
                "cache from model.config"
            )
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)

    def activate_past_recording(self) -> None:
        """Refuse assisted decoding, which calls this before it reads the prompt.

        Raises
        ------
        ValueError
            Always.
        """
        raise ValueError(
            "assisted decoding is not supported (an assistant_model, prompt_lookup_num_tokens): it reads the "
            "prompt together with drafted tokens, which would be compressed as if they belonged to it"
        )

    @property
    def _is_user_defined(self) -> bool:
        """What ``generate`` sets on the cache that it is given, before it reads anything."""
        return self.settings.progress.begun_at is not None

    @_is_user_defined.setter
    def _is_user_defined(self, value: bool) -> None:
        # So a turn can be told from the chunks of a prompt: no decode step lies between them where the
        # answer was a single token.
        self.settings.progress.begun_at = int(self.compressible_layers[0].get_seq_length()) if value else None

    def _new_layers(self) -> list[CacheLayerMixin]:
        stock = stock_layers(self._config)
        if self.settings.static:
            stock = [static_form(layer) for layer in stock]
        return with_held(stock, lambda index: RaggedLayer(index, self.settings))
