# SPDX-License-Identifier: Apache-2.0
"""The runtime on aarch64: cross-compiled, and run by an emulator of that processor.

What it cannot show is another order of memory accesses than that of the machine at hand.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import action_models
import cases
import reference
import rtfm_rt
from models import turn, write_model
from rtfm_rt.reference import Config

ROOT = Path(__file__).parents[1]
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
MISSING = [tool for tool in (COMPILER, EMULATOR, "cmake", "ninja") if not shutil.which(tool)]
# 28 tokens: two whole strips of the register kernel, and a part of one
CONFIG = Config(height=32, image_width=56, patch=8, width=32, layers=2, heads=2, mlp=64)
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tests/walk.cc and tests/product.cc and the runtime as CMake builds it there."""
    folder = tmp_path_factory.mktemp("aarch64")
    options = {
        "RTFM_PYTHON": "OFF",
        "RTFM_CUDA": "OFF",
        "CMAKE_SYSTEM_NAME": "Linux",
        "CMAKE_SYSTEM_PROCESSOR": "aarch64",
        "CMAKE_CXX_COMPILER": COMPILER,
        "CMAKE_CXX_FLAGS_RELEASE": "-O1",  # to save time; the kernels have -O3 of their own
        "CMAKE_UNITY_BUILD": "ON",  # of the runtime: headers are read once for 8 files
    }
    defined = [f"-D{name}={value}" for name, value in options.items()]
    compile_static = [COMPILER, "-std=c++20", "-static", f"-I{ROOT}"]
    for command in (
        ["cmake", "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", *defined],
        ["cmake", "--build", str(folder)],
        *(
            [*compile_static, f"{ROOT}/tests/{name}.cc", f"{folder}/librtfm.a", "-o", folder / name]
            for name in ("walk", "product")
        ),
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def emulate(*command: object, given: bytes, cpu: str = "max") -> bytes:
    done = subprocess.run(
        [EMULATOR, "-cpu", cpu, *map(str, command)], input=given, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", ["poses", "keep", "causal"])
def test_a_walk_on_aarch64(built, tmp_path, rng, kind):
    """The frames of the same tier here, but for the last bits that fused multiply-adds change; in
    int8 others, though not very."""
    path = str(tmp_path / "model.safetensors")
    if kind == "poses":
        write_model(Path(path), CONFIG)
    else:
        action_models.write(Path(path), kind)
    session = rtfm_rt.Session(path, device="cpu:portable", seed=7)
    picture = rng.integers(0, 256, (*session.image_size, 3), np.uint8)
    poses = [turn(15 * i, 0.1 * i) for i in range(6)]
    if kind == "poses":
        session.observe(picture, np.eye(4))
        frames = [session.step(pose) for pose in poses]
    else:
        session.observe(picture)
        frames = [session.step(action={}) for _ in poses]
    want = np.stack([frame.images for frame in frames]).astype(int)
    given = picture.tobytes() + np.stack(poses).tobytes()
    for threads in 1, 3:
        for precision in "float32", "int8":
            done = emulate(built / "walk", path, threads, precision, given=given)
            difference = np.abs(np.frombuffer(done, np.uint8).reshape(want.shape) - want)
            if precision == "float32":
                assert difference.max() <= 1
            else:
                assert 0 < difference.mean() < 4


@pytest.mark.parametrize("case", cases.MATMULS, ids=cases.name)
def test_a_product_in_int8_on_aarch64(built, rng, case):
    """Beside the same roundings, as in test_int8.py."""
    arguments = cases.matmul(case, "store", rng) | {"bias": None}
    given = arguments["x"].tobytes() + arguments["w"].tobytes()
    done = emulate(built / "product", *case, "int8", given=given)
    got = np.frombuffer(done, np.float32).reshape(case[:2])
    cases.assert_close(got, reference.matmul(**arguments, precision="int8"), "tensor")


def test_int8_wants_sdot(built):
    """Which the processor of a Jetson Nano lacks."""
    with pytest.raises(AssertionError, match=r"with int8; this CPU .* SDOT"):
        emulate(built / "product", 1, 1, 1, "int8", given=bytes(8), cpu="cortex-a57")
