# SPDX-License-Identifier: Apache-2.0
"""y = epilogue(x · wᵀ + bias), in Triton, for bf16 operands and for e4m3 with scales.

x [rows, k], w [n, k], bias and gate [n] f32; in e4m3 a row of x stands for x_scale[row] times it,
a row of w for w_scale[col] times it. Epilogues, by number as in csrc/backend.h:
STORE y = r, GATED y += gate * r (without a gate: of ones), and GELU, GELU_ERF and SILU, whose y is
an operand. Those are r * sigmoid(u) of an odd polynomial u: exactly so for GELU (in tanh) and SILU,
within 2.6e-5 for GELU_ERF.

Grid: (row tiles * column tiles, splits of k). Column tiles vary slowest, so that w is read once.
Several splits leave f32 tiles in partial [splits, tiles, BM, BN]; the last to arrive at counters
[tiles] adds them up in order, so that the sum does not depend on who that was, and resets the
counter to the zero it found. y and y_operand are one address in two types.
"""

import triton
import triton.language as tl

STORE = tl.constexpr(0)
GELU = tl.constexpr(1)
GATED = tl.constexpr(2)
GELU_ERF = tl.constexpr(3)
SILU = tl.constexpr(4)


@triton.jit
def _gate(r, activation):
    """r * sigmoid(u), u = r * (a + b r² + c r⁴). Beyond r² = 64 it is r or nothing."""
    a = tl.where(activation == GELU, 1.5957691216057308, 1.0)  # 2 * sqrt(2 / pi)
    b = tl.where(activation == GELU, 0.0713548162726, 0.0)
    a = tl.where(activation == GELU_ERF, 1.59501517, a)
    b = tl.where(activation == GELU_ERF, 0.0740119928, b)
    c = tl.where(activation == GELU_ERF, -0.000703185763, 0.0)
    square = tl.minimum(r * r, 64.0)
    return r / (1.0 + tl.exp(-r * (a + square * (b + square * c))))


@triton.jit
def _epilogue(acc, row, col, y, y_operand, bias, gate, x_scale, w_scale, rows, n, y_stride,
              has_bias, has_gate, epilogue, SCALED: tl.constexpr):  # fmt: skip
    """Writes the tile. Columns from n to a multiple of 16 get zero: w has zeros there."""
    if SCALED:
        acc *= tl.load(x_scale + row, mask=row < rows, other=0.0)[:, None]
        acc *= tl.load(w_scale + col, mask=col < n, other=0.0)[None, :]
    acc += tl.load(bias + col, mask=(col < n) & (has_bias != 0), other=0.0)[None, :]
    at = row.to(tl.int64)[:, None] * y_stride + col[None, :]
    mask = (row < rows)[:, None] & (col // 16 < tl.cdiv(n, 16))[None, :]
    if (epilogue != STORE) & (epilogue != GATED):
        acc = _gate(acc, epilogue)
        tl.store(y_operand + at, acc.to(y_operand.dtype.element_ty), mask=mask)
    else:
        if epilogue == GATED:
            scale = tl.load(gate + col, mask=(col < n) & (has_gate != 0), other=1.0)[None, :]
            acc = tl.load(y + at, mask=mask, other=0.0) + scale * acc
        tl.store(y + at, acc, mask=mask)


@triton.jit
def _finish(acc, row_tile, col_tile, y, y_operand, bias, gate, x_scale, w_scale, partial, counters,
            rows, n, y_stride, has_bias, has_gate, epilogue,
            BM: tl.constexpr, BN: tl.constexpr, SCALED: tl.constexpr):  # fmt: skip
    splits = tl.num_programs(1)
    tile = tl.program_id(0)
    last = True
    if splits > 1:
        at = tl.arange(0, BM)[:, None] * BN + tl.arange(0, BN)[None, :]
        jump = tl.num_programs(0).to(tl.int64) * (BM * BN)
        mine = partial + tile.to(tl.int64) * (BM * BN)
        tl.store(mine + tl.program_id(1) * jump + at, acc)
        tl.debug_barrier()  # all threads have stored before one of them announces it
        last = tl.atomic_add(counters + tile, 1, sem="acq_rel", scope="gpu") == splits - 1
        if last:
            tl.store(counters + tile, 0)
            acc = tl.zeros([BM, BN], tl.float32)
            for split in tl.range(splits):
                acc += tl.load(mine + split * jump + at, cache_modifier=".cg")
    if last:
        row = row_tile * BM + tl.arange(0, BM)
        col = col_tile * BN + tl.arange(0, BN)
        _epilogue(acc, row, col, y, y_operand, bias, gate, x_scale, w_scale, rows, n, y_stride,
                  has_bias, has_gate, epilogue, SCALED)  # fmt: skip


@triton.jit
def _place(rows, k, BM: tl.constexpr, BK: tl.constexpr):
    """This program's row tile and column tile; first and end of its BK steps along k."""
    row_tiles = tl.cdiv(rows, BM)
    steps = tl.cdiv(k, BK)
    each = tl.cdiv(steps, tl.num_programs(1))
    first = tl.program_id(1) * each
    end = tl.minimum(first + each, steps)
    return tl.program_id(0) % row_tiles, tl.program_id(0) // row_tiles, first, end


@triton.jit
def matmul(x, w, y, y_operand, bias, gate, x_scale, w_scale, partial, counters,
           rows, n, k, x_stride, w_stride, y_stride, has_bias, has_gate, epilogue,
           BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, SCALED: tl.constexpr):  # fmt: skip
    """Through pointers, for every GPU: reads rows, and k up to BK, beyond the ends (all padded)."""
    row_tile, col_tile, first, end = _place(rows, k, BM, BK)
    depth = tl.arange(0, BK)
    row = (row_tile * BM + tl.arange(0, BM)).to(tl.int64)
    col = (col_tile * BN + tl.arange(0, BN)).to(tl.int64)
    x_at = x + row[:, None] * x_stride + depth[None, :] + first * BK
    w_at = w + col[None, :] * w_stride + depth[:, None] + first * BK
    acc = tl.zeros([BM, BN], tl.float32)
    for _ in tl.range(first, end):
        acc = tl.dot(tl.load(x_at), tl.load(w_at), acc)
        x_at += BK
        w_at += BK
    _finish(acc, row_tile, col_tile, y, y_operand, bias, gate, x_scale, w_scale, partial, counters,
            rows, n, y_stride, has_bias, has_gate, epilogue, BM, BN, SCALED)  # fmt: skip


@triton.jit
def matmul_tma(x, w, y, y_operand, bias, gate, x_scale, w_scale, partial, counters,
               rows, n, k, x_stride, w_stride, y_stride, has_bias, has_gate, epilogue,
               BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
               SCALED: tl.constexpr):  # fmt: skip
    """Through tensor maps of [rows, k] and [n, k], which give zeros outside."""
    row_tile, col_tile, first, end = _place(rows, k, BM, BK)
    acc = tl.zeros([BM, BN], tl.float32)
    for i in tl.range(first, end):
        left = x.load([row_tile * BM, i * BK])
        right = w.load([col_tile * BN, i * BK]).T
        if SCALED:  # Hopper adds e4m3 products in fewer bits: move them to f32 after every step
            acc = tl.dot(left, right, acc, max_num_imprecise_acc=BK)
        else:
            acc = tl.dot(left, right, acc)
    _finish(acc, row_tile, col_tile, y, y_operand, bias, gate, x_scale, w_scale, partial, counters,
            rows, n, y_stride, has_bias, has_gate, epilogue, BM, BN, SCALED)  # fmt: skip


@triton.jit
def quantize_rows(x, q, scale, cols, x_stride, q_stride, BLOCK: tl.constexpr):
    """q[row] = e4m3(x[row] / scale[row]), scale[row] = max|x[row]| / 448. Grid: (rows,).

    x [rows, cols] operand, q [rows, q_stride]; columns from cols to a multiple of 128 get zero.
    """
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    peaks = tl.zeros([BLOCK], tl.float32)
    for start in tl.range(0, cols, BLOCK):
        part = tl.load(x + row * x_stride + start + at, mask=start + at < cols, other=0.0)
        peaks = tl.maximum(peaks, tl.abs(part.to(tl.float32)))
    peak = tl.max(peaks, 0)
    unit = tl.where(peak > 0, peak / 448.0, 1.0)
    tl.store(scale + row, unit)
    padded = tl.cdiv(cols, 128) * 128
    for start in tl.range(0, padded, BLOCK):
        part = tl.load(x + row * x_stride + start + at, mask=start + at < cols, other=0.0)
        part = tl.minimum(tl.maximum(part.to(tl.float32) / unit, -448.0), 448.0)
        tl.store(q + row * q_stride + start + at, part.to(q.dtype.element_ty),
                 mask=start + at < padded)  # fmt: skip
