# SPDX-License-Identifier: Apache-2.0
"""Where NVIDIA's cuBLASLt is, for matrix products on a GPU. The extra `cuda` brings it."""

from __future__ import annotations

from rtfm_rt import _core


def find(device: object) -> str:
    """The path of libcublasLt.so that cuda-pathfinder finds for a device; "" for none or no GPU.

    device: as for `Session`. What PyTorch has loaded comes first, then NVIDIA's wheels, conda, the
    system. Any version: one that does not fit is refused when the device is opened.
    """
    if not isinstance(device, str) or device.startswith("cpu") or not _core.cuda_devices():
        return ""  # what is no name is refused where the device is opened
    try:
        from cuda.pathfinder import DynamicLibNotFoundError, load_nvidia_dynamic_lib
    except ImportError:
        return ""
    try:
        return load_nvidia_dynamic_lib("cublasLt").abs_path or ""
    except DynamicLibNotFoundError:
        return ""
    except RuntimeError:  # one that does not load: opening it says so
        return "libcublasLt.so.13"
