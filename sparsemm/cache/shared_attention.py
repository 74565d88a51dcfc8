"""Attention of many rows over the prompt that they share and the tokens of their own."""

import torch
from torch import Tensor


def shared_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    hidden: Tensor,
    new_keys: Tensor,
    new_values: Tensor,
    scaling: float,
) -> Tensor:
    """Softmax attention over a shared prompt and each row's new tokens, as over one sequence.

    The prompt's part is one product for all rows and query heads of a document: its K/V are read once, however
    many rows there are.

    Parameters
    ----------
    query
        Shape [D, KV heads, S, group, head_dim]: D documents with S rows each; the group's query heads share a KV
        head.
    keys, values
        The prompts, shape [D, KV heads, L, head_dim].
    hidden
        Added to the prompt's scores, 0 or -inf, float32 [D, KV heads, S, L].
    new_keys, new_values
        The rows' new tokens, at least one, shape [D, KV heads, S, T, head_dim].
    scaling
        Factor of the dot products.

    Returns
    -------
    Tensor
        Shape [D, KV heads, S, group, value head_dim], of the query's dtype.
    """
    documents, kv_heads, slots, group, head_dim = query.shape
    length, tokens = keys.shape[2], new_keys.shape[3]
    heads, rows = documents * kv_heads, documents * kv_heads * slots
    # In float32 throughout: a product in a lower precision would round the scores.
    scaled = query.float() * scaling
    scores = torch.bmm(
        scaled.reshape(heads, slots * group, head_dim),
        keys.reshape(heads, length, head_dim).float().transpose(1, 2),
    )
    scores.view(documents, kv_heads, slots, group, length).add_(hidden.unsqueeze(3))
    # Flattening keeps the room behind the T tokens out of the view: nothing is copied.
    own_keys = new_keys.flatten(0, 2).float()  # [rows, T, head_dim]
    own = torch.bmm(scaled.reshape(rows, group, head_dim), own_keys.transpose(1, 2))
    joint = torch.cat([scores, own.view(heads, slots * group, tokens)], dim=-1).softmax(dim=-1)
    output = torch.bmm(joint[..., :length], values.reshape(heads, length, -1).float())
    own_values = new_values.flatten(0, 2).float()
    own = torch.bmm(joint[..., length:].reshape(rows, group, tokens), own_values)
    output += own.view_as(output)
    return output.view(documents, kv_heads, slots, group, -1).to(query.dtype)
