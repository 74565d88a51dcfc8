"""A text model as the caches see it: its sizes, and which of its layers can be held otherwise."""

from collections.abc import Callable

from sparsemm.cache.handle import HeldLayer
from sparsemm.cache.stock import CacheLayerMixin, PretrainedConfig, is_compressible, stock_layers
from sparsemm.methods import ModelShape


def with_held(layers: list[CacheLayerMixin], make: Callable[[int], HeldLayer]) -> list[CacheLayerMixin]:
    """Put `make(index)` in the place of each compressible layer, counted from 0."""
    index = 0
    mixed: list[CacheLayerMixin] = []
    for layer in layers:
        if is_compressible(layer):
            layer = make(index)
            index += 1
        mixed.append(layer)
    return mixed


def model_shape(config: PretrainedConfig, compressible: int | None = None) -> ModelShape:
    """Read the sizes of a text config.

    Parameters
    ----------
    config
        The text model's.
    compressible
        Full-attention layers; counted when None.

    Raises
    ------
    ValueError
        When no layer can be compressed, or layers are of different sizes.
    """
    if compressible is None:
        compressible = sum(map(is_compressible, stock_layers(config)))
    if not compressible:
        raise ValueError(f"{config.model_type} has no full-attention layer to compress")
    try:
        heads: int = config.num_attention_heads
        kv_heads: int = getattr(config, "num_key_value_heads", None) or heads
        head_dim: int = getattr(config, "head_dim", None) or config.hidden_size // heads
    except RuntimeError as error:  # a configuration with a size for each layer refuses to name one for all
        raise ValueError(f"{config.model_type}: layers of different sizes are not supported") from error
    except AttributeError as error:
        raise ValueError(f"{config.model_type} has no attention heads to compress") from error
    return ModelShape(compressible, heads, kv_heads, head_dim)
