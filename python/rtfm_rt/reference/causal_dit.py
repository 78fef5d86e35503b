# SPDX-License-Identifier: Apache-2.0
"""The family `causal_dit` as a plain PyTorch module: what the runtime must compute.

Frame after frame, each denoised from what its action says and what the pages of frames before it
hold. Written for reading, not for speed. One frame at a time, no batch axis. In the shape comments
N is the number of tokens, D the width, H the heads, G the key-value heads, d the head dim, A the
size of an action, C = channels·p·p the size of a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rtfm_rt.reference import files
from rtfm_rt.reference.taehv import CodecConfig, Memory, Taehv, to_images

Page = list[tuple[Tensor, Tensor]]  # per layer k and v [G, N, d]


class Window(NamedTuple):
    """Which earlier frames a layer sees, in frames. Every `period`-th layer, from `offset` on, is
    global: it sees the multiples of `dilation` only, over a longer time."""

    local_frames: int
    global_frames: int
    dilation: int
    period: int
    offset: int

    def visible(self, layer: int, frame: int) -> list[int]:
        """The frames before `frame` that the layer sees, oldest first.

        They lie in a ring of frames // dilation. A frame that will take a place in it does not see
        the one that it replaces.
        """
        is_global = layer % self.period == self.offset
        frames = self.global_frames if is_global else self.local_frames
        dilation = self.dilation if is_global else 1
        stored = range(0, frame, dilation)
        room = frames // dilation - (frame % dilation == 0)
        return list(stored[max(0, len(stored) - room) :])


class Config(NamedTuple):
    """Dimensions of a model. `rows` and `cols` count tokens, `patch` positions of a latent."""

    rows: int
    cols: int
    patch: int
    channels: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    control_layers: tuple[int, ...]  # those that the action enters
    control_mlp: int
    actions: int  # A
    value_residual: bool
    eps: float
    sigmas: tuple[float, ...]  # the times of the modulation tables; the last one is the commit's
    window: Window
    codec: CodecConfig

    @staticmethod
    def from_manifest(manifest: dict[str, Any]) -> Config:
        """The dimensions that a model file's manifest states."""
        plain = ("rows", "cols", "patch", "width", "layers", "heads", "kv_heads", "head_dim")
        return Config(
            **{key: manifest[key] for key in plain},
            channels=manifest["codec"]["latent"],
            mlp=manifest["mlp"],
            control_layers=tuple(manifest["control_layers"]),
            control_mlp=manifest["control_mlp"],
            actions=len(manifest["actions"]),
            value_residual=manifest["value_residual"],
            eps=manifest["eps"],
            sigmas=tuple(manifest["sigmas"]),
            window=Window(**manifest["window"]),
            codec=CodecConfig.from_manifest(manifest["codec"]),
        )


def rms(x: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x²) + eps) over the last axis, without weight."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE over x [heads, N, d]: dim i with dim i + d/2; cos and sin [N, d/2]."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q·kᵀ/√d)·v for q [H, N, d], k and v [G, keys, d]; H/G heads in a row share one."""
    share = q.shape[0] // k.shape[0]
    k, v = k.repeat_interleave(share, 0), v.repeat_interleave(share, 0)
    return torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1) @ v


class Fuse(nn.Module):
    """W_out·silu(W_x·x + W_c·c): what the action adds to every token."""

    def __init__(self, width: int):
        super().__init__()
        self.x = nn.Linear(width, width, bias=False)
        self.c = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, control: Tensor) -> Tensor:
        return self.out(F.silu(self.x(x) + self.c(control)))


class Block(nn.Module):
    def __init__(self, config: Config, layer: int):
        super().__init__()
        self.heads, self.kv_heads, self.eps = config.heads, config.kv_heads, config.eps
        rows = (config.heads + 2 * config.kv_heads) * config.head_dim
        self.qkv = nn.Linear(config.width, rows, bias=False)
        self.out = nn.Linear(config.heads * config.head_dim, config.width, bias=False)
        self.fuse = Fuse(config.width) if layer in config.control_layers else None
        self.up = nn.Linear(config.width, config.mlp, bias=False)
        self.down = nn.Linear(config.mlp, config.width, bias=False)

    def split(self, a: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q [H, N, d], k and v [G, N, d] of a [N, D]: q and k normed and turned, v as it is."""
        heads = self.qkv(a).unflatten(-1, (self.heads + 2 * self.kv_heads, -1)).transpose(0, 1)
        q, k, v = heads.split([self.heads, self.kv_heads, self.kv_heads])
        return turn(rms(q, self.eps), cos, sin), turn(rms(k, self.eps), cos, sin), v

    def finish(self, h: Tensor, o: Tensor, m: Tensor, control: Tensor) -> Tensor:
        """The residuals after attention: h [N, D], o [H, N, d], m [6, D], control [D]."""
        _, _, gate1, shift2, scale2, gate2 = m
        h = h + gate1 * self.out(o.transpose(0, 1).flatten(1))
        if self.fuse is not None:
            h = h + self.fuse(rms(h, self.eps), control)
        a = rms(h, self.eps) * (1 + scale2) + shift2
        return h + gate2 * self.down(F.silu(self.up(a)))


class Rope(nn.Module):
    """Per token, cosines and sines of the pairs that turn with x and y; per pair that turns with
    time, its angle from one frame to the next."""

    def __init__(self, tokens: int, head_dim: int):
        super().__init__()
        self.cos = nn.Parameter(torch.zeros(tokens, head_dim // 4))
        self.sin = nn.Parameter(torch.zeros(tokens, head_dim // 4))
        self.time = nn.Parameter(torch.zeros(head_dim // 4))

    def forward(self, frame: int) -> tuple[Tensor, Tensor]:
        """cos and sin [N, d/2] for all pairs of the frame's tokens; angles in double."""
        angles = (frame * self.time.double()).expand(len(self.cos), -1)
        cos, sin = angles.cos().to(self.cos.dtype), angles.sin().to(self.sin.dtype)
        return torch.cat([self.cos, cos], 1), torch.cat([self.sin, sin], 1)


class CausalDiT(nn.Module):
    """The network. Its `state_dict` has exactly the tensor names of a model file."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        width, token = config.width, config.channels * config.patch**2
        times = len(config.sigmas)
        self.add_module("in", nn.Linear(token, width, bias=False))
        self.control = nn.Sequential(
            nn.Linear(config.actions, config.control_mlp, bias=False),
            nn.SiLU(),
            nn.Linear(config.control_mlp, width, bias=False),
        )
        self.rope = Rope(config.rows * config.cols, config.head_dim)
        # per sigma and layer: shift1, scale1, gate1, shift2, scale2, gate2
        self.modulation = nn.Parameter(torch.zeros(times, config.layers, 6, width))
        self.value_mix: Any = (
            nn.Parameter(torch.zeros(config.layers)) if config.value_residual else None
        )
        self.blocks: Any = nn.ModuleList(Block(config, i) for i in range(config.layers))
        self.final = nn.ParameterDict({"modulation": torch.zeros(times, 2, width)})  # shift, scale
        self.out = nn.Linear(width, token)
        self.codec = Taehv(config.codec)

    @property
    def dtype(self) -> torch.dtype:
        return self.out.weight.dtype

    def tokens(self, latent: Tensor) -> Tensor:
        """(h, w, channels) -> (N, C), a token in order (row, column, channel)."""
        p = self.config.patch
        x = latent.unflatten(1, (self.config.cols, p)).unflatten(0, (self.config.rows, p))
        return x.transpose(1, 2).flatten(0, 1).flatten(1)

    def latent(self, tokens: Tensor) -> Tensor:
        """The inverse of `tokens`."""
        config, p = self.config, self.config.patch
        x = tokens.unflatten(1, (p, p, config.channels)).unflatten(0, (config.rows, config.cols))
        return x.transpose(1, 2).flatten(2, 3).flatten(0, 1)

    def encode(self, images: Tensor) -> Tensor:
        """uint8 (T, height, width, 3) -> the clean tokens (N, C) of one frame."""
        return self.tokens(self.codec.encode(images))

    def decode(self, tokens: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        """Tokens (N, C) -> uint8 (T, height, width, 3) and what the next frame's call needs."""
        images, memory = self.codec.decode(self.latent(tokens), memory)
        return to_images(images), memory

    def write(self, x: Tensor, sigma: float, action: Tensor, past: Sequence[Page]) -> Tensor:
        """The velocity (N, C) of the noisy tokens x (N, C) at `sigma`, one of the manifest's.

        action: (A,). past: the pages of all frames before this one, so its number is len(past).
        """
        index = self.config.sigmas.index(sigma)
        h, _ = self._run(x, index, action, past)
        shift, scale = self.final["modulation"][index]
        return self.out(F.silu(rms(h, self.config.eps) * (1 + scale) + shift))

    def read(self, tokens: Tensor, action: Tensor, past: Sequence[Page]) -> Page:
        """The page of a clean frame (N, C): k normed and turned, v mixed, as later frames see
        them."""
        _, page = self._run(tokens, self.config.sigmas.index(0.0), action, past)
        return page

    def sample(
        self,
        noise: Tensor,
        table: Sequence[Sequence[float]],
        action: Tensor,
        past: Sequence[Page],
    ) -> Tensor:
        """Tokens (N, C) after the sampler rows [t, a, b, 0]: x <- a·x + b·write(x, t)."""
        x = noise
        for t, a, b, _ in table:
            x = a * x + b * self.write(x, t, action, past)
        return x

    def _run(
        self, x: Tensor, time: int, action: Tensor, past: Sequence[Page]
    ) -> tuple[Tensor, Page]:
        """The tokens after the last block, and the page of this pass."""
        eps = self.config.eps
        control = rms(self.control(action), eps)
        cos, sin = self.rope(len(past))
        h, page = getattr(self, "in")(x), []
        for layer, block in enumerate(self.blocks):
            m = self.modulation[time, layer]
            q, k, v = block.split(rms(h, eps) * (1 + m[1]) + m[0], cos, sin)
            if layer == 0:
                first = v
            elif self.value_mix is not None:
                v = torch.lerp(v, first, self.value_mix[layer])
            page.append((k, v))
            seen = [past[frame][layer] for frame in self.config.window.visible(layer, len(past))]
            keys = torch.cat([k for k, _ in seen] + [k], 1)
            values = torch.cat([v for _, v in seen] + [v], 1)
            h = block.finish(h, attend(q, keys, values), m, control)
        return h, page


def load(path: str, dtype: torch.dtype = torch.float32) -> tuple[CausalDiT, dict[str, Any]]:
    """The module and the manifest of a model file. For checked reading use `rtfm_rt.read_info`."""
    manifest, state = files.read(path, dtype)
    model = CausalDiT(Config.from_manifest(manifest)).to(dtype).requires_grad_(False)
    model.load_state_dict(state)
    return model, manifest
