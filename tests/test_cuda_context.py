# SPDX-License-Identifier: Apache-2.0
"""The shipped module over librtfm_cuda.so as it is built, but for its kernels and CUDA's runtime.

csrc/cuda/context.cc is compiled against cudart_emulator.cc and put where the loader finds it,
beside a driver that answers. What cuda_context.py then does is what an application does.
"""

from __future__ import annotations

import pytest

from cuda_package import run
from models import write_model
from rtfm_rt.reference import Config


@pytest.mark.parametrize("name", ["walks", "order", "streams", "lost", "nothing_left"])
def test_an_application(cuda_package, model, name):
    run(cuda_package, "cuda_context.py", name, model[0])


def test_a_large_model(cuda_package, tmp_path):
    path = tmp_path / "wide.safetensors"
    write_model(path, Config(16, 16, patch=8, width=64, layers=1, heads=2, mlp=40_000))
    run(cuda_package, "cuda_context.py", "large", path)
