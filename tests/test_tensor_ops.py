# SPDX-License-Identifier: Apache-2.0
"""The code that launches the Triton kernels, over a runtime that gives launches to the interpreter.

Arguments, grids, tensor maps, workspaces and the choice of kernels are those of csrc/cuda, for each
architecture; float16 stands for bfloat16, which the interpreter cannot multiply.

    TRITON_INTERPRET=1 pytest --noconftest tests/test_tensor_ops.py
"""

from __future__ import annotations

import ctypes
import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("triton", reason="needs triton==3.6.0, as .ci/run installs it")
if os.environ.get("TRITON_INTERPRET") != "1":  # Triton reads it when it is imported
    pytest.skip("needs TRITON_INTERPRET=1, see .ci/run", allow_module_level=True)

import triton
from triton.tools.tensor_descriptor import TensorDescriptor

from triton_arrays import E4M3, E4M3_VALUES, Tensor, Type, e4m3

ROOT = Path(__file__).parents[1]
CUDA = ROOT / "csrc" / "cuda"
HEADERS = Path(triton.__file__).parent / "backends" / "nvidia" / "include"
DEVICES = [(8, 0), (8, 9), (9, 0), (10, 0), (12, 0)]
SMS = 132
NOT_SUPPORTED, NO_KERNEL_IMAGE = 801, 209  # of cudaError_t
TYPES = {
    "*bf16": Type("float16", 2),
    "*fp32": Type("float32", 4),
    "*i32": Type("int32", 4),
    "*fp8e4nv": E4M3,
}
LAUNCH = ctypes.CFUNCTYPE(
    None, ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.c_int, ctypes.c_int,
    ctypes.POINTER(ctypes.c_void_p))  # fmt: skip

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:triton"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton"),  # logarithm of an empty split
]


class Map(ctypes.Structure):
    """As in cudart_stub.cc."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("base", "cols", "rows", "stride")] + [
        (name, ctypes.c_uint32) for name in ("box_cols", "box_rows", "bytes", "swizzle")
    ]


@pytest.fixture(scope="module")
def variants() -> dict[str, Any]:
    """compile.py's own table, by the name of a kernel."""
    sys.path.insert(0, str(CUDA / "kernels"))
    try:
        spec = importlib.util.spec_from_file_location(
            "compile_kernels", CUDA / "kernels/compile.py"
        )
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    pointers = module.POINTERS
    return {f"{v.name}_sm{arch}": (v, pointers) for v in module.VARIANTS for arch in v.archs}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    made = tmp_path_factory.mktemp("cudart") / "stub.so"
    sources = [CUDA / f"{name}.cc" for name in ("tensor_ops", "plan", "cubins")]
    subprocess.run(
        ["g++", "-std=c++20", "-O1", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror",
         f"-I{ROOT}", f"-isystem{HEADERS}", f'-DRTFM_CUBINS="{CUDA / "kernels/cubins"}"',
         *sources, ROOT / "tests/cudart_stub.cc", "-o", made],
        check=True)  # fmt: skip
    return ctypes.CDLL(str(made))


class Device:
    """Ops on a device that launches in the interpreter; `launched` holds names and grids."""

    def __init__(self, library: ctypes.CDLL, variants: dict[str, Any], capability: Any) -> None:
        self.library, self.variants = library, variants
        self.capability = capability
        self.launched: list[tuple[str, tuple[int, ...]]] = []
        self.problem: BaseException | None = None
        table = (CUDA / "kernels/cubins/cubins.inc").read_text().splitlines()[2:]
        self.names = [line.split("(")[1].split(",")[0] for line in table]
        self.callback = LAUNCH(self.guarded)
        assert library.open_device(*capability, SMS, self.callback) == 0

    def guarded(self, *arguments: Any) -> None:
        try:
            self.launch(*arguments)
        except BaseException as problem:  # would not pass through C++
            self.problem = problem

    def launch(self, cubin: int, grid: Any, threads: int, shared: int, arguments: Any) -> None:
        variant, pointers = self.variants[self.names[cubin]]
        assert threads == 32 * variant.warps
        values, at = {}, 0

        def take(kind: Any) -> Any:
            nonlocal at
            at += 1
            return ctypes.cast(arguments[at - 1], ctypes.POINTER(kind))[0]

        for name in variant.kernel.arg_names:
            kind = variant.types.get(name) or pointers.get(name) or "i32"
            if name in variant.sizes:
                values[name] = variant.sizes[name]
            elif kind == "i32":
                values[name] = take(ctypes.c_int32)
            elif kind in TYPES:
                values[name] = Tensor.at(take(ctypes.c_void_p) or 0, TYPES[kind])
            else:
                values[name] = self.described(take, kind)
        assert take(ctypes.c_void_p) is None and take(ctypes.c_void_p) is None  # scratch
        grid = tuple(grid[:3])
        self.launched.append((self.names[cubin], grid))
        variant.kernel[grid](**values)

    def described(self, take: Any, kind: str) -> TensorDescriptor:
        dtype, box = kind.removeprefix("tensordesc<").rstrip(">]").split("[")
        box_rows, box_cols = map(int, box.split(","))
        found = take(Map)
        shape = [take(ctypes.c_int32), take(ctypes.c_int32)]
        strides = [take(ctypes.c_int64), take(ctypes.c_int64)]
        operand = TYPES[f"*{dtype}"]
        assert shape == [found.rows, found.cols] and strides[1] == 1
        assert found.stride == strides[0] * operand.itemsize and found.bytes == operand.itemsize
        assert (found.box_rows, found.box_cols) == (box_rows, 128 // operand.itemsize)
        assert found.swizzle == 3  # of 128 bytes, as compile.py asserts of the kernels
        return TensorDescriptor(
            Tensor.at(found.base, operand), shape, strides, [box_rows, box_cols]
        )

    def __call__(self, name: str, *arguments: Any, refusal: int = 0) -> Any:
        """Calls the C function; what it launched."""
        self.launched.clear()
        plain = [
            ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor)
            else ctypes.c_int64(a) if isinstance(a, int) else a
            for a in arguments
        ]  # fmt: skip
        assert getattr(self.library, name)(*plain) == refusal
        if self.problem:
            raise self.problem
        return self.launched


@pytest.fixture(params=DEVICES, ids=lambda c: f"sm{c[0]}{c[1]}")
def device(request: pytest.FixtureRequest, library: Any, variants: Any) -> Device:
    return Device(library, variants, request.param)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    return np.random.default_rng([ord(c) for c in request.node.name])


def up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def error(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


# slots, tokens, heads, heads of keys, dim
@pytest.mark.parametrize(
    "case",
    [(1, 1, 1, 1, 8), (2, 64, 1, 1, 64), (3, 128, 1, 1, 64), (2, 192, 1, 1, 128),
     (1, 33, 2, 2, 256), (2, 33, 4, 2, 40), (2, 128, 4, 1, 64)],
    ids=str,
)  # fmt: skip
def test_attention(device, rng, case):
    slots, tokens, heads, kv_heads, dim = case
    q = np.zeros((heads, up(tokens, 128), dim), np.float16)
    context = np.zeros((slots, 2, kv_heads, up(tokens, 64), dim), np.float16)
    q[:, :tokens] = rng.normal(size=(heads, tokens, dim)) / math.sqrt(dim)
    context[:, :, :, :tokens] = rng.normal(size=(slots, 2, kv_heads, tokens, dim))
    y = Tensor(np.full((tokens, up(heads * dim, 64)), np.nan, np.float16))
    call = "run_attention", Tensor(q), Tensor(context), y, y.shape[1], *case
    device(*call)
    got = y.array.copy()
    device(*call)  # again, over the workspace as it was left
    assert np.array_equal(got, y.array, equal_nan=True)

    q, context = q.astype(float)[:, :tokens], context.astype(float)[:, :, :, :tokens]
    context = context.repeat(heads // kv_heads, 2)
    k, v = (context[:, i].transpose(1, 0, 2, 3).reshape(heads, -1, dim) for i in (0, 1))
    weights = np.exp2(q @ k.transpose(0, 2, 1))
    want = weights @ v / weights.sum(-1, keepdims=True)
    assert error(y.array[:, : heads * dim], want.transpose(1, 0, 2).reshape(tokens, -1)) < 1e-3


def test_attention_uses_the_chip(device):
    """Few queries over many keys: splits, and the kernel without masks where the shape allows."""
    q, context = (
        Tensor(np.zeros((1, 128, 64), np.float16)),
        np.zeros((9, 2, 1, 128, 64), np.float16),
    )
    y = Tensor(np.zeros((128, 64), np.float16))
    ((name, grid),) = device("run_attention", q, Tensor(context), y, 64, 9, 128, 1, 1, 64)
    assert name.startswith(("attention_even", "attention_tma")) and grid[2] > 1


@pytest.mark.parametrize("epilogue", ["store", "gelu", "gated", "ungated", "silu"])
@pytest.mark.parametrize("case", [(3, 5, 70), (65, 70, 1500)], ids=str)
@pytest.mark.parametrize("fp8", [False, True], ids=["bf16", "fp8"])
def test_matmul(device, rng, case, epilogue, fp8):
    rows, n, k = case
    pad = 128 if fp8 else 64
    x, w = np.zeros((up(rows, 128), up(k, pad))), np.zeros((up(n, 128), up(k, pad)))
    x[:rows, :k], w[:n, :k] = rng.normal(size=(rows, k)), rng.normal(size=(n, k)) / math.sqrt(k)
    x_scale, w_scale = np.ones(rows, np.float32), np.ones(n, np.float32)
    if fp8:
        x_scale, w_scale = (rng.uniform(0.5, 2, m).astype(np.float32) for m in (rows, n))
        operands = Tensor(e4m3(x), E4M3), Tensor(e4m3(w), E4M3)
        x, w = (E4M3_VALUES[t.array] for t in operands)
    else:
        operands = Tensor(x.astype(np.float16)), Tensor(w.astype(np.float16))
        x, w = (t.array.astype(float) for t in operands)
    bias, gate = (rng.normal(size=n).astype(np.float32) for _ in range(2))
    number = {"store": 0, "gelu": 1, "gated": 2, "ungated": 2, "silu": 4}[epilogue]
    stored = epilogue in ("gelu", "silu")  # as operands
    start = rng.normal(size=(rows, up(n, 64))).astype(np.float16 if stored else np.float32)
    y = Tensor(start)
    scales = (Tensor(x_scale), Tensor(w_scale)) if fp8 else (None, None)
    numbers = operands[0].shape[1], y.shape[1], rows, n, k, number
    gates = None if epilogue == "ungated" else Tensor(gate)
    call = "run_matmul", *operands, Tensor(bias), gates, y, *numbers, *scales
    if fp8 and device.capability == (8, 0):
        device(*call, refusal=NOT_SUPPORTED)
        return
    splits = device(*call)[0][1][1]
    assert splits > 1 or k < 1000
    got = y.array[:, :n].copy()
    y.array[...] = start  # again, over the workspace as it was left
    device(*call)
    assert np.array_equal(got, y.array[:, :n])

    want = (x[:rows] @ w[:n].T) * np.outer(x_scale, w_scale) + bias
    if epilogue == "gelu":
        want = 0.5 * want * (1 + np.tanh(np.sqrt(2 / np.pi) * (want + 0.044715 * want**3)))
    if epilogue == "silu":
        want = want / (1 + np.exp(-want))
    if number == 2:
        want = start[:, :n] + (gate if gates else 1) * want
    assert error(got, want) < (5e-4 if stored else 2e-6)


def test_quantize(device, rng):
    x = np.zeros((2, 192), np.float16)
    x[:, :130] = rng.normal(size=(2, 130))
    q, scale = Tensor(np.full((2, 256), 1, np.uint8), E4M3), Tensor(np.zeros(2, np.float32))
    call = "run_quantize", Tensor(x), q, scale, 192, 256, 2, 130
    if device.capability == (8, 0):
        device(*call, refusal=NOT_SUPPORTED)
        return
    device(*call)
    np.testing.assert_allclose(scale.array, np.abs(x.astype(np.float32)).max(1) / 448, rtol=1e-6)
    values = E4M3_VALUES[q.array] * scale.array[:, None]
    assert np.median(np.abs(values[:, :130] / x[:, :130] - 1)) < 0.04
    assert not q.array[:, 130:].any()


def test_quantized_matmul(device, rng):
    """Weights as csrc/cuda/layout.h has them, x in bf16; what other ops left or count is safe."""
    shapes = [(65, 70, 1500), (3, 5, 70)]  # the first is split, and makes the workspace
    for rows, n, k in [*shapes, *shapes]:
        x = np.zeros((up(rows, 128), up(k, 64)), np.float16)
        x[:rows, :k] = rng.normal(size=(rows, k)) * rng.uniform(0.1, 10, (rows, 1))
        w = np.zeros((up(n, 128), up(k, 128)))
        w[:n, :k] = rng.uniform(-448, 448, (n, k))
        packed, scales = e4m3(w), rng.uniform(0.5, 2, n).astype(np.float32)
        weight = Tensor(np.concatenate([packed.reshape(-1), scales.view(np.uint8)]), E4M3)
        bias = rng.normal(size=n).astype(np.float32)
        y = Tensor(np.full((rows, up(n, 64)), np.nan, np.float32))
        numbers = x.shape[1], y.shape[1], rows, n, k
        call = "run_quantized_matmul", Tensor(x), weight, Tensor(bias), y, *numbers
        if device.capability == (8, 0):
            device(*call, refusal=NOT_SUPPORTED)
            return
        quantize, matmul = device(*call)
        assert quantize[0].startswith("quantize_rows") and (matmul[1][1] > 1) == (k == 1500)
        got = y.array[:, :n].copy()

        q, units = (
            Tensor(np.zeros((rows, w.shape[1]), np.uint8), E4M3),
            Tensor(scales[:1].repeat(rows)),
        )
        device("run_quantize", Tensor(x), q, units, x.shape[1], w.shape[1], rows, k)
        x = E4M3_VALUES[q.array] * units.array[:, None]
        assert error(got, x @ (E4M3_VALUES[packed[:n]] * scales[:, None]).T + bias) < 2e-6


def test_devices(library):
    """Code for 8.0 runs on 8.6; code for 10.0 does not run on 10.3."""
    nothing = LAUNCH(lambda *_: None)
    assert library.open_device(8, 6, SMS, nothing) == 0
    for capability in (7, 5), (10, 3), (12, 1), (13, 0):
        assert library.open_device(*capability, SMS, nothing) == NO_KERNEL_IMAGE


# ---- The choices alone.


def test_matmul_plans(library):
    """Few tiles for the chip: smaller ones, or splits of k. Many: neither."""

    def plan(*shape: int) -> tuple[int, int]:
        tile, splits = divmod(library.plan_matmul(*map(ctypes.c_int64, shape), SMS), 100)
        return (64, 128)[tile], splits

    assert plan(4096, 8192, 2048) == (128, 1)
    assert plan(256, 1280, 1280) == (64, 1)
    assert plan(64, 256, 256) == (64, 1)
    for rows, n, k in (256, 1280, 5120), (256, 2048, 8192), (512, 1280, 5120):
        side, splits = plan(rows, n, k)
        assert SMS / 2 < math.ceil(rows / side) * math.ceil(n / side) * splits <= SMS
    assert plan(1, 1, 100_000)[1] <= 16


def test_attention_plans(library):
    """As many splits as fill the chip once; none that have no keys."""

    def plan(*shape: int) -> int:
        return library.plan_attention(*map(ctypes.c_int64, shape))

    assert plan(32, 36, 132) == 4
    assert plan(40, 18, 132) == 3
    assert plan(132, 36, 132) == 1
    assert all(
        plan(blocks, steps, 132) <= min(steps, 16) for blocks in (1, 7) for steps in (1, 3, 99)
    )
