"""Attention of many rows over a prompt that they share, and over the tokens of their own."""

import torch
from torch import Tensor


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
    weights = scores.softmax(dim=-1)
    # From the largest score and its weight: torch's own logsumexp takes six times as long on a CPU.
    mass = scores.amax(dim=-1) - weights.amax(dim=-1).log()
    output = torch.bmm(weights, values.reshape(heads, length, -1).float())
    shape = (documents, kv_heads, slots, group)
    return output.view(*shape, -1), mass.view(*shape, 1)


def joined_attention(
    query: Tensor, keys: Tensor, values: Tensor, tokens: int, prompt: Tensor, mass: Tensor
) -> Tensor:
    """Attend to each row's own tokens and to its prompt.

    The prompt is one more entry: its score is the mass, its value is the output of the attention to it.

    Parameters
    ----------
    query
        Scaled queries, float32 [R, KV heads, group, head_dim].
    keys, values
        Shape [R, KV heads, room, head_dim]; the room is larger than the tokens, and zero behind them. All of
        it is read: to skip the end of each row's takes a CPU longer, since it cannot read ahead.
    tokens
        Tokens in use.
    prompt, mass
        What `prompt_attention` gave, in the rows' order: [R, KV heads, group, head_dim] and [..., group, 1].

    Returns
    -------
    Tensor
        Shape [R, KV heads, group, value head_dim].
    """
    scores = torch.bmm(query.flatten(0, 1), keys.flatten(0, 1).float().transpose(1, 2))
    scores[:, :, tokens : tokens + 1] = mass.flatten(0, 1)
    scores[:, :, tokens + 1 :] = -torch.inf
    weights = scores.softmax(dim=-1)
    output = torch.bmm(weights, values.flatten(0, 1).float())
    output.addcmul_(weights[:, :, tokens : tokens + 1], prompt.flatten(0, 1))
    return output.view(prompt.shape)
