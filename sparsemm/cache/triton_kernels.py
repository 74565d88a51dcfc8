"""Triton kernels of decoding over a flat storage: attention by chunk, then the merge of a segment's chunks.

This file needs Triton, and nothing else in the package does: it is imported where the kernels are launched,
by `triton_decode`.
"""

# pyright: reportMissingImports=false

import triton
import triton.language as tl


@triton.jit
def attend_chunk(
    query,
    keys,
    values,
    starts,
    ends,
    chunks,
    visible,
    partial,
    sums,
    scaling,
    rows,
    tokens,
    appended,
    heads,
    HEAD_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    KEY_TILE: tl.constexpr,
    VALUE_TILE: tl.constexpr,
    ROW_TILE: tl.constexpr,
    SLOT_TILE: tl.constexpr,
    CHUNK: tl.constexpr,
    OPERAND: tl.constexpr,
):
    """Attend from one tile of a segment's query rows to one chunk of its entries.

    Writes the softmax over the chunk alone (`partial`) and the base-2 logarithm of its sum (`sums`).
    """
    work = tl.program_id(0).to(tl.int64)
    segment = tl.load(chunks + 2 * work).to(tl.int64)
    first = tl.load(chunks + 2 * work + 1) * CHUNK
    start = tl.load(starts + segment)
    length = (tl.load(ends + segment) - start).to(tl.int32)
    if first < length:  # chunks of the slack wait for the tokens to come
        last = tl.minimum(first + CHUNK, length)
        row = tl.program_id(1) * ROW_TILE + tl.arange(0, ROW_TILE)
        key_column = tl.arange(0, KEY_TILE)
        value_column = tl.arange(0, VALUE_TILE)
        row_of = segment * rows + row
        queries = tl.load(
            query + row_of[:, None] * HEAD_DIM + key_column[None, :],
            mask=(row[:, None] < rows) & (key_column[None, :] < HEAD_DIM),
            other=0.0,
        ).to(OPERAND)
        highest = tl.full([ROW_TILE], float("-inf"), tl.float32)
        total = tl.zeros([ROW_TILE], tl.float32)
        output = tl.zeros([ROW_TILE, VALUE_TILE], tl.float32)
        for entry in range(first, last, SLOT_TILE):
            entries = entry + tl.arange(0, SLOT_TILE)
            used = entries < last
            slot = start + entries
            key = tl.load(
                keys + slot[None, :] * HEAD_DIM + key_column[:, None],
                mask=used[None, :] & (key_column[:, None] < HEAD_DIM),
                other=0.0,
            ).to(OPERAND)
            scores = tl.dot(queries, key, input_precision="ieee") * scaling
            seen = used[None, :]
            if visible is not None:
                place = entries - (length - appended)  # among the appended tokens
                allowed = tl.load(
                    visible
                    + ((segment // heads) * tokens + row % tokens)[:, None] * appended
                    + place[None, :],
                    mask=(row[:, None] < rows) & used[None, :] & (place[None, :] >= 0),
                    other=1,
                )
                seen = seen & (allowed != 0)
            scores = tl.where(seen, scores, float("-inf"))
            peak = tl.maximum(highest, tl.max(scores, 1))
            base = tl.where(peak == float("-inf"), 0.0, peak)  # a row may see nothing of a chunk
            shrink = tl.exp2(highest - base)
            weights = tl.exp2(scores - base[:, None])
            value = tl.load(
                values + slot[:, None] * VALUE_DIM + value_column[None, :],
                mask=used[:, None] & (value_column[None, :] < VALUE_DIM),
                other=0.0,
            ).to(OPERAND)
            total = total * shrink + tl.sum(weights, 1)
            output = output * shrink[:, None] + tl.dot(weights.to(value.dtype), value, input_precision="ieee")
            highest = peak
        divisor = tl.where(total == 0.0, 1.0, total)
        tl.store(
            partial + (work * rows + row)[:, None] * VALUE_DIM + value_column[None, :],
            output / divisor[:, None],
            mask=(row[:, None] < rows) & (value_column[None, :] < VALUE_DIM),
        )
        tl.store(sums + work * rows + row, highest + tl.log2(divisor), mask=row < rows)


@triton.jit
def merge_chunks(
    partial,
    sums,
    starts,
    ends,
    firsts,
    merged,
    rows,
    VALUE_DIM: tl.constexpr,
    VALUE_TILE: tl.constexpr,
    PART_TILE: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Merge the chunks of one query row: their outputs, weighed by their sums."""
    segment = tl.program_id(0).to(tl.int64)
    row = tl.program_id(1)
    length = (tl.load(ends + segment) - tl.load(starts + segment)).to(tl.int32)
    count = tl.cdiv(length, CHUNK)
    first = tl.load(firsts + segment).to(tl.int64)
    column = tl.arange(0, VALUE_TILE)
    highest = tl.full([1], float("-inf"), tl.float32)
    total = tl.zeros([1], tl.float32)
    output = tl.zeros([VALUE_TILE], tl.float32)
    for part in range(0, count, PART_TILE):
        parts = part + tl.arange(0, PART_TILE)
        place = (first + parts) * rows + row
        logarithm = tl.load(sums + place, mask=parts < count, other=float("-inf"))
        outputs = tl.load(
            partial + place[:, None] * VALUE_DIM + column[None, :],
            mask=(parts[:, None] < count) & (column[None, :] < VALUE_DIM),
            other=0.0,
        )
        # The first chunk holds a kept entry, which every row sees: from there on the peak is finite.
        peak = tl.maximum(highest, tl.max(logarithm, 0))
        shrink = tl.exp2(highest - peak)
        weights = tl.exp2(logarithm - peak)
        total = total * shrink + tl.sum(weights, 0)
        output = output * shrink + tl.sum(outputs * weights[:, None], 0)
        highest = peak
    tl.store(
        merged + (segment * rows + row) * VALUE_DIM + column,
        (output / total).to(merged.dtype.element_ty),
        mask=column < VALUE_DIM,
    )
