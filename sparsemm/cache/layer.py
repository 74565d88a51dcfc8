"""One layer of the ragged cache: full K/V while the prompt comes in, only what was kept afterwards."""

from typing import Any

import torch
from torch import Tensor

from sparsemm.cache.checks import check_backend_input, default_backend
from sparsemm.cache.decode import ragged_attention
from sparsemm.cache.gradient import WithoutGradient
from sparsemm.cache.handle import HeldLayer, KVHandle, check_heads
from sparsemm.cache.layout import Backend
from sparsemm.cache.question import Context, attend_to_kept
from sparsemm.cache.settings import READ_ANEW, Settings
from sparsemm.cache.storage import FlatStorage
from sparsemm.cache.turns import static_turn
from sparsemm.methods import kept_and_counts


class RaggedLayer(HeldLayer):
    """Keeps all K/V until the prompt is complete, then what the method chooses, then appends.

    Parameters
    ----------
    index
        Number of this layer among the compressible ones.
    settings
        Shared by all layers of the cache.

    Attributes
    ----------
    keys, values
        Full K and V, shape [B, KV heads, seen, head_dim]; None once entries were evicted, and, where steps
        are compiled, once the prompt is complete.
    storage
        The kept entries and the appended tokens, from then on.
    backend
        Decode backend, known with the first K and V.
    prompt_tokens
        Tokens of the complete prompt, padding included; None until the attention of its last chunk has run.
    valid
        Valid prompt tokens of each row, [B] on the CPU.
    kept
        Kept prompt entries of each row and KV head, window included, [B, KV heads] on the CPU; those of a
        question that came after compression are not counted.
    question
        Tokens of that question in each row, [B] on the CPU; 0 where there is none.
    masked_heads
        This layer's query heads that are switched off; None for none.
    """

    is_croppable = False  # not whatever comes, as assisted decoding wants it: the prompt stays as it is

    def __init__(self, index: int, settings: Settings) -> None:
        super().__init__()
        self.index = index
        self.settings = settings
        self.backend: Backend = "grouped"
        self.storage: FlatStorage | None = None
        self.prompt_tokens: int | None = None
        self.valid = torch.empty(0)
        self.kept = torch.empty(0)
        self.question = torch.empty(0)
        self.masked_heads = None
        self._rows = 0
        self._cropped = False
        self._window_queries: Tensor | None = None
        self._new: tuple[Tensor, Tensor] | None = None
        self._prompt: Tensor | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Note dtype, device and batch size of the first K and V."""
        check_heads(key_states, self.settings.shape)
        self.dtype, self.device = key_states.dtype, key_states.device
        self.backend = self.settings.backend or default_backend(key_states.device)
        check_backend_input(self.backend, key_states)
        self._rows = key_states.shape[0]
        self.keys = key_states[:, :, :0]
        self.values = value_states[:, :, :0]
        mask = self.settings.head_mask
        self.masked_heads = mask and mask.of_layer(self.index, self.device)
        self.is_initialized = True

    def update(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[KVHandle, KVHandle]:
        """Take K and V, [B, KV heads, q, head_dim]; return a handle for the registered attention, twice.

        After eviction it is `attend` that appends them.

        Raises
        ------
        ValueError
            For another batch size, or tokens that would have belonged to an already compressed prompt.
        RuntimeError
            When the attention before this one did not go through the registered function.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self._check_update(key_states.shape[0], key_states.shape[2])
        if self.storage is not None:
            self._new = key_states, value_states
        else:
            assert self.keys is not None
            assert self.values is not None
            self.keys = torch.cat([self.keys, key_states], dim=2)
            self.values = torch.cat([self.values, value_states], dim=2)
        handle = KVHandle(self)
        return handle, handle

    def attend(self, query: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
        """Attention of the newest q tokens over the kept and appended entries, [B, q, heads, head_dim]."""
        storage, new = self.storage, self._new
        assert storage is not None
        tokens = query.shape[2]
        if isinstance(storage.appended, Tensor):
            if self.index == 0:  # once for all layers
                storage.check_room(tokens)
            visible = None
            if mask is not None or tokens > 1 or storage.chunks is None:  # the kernel knows what lies there
                visible = static_turn(mask, self._rows, tokens, storage.appended, storage.slack)
        else:
            assert self.prompt_tokens is not None
            seen = self.prompt_tokens + storage.appended + tokens
            visible = self.settings.masks.turn(mask, self._rows, seen, self.prompt_tokens)
        self._new = None
        if not query.requires_grad:
            return ragged_attention(query, storage, scaling, visible, new)
        with torch.no_grad():
            output = ragged_attention(query, storage, scaling, visible, new)
        return WithoutGradient.apply(query, output)  # pyright: ignore[reportReturnType]

    def observe(self, query: Tensor, mask: Tensor | None, scaling: float) -> tuple[Tensor, Tensor] | None:
        """After full attention: compress, if the prompt is complete now.

        Parameters
        ----------
        query
            Post-RoPE queries, shape [B, heads, q, head_dim].
        mask
            The attention mask, bool [B, 1, q, seen] or None.
        scaling
            Factor of the dot products.

        Returns
        -------
        tuple or None
            Outputs that take the place of full attention's: see `attend_to_kept`.
        """
        if self.prompt_tokens is not None:
            self.settings.masks.turn(mask, self._rows, self._held(), self.prompt_tokens)
            return None
        if self._window_queries is not None:
            query = torch.cat([self._window_queries, query], dim=2)
        if self._held() < (self.settings.prompt_length or 0):
            # The window may reach back into earlier chunks; a method that evicts has a window of at least 1.
            self._window_queries = query[:, :, -max(self.settings.method.window, 1) :].clone()
            return None
        self._window_queries = None
        return self.compress(query, mask, scaling)

    def compress(self, query: Tensor, mask: Tensor | None, scaling: float) -> tuple[Tensor, Tensor] | None:
        """Evict what the method does not keep; as `observe`, with the whole window's queries."""
        settings, keys, values = self.settings, self.keys, self.values
        assert keys is not None
        assert values is not None
        seen = self._held()
        valid, lengths = settings.masks.prompt(mask, self._rows, seen)
        self._complete(seen)
        self.valid = lengths
        whole = valid
        context: Context | None = None
        if settings.question_tokens is not None:
            context = settings.masks.context(mask, lengths, seen, settings.question_tokens, self.device)
            valid, lengths = context.valid, context.lengths
        self.question = self.valid - lengths
        self.kept = lengths[:, None].repeat(1, keys.shape[1])
        kept: Tensor | None = None
        again = None
        if settings.method.evicts and not all(settings.method.keeps_all(row) for row in lengths.tolist()):
            kept, counts = kept_and_counts(
                settings.method,
                query if context is None else context.part(query),
                keys if context is None else context.part(keys),
                layer=self.index,
                shape=settings.shape,
                scaling=scaling,
                valid=valid,
                lengths=lengths,
            )
            if torch.equal(counts, self.kept):
                kept = None
            else:
                self.kept = counts
                if context is not None:
                    kept = context.kept_of_prompt(kept)
                    again = attend_to_kept(query, keys, values, mask, kept, context.question, scaling)
        if kept is None:
            if not settings.static:
                return None
            kept = keys.new_ones(keys.shape[:3], dtype=torch.bool)
            if whole is not None:
                kept &= whole[:, None]
        stored = self.kept + self.question[:, None]
        self.storage = FlatStorage.from_dense(
            keys, values, kept, settings.max_new_tokens, self.backend, settings.static, counts=stored
        )
        self.keys = self.values = None
        if settings.static:
            self._prompt = torch.tensor(seen, device=self.device)
            torch._dynamo.mark_static_address(self._prompt)
        return again

    @property
    def is_compileable(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether steps can be compiled; not while a prompt comes in chunks, or these would be, too."""
        return self.settings.static and (self.settings.prompt_length is None or self.storage is not None)

    def _held(self) -> int:
        """Tokens of the full K and V."""
        return 0 if self.keys is None else self.keys.shape[2]

    def get_seq_length(self) -> int:
        """Tokens seen, padding and evicted ones included: positions count on.

        Where steps are compiled it is a number on the device, as `StaticLayer`'s is.
        """
        if self.storage is None:
            return self._held()
        before = self.prompt_tokens if self._prompt is None else self._prompt
        return before + self.storage.appended  # pyright: ignore

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the mask's key axis: all tokens ever seen; of a static cache, the slack."""
        if self._prompt is not None:
            assert self.storage is not None
            assert self.prompt_tokens is not None
            return self.storage.slack, self.prompt_tokens
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        """-1: no limit."""
        return -1

    def tensors(self) -> list[Tensor]:
        """Every tensor that this layer keeps alive."""
        held = [self.keys, self.values, self._window_queries, self._prompt]
        stored = [] if self.storage is None else self.storage.tensors()
        return stored + [tensor for tensor in held if tensor is not None]

    def slack_bytes(self) -> int:
        """Bytes of slots that wait for further tokens."""
        return 0 if self.storage is None else self.storage.slack_bytes()

    def full_bytes(self) -> int:
        """Bytes of K and V of every token seen, padding included, as `DynamicCache` would hold them."""
        held = self if self.storage is None else self.storage
        keys, values = held.keys, held.values
        if keys is None or values is None:
            return 0
        entry = keys.shape[-1] * keys.element_size() + values.shape[-1] * values.element_size()
        return self._rows * self.settings.shape.num_key_value_heads * int(self.get_seq_length()) * entry

    def select_rows(self, rows: Tensor) -> None:
        """Keep the given batch rows, in this order; a row may come several times."""
        if not self.is_initialized:
            return
        self._rows = len(rows)
        if self.storage is not None:
            self.storage = self.storage.take(rows)
        else:
            assert self.keys is not None
            assert self.values is not None
            self.keys = self.keys.index_select(0, rows.to(self.keys.device))
            self.values = self.values.index_select(0, rows.to(self.values.device))
        if self.prompt_tokens is not None:
            chosen = rows.cpu()
            self.valid, self.kept = self.valid[chosen], self.kept[chosen]
            self.question = self.question[chosen]
        if self._window_queries is not None:
            self._window_queries = self._window_queries[rows]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Give each row the entries of another, for beam search."""
        self.select_rows(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row."""
        self.select_rows(torch.arange(self._rows).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows, by number or by a bool for each."""
        self.select_rows(torch.arange(self._rows)[torch.as_tensor(indices).cpu()])

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last k tokens, given as ``-k``; transformers before 5.18 may give the length to keep.

        Raises
        ------
        ValueError
            When it would cut into the prompt.
        """
        seen = int(self.get_seq_length())
        count = -tokens_to_remove if tokens_to_remove <= 0 else max(0, seen - tokens_to_remove)
        if count == 0:
            return
        after = seen - (seen if self.prompt_tokens is None else self.prompt_tokens)
        if count > after:
            raise ValueError(
                f"RaggedCache cannot remove {count} tokens, only {after} came after the prompt (assisted "
                "decoding is not supported)"
            )
        self._cropped = True
        if self.storage is not None:
            self.storage.crop(count)
        elif self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys[:, :, :-count], self.values[:, :, :-count]

    def reset(self) -> None:
        """Be as new."""
        self.__init__(self.index, self.settings)
        self.settings.begin()

    def _check_update(self, rows: int, tokens: int) -> None:
        if rows != self._rows:
            raise ValueError(
                f"this RaggedCache holds {self._rows} rows and was given {rows}: for a new prompt call "
                "cache.reset() or make a new cache"
            )
        if self.storage is not None or self.prompt_tokens is not None:  # compiled steps know the first alone
            self.settings.check_depth()
        if self.storage is not None and tokens == 1:
            return  # a compiled step asks nothing that differs between prompts, nor waits for the device
        declared = self.settings.prompt_length
        if self.prompt_tokens is not None:
            if tokens > 1:
                self._check_turn(tokens)
        elif declared is None and self._held():
            raise RuntimeError(
                'the attention of the prompt did not run through "sparsemm", so nothing could be compressed: '
                'load the model with attn_implementation={"text_config": "sparsemm"}'
            )
        elif declared is not None and self._held() + tokens > declared:
            raise ValueError(f"the prompt has {self._held() + tokens} tokens, prompt_length says {declared}")

    def _check_turn(self, tokens: int) -> None:
        """Refuse several tokens behind the prompt that are no turn of their own."""
        progress, seen = self.settings.progress, int(self.get_seq_length())
        if progress.begun_at == seen:
            return  # the first that a new call of generate gives
        if progress.begun_at is not None and tokens == seen + 1:
            raise ValueError(READ_ANEW)
        if self.settings.method.evicts and not self._cropped and seen == self.prompt_tokens:
            raise ValueError(
                f"{tokens} more tokens after the prompt was compressed, before any was generated: for a new "
                "prompt call cache.reset() or make a new cache; for a prompt in chunks give prompt_length; "
                "for a question after compression give question_tokens, or ask it through generate"
            )

    def _complete(self, seen: int) -> None:
        """Note that the prompt is complete; ValueError where layers before this one saw another."""
        progress = self.settings.progress
        progress.complete += 1
        if progress.prompt_tokens not in (None, seen):
            raise ValueError(
                f"one layer attends to {seen} tokens, another to {progress.prompt_tokens}: layers that "
                "attend to something else than the text (cross-attention) are not supported"
            )
        self.prompt_tokens = progress.prompt_tokens = seen
