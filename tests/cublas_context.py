# SPDX-License-Identifier: Apache-2.0
"""What test_cublas.py runs where the shipped module finds a driver, and a cuBLASLt is given.

python cublas_context.py NAME LIBRARY MODEL
"""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path
from typing import Any

import numpy as np

import cases
import reference
import rtfm_rt
from cuda_context import PICTURE, RUNTIME, refused, turn
from rtfm_rt import _testing

LIBRARY = sys.argv[2]
NOT_SUPPORTED, FAILED = 15, 13


def cublas() -> ctypes.CDLL:
    return ctypes.CDLL(LIBRARY)


def behave(status: int = 0, wrong: int = -1, proposals: int = 3, workspace: int = 4096) -> None:
    """status: of every Matmul, or with a minus of Create; wrong: an epilogue that adds 1."""
    cublas().emulated_cublas(status, wrong, proposals, ctypes.c_int64(workspace))


def model(path: str, library: str = LIBRARY) -> rtfm_rt.Model:
    return rtfm_rt.Model(path, "cuda", cublas=library)


def session(path: str, library: str = LIBRARY, **options: Any) -> rtfm_rt.Session:
    made = rtfm_rt.Session(model(path, library), seed=5, commit_below=2.0, **options)
    made.observe(PICTURE, turn(0))
    return made


def walk(of: rtfm_rt.Session, frames: int = 8) -> list[np.ndarray]:
    return [np.array(of.step(turn(13 * i))) for i in range(frames)]


def same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def device(library: str = LIBRARY) -> Any:
    _testing.cuda_emulation().cublas = library
    return _testing.Device("cuda")


def multiplied_by(device: Any, **arguments: Any) -> int:
    """Products of cuBLASLt in one matmul, which must be right."""
    before = cublas().emulated_multiplied()
    got = device.matmul(**arguments)
    want = reference.matmul(**{"gate": 1, **arguments}, precision="bfloat16")
    gelu = arguments["epilogue"] == "gelu"
    cases.assert_close(got, want, "bfloat16" if gelu else "float32")
    return cublas().emulated_multiplied() - before


def forms(path: str) -> None:
    """Every way to end a product, by whom it is made; all are right."""
    del path
    rng = np.random.default_rng(1)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    mixed = "mixed" in LIBRARY  # takes a bias in float32 where it writes bfloat16
    made = device()
    exceptions = "" if mixed else ", but not for gelu with bias"
    assert made.cublas == f"cuBLASLt 13.0.2{exceptions}", made.cublas
    for rows, n, k in ((1, 16, 8), (33, 64, 96), (100, 48, 200), (7, 33, 64), (7, 32, 60)):
        for bias in None, normal(n):
            plain = {"x": normal(rows, k), "w": normal(n, k) / k**0.5, "bias": bias}
            fits = n % 16 == 0 and k % 8 == 0
            for epilogue, gate, takes in (
                ("store", None, True),
                ("gelu", None, bias is None or mixed),
                ("gated", None, True),
                ("gated", normal(n), bias is None),
            ):
                ends = {"epilogue": epilogue}
                if gate is not None:
                    ends["gate"] = gate
                if epilogue == "gated":
                    ends["y0"] = normal(rows, n)
                found = multiplied_by(made, **plain, **ends)
                assert found == (takes and fits), (rows, n, k, epilogue, bias is None, gate is None)


def twins(path: str) -> None:
    """Frames are those of the Triton kernels but for rounding; twins and loaded worlds agree."""
    one, other, triton = session(path), session(path), session(path, "")
    assert one.model.cublas.startswith("cuBLASLt 13.0.2") and triton.model.cublas == ""
    frames = walk(one)
    assert cublas().emulated_multiplied() > 100
    branch = other.fork()
    assert same(frames, walk(other)) and same(frames, walk(branch))
    for got, want in zip(frames, walk(triton), strict=True):
        assert np.abs(got.astype(int) - want).max() <= 8 and not np.array_equal(got, PICTURE)
    world = Path(path).with_suffix(".world")
    one.save(world)
    loaded = rtfm_rt.Session.load(world, model(path))
    assert same(walk(loaded), walk(one))
    want = np.array(one.imagine([turn(9)])[0])
    for i in range(20):
        one.imagine([turn(20 * i)])
        assert np.array_equal(one.imagine([turn(9)])[0], want)


def steady(path: str) -> None:
    """Nothing is planned, taken or described once a session is warm; all of it goes back."""
    library = cublas()
    assert library.emulated_descriptors() == 0
    walker = session(path)
    walk(walker)
    planned, left = library.emulated_planned(), RUNTIME.emulated_left()
    descriptors, multiplied = library.emulated_descriptors(), library.emulated_multiplied()
    for _ in range(3):
        walk(walker)
    assert (planned, left) == (library.emulated_planned(), RUNTIME.emulated_left())
    assert descriptors == library.emulated_descriptors() > 0
    assert library.emulated_multiplied() >= multiplied + 3 * 8
    del walker
    gc.collect()
    assert library.emulated_descriptors() == 0 == RUNTIME.emulated_left()


def unused(path: str) -> None:
    """What it does not offer for a shape, or at all, or does otherwise: the Triton kernels."""
    triton = walk(session(path, ""))
    for offers in ({"proposals": 0}, {"workspace": 1 << 40}, {"status": NOT_SUPPORTED}):
        behave(**offers)
        without = session(path)
        assert without.model.cublas.startswith("cuBLASLt 13.0.2, but not for store, store with")
        assert same(walk(without), triton)
    behave()
    made = rtfm_rt.Session(model(path), seed=5, commit_below=2.0)  # tried, and not used since
    branch = made.fork()
    behave(status=NOT_SUPPORTED)
    branch.observe(PICTURE, turn(0))
    assert walk(branch)  # recorded ahead of time: shapes that worked go on
    behave(wrong=1)  # the plain epilogue
    without = session(path)
    assert "but not for store, gelu with bias, residual, residual with gate" in without.model.cublas
    rng = np.random.default_rng(2)
    plain = {"x": rng.normal(size=(4, 64)), "w": rng.normal(size=(32, 64)), "epilogue": "store"}
    assert multiplied_by(device(), **plain) == 0
    assert multiplied_by(device(), **plain, bias=rng.normal(size=32)) == 1


def lost(path: str) -> None:
    """An error of the library in the middle of a session is one of the device."""
    made = device()
    plain = {"x": np.ones((4, 64)), "w": np.ones((32, 64)), "epilogue": "store"}
    assert multiplied_by(made, **plain) == 1
    for status in FAILED, NOT_SUPPORTED:  # ... where it has multiplied this shape before
        behave(status)
        said = refused(lambda made=made: made.matmul(**plain), rtfm_rt.DeviceError)
        name = "NOT_SUPPORTED" if status == NOT_SUPPORTED else "EMULATED"
        assert f"cuBLASLt: CUBLAS_STATUS_{name}" in said and "lost to this session" in said, said
        behave()
        refused(lambda made=made: made.matmul(**plain), rtfm_rt.DeviceError)
        made = device()
        assert multiplied_by(made, **plain) == 1
    behave(-3)  # Create: out of memory
    said = refused(lambda: model(path), rtfm_rt.DeviceError)
    assert "opening cuBLASLt" in said, said


def refusals(path: str) -> None:
    """A library that is none, lacks a function, is of another version or does not start."""
    folder = Path(LIBRARY).parent
    triton = walk(session(path, ""), 2)
    garbage = folder / "garbage.so"
    garbage.write_bytes(b"not a library")
    for library, why in (
        (str(folder / "nothing.so"), "nothing.so: cannot open shared object file"),
        (str(garbage), "garbage.so: file too short"),
        (str(folder / "incomplete.so"), "expected a function cublasLtMatmul, got none"),
        (str(folder / "old.so"), "old.so: expected version 13, got 12.9.1"),
    ):
        without = session(path, library)
        assert without.model.cublas.startswith("no cuBLASLt: "), without.model.cublas
        assert why in without.model.cublas, without.model.cublas
        assert same(walk(without, 2), triton)
    behave(-1)  # Create: not initialised
    assert model(path).cublas == f"no cuBLASLt: {LIBRARY}: CUBLAS_STATUS_EMULATED"


def found(path: str) -> None:
    """cuda.pathfinder, of which a double lies beside the package here, is asked for GPUs only."""
    from cuda import pathfinder

    pathfinder.path = LIBRARY
    assert rtfm_rt.Model(path, "cpu").cublas == "" and pathfinder.asked == []
    assert rtfm_rt.Session(path, device="cuda").model.cublas.startswith("cuBLASLt 13")
    assert rtfm_rt.Model(path).cublas.startswith("cuBLASLt 13")  # auto is cuda here
    assert pathfinder.asked == ["cublasLt"] * 2
    assert rtfm_rt.Model(path, "cuda", cublas="").cublas == ""
    shared = rtfm_rt.Session(rtfm_rt.Model(path, "cuda", cublas=""))
    assert shared.model.cublas == "" and len(pathfinder.asked) == 2
    pathfinder.path = None
    assert rtfm_rt.Model(path, "cuda").cublas == ""
    pathfinder.problem = RuntimeError  # found, but it does not load
    assert rtfm_rt.Model(path, "cuda").cublas.startswith("no cuBLASLt: libcublasLt.so.13: cannot")


if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[3])
