"""Triton kernels of decoding over a flat storage: attention by chunk, then the merge of a segment's chunks.

This file needs Triton, and nothing else in the package does: it is imported where the kernels are launched,
by `triton_decode`.
"""

# pyright: reportMissingImports=false

import triton
import triton.language as tl


# Their values change from step to step, or from model to model: each would be compiled for.
@triton.jit(do_not_specialize=["appended", "size", "rows", "new", "tokens", "columns", "heads"])
def attend_chunk(
    query,
    new_keys,
    new_values,
    keys,
    values,
    starts,
    stops,
    counters,
    chunks,
    visible,
    partial,
    sums,
    scaling,
    appended,
    size,
    rows,
    new,
    tokens,
    columns,
    heads,
    HEAD_DIM: tl.constexpr,
    VALUE_DIM: tl.constexpr,
    KEY_TILE: tl.constexpr,
    VALUE_TILE: tl.constexpr,
    ROW_TILE: tl.constexpr,
    SLOT_TILE: tl.constexpr,
    NEW_TILE: tl.constexpr,
    OPERAND: tl.constexpr,
):
    """Attend from one tile of a segment's query rows to one chunk of its entries, and write the new ones.

    Gives the softmax over the chunk alone (`partial`) and the base-2 logarithm of its sum (`sums`, minus
    infinity for an empty chunk). Without `sums` every segment has one chunk, so `partial` is the answer, and
    the new entries are counted here.
    """
    work = tl.program_id(0).to(tl.int64)
    segment = tl.load(chunks + 2 * work).to(tl.int64)
    first = tl.load(chunks + 2 * work + 1) * size
    start = tl.load(starts + segment)
    kept = (tl.load(stops + segment) - start).to(tl.int32)
    known = kept + appended  # entries that lie in the storage
    if counters is not None:
        known += tl.load(counters + segment).to(tl.int32)
    length = known + new
    row = tl.program_id(1) * ROW_TILE + tl.arange(0, ROW_TILE)
    if first < length:  # chunks of the slack wait for the tokens to come
        last = tl.minimum(first + size, length)
        key_column = tl.arange(0, KEY_TILE)
        value_column = tl.arange(0, VALUE_TILE)
        queries = tl.load(
            query + (segment * rows + row)[:, None] * HEAD_DIM + key_column[None, :],
            mask=(row[:, None] < rows) & (key_column[None, :] < HEAD_DIM),
            other=0.0,
        ).to(OPERAND)
        # Where each row's columns of `visible` begin; rows past the last one see what that one sees.
        seen_from = ((segment // heads) * tokens + tl.minimum(row, rows - 1) % tokens) * columns
        highest = tl.full([ROW_TILE], float("-inf"), tl.float32)
        total = tl.zeros([ROW_TILE], tl.float32)
        output = tl.zeros([ROW_TILE, VALUE_TILE], tl.float32)
        stored = tl.minimum(last, known)
        for entry in range(first, stored, SLOT_TILE):
            entries = entry + tl.arange(0, SLOT_TILE)
            used = entries < stored
            slot = start + entries
            key = tl.load(
                keys + slot[None, :] * HEAD_DIM + key_column[:, None],
                mask=used[None, :] & (key_column[:, None] < HEAD_DIM),
                other=0.0,
            ).to(OPERAND)
            seen = sees(visible, seen_from, entries - kept, used)
            value = tl.load(
                values + slot[:, None] * VALUE_DIM + value_column[None, :],
                mask=used[:, None] & (value_column[None, :] < VALUE_DIM),
                other=0.0,
            ).to(OPERAND)
            highest, total, output = attend_tile(queries, key, value, seen, scaling, highest, total, output)
        for entry in range(tl.maximum(first, known), last, NEW_TILE):
            entries = entry + tl.arange(0, NEW_TILE)
            used = entries < last
            slot = start + entries
            place = segment * new + entries - known
            key_mask = used[None, :] & (key_column[:, None] < HEAD_DIM)
            new_key = tl.load(
                new_keys + place[None, :] * HEAD_DIM + key_column[:, None], mask=key_mask, other=0.0
            )
            value_mask = used[:, None] & (value_column[None, :] < VALUE_DIM)
            new_value = tl.load(
                new_values + place[:, None] * VALUE_DIM + value_column[None, :], mask=value_mask, other=0.0
            )
            if tl.program_id(1) == 0:  # no tile of rows reads here what another one writes
                tl.store(keys + slot[None, :] * HEAD_DIM + key_column[:, None], new_key, mask=key_mask)
                tl.store(
                    values + slot[:, None] * VALUE_DIM + value_column[None, :], new_value, mask=value_mask
                )
            seen = sees(visible, seen_from, entries - kept, used)
            highest, total, output = attend_tile(
                queries, new_key.to(OPERAND), new_value.to(OPERAND), seen, scaling, highest, total, output
            )
        divisor = tl.where(total == 0.0, 1.0, total)
        tl.store(
            partial + (work * rows + row)[:, None] * VALUE_DIM + value_column[None, :],
            (output / divisor[:, None]).to(partial.dtype.element_ty),
            mask=(row[:, None] < rows) & (value_column[None, :] < VALUE_DIM),
        )
        if sums is not None:
            tl.store(sums + work * rows + row, highest + tl.log2(divisor), mask=row < rows)
        elif counters is not None:  # no other program reads this segment's counter
            tl.store(counters + segment, (known - kept - appended + new).to(tl.int64))
    elif sums is not None:
        tl.store(sums + work * rows + row, float("-inf"), mask=row < rows)


@triton.jit
def sees(visible, seen_from, column, used):
    """Which entries a row sees: those in use, less the appended ones that `visible` hides from it."""
    seen = used[None, :]
    if visible is not None:
        mask = (seen_from[:, None] >= 0) & (used & (column >= 0))[None, :]
        allowed = tl.load(visible + seen_from[:, None] + column[None, :], mask=mask, other=1)
        seen = seen & (allowed != 0)
    return seen


@triton.jit
def attend_tile(queries, key, value, seen, scaling, highest, total, output):
    """Join a tile of entries to a softmax: its peak, the sum of its weights and the weighed values so far."""
    scores = tl.dot(queries, key, input_precision="ieee") * scaling
    scores = tl.where(seen, scores, float("-inf"))
    peak = tl.maximum(highest, tl.max(scores, 1))
    base = tl.where(peak == float("-inf"), 0.0, peak)  # a row may see nothing of a chunk
    shrink = tl.exp2(highest - base)
    weights = tl.exp2(scores - base[:, None])
    total = total * shrink + tl.sum(weights, 1)
    output = output * shrink[:, None] + tl.dot(weights.to(value.dtype), value, input_precision="ieee")
    return peak, total, output


@triton.jit(do_not_specialize=["rows", "new"])
def merge_chunks(
    partial,
    sums,
    counters,
    firsts,
    merged,
    rows,
    new,
    VALUE_DIM: tl.constexpr,
    VALUE_TILE: tl.constexpr,
    PART_TILE: tl.constexpr,
):
    """Merge the chunks of one query row, their outputs weighed by their sums, and count the new entries."""
    segment = tl.program_id(0).to(tl.int64)
    row = tl.program_id(1)
    first = tl.load(firsts + segment).to(tl.int64)
    count = tl.load(firsts + segment + 1).to(tl.int32) - first.to(tl.int32)
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
        outputs = tl.where(logarithm[:, None] > float("-inf"), outputs, 0.0)  # empty chunks were not written
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
    if counters is not None and row == 0:
        tl.store(counters + segment, tl.load(counters + segment) + new)
