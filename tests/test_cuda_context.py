# SPDX-License-Identifier: Apache-2.0
"""The shipped module over librtfm_cuda.so as it is built, but for its kernels and CUDA's runtime.

csrc/cuda/context.cc is compiled against cudart_emulator.cc and put where the loader finds it,
beside a driver that answers. What cuda_context.py then does is what an application does.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from models import write_model
from rtfm_rt.reference import Config
from test_cuda import DRIVER, LIBRARY, PACKAGE, build

TESTS = Path(__file__).parent
ROOT = TESTS.parent
OP = r"cudaError_t (\w+)\(const (\w+)& a, cudaStream_t stream\);"


def cuda_headers() -> Path:
    """Where nvcc says that they are."""
    nvcc = shutil.which("nvcc")
    if not nvcc:
        pytest.skip("needs nvcc, for its headers")
    command = [nvcc, "--dryrun", "-x", "cu", os.devnull, "-o", os.devnull]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60).stderr
    found = re.search(r"INCLUDES=\"?-I(\S+?)\"?\s", said)
    assert found, said
    return Path(found[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package with that library, and the driver."""
    headers = cuda_headers()
    made = tmp_path_factory.mktemp("cuda")
    package = made / "rtfm_rt"
    package.mkdir()
    for path in PACKAGE.iterdir():
        if path.name != LIBRARY.name:
            (package / path.name).symlink_to(path)
    build(DRIVER.format(version=13000, status=0), made / "libcuda.so.1")
    ops = re.findall(OP, (ROOT / "csrc/cuda/ops.h").read_text())
    (made / "ops.inc").write_text("".join(f"OP({name}, {args})\n" for name, args in ops))
    sources = [
        ROOT / "csrc/cuda/context.cc",
        TESTS / "cudart_emulator.cc",
        TESTS / "block_emulator.cc",
        *TESTS.glob("cuda_emulator_*.cc"),
    ]
    flags = ["-std=c++20", "-O2", "-fPIC", "-shared", "-Wall", "-Wextra", "-Wl,-Bsymbolic"]
    compiler = os.environ.get("CXX", "g++").split()
    subprocess.run(
        [*compiler, *flags, f"-I{ROOT}", f"-I{made}", f"-isystem{headers}", *sources,
         "-o", package / LIBRARY.name],
        check=True, timeout=300)  # fmt: skip
    return made


def run(folder: Path, name: str, model: str) -> None:
    path = os.pathsep.join((str(folder), str(TESTS)))
    env = {**os.environ, "PYTHONPATH": path, "LD_LIBRARY_PATH": str(folder)}
    command = [sys.executable, str(TESTS / "cuda_context.py"), name, model]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["walks", "order", "streams", "lost", "nothing_left"])
def test_an_application(folder, model, name):
    run(folder, name, model[0])


def test_a_large_model(folder, tmp_path):
    path = tmp_path / "wide.safetensors"
    write_model(path, Config(16, 16, patch=8, width=64, layers=1, heads=2, mlp=40_000))
    run(folder, "large", str(path))
