# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels of the CUDA backend, run by Triton's interpreter against plain NumPy.

The interpreter shows that indices, masks, splits and epilogues are right, in float32 and float16
(its bfloat16 product is broken). It shows nothing of races, pipelining, tensor maps or speed.

    TRITON_INTERPRET=1 pytest --noconftest tests/test_triton.py
"""

from __future__ import annotations

import importlib.util
import math
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("triton", reason="needs triton==3.6.0, as .ci/run installs it")
if os.environ.get("TRITON_INTERPRET") != "1":  # Triton reads it when it is imported
    pytest.skip("needs TRITON_INTERPRET=1, see .ci/run", allow_module_level=True)

from triton_arrays import E4M3, E4M3_VALUES, Tensor, e4m3

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:triton"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton"),  # logarithm of an empty split
]
KERNELS = Path(__file__).parents[1] / "csrc" / "cuda" / "kernels"
TOLERANCE = {"float32": 3e-6, "float16": 1e-3}  # of the norm; float16 rounds weights to 2^-11
NAN = np.float32(np.nan)


@pytest.fixture(scope="module")
def kernels() -> Any:
    """The functions of attention.py and matmul.py."""
    found: dict[str, Any] = {}
    for name in "attention", "matmul":
        spec = importlib.util.spec_from_file_location(name, KERNELS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found |= vars(module)
    return SimpleNamespace(**found)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    return np.random.default_rng([ord(c) for c in request.node.name])


def descriptor(array: Tensor, box: tuple[int, int]) -> Any:
    from triton.tools.tensor_descriptor import TensorDescriptor

    rows = array.array.size // array.shape[-1]
    return TensorDescriptor(array, [rows, array.shape[-1]], [array.shape[-1], 1], list(box))


def up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def error(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


# ---- Attention.


def attend(kernels, rng, kind, slots, tokens, heads, dim, splits, bm, bn, dtype="float32", far=1.0,
           group=1):  # fmt: skip
    """What the kernel makes of random operands, and what float64 does. All padding is poisoned."""
    depth = max(32, 1 << (dim - 1).bit_length())
    rows, keys = up(tokens, 128), up(tokens, 64)
    q = np.full((heads, rows, dim), 1e4, dtype)
    q[:, :tokens] = rng.normal(size=(heads, tokens, dim)) * far
    context = np.full((slots, 2, heads // group, keys, dim), 1e4, dtype)
    context[:, :, :, :tokens] = rng.normal(size=(slots, 2, heads // group, tokens, dim))
    stride = up(heads * dim, 16) + 16
    y = Tensor(np.full((tokens, stride), NAN, dtype))
    grid = (math.ceil(tokens / bm), heads, splits)
    partial = Tensor(np.full((splits, heads, grid[0], bm, depth), NAN, np.float32))
    lse = Tensor(np.full((splits, heads, grid[0], bm), NAN, np.float32))
    counters = Tensor(np.zeros((heads, grid[0]), np.int32))
    sizes = dict(D=depth, BM=bm, BN=bn)
    rest = y, partial, lse, counters, slots, tokens, dim, stride, group
    if kind == "tma":
        maps = descriptor(Tensor(q), (bm, depth)), descriptor(Tensor(context), (bn, depth))
        kernels.attention_tma[grid](*maps, *rest, **sizes)
    else:
        kernels.attention[grid](Tensor(q), Tensor(context), *rest, **sizes, EVEN=kind == "even")
    assert not counters.array.any()
    assert np.isnan(y.array[:, heads * dim :]).all()

    q, context = q.astype(np.float64)[:, :tokens], context.astype(np.float64)[:, :, :, :tokens]
    context = context.repeat(group, 2)
    k, v = (context[:, i].transpose(1, 0, 2, 3).reshape(heads, -1, dim) for i in (0, 1))
    scores = q @ k.transpose(0, 2, 1)
    weights = np.exp2(scores - scores.max(-1, keepdims=True))
    want = weights @ v / weights.sum(-1, keepdims=True)
    return y.array[:, : heads * dim], want.transpose(1, 0, 2).reshape(tokens, -1), lse.array


# slots, tokens, heads, dim, splits
ANY = [
    (1, 1, 1, 8, 1),
    (9, 1, 5, 64, 3),
    (2, 6, 3, 16, 1),
    (4, 33, 2, 40, 3),
    (3, 64, 4, 64, 1),
    (3, 65, 2, 24, 8),
    (33, 31, 1, 32, 8),
    (3, 129, 1, 128, 2),
    (2, 77, 2, 256, 1),
    (1, 100, 2, 72, 3),
]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", ANY, ids=str)
def test_attention(kernels, rng, case, dtype):
    """Any shape: keys, dims and rows beyond the ends are masked, whatever they hold."""
    bn = 32 if case[3] > 128 else 64
    got, want, _ = attend(kernels, rng, "any", *case, bm=64, bn=bn, dtype=dtype)
    assert error(got, want) < TOLERANCE[dtype]


@pytest.mark.parametrize("kind", ["even", "tma"])
@pytest.mark.parametrize("slots, tokens, bn", [(1, 64, 64), (5, 128, 128), (3, 192, 64)])
@pytest.mark.parametrize("splits", [1, 3, 8])
def test_attention_without_masks(kernels, rng, kind, slots, tokens, bn, splits):
    got, want, lse = attend(kernels, rng, kind, slots, tokens, 2, 64, splits, bm=128, bn=bn)
    assert error(got, want) < TOLERANCE["float32"]
    tiles = slots * tokens // bn
    empty = splits - math.ceil(tiles / math.ceil(tiles / splits))
    assert splits == 1 or np.isneginf(lse).sum() == empty * lse[0].size


@pytest.mark.parametrize("kind", ["any", "even", "tma"])
@pytest.mark.parametrize("heads, group", [(4, 2), (6, 3), (3, 3)])
def test_heads_share_keys(kernels, rng, kind, heads, group):
    sizes = (3, 64, heads, 64, 2)
    got, want, _ = attend(kernels, rng, kind, *sizes, bm=64, bn=64, group=group)
    assert error(got, want) < TOLERANCE["float32"]


@pytest.mark.parametrize("kind", ["any", "tma"])
def test_attention_to_one_key(kernels, rng, kind):
    """Scores in the thousands: the maximum keeps every exponential finite."""
    got, want, _ = attend(kernels, rng, kind, 3, 64, 1, 64, 2, bm=64, bn=64, far=1e3)
    assert error(got, want) < 1e-3  # float32 keeps four decimals of such scores


# ---- Matmul.

STORE, GELU, GATED, GELU_ERF, SILU = range(5)
EPILOGUES = {"store": STORE, "gelu": GELU, "gated": GATED, "gelu_erf": GELU_ERF, "silu": SILU}
OPERANDS = {
    GELU: lambda r: 0.5 * r * (1 + np.tanh(np.sqrt(2 / np.pi) * (r + 0.044715 * r**3))),
    GELU_ERF: lambda r: 0.5 * r * (1 + np.vectorize(math.erf)(r / math.sqrt(2))),
    SILU: lambda r: r / (1 + np.exp(-r)),
}


def multiply(kernels, rng, tma, rows, n, k, tile, epilogue, splits, bias, fp8=False, depth=64,
             gate=True):  # fmt: skip
    """As `attend`; splits twice over the same counters, which must be left as they were found."""
    bm, bn = tile
    pad = 128 if fp8 else 64
    x, w = np.zeros((up(rows, 128), up(k, pad))), np.zeros((up(n, 128), up(k, pad)))
    x[:rows, :k], w[:n, :k] = rng.normal(size=(rows, k)), rng.normal(size=(n, k)) / np.sqrt(k)
    x[rows:] = 1e4
    scales = np.ones(rows, np.float32), np.ones(n, np.float32)
    if fp8:
        x, w = e4m3(x), e4m3(w)
        scales = tuple(rng.uniform(0.5, 2, s.size).astype(np.float32) for s in scales)
        operands = Tensor(x, E4M3), Tensor(w, E4M3)
        x, w = E4M3_VALUES[x], E4M3_VALUES[w]
    else:
        operands = Tensor(x.astype(np.float32)), Tensor(w.astype(np.float32))
    vectors = [rng.normal(size=n).astype(np.float32) for _ in range(2)]
    stride = up(n, 16) + 16
    start = rng.normal(size=(rows, stride)).astype(np.float32)
    y = Tensor(start)
    copy = Tensor(np.full((rows, stride), NAN, np.float16))
    tiles = math.ceil(rows / bm) * math.ceil(n / bn)
    partial = Tensor(np.full((splits, tiles, bm, bn), NAN, np.float32))
    counters = Tensor(np.zeros(tiles, np.int32))
    strides = operands[0].shape[1], operands[1].shape[1], stride
    if tma:
        maps = [descriptor(t, (b, depth)) for t, b in zip(operands, tile, strict=True)]
        for m, extent in zip(maps, (rows, n), strict=True):
            m.shape = [extent, k]
        operands = tuple(maps)
    sizes = dict(BM=bm, BN=bn, BK=depth, SCALED=fp8)
    got = []
    for _ in range(1 if splits == 1 else 2):
        y.array[...] = start
        rest = [y, copy, *map(Tensor, vectors), *map(Tensor, scales), partial, counters]
        numbers = rows, n, k, *strides, int(bias), int(gate), epilogue
        kernel = kernels.matmul_tma if tma else kernels.matmul
        kernel[(tiles, splits)](*operands, *rest, *numbers, **sizes)
        assert not counters.array.any()
        got.append((copy if epilogue in OPERANDS else y).array.copy())
    assert got[0].tobytes() == got[-1].tobytes()

    want = (x[:rows].astype(np.float64) @ w[:n].T.astype(np.float64)) * np.outer(*scales)
    want += vectors[0] if bias else 0
    if epilogue in OPERANDS:
        want = OPERANDS[epilogue](want)
    if epilogue == GATED:
        want = start[:, :n] + (vectors[1] if gate else 1) * want
    rest, end = got[0][:, n:], up(n, 16)
    padding = start[:, n:end] if epilogue == GATED else np.zeros((rows, end - n))
    assert np.array_equal(rest[:, : end - n], padding)
    untouched = np.isnan(rest[:, -16:]) if epilogue in OPERANDS else rest[:, -16:] == start[:, -16:]
    assert untouched.all()
    return got[0][:, :n], want


# rows, n, k, tile
MATMULS = [
    (1, 3, 3, (64, 64)),
    (33, 31, 100, (64, 64)),
    (64, 48, 65, (64, 64)),
    (65, 200, 31, (64, 64)),
    (129, 130, 150, (128, 128)),
]


@pytest.mark.parametrize("tma", [False, True], ids=["pointers", "tma"])
@pytest.mark.parametrize("epilogue", EPILOGUES.values(), ids=EPILOGUES)
@pytest.mark.parametrize("case", MATMULS, ids=str)
def test_matmul(kernels, rng, tma, epilogue, case):
    for splits, bias in (1, True), (3, False):
        got, want = multiply(kernels, rng, tma, *case, epilogue, splits, bias, gate=bias)
        # operands are stored in float16
        assert error(got, want) < (5e-4 if epilogue in OPERANDS else 3e-6)


@pytest.mark.parametrize("epilogue", OPERANDS)
def test_activations(kernels, epilogue):
    """Near what they are everywhere; far out they are r or nothing."""
    r = np.concatenate([np.linspace(-12, 12, 4800), [-3e38, -1e20, -100, 100, 6e4]])
    x = np.zeros((128, 64), np.float32)
    w = np.zeros((up(r.size, 128), 64), np.float32)
    x[0, 0], w[: r.size, 0] = 1, r
    n, y = r.size, Tensor(np.zeros((1, up(r.size, 16)), np.float32))
    none = Tensor(np.zeros(1, np.float32)), Tensor(np.zeros(1, np.int32))
    vectors = (Tensor(np.zeros(n, np.float32)),) * 4
    numbers = 1, n, 1, 64, 64, y.array.shape[1], 0, 0, epilogue
    sizes = dict(BM=64, BN=64, BK=64, SCALED=False)
    grid = (math.ceil(n / 64), 1)
    kernels.matmul[grid](Tensor(x), Tensor(w), y, y, *vectors, *none, *numbers, **sizes)
    with np.errstate(over="ignore"):
        want = OPERANDS[epilogue](np.maximum(r, -1e3))
    assert np.abs(y.array[0, :n] - want).max() < 2.7e-5
    assert np.array_equal(y.array[0, n - 5 : n], np.float32([0, 0, 0, 100, 6e4]))


@pytest.mark.parametrize("tma", [False, True], ids=["pointers", "tma"])
@pytest.mark.parametrize("splits", [1, 8])
def test_matmul_with_an_empty_split(kernels, rng, tma, splits):
    got, want = multiply(kernels, rng, tma, 40, 40, 150, (64, 64), 0, splits, True)
    assert error(got, want) < 3e-6


@pytest.mark.parametrize("tma", [False, True], ids=["pointers", "tma"])
@pytest.mark.parametrize("epilogue", EPILOGUES.values(), ids=EPILOGUES)
@pytest.mark.parametrize("case", [MATMULS[1], MATMULS[4]], ids=str)
def test_matmul_in_e4m3(kernels, rng, tma, epilogue, case):
    """The codes' products are exact in float32; what is left is the order of the sum."""
    got, want = multiply(kernels, rng, tma, *case, epilogue, 2, True, fp8=True)
    assert error(got, want) < (5e-4 if epilogue in OPERANDS else 3e-6)


@pytest.mark.parametrize("rows, cols", [(1, 3), (5, 128), (3, 1000), (2, 2500)])
def test_quantize_rows(kernels, rng, rows, cols):
    x = np.full((rows, up(cols, 64) + 64), NAN, np.float32)
    x[:, :cols] = rng.normal(size=(rows, cols)) * np.logspace(-3, 3, rows)[:, None]
    x[0, :cols] = 0
    q = Tensor(np.full((rows, up(cols, 128) + 128), 255, np.uint8), E4M3)
    scale = Tensor(np.full(rows, NAN, np.float32))
    kernels.quantize_rows[(rows,)](Tensor(x), q, scale, cols, x.shape[1], q.shape[1], BLOCK=1024)

    x = x[:, :cols]
    peak = np.abs(x).max(1)
    unit = np.where(peak > 0, peak / np.float32(448), np.float32(1))
    np.testing.assert_allclose(scale.array, unit, rtol=1e-6)
    want = e4m3(x / scale.array[:, None])
    carried = want & 7 == 0  # the interpreter loses the carry of a mantissa that rounds up to 2
    assert np.array_equal(q.array[:, :cols][~carried], want[~carried])
    assert not q.array[:, cols : up(cols, 128)].any()
    assert (q.array[:, up(cols, 128) :] == 255).all()
