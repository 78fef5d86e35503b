# SPDX-License-Identifier: Apache-2.0
"""Prints the nvcc of NVIDIA's wheels in this environment, once CMake can use it.

    pip install 'cuda-toolkit[nvcc,cudart,crt,nvvm,cccl]==13.0.2'
    CUDACXX=$(python tools/nvcc_from_pypi.py) pip install .

The wheels lack two links that a toolkit has; they are made beside what pip installed.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

LINKS = {"lib64": "lib", "lib/libcudart.so": "libcudart.so.13"}


def toolkit() -> Path | None:
    """The folder nvidia/cu13 that holds bin/nvcc."""
    package = importlib.util.find_spec("nvidia")
    for folder in (package.submodule_search_locations or []) if package else []:
        if (Path(folder) / "cu13" / "bin" / "nvcc").exists():
            return Path(folder) / "cu13"
    return None


def main() -> None:
    folder = toolkit()
    if folder is None:
        wheels = "cuda-toolkit[nvcc,cudart,crt,nvvm,cccl]==13.0.2"
        sys.exit(f"no nvcc in {sys.prefix}: pip install '{wheels}'")
    for link, target in LINKS.items():
        if not (folder / link).exists():
            (folder / link).symlink_to(target)
    print(folder / "bin" / "nvcc")


if __name__ == "__main__":
    main()
