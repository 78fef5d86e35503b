# SPDX-License-Identifier: Apache-2.0
"""The native family `frame_dit` as a plain PyTorch module: what the runtime must compute.

Written for reading, not for speed. One frame at a time, no batch axis. In the shape comments N is
the number of tokens, D the width, H the heads, d the head dim, C = 3·p·p the size of a token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rtfm_rt.reference import files

Page = list[tuple[Tensor, Tensor]]  # per layer k and v [H, N, d], camera-local

TIME_FEATURES = 256
EPS = 1e-6


class View(NamedTuple):
    """A camera: `pose` float64 (4, 4) camera-to-world in metres; focal lengths in units of image
    width and height."""

    pose: Tensor
    fx: float
    fy: float


class Config(NamedTuple):
    """Dimensions of a model. `height` and `image_width` in pixels, multiples of `patch`."""

    height: int
    image_width: int
    patch: int
    width: int
    layers: int
    heads: int
    mlp: int
    world_scale: float = 1.0

    @staticmethod
    def from_manifest(manifest: dict[str, Any]) -> Config:
        """The dimensions that a model file's manifest states."""
        return Config(
            height=manifest["image"]["height"],
            image_width=manifest["image"]["width"],
            patch=manifest["codec"]["patch"],
            width=manifest["width"],
            layers=manifest["layers"],
            heads=manifest["heads"],
            mlp=manifest["mlp"],
            world_scale=manifest["camera"]["world_scale"],
        )


def rms(x: Tensor) -> Tensor:
    """x / sqrt(mean(x²) + eps) over the last axis, without weight."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS)


def projection(view: View, world_scale: float) -> Tensor:
    """P = diag(fx, fy, 1, 1) · [R | t·scale; 0 1], world-to-camera, float64 (4, 4)."""
    pose = torch.as_tensor(view.pose, dtype=torch.float64)
    rotation, position = pose[:3, :3], pose[:3, 3]
    p = torch.eye(4, dtype=torch.float64)
    p[:3, :3] = rotation.T
    p[:3, 3] = -rotation.T @ position * world_scale
    return torch.diag(torch.tensor([view.fx, view.fy, 1.0, 1.0], dtype=torch.float64)) @ p


def lift(matrix: Tensor, x: Tensor) -> Tensor:
    """Applies a 4x4 matrix to each group of 4 consecutive dims of the lower half of x [..., d]."""
    half = x.shape[-1] // 2
    groups = x[..., :half].unflatten(-1, (half // 4, 4))
    moved = (groups @ matrix.to(x.dtype).T).flatten(-2)
    return torch.cat([moved, x[..., half:]], -1)


def rope_angles(rows: int, cols: int, head_dim: int) -> Tensor:
    """[x·f_j, y·f_j] of every patch, row by row: float64 (rows·cols, d/4)."""
    count = head_dim // 8
    f = 100.0 ** (-torch.arange(count, dtype=torch.float64) / count)
    y = torch.arange(rows, dtype=torch.float64).repeat_interleave(cols)
    x = torch.arange(cols, dtype=torch.float64).repeat(rows)
    return torch.cat([x[:, None] * f, y[:, None] * f], -1)


def rope(x: Tensor, angles: Tensor) -> Tensor:
    """Turns the upper half of x [H, N, d]: dim i with dim i + d/4 of that half."""
    lower, a, b = x.split([x.shape[-1] // 2, x.shape[-1] // 4, x.shape[-1] // 4], -1)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    return torch.cat([lower, a * cos - b * sin, a * sin + b * cos], -1)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q·kᵀ/√d)·v, head by head: q [H, N, d], k and v [H, keys, d]."""
    weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), -1)
    return weights @ v


class Block(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        width, self.heads = config.width, config.heads
        self.modulation = nn.Parameter(torch.zeros(6, width))
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_gain = nn.Parameter(torch.ones(width // config.heads))
        self.k_gain = nn.Parameter(torch.ones(width // config.heads))
        self.out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, config.mlp)
        self.down = nn.Linear(config.mlp, width)

    def split(self, a: Tensor, angles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v [H, N, d] of the modulated a [N, D], after QK-norm and RoPE: camera-local."""
        q, k, v = self.qkv(a).unflatten(-1, (3, self.heads, -1)).permute(1, 2, 0, 3)
        return rope(rms(q) * self.q_gain, angles), rope(rms(k) * self.k_gain, angles), v

    def finish(self, h: Tensor, o: Tensor, m: Tensor) -> Tensor:
        """The residuals after attention: h [N, D], o [H, N, d], m [6, D]."""
        _, _, gate1, shift2, scale2, gate2 = m
        h = h + gate1 * self.out(o.transpose(0, 1).flatten(1))
        a = rms(h) * (1 + scale2) + shift2
        return h + gate2 * self.down(F.gelu(self.up(a), approximate="tanh"))


class Final(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.modulation = nn.Parameter(torch.zeros(2, width))  # shift, scale

    def forward(self, h: Tensor) -> Tensor:
        shift, scale = self.modulation
        return rms(h) * (1 + scale) + shift


class FrameDiT(nn.Module):
    """The network. Its `state_dict` has exactly the tensor names of a model file."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        width, token = config.width, 3 * config.patch**2
        self.add_module("in", nn.Linear(token, width))  # `in` is a keyword: see embed()
        self.time = nn.Sequential(
            nn.Linear(TIME_FEATURES, width), nn.SiLU(), nn.Linear(width, 6 * width)
        )
        self.blocks: Any = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.final = Final(width)
        self.out = nn.Linear(width, token)
        self.rows = config.height // config.patch
        self.cols = config.image_width // config.patch
        self.angles = rope_angles(self.rows, self.cols, width // config.heads)

    @property
    def dtype(self) -> torch.dtype:
        return self.out.weight.dtype

    def tokens(self, image: Tensor) -> Tensor:
        """uint8 (..., height, width, 3) -> (..., N, C) in [-1, 1], order (row, column, channel)."""
        p = self.config.patch
        x = image.to(self.dtype) / 127.5 - 1
        x = x.unflatten(-3, (self.rows, p)).unflatten(-2, (self.cols, p))
        return x.transpose(-4, -3).flatten(-5, -4).flatten(-3)

    def image(self, tokens: Tensor) -> Tensor:
        """(..., N, C) -> uint8 (..., height, width, 3): round((clamp(x, -1, 1) + 1) · 127.5)."""
        p = self.config.patch
        x = ((tokens.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        x = x.unflatten(-1, (p, p, 3)).unflatten(-4, (self.rows, self.cols))
        return x.transpose(-4, -3).flatten(-5, -4).flatten(-3, -2)

    def embed(self, x: Tensor) -> Tensor:
        """W_in·x + b_in: (N, C) -> (N, D)."""
        return getattr(self, "in")(x)

    def modulation(self, t: float) -> Tensor:
        """(6, D) of time t in [0, 1]; 0 is clean. Features are taken in float32 at least."""
        dtype = torch.promote_types(self.dtype, torch.float32)
        half = TIME_FEATURES // 2
        f = torch.exp(-math.log(1e4) * torch.arange(half, dtype=dtype) / half)
        angles = 1000 * torch.tensor(t, dtype=dtype) * f
        features = torch.cat([angles.cos(), angles.sin()]).to(self.dtype)
        return self.time(features).unflatten(-1, (6, -1))

    def read(self, tokens: Tensor) -> Page:
        """The page of a clean frame (N, C), encoded alone: per layer k and v [H, N, d]."""
        h, m = self.embed(tokens), self.modulation(0.0)
        page = []
        for block in self.blocks:
            table = m + block.modulation
            a = rms(h) * (1 + table[1]) + table[0]
            q, k, v = block.split(a, self.angles)
            page.append((k, v))
            # One camera for all: Pᵀ q · P⁻¹ k = q · k and P · P⁻¹ v = v, so no transform.
            h = block.finish(h, attend(q, k, v), table)
        return page

    def write(
        self, x: Tensor, t: float, pages: Sequence[Page], page_views: Sequence[View], view: View
    ) -> Tensor:
        """x0 tokens (N, C) of the noisy tokens x (N, C) at time t, as seen from `view`.

        Pages come with the view that each frame has now.
        """
        query = projection(view, self.config.world_scale)
        cameras = [projection(v, self.config.world_scale) for v in page_views] + [query]
        inverses = [torch.linalg.inv(p) for p in cameras]
        h, m = self.embed(x), self.modulation(t)
        for index, block in enumerate(self.blocks):
            table = m + block.modulation
            a = rms(h) * (1 + table[1]) + table[0]
            q, k, v = block.split(a, self.angles)
            keys = [page[index][0] for page in pages] + [k]
            values = [page[index][1] for page in pages] + [v]
            o = attend(
                lift(query.T, q),
                torch.cat([lift(i, k) for i, k in zip(inverses, keys, strict=True)], 1),
                torch.cat([lift(i, v) for i, v in zip(inverses, values, strict=True)], 1),
            )
            h = block.finish(h, lift(query, o), table)
        return self.out(self.final(h))

    def sample(
        self,
        noise: Tensor,
        table: Sequence[Sequence[float]],
        pages: Sequence[Page],
        page_views: Sequence[View],
        view: View,
        draws: Sequence[Tensor] = (),
    ) -> Tensor:
        """Tokens (N, C) after the sampler rows [t, a, b, c]: x <- a·x + b·f(x, t) + c·draw.

        `draws` holds one (N, C) noise per row; a table whose c are all 0 needs none.
        """
        x = noise
        for step, (t, a, b, c) in enumerate(table):
            x = a * x + b * self.write(x, t, pages, page_views, view)
            if c:
                x = x + c * draws[step]
        return x


def load(path: str, dtype: torch.dtype = torch.float32) -> tuple[FrameDiT, dict[str, Any]]:
    """The module and the manifest of a model file. For checked reading use `rtfm_rt.read_info`."""
    manifest, state = files.read(path, dtype)
    model = FrameDiT(Config.from_manifest(manifest)).to(dtype).requires_grad_(False)
    model.load_state_dict(state)
    return model, manifest
