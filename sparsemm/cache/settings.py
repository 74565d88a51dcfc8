"""What all layers of one cache share: the method, the sizes, and what the current mask says."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sparsemm.cache.head_mask import HeadMask
from sparsemm.cache.layout import Backend
from sparsemm.cache.question import Context, QuestionTokens, question_lengths, refuse_prefix
from sparsemm.methods import KVMethod, ModelShape, prompt_lengths

NOT_REACHED = (
    "the attention mask does not reach the newest tokens: for a new prompt call cache.reset() or make a new "
    "cache; for another turn the mask must cover the earlier ones"
)
READ_ANEW = (
    "the whole text came again with one token more, as generate gives it with use_cache=False: leave that "
    "out, or give no cache"
)


@dataclass
class Settings:
    """Choices of one `RaggedCache`; its parameters say what they mean."""

    method: KVMethod
    shape: ModelShape
    prompt_length: int | None
    max_new_tokens: int | None
    head_mask: HeadMask | None
    question_tokens: QuestionTokens | None
    backend: Backend | None
    static: bool
    masks: "MaskReader" = field(default_factory=lambda: MaskReader())
    progress: "Progress" = field(default_factory=lambda: Progress())

    def check_depth(self) -> None:
        """Raise ValueError where a prompt is complete and did not come by all layers."""
        wanted, found = self.shape.num_hidden_layers, self.progress.complete
        if found < wanted:
            raise ValueError(
                f"the model has {found} of the {wanted} full-attention layers of this cache's config: make "
                "the cache from model.config"
            )

    def begin(self) -> None:
        """Forget what belongs to one prompt: the next forward begins another."""
        self.masks, self.progress = MaskReader(), Progress()


@dataclass
class Progress:
    """How far the layers of a cache are with a prompt, and ``generate`` with its tokens.

    Attributes
    ----------
    complete
        Layers whose prompt is complete.
    prompt_tokens
        Tokens of the prompt, padding included, as the first of them saw it; None before.
    begun_at
        Tokens that the cache had seen when ``generate`` was last called with it; None: it never was.
    """

    complete: int = 0
    prompt_tokens: int | None = None
    begun_at: int | None = None


class MaskReader:
    """Reads a model's attention mask once for all layers: it is the same tensor in each of them."""

    def __init__(self) -> None:
        self._prompt_mask: Tensor | None = None
        self._prompt: tuple[Tensor | None, Tensor] | None = None
        self._context: Context | None = None
        self._turn_mask: Tensor | None = None
        self._turn_seen = 0
        self._turn: Tensor | None = None

    def prompt(self, mask: Tensor | None, batch: int, seen: int) -> tuple[Tensor | None, Tensor]:
        """Return which prompt tokens are not padding, and how many in each row.

        Parameters
        ----------
        mask
            The prompt's attention mask, bool [B, 1, q, seen], or None when nothing is padding.
        batch, seen
            Rows and tokens of the prompt.

        Returns
        -------
        valid
            Bool [B, seen], or None when nothing is padding.
        lengths
            Valid tokens of each row, [B] on the CPU.
        """
        if mask is None:
            return None, torch.full((batch,), seen)
        if self._prompt is None or self._prompt_mask is not mask:
            valid = checked_mask(mask, batch, seen)[:, -1]  # the last token sees all that is not padding
            lengths = prompt_lengths(valid)
            if not bool(lengths.all()):
                raise ValueError(
                    "a row of the prompt is nothing but padding (for a prompt in chunks give prompt_length)"
                )
            self._prompt = (valid if int(lengths.min()) < seen else None), lengths
            self._prompt_mask = mask
        return self._prompt

    def context(
        self,
        mask: Tensor | None,
        lengths: Tensor,
        seen: int,
        question_tokens: QuestionTokens,
        device: torch.device,
    ) -> Context:
        """Return the prompt without its questions.

        Parameters
        ----------
        mask, seen
            As in `prompt`.
        lengths
            Valid tokens of each row, [B].
        question_tokens
            Of each row, as the user gave them.
        device
            Where masks are wanted.

        Raises
        ------
        ValueError
            For questions that do not fit the prompt, or a model whose image tokens see them.
        """
        if self._context is None:
            question = question_lengths(question_tokens, lengths)
            refuse_prefix(mask, lengths)
            self._context = Context.of(question, lengths, seen, device)
        return self._context

    def turn(self, mask: Tensor | None, batch: int, seen: int, prompt: int) -> Tensor | None:
        """Return which tokens after the prompt the new queries see: bool [B, q, seen - prompt], None for all.

        Parameters
        ----------
        mask
            The attention mask of a decode step or a later turn, bool [B, 1, q, seen], or None for one query
            that sees everything.
        batch, seen
            Rows, and tokens seen with the new ones.
        prompt
            Tokens of the prompt, padding included.

        Raises
        ------
        ValueError
            When no row's last query sees itself: then the mask belongs to another prompt.
        """
        if mask is None:
            return None
        if self._turn_mask is not mask or self._turn_seen != seen:
            visible = checked_mask(mask, batch, seen)[:, :, prompt:]
            if not bool(visible[:, -1, -1].any()):
                raise ValueError(NOT_REACHED)
            self._turn = None if bool(visible.all()) else visible
            self._turn_mask, self._turn_seen = mask, seen
        return self._turn


def checked_mask(mask: Tensor, batch: int, seen: int) -> Tensor:
    """Return a 4-d mask without its head axis, [B, q, seen], or say why it cannot be used."""
    if mask.dtype != torch.bool:
        raise ValueError(f"RaggedCache needs a boolean attention mask, got {mask.dtype} (a position bias?)")
    if mask.ndim != 4 or mask.shape[1] != 1 or mask.shape[-1] != seen:
        raise ValueError(f"RaggedCache needs an attention mask [B, 1, q, {seen}], got {list(mask.shape)}")
    return mask[:, 0].expand(batch, -1, -1)
