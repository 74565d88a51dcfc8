"""The papers' formulas and the released code's behaviour, slow and obvious: one row, plain numbers, no
tensors.

Written without the implementation, and meant to be read beside the papers.
n: tokens before the window; b: budget without the window; `heads` of one layer unless said otherwise.
"""

import math
import struct
from fractions import Fraction

Scores = list[list[float]]
STEP = 2**20  # Shares of a token are told apart down to this part of one.


def token_scores(query, key, window, *, kernel=5, pooling="avg", gqa="mean", scaling=None) -> Scores:
    """query[head][position][dim], key[kv_head][position][dim] -> score[kv_head][token before the window]."""
    length, group = len(key[0]), len(query) // len(key)
    scaling = 1 / math.sqrt(len(key[0][0])) if scaling is None else scaling
    result = []
    for kv_head, keys in enumerate(key):
        per_query_head = []
        for head in range(kv_head * group, (kv_head + 1) * group):
            received = [0.0] * (length - window)
            for position in range(length - window, length):
                asked = query[head][position]
                logits = [
                    scaling * sum(a * b for a, b in zip(asked, k, strict=True)) for k in keys[: position + 1]
                ]
                largest = max(logits)
                weights = [math.exp(logit - largest) for logit in logits]
                for token in range(length - window):
                    received[token] += weights[token] / sum(weights) / window
            per_query_head.append(received)
        join = max if gqa == "max" else lambda values: sum(values) / group
        joined = [join([received[token] for received in per_query_head]) for token in range(length - window)]
        result.append(pooled(joined, kernel, pooling))
    return result


def pooled(values, kernel, pooling):
    """Each value replaced by the average (with zeros beyond the ends) or the largest of its neighbourhood."""
    reach = kernel // 2
    near = [values[max(0, i - reach) : i + reach + 1] for i in range(len(values))]
    return [max(part) if pooling == "max" else sum(part) / kernel for part in near]


def best(values, count) -> list[int]:
    """Indices of the `count` largest values, ties to the lower index, ascending."""
    return sorted(sorted(range(len(values)), key=lambda i: (-values[i], i))[:count])


def kept(scores: Scores, quotas, length, window) -> list[list[int]]:
    """Kept prompt positions of each head."""
    recent = list(range(length - window, length))
    return [best(values, quota) + recent for values, quota in zip(scores, quotas, strict=True)]


def whole(shares: list[Fraction], total: int) -> list[int]:
    """Largest remainder, ties to the lower index."""
    steps = [round(share * STEP) for share in shares]
    tokens = [step // STEP for step in steps]
    order = sorted(range(len(steps)), key=lambda i: (-(steps[i] % STEP), i))
    for i in order[: total - sum(tokens)]:
        tokens[i] += 1
    return tokens


def snapkv(n, b, heads) -> list[int]:
    return [min(b, n)] * heads


def streaming_llm(length, tokens, window=8, sinks=4) -> list[int]:
    """Kept positions: the first, as many as fit beside the window, then the last."""
    first = min(sinks, tokens - window)
    return [p for p in range(length) if p < first or p >= length - (tokens - first)]


def pyramidkv(n, b, layers, beta=20) -> list[int]:
    """Tokens per head of each layer."""
    if b >= n or layers == 1:
        return [min(b, n)] * layers
    high, low = pyramid_ends(n, b, beta)
    return whole([high - Fraction(layer * (high - low), layers - 1) for layer in range(layers)], layers * b)


def pyramidkv_released(n, b, layers, beta=20) -> list[int]:
    if b >= n or layers == 1:
        return [min(b, n)] * layers
    high, low = pyramid_ends(n, b, beta)
    return [high - layer * ((high - low) // (layers - 1)) for layer in range(layers)]


def pyramid_ends(n, b, beta):
    low = b // beta
    high = 2 * b - low
    return (n, 2 * b - n) if high >= n else (high, low)


def single(value) -> float:
    """The nearest float32: scores are such numbers, and those that are equal as such are ties."""
    return struct.unpack("f", struct.pack("f", value))[0]


def adakv_counts(scores: Scores, b, normalize) -> list[int]:
    """How many of the best heads * b scores of the layer each head has, ties to the lower head."""
    weighted = []
    for head, values in enumerate(scores):
        top = sorted(values, reverse=True)[:b]
        weight = single(sum(top) / sum(values)) if normalize else 1.0
        weighted += [(-single(value * weight), head) for value in values]
    winners = [head for _, head in sorted(weighted)[: len(scores) * b]]
    return [winners.count(head) for head in range(len(scores))]


def adakv(scores: Scores, b, floor=0.2, normalize=True) -> list[int]:
    n, heads = len(scores[0]), len(scores)
    if b >= n:
        return [n] * heads
    counts = adakv_counts(scores, b, normalize)
    part = Fraction(floor)
    return whole([part * b + (1 - part) * count for count in counts], heads * b)


def adakv_released(scores: Scores, b, floor=0.2, normalize=True) -> list[int]:
    n, heads = len(scores[0]), len(scores)
    if b > n:
        return [n] * heads
    counts = adakv_counts(scores, b, normalize)
    return [round(count * (1 - floor) + int(b * floor)) for count in counts]


def grouped(head_scores, kv_heads) -> list[list[Fraction]]:
    """Scores of query heads [layers][heads] -> of KV heads, normalised to 1 over the model."""
    total = sum((Fraction(score) for layer in head_scores for score in layer), Fraction())
    group = len(head_scores[0]) // kv_heads
    return [
        [sum(map(Fraction, layer[h * group : (h + 1) * group]), Fraction()) / total for h in range(kv_heads)]
        for layer in head_scores
    ]


def sparsemm(n, b, scores: list[list[Fraction]], ratio=0.1) -> list[list[int]]:
    """Quotas [layers][KV heads]: fill heads in proportion to their scores, again and again."""
    flat = [score for layer in scores for score in layer]
    shares = [Fraction(ratio) * min(b, n)] * len(flat)
    left = len(flat) * min(b, n) - sum(shares)
    while left > 0:
        open_heads = [i for i in range(len(flat)) if shares[i] < n]
        weights = {i: flat[i] for i in open_heads}
        if not any(weights.values()):
            weights = dict.fromkeys(open_heads, Fraction(1))
        # As much as the first head to be full allows, or all of it.
        total = sum(weights.values())
        part = min([left] + [(n - shares[i]) * total / w for i, w in weights.items() if w])
        for i, weight in weights.items():
            shares[i] += part * weight / total
        left -= part
    tokens = whole(shares, len(flat) * min(b, n))
    width = len(scores[0])
    return [tokens[i : i + width] for i in range(0, len(tokens), width)]


def sparsemm_dropped(n, b, scores: list[list[Fraction]], ratio=0.1) -> list[list[int]]:
    """The released formula, at budgets below the prompt."""
    sure = int(b * ratio)
    pot = (b - sure) * len(scores) * len(scores[0])
    return [[min(n, round(score * pot + sure)) for score in layer] for layer in scores]
