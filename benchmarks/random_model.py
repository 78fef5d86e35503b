# SPDX-License-Identifier: Apache-2.0
"""Model files of any size, for benchmarks of speed."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors.torch
import torch

from rtfm_rt.convert import make_manifest
from rtfm_rt.reference import Config, FrameDiT


def write_random_model(path: Path, config: Config) -> None:
    """A model file of that shape with random matrices."""
    torch.manual_seed(0)
    state = {
        name: torch.randn(t.shape) / max(1, t.shape[-1]) ** 0.5 if t.ndim == 2 else t
        for name, t in FrameDiT(config).state_dict().items()
    }
    source = {"file": "random", "sha256": "0" * 64}
    manifest = make_manifest(config, name="random", licence="Apache-2.0", source=source)
    path.write_bytes(safetensors.torch.save(state, {"rtfm": json.dumps(manifest)}))
