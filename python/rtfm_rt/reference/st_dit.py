# SPDX-License-Identifier: Apache-2.0
"""The family `st_dit` (Oasis) as a plain PyTorch module: what the runtime must compute.

A transformer over the latents of a video, steered by an action per frame. Each block attends in
space, within a frame, and then in time, each token to the same token of the frames before. One
frame at a time, no batch axis. In the shape comments N is the number of tokens, D the width, H the
heads, d the head dim, C = patch·patch·channels the size of a token, A the number of actions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rtfm_rt.reference import files
from rtfm_rt.reference.frame_dit import TIME_FEATURES, attend
from rtfm_rt.reference.vit_codec import (
    CodecConfig,
    Tables,
    VitCodec,
    from_patches,
    norm,
    rope,
    to_bytes,
    to_patches,
)

Page = list[tuple[Tensor, Tensor]]  # per layer k (before RoPE) and v [N, D] of the temporal half


class Config(NamedTuple):
    """Dimensions of a model. The latent's `height` and `latent_width` are multiples of `patch`."""

    height: int
    latent_width: int
    channels: int
    patch: int
    width: int
    layers: int
    heads: int
    mlp: int
    actions: int
    window: int  # frames that see each other, the new one included
    slide: str  # "keep" or "recompute": see Walk
    commit_time: float
    eps: float

    @staticmethod
    def from_manifest(manifest: dict[str, Any]) -> Config:
        """The dimensions that a model file's manifest states."""
        latent = manifest["latent"]
        names = ("width", "layers", "heads", "mlp", "window", "slide", "commit_time", "eps")
        return Config(
            height=latent["height"],
            latent_width=latent["width"],
            channels=latent["channels"],
            patch=latent["patch"],
            actions=len(manifest["actions"]),
            **{name: manifest[name] for name in names},
        )


class Half(nn.Module):
    """The spatial or the temporal half of a block: attention and an MLP."""

    def __init__(self, config: Config):
        super().__init__()
        width, self.eps = config.width, config.eps
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.up = nn.Linear(width, config.mlp)
        self.down = nn.Linear(config.mlp, width)

    def split(self, h: Tensor, m: Tensor) -> tuple[Tensor, ...]:
        """q, k, v (N, D) of h (N, D) under the modulation m (6, D)."""
        return self.qkv(norm(h, self.eps) * (1 + m[1]) + m[0]).chunk(3, -1)

    def finish(self, h: Tensor, o: Tensor, m: Tensor) -> Tensor:
        """The residuals after attention: h and o (N, D), m (6, D)."""
        h = h + m[2] * self.out(o)
        a = norm(h, self.eps) * (1 + m[4]) + m[3]
        return h + m[5] * self.down(F.gelu(self.up(a), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.modulation = nn.Linear(config.width, 12 * config.width)  # six rows for each half
        self.spatial = Half(config)
        self.temporal = Half(config)


class Final(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.modulation = nn.Linear(width, 2 * width)  # shift, scale


class StDit(nn.Module):
    """The network and its codec. Its `state_dict` has exactly the tensor names of a model file."""

    def __init__(self, config: Config, codec: CodecConfig):
        super().__init__()
        self.config = config
        width, pairs = config.width, config.width // config.heads // 2
        token = config.channels * config.patch**2
        tokens = config.height * config.latent_width // config.patch**2
        self.add_module("in", nn.Linear(token, width))  # `in` is a keyword
        self.time = nn.Sequential(
            nn.Linear(TIME_FEATURES, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.action = nn.Linear(config.actions, width, bias=False)
        self.blocks: Any = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.final = Final(width)
        self.out = nn.Linear(width, token)
        # Of space: angles of every token. Of time: radians per frame.
        self.rope = Tables(cos=(tokens, pairs), sin=(tokens, pairs), time=(pairs,))
        self.codec = VitCodec(codec)

    def encode(self, image: Tensor) -> Tensor:
        """Latent tokens (N, C) of an image uint8 (height, width, 3).

        Tokens go row by row over the patches of the latent, each in order (row, column, channel).
        """
        latent = self.codec.encode(image)
        grid = latent.unflatten(0, (self.config.height, self.config.latent_width))
        return to_patches(grid, self.config.patch)

    def decode(self, tokens: Tensor) -> Tensor:
        """The image uint8 (height, width, 3) of latent tokens (N, C)."""
        grid = from_patches(tokens, self.config.latent_width, self.config.patch)
        return to_bytes(self.codec.decode(grid.flatten(0, 1)))

    def condition(self, t: float, action: Tensor) -> Tensor:
        """SiLU of what every modulation is made from: (D,) of time t, 0 to 1000, and action (A,).

        Features are taken in float32 at least.
        """
        dtype = torch.promote_types(self.out.weight.dtype, torch.float32)
        half = TIME_FEATURES // 2
        f = torch.exp(-math.log(1e4) * torch.arange(half, dtype=dtype) / half)
        features = torch.cat([(t * f).cos(), (t * f).sin()]).to(self.out.weight.dtype)
        return F.silu(self.time(features) + self.action(action))

    def space(self, half: Half, h: Tensor, m: Tensor) -> Tensor:
        """All tokens of the frame attend to each other: h (N, D), m (6, D)."""
        q, k, v = (
            x.unflatten(-1, (self.config.heads, -1)).transpose(0, 1) for x in half.split(h, m)
        )
        cos, sin = self.rope.cos, self.rope.sin
        o = attend(rope(q, cos, sin), rope(k, cos, sin), v)  # (H, N, d)
        return half.finish(h, o.transpose(0, 1).flatten(1), m)

    def over_time(
        self, half: Half, h: Tensor, m: Tensor, past: Sequence[tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Each token attends to itself now and in `past`, oldest first; also k and v (N, D).

        The angles count frames from the oldest one, and only their differences matter.
        """
        q, k, v = half.split(h, m)
        keys = torch.stack([page[0] for page in past] + [k], 1)  # (N, frames, D)
        values = torch.stack([page[1] for page in past] + [v], 1)
        angles = torch.arange(len(past) + 1, dtype=h.dtype)[:, None] * self.rope.time
        cos, sin = angles.cos(), angles.sin()
        heads = (self.config.heads, -1)
        o = attend(  # (N, H, 1, d)
            rope(q[:, None].unflatten(-1, heads).transpose(1, 2), cos[-1], sin[-1]),
            rope(keys.unflatten(-1, heads).transpose(1, 2), cos, sin),
            values.unflatten(-1, heads).transpose(1, 2),
        )
        return half.finish(h, o.flatten(1), m), (k, v)

    def _run(
        self, x: Tensor, t: float, action: Tensor, past: Sequence[Page]
    ) -> tuple[Tensor, Page]:
        """v tokens (N, C) and the page of the tokens x (N, C)."""
        h, c = getattr(self, "in")(x), self.condition(t, action)
        page = []
        for index, block in enumerate(self.blocks):
            m = block.modulation(c).unflatten(-1, (12, -1))
            h = self.space(block.spatial, h, m[:6])
            seen = [other[index] for other in past]
            h, entry = self.over_time(block.temporal, h, m[6:], seen)
            page.append(entry)
        shift, scale = self.final.modulation(c).unflatten(-1, (2, -1))
        return self.out(norm(h, self.config.eps) * (1 + scale) + shift), page

    def read(self, latent: Tensor, action: Tensor, past: Sequence[Page]) -> Page:
        """The page of a clean frame (N, C), made by the action (A,) after the frames of `past`."""
        return self._run(latent, self.config.commit_time, action, past)[1]

    def write(self, x: Tensor, t: float, action: Tensor, past: Sequence[Page]) -> Tensor:
        """v tokens (N, C) of the noisy tokens x (N, C) at time t; `past` at most window - 1."""
        return self._run(x, t, action, past)[0]

    def sample(
        self,
        noise: Tensor,
        table: Sequence[Sequence[float]],
        action: Tensor,
        past: Sequence[Page],
    ) -> Tensor:
        """Latent tokens (N, C) after the sampler rows [t, a, b, c]: x <- a·x + b·v(x, t).

        The family's tables are deterministic: every c is 0. The authors clamp the first noise to
        ±20; a Box-Muller normal of uniform numbers with 24 bits stays below 6, so we need not.
        """
        x = noise
        for t, a, b, _ in table:
            x = a * x + b * self.write(x, t, action, past)
        return x


class Walk:
    """The past of one walk: `pages`, oldest first, never more than window - 1.

    When the window slides, `keep` leaves the other pages as they are, though in layers above the
    first they still know of frames that have left; `recompute` makes all of them again from what
    the window holds, as the authors do, which costs a read pass for each.
    """

    def __init__(self, model: StDit):
        self.model = model
        self.frames: list[tuple[Tensor, Tensor]] = []
        self.pages: list[Page] = []

    def commit(self, latent: Tensor, action: Tensor) -> None:
        """The frame (N, C), and the action (A,) that led to it, enter the past."""
        count = self.model.config.window - 1
        full = len(self.frames) == count
        self.frames = [*self.frames, (latent, action)][-count:]
        if full and self.model.config.slide == "recompute":
            self.pages = []
            for frame in self.frames:
                self.pages.append(self.model.read(*frame, self.pages))
        else:
            page = self.model.read(latent, action, self.pages)
            self.pages = [*self.pages, page][-count:]

    def step(self, noise: Tensor, table: Sequence[Sequence[float]], action: Tensor) -> Tensor:
        """The next frame (N, C), committed."""
        latent = self.model.sample(noise, table, action, self.pages)
        self.commit(latent, action)
        return latent


def load(path: str, dtype: torch.dtype = torch.float32) -> tuple[StDit, dict[str, Any]]:
    """The module and the manifest of a model file."""
    manifest, state = files.read(path, dtype)
    model = StDit(Config.from_manifest(manifest), CodecConfig.from_manifest(manifest))
    model.to(dtype).requires_grad_(False).load_state_dict(state)
    return model, manifest
