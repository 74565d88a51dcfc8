"""Attention of many rows over a prompt that they share, and over the tokens of their own."""

import torch
from torch import Tensor

FEWEST = 16
"""Own tokens that are read at least, hidden ones among them: tiny matrix products are slow on a CPU."""


def prompt_attention(query: Tensor, keys: Tensor, values: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Attend to shared prompts: one product for all rows and query heads of a document.

    The prompt's K/V are read once, however many rows there are.

    Parameters
    ----------
    query
        Scaled queries, float32 [D, KV heads, S, group, head_dim]: D documents with S rows each; the group's
        query heads share a KV head.
    keys, values
        The prompts, shape [D, KV heads, L, head_dim].
    hidden
        Added to the scores, 0 or -inf, float32 [D, KV heads, S, L].

    Returns
    -------
    output, mass
        Shape [D, KV heads, S, group, value head_dim], and the logarithm of the sum of the exponentials of the
        scores, [D, KV heads, S, group, 1].
    """
    documents, kv_heads, slots, group, head_dim = query.shape
    heads, length = documents * kv_heads, keys.shape[2]
    keys = keys.reshape(heads, length, head_dim).float()
    scores = torch.bmm(query.reshape(heads, slots * group, head_dim), keys.transpose(1, 2))
    scores.view(documents, kv_heads, slots, group, length).add_(hidden.unsqueeze(3))
    output, mass = _softmax_product(scores, values.reshape(heads, length, -1).float())
    shape = (documents, kv_heads, slots, group)
    return output.view(*shape, -1), mass.view(*shape, 1)


def own_attention(query: Tensor, keys: Tensor, values: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """Attend to each row's own tokens.

    Parameters
    ----------
    query
        Scaled queries, float32 [R, KV heads, group, head_dim].
    keys, values
        Shape [R, KV heads, room, head_dim]; what lies behind the tokens is finite.
    tokens
        Tokens in use, at least one.

    Returns
    -------
    output, mass
        As `prompt_attention`: [R, KV heads, group, value head_dim] and [R, KV heads, group, 1].
    """
    rows, kv_heads, group, _ = query.shape
    read = max(tokens, min(FEWEST, keys.shape[2]))
    # Flattened views of the room in use: nothing is copied (in float32).
    own_keys = keys[:, :, :read].flatten(0, 1).float()
    own_values = values[:, :, :read].flatten(0, 1).float()
    scores = torch.bmm(query.flatten(0, 1), own_keys.transpose(1, 2))
    scores[:, :, tokens:] = -torch.inf
    output, mass = _softmax_product(scores, own_values)
    return output.view(rows, kv_heads, group, -1), mass.view(rows, kv_heads, group, 1)


def join(one: Tensor, mass: Tensor, other: Tensor, other_mass: Tensor) -> Tensor:
    """Attention over two parts together, from each part's output and mass."""
    return torch.lerp(other, one, torch.sigmoid(mass - other_mass))


def _softmax_product(scores: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return softmax(scores) @ values and the scores' log-sum-exp [..., 1]."""
    weights = scores.softmax(dim=-1)
    # From the largest score and its weight: torch's own logsumexp takes six times as long on a CPU.
    mass = scores.amax(dim=-1, keepdim=True) - weights.amax(dim=-1, keepdim=True).log()
    return torch.bmm(weights, values), mass
