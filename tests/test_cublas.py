# SPDX-License-Identifier: Apache-2.0
"""cuBLASLt: csrc/cuda/cublas.cc over a library in plain loops, and its header against NVIDIA's."""

from __future__ import annotations

import ctypes
import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cuda_package import LIBRARY, ROOT, TESTS, compile_files, cuda_headers, environment, run

LT = "libcublasLt.so.13"


@pytest.fixture(scope="module")
def package(cuda_package: Path) -> Path:
    """The folder of cuda_package with emulated libraries in cublas/."""
    folder = cuda_package / "cublas"
    folder.mkdir()
    runtime = cuda_package / "rtfm_rt"
    link = f"-L{runtime}", f"-l:{LIBRARY.name}", f"-Wl,-rpath,{runtime}"
    variants = {
        LT: (),
        "mixed.so": ("-DMIXED_BIAS",),
        "old.so": ("-DVERSION=120901",),
        "incomplete.so": ("-DWITHOUT_MATMUL",),
    }
    for name, flags in variants.items():
        compile_files([TESTS / "cublaslt_emulator.cc"], folder / name, *flags, *link)
    return cuda_package


@pytest.mark.parametrize(
    ("name", "library"),
    [(name, LT) for name in ("forms", "twins", "steady", "unused", "lost", "refusals", "found")]
    + [("forms", "mixed.so")],
)
def test_an_application(package, model, name, library):
    run(package, "cublas_context.py", name, package / "cublas" / library, model[0])


def test_the_tests_of_ops(package):
    """Those of every device, where all that cuBLASLt can multiply is its."""
    tests = [TESTS / "test_ops.py", TESTS / "test_convolution.py"]
    chosen = "matmul or convolution or padding or poison or gelu"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, "-k", chosen,
               "--device", "cuda", "--cublas", package / "cublas" / "mixed.so"]  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, env=environment(package), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout and "skipped" not in done.stdout, done.stdout


def test_forms(package):
    """What cuBLASLt is asked for: by number, as csrc/cuda/cublas.h has them; 7 is for Triton."""
    runtime = ctypes.CDLL(str(package / "rtfm_rt" / LIBRARY.name))

    def form(epilogue, bias=False, gate=False, n=64, k=40, x_stride=64, y_stride=64, offset=0):
        sizes = map(ctypes.c_int64, (n, k, x_stride, y_stride, offset))
        return runtime.emulated_form(epilogue, bias, gate, *sizes)

    store, gelu, gated = 0, 1, 2
    wanted = {
        (store, False, False): 0,
        (store, True, False): 1,
        (gelu, False, False): 2,
        (gelu, True, False): 3,
        (gated, False, False): 4,
        (gated, True, False): 5,
        (gated, False, True): 6,
    }
    for case in itertools.product(range(9), (False, True), (False, True)):
        assert form(*case) == wanted.get(case, 7), case
    for odd in ({"n": 56}, {"k": 36}, {"x_stride": 60}, {"y_stride": 72}, {"offset": 8}):
        assert form(store, **odd) == 7, odd
    assert form(store, n=16, k=8, x_stride=8, y_stride=16, offset=16) == 0


def real_header() -> Path:
    """The folder of cublasLt.h, of NVIDIA's wheel or of a whole toolkit."""
    folders = [Path(path) / "nvidia" / "cu13" / "include" for path in sys.path]
    folders += [cuda_headers()]
    for folder in folders:
        if (folder / "cublasLt.h").exists():
            return folder
    pytest.skip("needs cublasLt.h, as the wheel nvidia-cublas has it")


def test_the_header_is_nvidias(tmp_path):
    """Values, sizes and signatures; and where the library lies beside it, what it accepts."""
    header, program = real_header(), tmp_path / "abi"
    compiler = os.environ.get("CXX") or shutil.which("g++") or "c++"
    flags = ["-std=c++20", "-Wall", "-Wextra", f"-I{ROOT}", f"-isystem{header}"]
    flags += [f"-isystem{cuda_headers()}", "-ldl", "-o", program]
    subprocess.run([*compiler.split(), TESTS / "cublaslt_abi.cc", *flags], check=True, timeout=120)
    library = header.parent / "lib" / LT
    if library.exists():
        subprocess.run([program, library], check=True, timeout=60)
