"""How the registered attention finds the cache layer: a handle in the place of K and V."""

from abc import abstractmethod
from typing import Any, NoReturn

from torch import Tensor

from sparsemm.cache.head_mask import HeadMask
from sparsemm.cache.stock import CacheLayerMixin
from sparsemm.methods import ModelShape


class HeldLayer(CacheLayerMixin):
    """A layer that is full K/V while the prompt comes in, and something of its own afterwards.

    Attributes
    ----------
    keys, values
        Full K and V, shape [B, KV heads, seen, head_dim]; None once `attend` is to be called instead.
    masked_heads
        This layer's query heads that are switched off; None for none.
    """

    is_sliding = False

    keys: Tensor | None
    values: Tensor | None
    masked_heads: HeadMask | None

    @abstractmethod
    def observe(self, query: Tensor, mask: Tensor | None, scaling: float) -> tuple[Tensor, Tensor] | None:
        """See the queries [B, heads, q, head_dim] right after full attention.

        Where the last tokens attend to less than all, their outputs [B, T, heads, head_dim] are returned, and
        for which of them that holds, bool [B, T].
        """

    @abstractmethod
    def attend(self, query: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
        """Attention of new queries over what the layer holds, shape [B, q, heads, head_dim]."""


STRANGER = (
    "a sparsemm cache gave its K/V handle to another attention: load the model with "
    'attn_implementation={"text_config": "sparsemm"}; if that was done, the model does something of its own '
    "with cached K and V, and cannot be compressed"
)


class KVHandle:
    """What a held layer's ``update`` returns for K and V: the attention function's way to the layer."""

    __slots__ = ("layer",)

    def __init__(self, layer: HeldLayer) -> None:
        self.layer = layer

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{STRANGER} (it wants its .{name})")

    @classmethod
    def __torch_function__(cls, function: Any, *arguments: Any) -> NoReturn:
        """Be refused by every function of torch, in words."""
        raise TypeError(STRANGER)


def check_heads(key: Tensor, shape: ModelShape) -> None:
    """Check that a layer's K, [B, KV heads, q, head_dim], has as many heads as the configuration says.

    Raises
    ------
    ValueError
        Where layers are of different sizes: budgets would be shared out wrongly.
    """
    if key.shape[1] != shape.num_key_value_heads:
        raise ValueError(
            f"a full-attention layer has {key.shape[1]} KV heads, the configuration says "
            f"{shape.num_key_value_heads}: layers of different sizes, and K and V cached in another form, "
            "are not supported"
        )
