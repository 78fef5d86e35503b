# SPDX-License-Identifier: Apache-2.0
"""Model files with every tensor random, and the reference module that has the same weights."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from rtfm_rt.convert import make_manifest
from rtfm_rt.reference import Config, FrameDiT, View, load

TINY = Config(height=16, image_width=24, patch=8, width=32, layers=2, heads=2, mlp=64)


def write_model(
    path: Path, config: Config = TINY, seed: int = 0, dtype: str = "float32", **changes: Any
) -> FrameDiT:
    """Writes a model file and returns its reference in float64.

    Default initialisation zeroes gates and would let anything pass, so nothing keeps it: matrices
    keep the scale of their input, modulation and gains are far from 0 and 1.
    """
    generator = torch.Generator().manual_seed(seed)
    model = FrameDiT(config)
    state = {}
    for name, tensor in model.state_dict().items():
        values = torch.randn(tensor.shape, generator=generator)
        if name.endswith("_gain"):
            values = 1 + 0.3 * values
        elif name.endswith("modulation"):
            values = 0.5 * values
        elif tensor.ndim == 2:
            values = values / math.sqrt(tensor.shape[1])
        else:
            values = 0.3 * values
        stored = dtype if tensor.ndim == 2 and not name.startswith("time.") else "float32"
        state[name] = values.to(getattr(torch, stored))
    source = {"file": "random", "sha256": "0" * 64}
    manifest = make_manifest(
        config, name="random", licence="Apache-2.0", source=source, fx=0.65, fy=0.8
    )
    text = json.dumps({**manifest, **changes})
    path.write_bytes(safetensors.torch.save(state, {"rtfm": text}))
    return load(str(path), torch.float64)[0]


def random_pose(rng: np.random.Generator, centre: float = 0.0, spread: float = 2.0) -> np.ndarray:
    """Camera-to-world (4, 4): any direction, within `spread` metres of (centre, centre, centre)."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    q[:, 0] *= np.linalg.det(q)
    pose = np.eye(4)
    pose[:3, :3] = q
    pose[:3, 3] = centre + rng.uniform(-spread, spread, 3)
    return pose


def view(pose: np.ndarray, fx: float = 0.65, fy: float = 0.8) -> View:
    return View(torch.from_numpy(np.asarray(pose)), fx, fy)


def pages_of(page: list[tuple[torch.Tensor, torch.Tensor]]) -> np.ndarray:
    """A reference page as the runtime lays it out: (layers, 2, heads, tokens, dim) float32."""
    return np.stack([np.stack([k.numpy(), v.numpy()]) for k, v in page]).astype(np.float32)


def camera_transform(query: View, page: View, world_scale: float = 1.0) -> np.ndarray:
    """M = P_query · P_page⁻¹ in float64, the positions' difference taken first."""
    rq, rk = query.pose[:3, :3].numpy(), page.pose[:3, :3].numpy()
    m = np.eye(4)
    m[:3, :3] = rq.T @ rk
    m[:3, 3] = rq.T @ (page.pose[:3, 3] - query.pose[:3, 3]).numpy() * world_scale
    return np.diag([query.fx, query.fy, 1, 1]) @ m @ np.diag([1 / page.fx, 1 / page.fy, 1, 1])


def relative_error(got: np.ndarray, want: np.ndarray) -> float:
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def turn(degrees: float, z: float = 0.0) -> np.ndarray:
    """A camera at (0, 0, z), turned about the vertical axis."""
    a = np.deg2rad(degrees)
    pose = np.eye(4)
    pose[0, 0] = pose[2, 2] = np.cos(a)
    pose[0, 2], pose[2, 0] = np.sin(a), -np.sin(a)
    pose[2, 3] = z
    return pose
