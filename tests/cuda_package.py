# SPDX-License-Identifier: Apache-2.0
"""Packages that find a driver and a librtfm_cuda.so which tests build for them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import rtfm_rt

PACKAGE = Path(rtfm_rt._core.__file__).parent
LIBRARY = PACKAGE / "librtfm_cuda.so"
TESTS = Path(__file__).parent
ROOT = TESTS.parent
OP = r"cudaError_t (\w+)\(const (\w+)& a, cudaStream_t stream\);"

DRIVER = """extern "C" int cuDriverGetVersion(int* v) {{ *v = {version}; return 0; }}
extern "C" int cuInit(unsigned) {{ return {status}; }}"""

# A double of cuda-pathfinder, so that no test depends on what is installed.
PATHFINDER = """from types import SimpleNamespace
class DynamicLibNotFoundError(RuntimeError): pass
asked, path, problem = [], None, DynamicLibNotFoundError
def load_nvidia_dynamic_lib(name):
    asked.append(name)
    if path is None: raise problem(name)
    return SimpleNamespace(abs_path=path)
"""


def build(source: str, path: Path) -> None:
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if not compiler:
        pytest.skip("no C++ compiler")
    command = [*compiler.split(), "-shared", "-fPIC", "-x", "c++", "-", "-o", str(path)]
    subprocess.run(command, input=source, text=True, check=True, timeout=60)


def compile_files(sources: list[Path], path: Path, *flags: str) -> None:
    """A shared library that knows the CUDA headers and those of the project."""
    compiler = os.environ.get("CXX", "g++").split()
    options = ["-std=c++20", "-O2", "-fPIC", "-shared", "-Wall", "-Wextra"]
    headers = [f"-I{ROOT}", f"-isystem{cuda_headers()}"]
    command = [*compiler, *options, *headers, *sources, *flags, "-o", path]
    subprocess.run(command, check=True, timeout=300)


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


def link_package(folder: Path) -> Path:
    """The package in `folder`, but for its CUDA library."""
    package = folder / "rtfm_rt"
    package.mkdir()
    for path in PACKAGE.iterdir():
        if path.name != LIBRARY.name:
            (package / path.name).symlink_to(path)
    return package


def environment(folder: Path) -> dict[str, str]:
    """That of a process which finds the package and the driver in `folder`."""
    path = os.pathsep.join((str(folder), str(TESTS)))
    return {**os.environ, "PYTHONPATH": path, "LD_LIBRARY_PATH": str(folder)}


def run(folder: Path, script: str, *arguments: str | Path) -> None:
    """Runs tests/`script` there."""
    command = [sys.executable, TESTS / script, *arguments]
    done = subprocess.run(
        command, env=environment(folder), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def cuda_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package over csrc/cuda as it is, but for its kernels, and with a driver."""
    folder = tmp_path_factory.mktemp("cuda")
    package = link_package(folder)
    build(DRIVER.format(version=13000, status=0), folder / "libcuda.so.1")
    (folder / "cuda").mkdir()
    (folder / "cuda" / "pathfinder.py").write_text(PATHFINDER)
    ops = re.findall(OP, (ROOT / "csrc/cuda/ops.h").read_text())
    (folder / "ops.inc").write_text("".join(f"OP({name}, {args})\n" for name, args in ops))
    sources = [
        ROOT / "csrc/cuda/context.cc",
        ROOT / "csrc/cuda/cublas.cc",
        TESTS / "cudart_emulator.cc",
        TESTS / "block_emulator.cc",
        *TESTS.glob("cuda_emulator_*.cc"),
    ]
    compile_files(sources, package / LIBRARY.name, f"-I{folder}", "-Wl,-Bsymbolic")
    return folder
