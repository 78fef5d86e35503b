# SPDX-License-Identifier: Apache-2.0
"""The family `dual_stream` (Efficient-LVSM) as a plain PyTorch module.

A deterministic renderer: no noise, no time, no action. The reader encodes each frame alone and
fills its page; the writer starts from the rays of the new view and attends to itself, then to the
pages. Pages depend neither on the new view nor on each other nor on their order, so a cached page
is exact.

Written for reading, not for speed. One frame at a time, no batch axis. In the shape comments N is
the number of tokens, D the width, H the heads, d the head dim, C = 3·p·p the size of a token.

**Gauge.** The network sees rays in whatever frame its cameras are given. The runtime's frame is the
camera of the first observed frame, fixed for the rest of the walk, with positions in metres times
`camera.world_scale` (see `in_gauge`). The authors' data code has all views of a scene before it
starts: its frame is the mean camera (mean centre, mean forward and down), and its unit is 1.35
times the largest coordinate of any camera centre there, so that all of them lie within ±0.74. A
walk that stays within r metres of its first frame has that range with a `world_scale` of
1 / (1.35·r).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rtfm_rt.reference import files
from rtfm_rt.reference.frame_dit import Page, View, attend


class Config(NamedTuple):
    """Dimensions of a model. `height` and `image_width` in pixels, multiples of `patch`."""

    height: int
    image_width: int
    patch: int
    width: int
    layers: int
    heads: int
    head_dim: int
    mlp: int
    norm_eps: float = 1e-5  # of LayerNorm
    qk_norm_eps: float = 1e-5  # of the RMSNorm of each head's q and k

    @staticmethod
    def from_manifest(manifest: dict[str, Any]) -> Config:
        """The dimensions that a model file's manifest states."""
        image = manifest["image"]
        keys = ("patch", "width", "layers", "heads", "head_dim", "mlp", "norm_eps", "qk_norm_eps")
        return Config(image["height"], image["width"], *(manifest[key] for key in keys))


def in_gauge(view: View, first: View, world_scale: float) -> View:
    """`view` in the model's frame: the camera of `first`, positions times `world_scale`."""
    pose = torch.linalg.inv(first.pose) @ view.pose
    pose[:3, 3] *= world_scale
    return view._replace(pose=pose)


def rays(view: View, height: int, width: int) -> Tensor:
    """[o x d, d] through every pixel's centre: float64 (height, width, 6).

    o is the camera's centre and d the unit direction, both in the frame of `view.pose`; the
    principal point is the centre of the image.
    """
    pose = torch.as_tensor(view.pose, dtype=torch.float64)
    y = ((torch.arange(height, dtype=torch.float64) + 0.5) / height - 0.5) / view.fy
    x = ((torch.arange(width, dtype=torch.float64) + 0.5) / width - 0.5) / view.fx
    d = torch.stack([*torch.meshgrid(x, y, indexing="xy"), torch.ones(height, width)], -1)
    d = F.normalize(d @ pose[:3, :3].T, dim=-1)
    return torch.cat([torch.linalg.cross(pose[:3, 3].expand_as(d), d), d], -1)


def patches(x: Tensor, p: int) -> Tensor:
    """(height, width, c) -> (N, p·p·c): patches row by row, elements in order (row, column, c)."""
    x = x.unflatten(1, (-1, p)).unflatten(0, (-1, p))
    return x.transpose(1, 2).flatten(0, 1).flatten(1)


def layer_norm(x: Tensor, eps: float) -> Tensor:
    """(x - mean) / sqrt(variance + eps) over the last axis, without weight."""
    return F.layer_norm(x, x.shape[-1:], eps=eps)


class Mlp(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.eps = config.norm_eps
        self.up = nn.Linear(config.width, config.mlp, bias=False)
        self.down = nn.Linear(config.mlp, config.width, bias=False)

    def feed(self, h: Tensor) -> Tensor:
        """The residual of the MLP, GELU exact: h [N, D]."""
        return h + self.down(F.gelu(self.up(layer_norm(h, self.eps))))


class SelfBlock(Mlp):
    """Attention inside one frame. The two streams share its form, not its weights."""

    def __init__(self, config: Config):
        super().__init__(config)
        width, self.qk_eps = config.width, config.qk_norm_eps
        self.heads = config.heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_gain = nn.Parameter(torch.ones(config.head_dim))
        self.k_gain = nn.Parameter(torch.ones(config.head_dim))
        self.out = nn.Linear(width, width, bias=False)

    def split(self, x: Tensor, parts: int) -> Tensor:
        """[N, parts·D] -> [parts, H, N, d]."""
        return x.unflatten(-1, (parts, self.heads, -1)).permute(1, 2, 0, 3)

    def rms(self, x: Tensor, gain: Tensor) -> Tensor:
        """x / sqrt(mean(x²) + eps) · gain over the head dim of x [H, N, d]."""
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.qk_eps) * gain

    def look_inside(self, h: Tensor) -> Tensor:
        """The residual of the self-attention: h [N, D]."""
        q, k, v = self.split(self.qkv(layer_norm(h, self.eps)), 3)
        o = attend(self.rms(q, self.q_gain), self.rms(k, self.k_gain), v)
        return h + self.out(o.transpose(0, 1).flatten(1))


class ReaderBlock(SelfBlock):
    def __init__(self, config: Config):
        super().__init__(config)
        self.page_kv = nn.Linear(config.width, 2 * config.width, bias=False)
        self.page_k_gain = nn.Parameter(torch.ones(config.head_dim))

    def page(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """k after its norm and v [H, N, d] of this layer's output h [N, D]."""
        k, v = self.split(self.page_kv(layer_norm(h, self.eps)), 2)
        return self.rms(k, self.page_k_gain), v


class WriterBlock(SelfBlock):
    def __init__(self, config: Config):
        super().__init__(config)
        self.cross_q = nn.Linear(config.width, config.width, bias=False)
        self.cross_q_gain = nn.Parameter(torch.ones(config.head_dim))
        self.cross_out = nn.Linear(config.width, config.width, bias=False)

    def look_around(self, h: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The residual of the attention to the pages: h [N, D]; k, v [H, pages·N, d]."""
        (q,) = self.split(self.cross_q(layer_norm(h, self.eps)), 1)
        o = attend(self.rms(q, self.cross_q_gain), k, v)
        return h + self.cross_out(o.transpose(0, 1).flatten(1))


class Stream(nn.Module):
    def __init__(self, features: int, width: int, blocks: Sequence[SelfBlock]):
        super().__init__()
        self.add_module("in", nn.Linear(features, width, bias=False))  # a keyword: see embed()
        self.blocks: Any = nn.ModuleList(blocks)

    def embed(self, x: Tensor) -> Tensor:
        """(N, features) -> (N, D)."""
        return getattr(self, "in")(x)


class DualStream(nn.Module):
    """The network. Its `state_dict` has exactly the tensor names of a model file."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        area, width, layers = config.patch**2, config.width, range(config.layers)
        self.reader = Stream(9 * area, width, [ReaderBlock(config) for _ in layers])
        self.writer = Stream(6 * area, width, [WriterBlock(config) for _ in layers])
        self.out = nn.Linear(width, 3 * area, bias=False)

    @property
    def dtype(self) -> torch.dtype:
        return self.out.weight.dtype

    def tokens(self, image: Tensor) -> Tensor:
        """uint8 (height, width, 3) -> (N, C) in [-1, 1], order (row, column, channel)."""
        return patches(image.to(self.dtype) / 127.5 - 1, self.config.patch)

    def image(self, tokens: Tensor) -> Tensor:
        """(N, C) -> uint8 (height, width, 3): round((clamp(x, -1, 1) + 1) · 127.5)."""
        p, columns = self.config.patch, self.config.image_width // self.config.patch
        x = ((tokens.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        x = x.unflatten(-1, (p, p, 3)).unflatten(0, (-1, columns))
        return x.transpose(1, 2).flatten(2, 3).flatten(0, 1)

    def rays(self, view: View) -> Tensor:
        """(N, 6·p·p): per pixel [o x d, d], as `rays`."""
        pixels = rays(view, self.config.height, self.config.image_width)
        return patches(pixels, self.config.patch).to(self.dtype)

    def read(self, tokens: Tensor, view: View) -> Page:
        """The page of a frame (N, C) seen from `view` (in the gauge), encoded alone.

        Per layer k and v [H, N, d] of the cross-attention, k after its norm.
        """
        area = self.config.patch**2
        pixels = [x.unflatten(-1, (area, -1)) for x in (tokens, self.rays(view))]
        h = self.reader.embed(torch.cat(pixels, -1).flatten(1))  # per pixel [rgb, o x d, d]
        page = []
        for block in self.reader.blocks:
            h = block.feed(block.look_inside(h))
            page.append(block.page(h))
        return page

    def write(self, pages: Sequence[Page], view: View) -> Tensor:
        """Tokens (N, C) in (-1, 1) of the frame seen from `view` (in the gauge).

        Without pages the attention to them adds nothing.
        """
        h = self.writer.embed(self.rays(view))
        none = h.new_zeros(self.config.heads, 0, self.config.head_dim)
        for index, block in enumerate(self.writer.blocks):
            k = torch.cat([none, *(page[index][0] for page in pages)], 1)
            v = torch.cat([none, *(page[index][1] for page in pages)], 1)
            h = block.feed(block.look_around(block.look_inside(h), k, v))
        return 2 * torch.sigmoid(self.out(layer_norm(h, self.config.norm_eps))) - 1


def load(path: str, dtype: torch.dtype = torch.float32) -> tuple[DualStream, dict[str, Any]]:
    """The module and the manifest of a model file. For checked reading use `rtfm_rt.read_info`."""
    manifest, state = files.read(path, dtype)
    model = DualStream(Config.from_manifest(manifest)).to(dtype).requires_grad_(False)
    model.load_state_dict(state)
    return model, manifest
