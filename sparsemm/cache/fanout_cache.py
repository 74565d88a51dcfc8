"""The cache of a fan-out: prompts held once, and rows that see them as different methods leave them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsemm.cache.backbone import model_shape, with_held
from sparsemm.cache.head_mask import HeadMask, MaskMode
from sparsemm.cache.row_grid import Placement, RowGrid
from sparsemm.cache.shared_prompt import Shared, SharedPromptLayer
from sparsemm.cache.stock import Cache, PretrainedConfig, stock_layers
from sparsemm.cache.suitable import text_config
from sparsemm.methods import KVMethod


class FanoutCache(Cache):
    """K/V of a batch of prompts, once, for rows under many methods.

    No memory is saved here: what a method evicts is hidden from its rows. Answers are `RaggedCache`'s.

    Parameters
    ----------
    config
        Config of the model, or of its text model.
    methods
        What to keep; a row names its method by number.
    head_mask, head_mask_mode
        As in `RaggedCache`; they hold for all methods, since they change the prompt.
    asked
        A question follows the prompt, which is not to be seen by it.
    prompt_length, max_new_tokens
        Tokens that will come, padding included, if they are known: some models are served up to a length.

    Raises
    ------
    ValueError
        As `RaggedCache`; also for a layer that is neither full nor sliding attention: its state cannot be
        given to several rows.
    """

    def __init__(
        self,
        config: PretrainedConfig,
        methods: Sequence[KVMethod],
        *,
        head_mask: Tensor | None = None,
        head_mask_mode: MaskMode = "remove",
        asked: bool = False,
        prompt_length: int | None = None,
        max_new_tokens: int | None = None,
    ) -> None:
        text = text_config(config, prompt_length, max_new_tokens)
        shape = model_shape(text)
        self.shared = Shared(methods, shape, HeadMask.checked(head_mask, head_mask_mode, shape), asked)
        layers = with_held(stock_layers(text), lambda index: SharedPromptLayer(index, self.shared))
        for layer in layers:
            if not hasattr(layer, "batch_select_indices") and not isinstance(layer, SharedPromptLayer):
                raise ValueError(f"a {type(layer).__name__} cannot be fanned out")
        super().__init__(layers=[*layers])
        self._grid: RowGrid | None = None
        self._stock: dict[int, Any] = {}  # layers of another kind, as the prompt left them

    @property
    def compressible_layers(self) -> list[SharedPromptLayer]:
        """The layers of full attention, in order."""
        return [layer for layer in self.layers if isinstance(layer, SharedPromptLayer)]

    @property
    def needs_mask(self) -> bool:
        """Whether a layer of the stock kind wants to be told about padding."""
        return len(self.compressible_layers) < len(self.layers)

    def kept(self) -> Tensor:
        """Prompt entries kept, int64 [methods, layers, B, KV heads] on the CPU."""
        return torch.stack([layer.kept.sum(dim=-1).cpu() for layer in self.compressible_layers], dim=1)

    def classes(self) -> NDArray[np.int64]:
        """First method that keeps the same entries of the same document everywhere, [methods, B]."""
        packed = [
            np.packbits(layer.kept.flatten(2).cpu().numpy(), axis=-1) for layer in self.compressible_layers
        ]
        sets = np.concatenate(packed, axis=-1)  # [methods, B, bytes]
        first = np.empty(sets.shape[:2], dtype=np.int64)
        for document in range(sets.shape[1]):
            seen: dict[bytes, int] = {}
            for method in range(len(sets)):
                first[method, document] = seen.setdefault(sets[method, document].tobytes(), method)
        return first

    def begin(self, documents: NDArray[np.int64], methods: NDArray[np.int64]) -> None:
        """Start decoding rows, [R] each: whose prompt (ascending), and as which method leaves it."""
        device = self.compressible_layers[0].device
        if not self._stock:
            self._stock = {
                index: layer
                for index, layer in enumerate(self.layers)
                if not isinstance(layer, SharedPromptLayer)
            }
        grid = RowGrid.of(documents)
        self._place(grid)
        of_place = torch.from_numpy(methods[grid.row_of_slot]).view(-1, grid.slots).to(device)
        for layer in self.compressible_layers:
            layer.begin(of_place)
        rows = torch.from_numpy(documents).to(device)
        for index, layer in self._stock.items():
            layer = self.layers[index] = copy.copy(layer)
            layer.batch_select_indices(rows)

    def keep_rows(self, alive: NDArray[np.bool_]) -> None:
        """Let rows [R] whose text has ended leave."""
        assert self._grid is not None
        grid = self._grid.keep(alive)
        device = self.compressible_layers[0].device
        if (smaller := grid.smaller_grid()) is not None:
            lines = torch.from_numpy(np.searchsorted(grid.documents, smaller.documents)).to(device)
            places = torch.from_numpy(grid.slot_of_row[smaller.row_of_slot]).view(-1, smaller.slots)
            for layer in self.compressible_layers:
                layer.shrink_grid(lines, places.to(device))
            grid = smaller
        if (denser := grid.smaller_store()) is not None:
            rows = torch.from_numpy(grid.store_of_row).to(device)
            for layer in self.compressible_layers:
                layer.shrink_store(rows)
            grid = denser
        self._place(grid)
        if self._stock:
            rows = torch.from_numpy(alive.nonzero()[0]).to(device)
            for index in self._stock:
                layer: Any = self.layers[index]
                layer.batch_select_indices(rows)

    def _place(self, grid: RowGrid) -> None:
        self._grid = grid
        device = self.compressible_layers[0].device
        self.shared.placement = Placement.of(grid, self.shared.shape.num_key_value_heads, device)
