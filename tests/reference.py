# SPDX-License-Identifier: Apache-2.0
"""Every op of csrc/backend.h as one plain NumPy function in float64.

`precision` is that of the device ("float32", "bfloat16" or "float8"): where the contract says
operand, values are rounded to it, so that what is compared is the arithmetic and not the storage.
Operands of float8 are bfloat16; its matmuls round further.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def operand(x: ArrayLike, precision: str) -> Floats:
    """x rounded to nearest even in float32, then in bfloat16 unless the precision is float32."""
    single = np.asarray(x, np.float64).astype(np.float32)
    if precision == "float32":
        return single.astype(np.float64)
    bits = single.view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1)).astype(np.uint32)) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32).astype(np.float64)


def e4m3(x: Floats) -> Floats:
    """Each row to the nearest multiples of its max / 448 that e4m3 has: 3 bits of mantissa."""
    single = x.astype(np.float32)
    peak = np.abs(single).max(-1, keepdims=True)
    unit = np.where(peak > 0, peak / np.float32(448), np.float32(1))
    scaled = (single / unit).astype(np.float64)
    place = 2.0 ** (np.maximum(np.frexp(scaled)[1], -5) - 4)  # of the last bit
    return np.clip(np.rint(scaled / place) * place, -448, 448) * unit


def int8(x: ArrayLike, most: int = 127) -> Floats:
    """Rows rounded to multiples of their own unit max|row| / most, in float32 as stored."""
    x = np.asarray(x, np.float32)
    peak = np.abs(x).max(-1, keepdims=True)
    unit = np.where(peak > 0, peak / np.float32(most), np.float32(1)).astype(np.float32)
    return np.rint(x * (np.float32(1) / unit)).astype(np.float64) * unit


def gelu_tanh(x: Floats) -> Floats:
    """x/2 (1 + tanh(√(2/π) (x + 0.044715 x³)))"""
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def matmul(
    x: ArrayLike,
    w: ArrayLike,
    bias: ArrayLike | None = None,
    epilogue: str = "store",
    gate: ArrayLike | None = None,
    y0: ArrayLike | None = None,
    *,
    precision: str = "float32",
) -> Floats:
    """r = x wᵀ + bias; y = r, gelu_tanh(r) or y0 + gate r. x (rows, k), w (n, k), y (rows, n)."""
    if precision == "int8":
        r = int8(x) @ int8(w).T
    elif precision == "float8":
        r = e4m3(operand(x, precision)) @ e4m3(operand(w, "float32")).T
    else:
        r = operand(x, precision) @ operand(w, precision).T
    if bias is not None:
        r = r + np.asarray(bias, np.float64)
    if epilogue == "gelu":
        return gelu_tanh(r)
    if epilogue == "gated":
        return np.asarray(y0, np.float64) + np.asarray(gate, np.float64) * r
    return r


def rms_norm(x: ArrayLike, eps: float) -> Floats:
    """x / √(mean(x²) + eps) over the last axis"""
    x = np.asarray(x, np.float64)
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + eps)


def norm_modulate(x: ArrayLike, scale: ArrayLike, shift: ArrayLike, eps: float) -> Floats:
    """y = x / √(mean(x²) + eps) scale + shift. x (rows, cols), scale and shift (cols)."""
    return rms_norm(x, eps) * np.asarray(scale, np.float64) + np.asarray(shift, np.float64)


def rope(x: Floats, cos: ArrayLike, sin: ArrayLike) -> Floats:
    """The upper half of dim: pairs (u_i, u_{i + dim/4}) turn by the token's angle i.

    x (heads, tokens, dim); cos and sin (tokens, dim / 4).
    """
    dim = x.shape[-1]
    c, s = np.asarray(cos, np.float64), np.asarray(sin, np.float64)
    u, v = x[..., dim // 2 : dim * 3 // 4], x[..., dim * 3 // 4 :]
    return np.concatenate([x[..., : dim // 2], u * c - v * s, u * s + v * c], axis=-1)


def qkv_split(
    qkv: ArrayLike,
    q_gain: ArrayLike,
    k_gain: ArrayLike,
    cos: ArrayLike,
    sin: ArrayLike,
    heads: int,
    eps: float,
    *,
    precision: str = "float32",
) -> tuple[Floats, Floats, Floats]:
    """q = rope(rms(q) q_gain) log2(e)/√dim, k = rope(rms(k) k_gain), v = v; (heads, tokens, dim).

    Columns of qkv are (q|k|v, head, dim). Scores are in powers of two, hence log2(e).
    """
    qkv = np.asarray(qkv, np.float64)
    tokens = len(qkv)
    q, k, v = qkv.reshape(tokens, 3, heads, -1).transpose(1, 2, 0, 3)
    q = rope(rms_norm(q, eps) * np.asarray(q_gain, np.float64), cos, sin)
    k = rope(rms_norm(k, eps) * np.asarray(k_gain, np.float64), cos, sin)
    q = q * np.log2(np.e) / np.sqrt(q.shape[-1])
    return operand(q, precision), operand(k, precision), operand(v, precision)


def gather(page: ArrayLike, transform: ArrayLike, *, precision: str = "float32") -> Floats:
    """g ← M g for every group g of 4 consecutive dims of the lower half.

    page (heads, tokens, dim): the keys, or the values. transform M (4, 4).
    """
    page = operand(page, precision)
    heads, tokens, dim = page.shape
    groups = page[..., : dim // 2].reshape(heads, tokens, dim // 8, 4)
    turned = groups @ np.asarray(transform, np.float32).astype(np.float64).T
    turned = turned.reshape(heads, tokens, dim // 2)
    return operand(np.concatenate([turned, page[..., dim // 2 :]], axis=-1), precision)


def attention(q: Floats, k: Floats, v: Floats) -> Floats:
    """y = w v / Σw with w = 2^(q kᵀ - max), head by head: (tokens, heads * dim).

    q (heads, tokens, dim), its scores in powers of two; k and v (heads, keys, dim).
    """
    scores = q @ k.transpose(0, 2, 1)
    weights = np.exp2(scores - scores.max(axis=-1, keepdims=True))
    y = weights @ v / weights.sum(axis=-1, keepdims=True)
    return y.transpose(1, 0, 2).reshape(q.shape[1], -1)


def attend(
    qkv: ArrayLike,
    q_gain: ArrayLike,
    k_gain: ArrayLike,
    cos: ArrayLike,
    sin: ArrayLike,
    heads: int,
    eps: float,
    pages: list[tuple[ArrayLike, ArrayLike, ArrayLike]],
    *,
    precision: str = "float32",
) -> tuple[Floats, Floats, Floats]:
    """Own tokens attend to themselves and to all pages (k, v, M): y, and the own k and v.

    In int8 what meets in attention is rounded token by token, to 8 bits, values to 12.
    """
    stored = "float32" if precision == "int8" else precision
    q, k, v = qkv_split(qkv, q_gain, k_gain, cos, sin, heads, eps, precision=stored)
    keys = np.concatenate([k] + [gather(page, m, precision=stored) for page, _, m in pages], 1)
    values = np.concatenate([v] + [gather(page, m, precision=stored) for _, page, m in pages], 1)
    if precision == "int8":
        return attention(int8(q), int8(keys), int8(values, 2047)), k, v
    return attention(q, keys, values), k, v


def philox(counter: ArrayLike, key: tuple[int, int]) -> NDArray[np.uint32]:
    """Philox 4x32-10 (Salmon et al., 2011). counter (..., 4) uint32, key two uint32.

    Ten times: (c0, c1, c2, c3) ← (hi(M1 c2) ^ c1 ^ k0, lo(M1 c2), hi(M0 c0) ^ c3 ^ k1, lo(M0 c0)),
    and (k0, k1) grow by two Weyl constants.
    """
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    c0, c1, c2, c3 = np.moveaxis(np.asarray(counter, np.uint64), -1, 0)
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1 = (p1 >> half) ^ c1 ^ np.uint64(k0), p1 & low
        c2, c3 = (p0 >> half) ^ c3 ^ np.uint64(k1), p0 & low
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def normal(seed: int, frame: int, step: int, count: int) -> Floats:
    """Elements 0..count-1 of the noise: four per counter {e // 4, step, frame}, with key seed.

    With 24 bits b of each word: u = (b + 1) / 2^24, turn = b / 2^24, and
    n = √(-2 ln u) (cos, sin)(2π turn) for words (0, 1) and (2, 3).
    """
    counter = np.zeros(((count + 3) // 4, 4), np.uint64)
    counter[:, 0] = np.arange(len(counter))
    counter[:, 1:] = step, frame % 2**32, frame >> 32
    bits = (philox(counter, (seed % 2**32, seed >> 32)) >> np.uint32(8)).astype(np.float64)
    radius = np.sqrt(-2 * np.log((bits[:, 0::2] + 1) / 2**24))
    angle = 2 * np.pi * bits[:, 1::2] / 2**24
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1).reshape(-1)[:count]


def sampler(
    x: ArrayLike, x0: ArrayLike, a: float, b: float, c: float, seed: int, frame: int, step: int
) -> Floats:
    """x ← a x + b x0 + c noise, noise numbered row by row. x, x0 (rows, cols)."""
    x, x0 = np.asarray(x, np.float64), np.asarray(x0, np.float64)
    noise = normal(seed, frame, step, x.size).reshape(x.shape) if c else 0.0
    return a * x + b * x0 + c * noise


def patchify(image: NDArray[np.uint8], patch: int) -> Floats:
    """token = pixels / 127.5 - 1 of a patch in order (row, column, channel). image (H, W, 3)."""
    height, width, _ = image.shape
    grid = image.reshape(height // patch, patch, width // patch, patch, 3).transpose(0, 2, 1, 3, 4)
    return grid.reshape(-1, 3 * patch * patch) / 127.5 - 1


def unpatchify(tokens: ArrayLike, height: int, width: int, patch: int) -> Floats:
    """pixels = (clamp(token, -1, 1) + 1) 127.5, not rounded yet: (height, width, 3)."""
    grid = np.asarray(tokens, np.float64).reshape(height // patch, width // patch, patch, patch, 3)
    image = grid.transpose(0, 2, 1, 3, 4).reshape(height, width, 3)
    return (np.clip(image, -1, 1) + 1) * 127.5


def convolution(
    x: ArrayLike,
    w: ArrayLike,
    bias: ArrayLike | None = None,
    past: ArrayLike | None = None,
    residual: ArrayLike | None = None,
    *,
    zoom: int,
    side: int,
    stride: int,
    padding: int,
    epilogue: str,
    precision: str,
) -> Floats:
    """y (rows, cols, n) of what a side·side kernel sees of x (height, width, channels), zoomed, and
    of `past`, whose channels follow. w (n, side·side·channels), order (row, column, channel)."""
    both = [operand(part, precision) for part in (x, past) if part is not None]
    seen = np.concatenate(both, -1).repeat(zoom, 0).repeat(zoom, 1)
    seen = np.pad(seen, ((padding, padding), (padding, padding), (0, 0)))
    rows = (seen.shape[0] - side) // stride + 1
    cols = (seen.shape[1] - side) // stride + 1
    taps = [
        seen[i : i + stride * (rows - 1) + 1 : stride, j : j + stride * (cols - 1) + 1 : stride]
        for i in range(side)
        for j in range(side)
    ]
    r = np.concatenate(taps, -1) @ operand(w, precision).T
    r = r if bias is None else r + np.asarray(bias, np.float64)
    if residual is not None:
        r = r + operand(residual, precision)
    return np.maximum(r, 0) if "relu" in epilogue else r


def ungroup(tokens: ArrayLike, rows: int, cols: int, patch: int, limit: float) -> Floats:
    """Tokens of patch·patch places, order (row, column, channel), as (rows, cols, channels), and
    limit·tanh(x / limit) of each value."""
    x = np.asarray(tokens, np.float64).reshape(rows // patch, cols // patch, patch, patch, -1)
    return limit * np.tanh(x.transpose(0, 2, 1, 3, 4).reshape(rows, cols, -1) / limit)


def time_attention(
    qkv: ArrayLike, cos: ArrayLike, sin: ArrayLike, heads: int, pages: list[tuple[Floats, Floats]]
) -> Floats:
    """Token by token and head by head, q over the k of the same token here and in `pages`.

    qkv (tokens, 3 * heads * dim); pages k, v (tokens, heads * dim); cos and sin (1 + pages, dim/2)
    of the angles from each key to the query, the own one first.
    """
    q, k, v = np.split(np.asarray(qkv, np.float64), 3, axis=1)
    tokens = len(q)

    def turned(x: Floats, c: Floats, s: Floats) -> Floats:
        a, b = np.split(x.reshape(tokens, heads, -1), 2, axis=2)
        return np.concatenate([a * c - b * s, a * s + b * c], axis=2)

    keys = [k, *(page for page, _ in pages)]
    values = np.stack([v, *(page for _, page in pages)]).reshape(len(keys), tokens, heads, -1)
    angles = zip(np.asarray(cos, np.float64), np.asarray(sin, np.float64), strict=True)
    scores = np.stack(
        [
            (turned(q, c, s) * key.reshape(tokens, heads, -1)).sum(2)
            for key, (c, s) in zip(keys, angles, strict=True)
        ]
    ) / np.sqrt(values.shape[-1])
    weights = np.exp(scores - scores.max(0))
    weights /= weights.sum(0)
    return (weights[..., None] * values).sum(0).reshape(tokens, -1)


def condition(base: ArrayLike, weight: ArrayLike, actions: ArrayLike) -> Floats:
    """silu(base + actions · weight). base (rows, cols), weight (actions, cols)."""
    x = np.asarray(base, np.float64) + np.asarray(actions, np.float64) @ np.asarray(weight)
    return x / (1 + np.exp(-x))


def group(grid: ArrayLike, height: int, width: int, patch: int) -> Floats:
    """The p*p squares of a grid (height * width, channels), each (row, column, channel)."""
    x = np.asarray(grid, np.float64).reshape(height // patch, patch, width // patch, patch, -1)
    return x.transpose(0, 2, 1, 3, 4).reshape(height * width // patch**2, -1)
