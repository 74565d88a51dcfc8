"""Fan-out: one prefill, decoded greedily under many methods at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsemm.cache.fanout_cache import FanoutCache
from sparsemm.methods import KVMethod


@dataclass(frozen=True, eq=False)
class Fanout:
    """What `fan_out` gives.

    Attributes
    ----------
    tokens
        Generated token ids, end token included: a list for each method, in it one for each document.
    kept
        Prompt entries kept, window included, int64 [methods, layers, B, KV heads]: those that `RaggedCache`
        keeps.
    prompt_tokens
        Valid (unpadded) prompt tokens of each document.
    padded_length
        Tokens of the batch's prompts, padding included.
    rows
        Rows decoded: methods that keep the same entries of a document share one.
    """

    tokens: list[list[list[int]]]
    kept: Tensor
    prompt_tokens: list[int]
    padded_length: int
    rows: int


def fan_out(
    model: Any,
    inputs: Any,
    methods: Sequence[KVMethod],
    *,
    max_new_tokens: int,
    max_rows: int | None = None,
    head_mask: Tensor | None = None,
) -> Fanout:
    """Answer a batch of prompts under each of several methods, greedily, from one prefill.

    The prompt's attention is full whatever the method, so it runs once. Each method then decodes its own row
    of each document, which attends to the entries that the method keeps. The answers are those of separate
    runs with `RaggedCache`; memory and latency are not.

    Parameters
    ----------
    model
        A generating model of transformers with ``attn_implementation={"text_config": "sparsemm"}``.
    inputs
        What its processor gave for the prompts, left-padded.
    methods
        At least one.
    max_new_tokens
        Upper limit of generated tokens.
    max_rows
        Rows decoded at the same time; more are decoded one lot after another. None: all at once.
    head_mask
        Query heads to remove, as in `RaggedCache`.

    Returns
    -------
    Fanout

    Raises
    ------
    ValueError, NotImplementedError
        As `FanoutCache`; also for `max_rows` below 1.
    """
    if max_rows is not None and max_rows < 1:
        raise ValueError(f"max_rows must be positive, got {max_rows}")
    loop = _Loop(FanoutCache(model.config, methods, head_mask=head_mask), max_rows)
    model.generate(
        **inputs,
        past_key_values=loop.cache,
        custom_generate=loop,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        temperature=None,
        top_p=None,
        top_k=None,
    )
    assert loop.result is not None
    return loop.result


class _Loop:
    """Greedy decoding in the place of transformers' own; ``generate`` calls it with all options parsed."""

    def __init__(self, cache: FanoutCache, max_rows: int | None) -> None:
        self.cache, self.max_rows = cache, max_rows
        self.result: Fanout | None = None

    def __call__(
        self,
        model: Any,
        input_ids: Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        **model_kwargs: Any,
    ) -> Tensor:
        """Decode all rows into `result`; return the prompts, since ``generate`` wants a tensor."""
        self.model, self.processor, self.criteria = model, logits_processor, stopping_criteria
        self.prompts = input_ids
        self.mask = model_kwargs.get("attention_mask")
        prompt = model.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **model_kwargs)
        outputs = model(**prompt, return_dict=True)
        self.positions = _next_positions(prompt, self.mask, input_ids)
        first, ended = self._choose(input_ids, outputs.logits)
        del outputs

        classes = self.cache.classes()  # [methods, B]
        methods, documents = np.nonzero(classes == np.arange(len(classes))[:, None])
        order = np.lexsort((methods, documents))
        methods, documents = methods[order], documents[order]
        texts: dict[tuple[int, int], list[int]] = {}
        lot = self.max_rows or len(documents)
        for start in range(0, len(documents), lot):
            rows = slice(start, start + lot)
            sequences, lengths = self._decode(documents[rows], methods[rows], first, ended)
            for row, key in enumerate(zip(methods[rows].tolist(), documents[rows].tolist(), strict=True)):
                texts[key] = sequences[row, : lengths[row]].tolist()
        layer = self.cache.compressible_layers[0]
        self.result = Fanout(
            tokens=[[texts[first, row] for row, first in enumerate(line)] for line in classes.tolist()],
            kept=self.cache.kept(),
            prompt_tokens=layer.lengths.tolist(),
            padded_length=input_ids.shape[1],
            rows=len(documents),
        )
        return input_ids

    def _decode(
        self, documents: NDArray[np.int64], methods: NDArray[np.int64], first: Tensor, ended: Tensor
    ) -> tuple[Tensor, NDArray[np.int64]]:
        """Decode a lot of rows to their ends.

        Parameters
        ----------
        documents, methods
            Of each row, [R].
        first, ended
            First token of each document, [B], and whether it ends the text.

        Returns
        -------
        tokens, lengths
            Generated ids [R, longest] on the CPU, and how many of them are each row's, [R].
        """
        device = first.device
        of_row = torch.from_numpy(documents).to(device)
        token, positions = first[of_row], self.positions.index_select(-2, of_row)
        sequences = torch.cat([self.prompts[of_row], token[:, None]], dim=1)
        tokens = [token.cpu()]  # of each step: the ids of the rows then alive
        alive_then = [np.arange(len(documents))]
        lengths = np.ones(len(documents), dtype=np.int64)
        live = np.arange(len(documents))
        mask = None if self.mask is None else self.mask[of_row]
        self.cache.begin(documents, methods)
        alive = ~ended[of_row].cpu().numpy()
        while True:
            if not alive.all():
                live = live[alive]
                if not len(live):
                    break
                self.cache.keep_rows(alive)
                chosen = torch.from_numpy(alive.nonzero()[0]).to(device)
                sequences, token = sequences[chosen], token[chosen]
                positions = positions.index_select(-2, chosen)
                mask = None if mask is None else mask[chosen]
            step: dict[str, Any] = {"position_ids": positions}
            if mask is not None and self.cache.needs_mask:
                mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
                step["attention_mask"] = mask
            outputs = self.model(
                input_ids=token[:, None],
                past_key_values=self.cache,
                use_cache=True,
                return_dict=True,
                **step,
            )
            token, done = self._choose(sequences, outputs.logits)
            sequences = torch.cat([sequences, token[:, None]], dim=1)
            tokens.append(token.cpu())
            alive_then.append(live)
            lengths[live] += 1
            positions = positions + 1
            alive = ~done.cpu().numpy()
        generated = torch.zeros(len(documents), len(tokens), dtype=torch.long)
        for place, (ids, rows) in enumerate(zip(tokens, alive_then, strict=True)):
            generated[torch.from_numpy(rows), place] = ids
        return generated, lengths

    def _choose(self, sequences: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Choose each row's next token, [R], and say whether its text ends there, bool [R]."""
        scores = self.processor(sequences, logits[:, -1].float())
        token = scores.argmax(dim=-1)
        ended = self.criteria(torch.cat([sequences, token[:, None]], dim=1), scores)
        return token, ended


def _next_positions(prompt: Any, mask: Tensor | None, input_ids: Tensor) -> Tensor:
    """Position ids of the first generated token, [..., B, 1]: one beyond the prompt's last."""
    positions = prompt.get("position_ids")
    if positions is None:
        mask = torch.ones_like(input_ids) if mask is None else mask
        positions = mask.long().sum(dim=1, keepdim=True) - 1
    return positions[..., -1:] + 1
