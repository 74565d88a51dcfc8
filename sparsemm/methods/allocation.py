"""Quotas: how real-valued shares become whole tokens, and how head scores become shares."""

from __future__ import annotations

import torch
from torch import Tensor

# Shares are compared in steps of 2**-20 token, so that equal shares stay equal whatever the order of
# additions.
_FRACTION_BITS = 20


def largest_remainder(shares: Tensor, total: Tensor) -> Tensor:
    """Round real shares to integers that sum to `total`.

    Every share is cut to an integer; what is missing to the total goes, one each, to the largest cut-off
    fractions, ties to the lower index. An integral share is never exceeded.

    Parameters
    ----------
    shares : Tensor [..., N], float64
        Not negative; each row sums to its total, but for floating-point noise.
    total : LongTensor [...]

    Returns
    -------
    LongTensor [..., N]
    """
    steps = torch.round(shares * 2**_FRACTION_BITS).long()
    whole = steps >> _FRACTION_BITS
    fraction = steps & (2**_FRACTION_BITS - 1)
    missing = total - whole.sum(dim=-1)
    order = fraction.argsort(dim=-1, descending=True, stable=True)
    rank = order.argsort(dim=-1)
    return whole + (rank < missing.unsqueeze(-1))


def water_fill(scores: Tensor, *, n: int, b: int, ratio: float) -> Tensor:
    """Share ``heads * min(b, n)`` tokens among heads by score, none above `n`.

    SparseMM (arXiv 2506.05344) gives each head an equal part ``ratio * b`` and a part in proportion to its
    score. Here what a head cannot hold goes to the others: the share is ``min(n, ratio * b + level *
    score)`` with the one level at which the shares sum to the total. If all heads with a score are full
    before that, the heads of score zero share the rest equally.

    Parameters
    ----------
    scores : Tensor [heads], float64
        Not negative, not all zero.
    n : int
        Tokens that can be evicted.
    b : int
        Budget without the window.
    ratio : float
        Part of the budget that is shared equally, in [0, 1].

    Returns
    -------
    Tensor [heads], float64
    """
    heads = scores.numel()
    if b >= n:
        return torch.full_like(scores, n)
    equal = ratio * b
    room = n - equal
    to_share = heads * (b - equal)
    # With the k best heads full, the others share `left[k]` in proportion to their scores. Right is the
    # first k at which the best of the others is not full too. (No division: a score may be as small as
    # floats go.)
    ordered = scores.sort(descending=True).values
    left = to_share - torch.arange(heads, dtype=torch.float64) * room
    sharing = ordered.flip(0).cumsum(0).flip(0)
    fits = (sharing > 0) & (left * ordered <= room * sharing)
    if bool(fits.any()):
        first = int(fits.to(torch.uint8).argmax())
        return (equal + left[first] * (scores / sharing[first])).clamp(max=n)
    scored = scores > 0
    silent = heads - int(scored.sum())
    rest = (to_share - (heads - silent) * room) / silent
    return torch.where(scored, float(n), equal + rest)


def top_counts(scores: Tensor, count: Tensor, largest: int) -> Tensor:
    """Count how many of each row's ``count`` best scores, over all heads, lie in each head.

    Ties go to the lower head.

    Parameters
    ----------
    scores : Tensor [B, H, S]
        Entries that do not take part are -inf, below all others.
    count : LongTensor [B]
        At most the entries that take part.
    largest : int
        The largest count, which the caller knows without waiting for the device.

    Returns
    -------
    LongTensor [B, H]
    """
    if largest == 0:
        return torch.zeros(scores.shape[:2], dtype=torch.long, device=scores.device)
    best = scores.flatten(1).topk(largest, dim=-1).values
    threshold = best.gather(-1, (count - 1).clamp(min=0)[:, None])[..., None]
    above = (scores > threshold).sum(dim=-1)
    tied = (scores == threshold).sum(dim=-1)
    left_over = (count - above.sum(dim=-1))[:, None]
    before = tied.cumsum(dim=-1) - tied
    return above + torch.minimum((left_over - before).clamp(min=0), tied) * (count > 0)[:, None]
