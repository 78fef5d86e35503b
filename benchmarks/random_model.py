# SPDX-License-Identifier: Apache-2.0
"""Model files of any size and poses to step to, for benchmarks of speed."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray

import rtfm_rt
from rtfm_rt.bench import test_picture
from rtfm_rt.convert import make_manifest
from rtfm_rt.reference import Config, FrameDiT
from rtfm_rt.session import model_path

# name: model, context pages
SHAPES = {
    "rooms (D 256, N 64, 8 blocks)": (None, 4),
    "D 256, N 256, 4 blocks": (Config(128, 128, 8, 256, 4, 4, 1024), 4),
    "D 512, N 64, 4 blocks": (Config(64, 64, 8, 512, 4, 8, 2048), 4),
    "D 512, N 256, 4 blocks": (Config(128, 128, 8, 512, 4, 8, 2048), 4),
    "D 1024, N 64, 2 blocks": (Config(64, 64, 8, 1024, 2, 16, 4096), 4),
}


def write_random_model(path: Path, config: Config) -> None:
    """A model file of that shape with random matrices, in bfloat16 as `convert` writes them."""
    torch.manual_seed(0)
    state = {
        name: (torch.randn(t.shape) / t.shape[-1] ** 0.5).bfloat16() if t.ndim == 2 else t
        for name, t in FrameDiT(config).state_dict().items()
    }
    source = {"file": "random", "sha256": "0" * 64}
    manifest = make_manifest(config, name="random", licence="Apache-2.0", source=source)
    path.write_bytes(safetensors.torch.save(state, {"rtfm": json.dumps(manifest)}))


def shapes() -> Iterator[tuple[str, str, int]]:
    """Name, path of the model file, and context pages; the file is there until the next one."""
    for name, (config, pages) in SHAPES.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.safetensors"
            if config:
                write_random_model(path, config)
            yield name, str(path) if config else model_path("rooms"), pages


def remembering(model: str, pages: int, **options: Any) -> rtfm_rt.Session:
    """A session that remembers pictures along the curve of `poses`, and nothing that it makes."""
    session = rtfm_rt.Session(model, context=pages, commit_below=0.0, **options)
    for i, pose in enumerate(poses(pages)):
        session.observe(test_picture(session.image_size, i), pose)
    return session


def poses(count: int) -> list[NDArray[np.float64]]:
    """Camera-to-world matrices along a gentle curve."""
    result = []
    for i in range(count):
        a, pose = 0.15 * i, np.eye(4)
        pose[0, 0] = pose[2, 2] = np.cos(a)
        pose[0, 2], pose[2, 0] = np.sin(a), -np.sin(a)
        pose[0, 3] = 0.1 * i
        result.append(pose)
    return result
