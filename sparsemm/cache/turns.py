"""What the tokens of a decode step or a later turn see of each other, where steps are compiled."""

import torch
from torch import Tensor

from sparsemm.cache.settings import NOT_REACHED, checked_mask


def static_turn(mask: Tensor | None, rows: int, tokens: int, appended: Tensor, slack: int) -> Tensor:
    """Return which slots of the slack each new token sees, bool [rows, tokens, slack].

    A step of one token waits for nothing that the device has not done yet.

    Parameters
    ----------
    mask
        The attention mask over the slack, bool [B, 1, q, slack]; None is causal.
    rows, tokens
        Of the step.
    appended
        Tokens in the slack before it, int64 [].
    slack
        Slots.

    Raises
    ------
    ValueError
        For another mask, and, with several tokens, for one that hides the newest of them in all rows: then it
        belongs to another prompt.
    """
    if mask is None:
        last = appended + torch.arange(tokens, device=appended.device)
        visible = torch.arange(slack, device=appended.device) <= last[:, None]
        return visible.expand(rows, -1, -1)
    visible = checked_mask(mask, rows, slack)
    if tokens > 1 and not bool(visible[:, -1, int(appended) + tokens - 1].any()):
        raise ValueError(NOT_REACHED)
    return visible
