# SPDX-License-Identifier: Apache-2.0
"""Model files, as the references read them. For checked reading use `rtfm_rt.read_info`."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor


def read(path: str, dtype: torch.dtype) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The manifest of a model file, and its tensors as `dtype`."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        manifest = json.loads(file.metadata()["rtfm"])
        state = {name: file.get_tensor(name).to(dtype) for name in file.keys()}  # noqa: SIM118
    return manifest, state
