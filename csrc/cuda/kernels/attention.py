# SPDX-License-Identifier: Apache-2.0
"""Attention over context slots, in Triton: y = softmax(q · kᵀ) · v in powers of two, head by head.

q        [heads, rows, dim]           rows = tokens padded to ROW_PAD; scaled by log2(e)/sqrt(dim)
context  [slots][k, v][heads / group, keys, dim]   keys = tokens padded to KEY_PAD, slot after slot
y        [tokens, heads * dim]        rows y_stride apart

`group` consecutive heads of queries share one of keys and values.

Grid: (tiles of BM rows, heads, splits). A split takes an equal run of the key tiles of all slots; a
tile never crosses a slot. Several splits leave what they have, normalized, in partial
[splits, heads, tiles, BM, D] f32, and the base-2 logarithm of their softmax's denominator in lse
[splits, heads, tiles, BM]; the last to arrive at counters [heads, tiles] weighs them in order, so
that y does not depend on who that was, and resets the counter to the zero it found. The running
maximum lives in base 2, as the scores do.
"""

import triton
import triton.language as tl

ROW_PAD = tl.constexpr(128)
KEY_PAD = tl.constexpr(64)


@triton.jit
def _rescale(s, m, total, acc):
    """Takes a tile of scores s [BM, BN] into the maximum m and the total; returns its weights."""
    peak = tl.maximum(m, tl.max(s, 1))
    p = tl.math.exp2(s - peak[:, None])
    shrink = tl.math.exp2(m - peak)
    return p, peak, total * shrink + tl.sum(p, 1), acc * shrink[:, None]


@triton.jit
def _tile_range(slots, tiles):
    """This split's run of the `slots * tiles` key tiles: first, end (empty where first >= end)."""
    each = tl.cdiv(slots * tiles, tl.num_programs(2))
    first = tl.program_id(2) * each
    return first, tl.minimum(first + each, slots * tiles)


@triton.jit
def _key_row(i, tiles, tokens, head, heads, BN: tl.constexpr):
    """The row of [slots * 2 * heads * tokens, dim] where the keys of tile i of a head begin."""
    return (2 * (i // tiles) * heads + head) * tokens + (i % tiles) * BN


@triton.jit
def _weigh(acc, m, total, partial, lse, counters, D: tl.constexpr, BM: tl.constexpr):
    """Leaves this split's share; whether it is the last of its tile, and then the rows of y."""
    splits = tl.num_programs(2)
    tiles = tl.num_programs(0) * tl.num_programs(1)
    tile = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    row = tl.arange(0, BM)
    at = row[:, None] * D + tl.arange(0, D)[None, :]
    share = tl.program_id(2) * tiles + tile
    tl.store(partial + share.to(tl.int64) * (BM * D) + at, acc)
    tl.store(lse + share * BM + row, tl.where(total > 0, m + tl.math.log2(total), -float("inf")))
    tl.debug_barrier()  # all threads have stored before one of them announces it
    last = tl.atomic_add(counters + tile, 1, sem="acq_rel", scope="gpu") == splits - 1
    if last:
        tl.store(counters + tile, 0)
        m = tl.full([BM], -float("inf"), tl.float32)
        total = tl.zeros([BM], tl.float32)
        acc = tl.zeros([BM, D], tl.float32)
        for split in tl.range(splits):  # split 0 is never empty: m is finite from the first turn on
            share = split * tiles + tile
            log = tl.load(lse + share * BM + row, cache_modifier=".cg")
            part = tl.load(partial + share.to(tl.int64) * (BM * D) + at, cache_modifier=".cg")
            peak = tl.maximum(m, log)
            shrink = tl.math.exp2(m - peak)
            weight = tl.math.exp2(log - peak)
            total = total * shrink + weight
            acc = acc * shrink[:, None] + part * weight[:, None]
            m = peak
        acc = acc / total[:, None]
    return last, acc


@triton.jit
def _finish(acc, m, total, y, partial, lse, counters, tokens, dim, y_stride,
            D: tl.constexpr, BM: tl.constexpr):  # fmt: skip
    """Writes rows of y once all splits are there. An empty split has total = 0."""
    acc = acc / tl.where(total > 0, total, 1.0)[:, None]
    last = True
    if tl.num_programs(2) > 1:
        last, acc = _weigh(acc, m, total, partial, lse, counters, D, BM)
    if last:
        rows = tl.program_id(0) * BM + tl.arange(0, BM)
        d = tl.arange(0, D)
        at = rows.to(tl.int64)[:, None] * y_stride + (tl.program_id(1) * dim + d)[None, :]
        mask = (rows < tokens)[:, None] & (d < dim)[None, :]
        tl.store(y + at, acc.to(y.dtype.element_ty), mask=mask)


@triton.jit
def attention(q, context, y, partial, lse, counters, slots, tokens, dim, y_stride, group,
              D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, EVEN: tl.constexpr):  # fmt: skip
    """Through pointers, for every GPU. EVEN: tokens are a multiple of BN and dim is D: no masks."""
    head = tl.program_id(1) // group  # of keys and values
    heads = tl.num_programs(1) // group
    dim = D if EVEN else dim
    keys = tl.cdiv(tokens, KEY_PAD) * KEY_PAD
    rows = tl.cdiv(tokens, ROW_PAD) * ROW_PAD
    d = tl.arange(0, D)
    cols = tl.arange(0, BN)

    row = tl.program_id(1) * rows + tl.program_id(0) * BM + tl.arange(0, BM)
    q_at = q + row.to(tl.int64)[:, None] * dim + d[None, :]
    queries = tl.load(q_at) if EVEN else tl.load(q_at, mask=(d < dim)[None, :], other=0.0)

    m = tl.full([BM], -float("inf"), tl.float32)
    total = tl.zeros([BM], tl.float32)
    acc = tl.zeros([BM, D], tl.float32)
    tiles = tl.cdiv(tokens, BN)
    first, end = _tile_range(slots, tiles)
    for i in tl.range(first, end):
        start = (i % tiles) * BN
        at = context + ((2 * (i // tiles) * heads + head).to(tl.int64) * keys + start) * dim
        to_v = heads * keys * dim
        if EVEN:
            k = tl.load(at + d[:, None] + cols[None, :] * dim)
        else:
            k = tl.load(at + d[:, None] + cols[None, :] * dim, mask=(d < dim)[:, None], other=0.0)
        s = tl.dot(queries, k)
        if not EVEN:
            s = tl.where((start + cols < tokens)[None, :], s, -float("inf"))
        p, m, total, acc = _rescale(s, m, total, acc)
        if EVEN:
            v = tl.load(at + to_v + cols[:, None] * dim + d[None, :])
        else:
            v = tl.load(at + to_v + cols[:, None] * dim + d[None, :], mask=(d < dim)[None, :],
                        other=0.0)  # fmt: skip
        acc = tl.dot(p.to(v.dtype), v, acc)
    _finish(acc, m, total, y, partial, lse, counters, tokens, dim, y_stride, D, BM)


@triton.jit
def attention_tma(q, context, y, partial, lse, counters, slots, tokens, dim, y_stride, group,
                  D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):  # fmt: skip
    """Through tensor maps, for tokens a multiple of BN and of KEY_PAD, and dim D.

    q and context are descriptors of [any, D], box [BM, D] and [BN, D]. The scores of the next tile
    come before the softmax of this one: two independent runs of instructions, which the assembler
    interleaves, so that the tensor cores work under the exponentials.
    """
    head = tl.program_id(1) // group  # of keys and values
    heads = tl.num_programs(1) // group
    to_v = heads * tokens
    rows = tl.cdiv(tokens, ROW_PAD) * ROW_PAD
    queries = q.load([tl.program_id(1) * rows + tl.program_id(0) * BM, 0])

    m = tl.full([BM], -float("inf"), tl.float32)
    total = tl.zeros([BM], tl.float32)
    acc = tl.zeros([BM, D], tl.float32)
    tiles = tokens // BN
    first, end = _tile_range(slots, tiles)
    if first < end:
        row = _key_row(first, tiles, tokens, head, heads, BN)
        s = tl.dot(queries, context.load([row, 0]).T)
        for i in tl.range(first + 1, end):
            next_row = _key_row(i, tiles, tokens, head, heads, BN)
            next_s = tl.dot(queries, context.load([next_row, 0]).T)
            p, m, total, acc = _rescale(s, m, total, acc)
            acc = tl.dot(p.to(context.dtype), context.load([row + to_v, 0]), acc)
            s = next_s
            row = next_row
        p, m, total, acc = _rescale(s, m, total, acc)
        acc = tl.dot(p.to(context.dtype), context.load([row + to_v, 0]), acc)
    _finish(acc, m, total, y, partial, lse, counters, tokens, D, y_stride, D, BM)
