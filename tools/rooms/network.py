# SPDX-License-Identifier: Apache-2.0
"""The reference module `rtfm_rt.reference.FrameDiT` over batches: same parameters, same result.

In the shape comments B is the number of rooms, K of context frames, T of wanted frames, F = K + T,
N the tokens of a frame, D the width, H the heads, d the head dim, C the size of a token.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from rtfm_rt.reference import EPS, TIME_FEATURES, Block, Config, FrameDiT


def initialise(model: FrameDiT) -> None:
    """Random weights: every block begins near the identity, the output at 0."""
    for name, value in model.named_parameters():
        torch.nn.init.zeros_(value)
        if value.ndim == 2 and not name.endswith("modulation"):
            torch.nn.init.normal_(value, std=1 / math.sqrt(value.shape[1]))
    for block in model.blocks:
        for gain in (
            block.q_gain,
            block.k_gain,
            block.modulation.data[2],
            block.modulation.data[5],
        ):
            torch.nn.init.ones_(gain)
        for layer in (block.out, block.down):
            layer.weight.data.mul_(0.5 / math.sqrt(model.config.layers))
    for name in ("time.2.weight", "out.weight"):
        torch.nn.init.zeros_(model.get_parameter(name))


def rms(x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), eps=EPS)


def projections(poses: Tensor, focal: float) -> Tensor:
    """World-to-camera P (B, F, 4, 4) float32 of poses (B, F, 12), the first camera as the origin.

    Attention depends on products Pq·Pk⁻¹ only; a near origin keeps them exact in low precision.
    """
    rotation = poses[..., :9].unflatten(-1, (3, 3))
    position = poses[..., 9:] - poses[:, :1, 9:]
    p = torch.zeros(*poses.shape[:-1], 4, 4, device=poses.device)
    p[..., :3, :3] = rotation
    p[..., :3, 3] = -(rotation @ position.unsqueeze(-1)).squeeze(-1)
    p[..., 3, 3] = 1
    return torch.tensor([focal, focal, 1, 1], device=poses.device)[:, None] * p


def grouped(matrix: Tensor, half: int) -> Tensor:
    """(..., 4, 4) -> (..., half, half): what turns a row of `half` dims, four at a time."""
    eye = torch.eye(half // 4, device=matrix.device)
    blocks = torch.einsum("gh,...ij->...gjhi", eye, matrix)
    return blocks.flatten(-2).flatten(-3, -2)


class Frames(FrameDiT):
    """FrameDiT with a forward over rooms: context frames read once, wanted frames written."""

    cos: Tensor  # of the angles of RoPE: (N, 1, d / 4)
    sin: Tensor

    def __init__(self, config: Config):
        super().__init__(config)
        self.register_buffer("cos", self.angles.cos().float()[:, None], persistent=False)
        self.register_buffer("sin", self.angles.sin().float()[:, None], persistent=False)

    def forward(self, context: Tensor, noisy: Tensor, t: Tensor, cameras: Tensor) -> Tensor:
        """x0 (B, T, N, C) of noisy (B, T, N, C) at times t (B, T) beside context (B, K, N, C).

        cameras: P (B, K + T, 4, 4), those of the context first.
        """
        k = context.shape[1]
        h = self.embed(torch.cat([context, noisy], 1))
        times = torch.cat([torch.zeros_like(t[:, :1]).expand(-1, k), t], 1)
        half = self.config.width // self.config.heads // 2
        with torch.autocast(h.device.type, enabled=False):
            modulation = self._modulation(times)
            turns = [grouped(m, half) for m in (cameras.mT, cameras.inverse(), cameras)]
        for block in self.blocks[:-1]:
            h = self._block(block, h, modulation, turns, k)
        h = self._block(self.blocks[-1], h, modulation, turns, k, last=True)
        return self.out(self.final_norm(h))

    def final_norm(self, h: Tensor) -> Tensor:
        shift, scale = self.final.modulation
        return rms(h) * (1 + scale) + shift

    def _modulation(self, t: Tensor) -> Tensor:
        """(B, F, 6, D) of times (B, F)."""
        half = TIME_FEATURES // 2
        f = torch.exp(-math.log(1e4) * torch.arange(half, device=t.device) / half)
        angles = 1000 * t[..., None] * f
        return self.time(torch.cat([angles.cos(), angles.sin()], -1)).unflatten(-1, (6, -1))

    def _rope(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return torch.cat([a * self.cos - b * self.sin, a * self.sin + b * self.cos], -1)

    def _block(
        self,
        block: Block,
        h: Tensor,
        modulation: Tensor,
        turns: list[Tensor],
        k: int,
        last: bool = False,
    ) -> Tensor:
        """One block over h (B, F, N, D); the last one returns the wanted frames only."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (
            (modulation + block.modulation).unsqueeze(-2).unbind(2)
        )
        a = rms(h) * (1 + scale1) + shift1
        q, key, v = block.qkv(a).unflatten(-1, (3, block.heads, -1)).unbind(3)  # (B, F, N, H, d)
        half = q.shape[-1] // 2

        def turn(x: Tensor, matrix: Tensor) -> Tensor:
            with torch.autocast(x.device.type, enabled=False):  # metres want more than 8 bits
                return (x.float().flatten(2, 3) @ matrix).unflatten(2, (x.shape[2], -1))

        def place(x: Tensor, gain: Tensor, matrix: Tensor) -> Tensor:
            x = rms(x) * gain
            return torch.cat([turn(x[..., :half], matrix), self._rope(x[..., half:])], -1)

        q, key = place(q, block.q_gain, turns[0]), place(key, block.k_gain, turns[1])
        v = torch.cat([turn(v[..., :half], turns[1]), v[..., half:]], -1)
        o = write_attention(q, key, v, k)
        if last:
            h, gate1, shift2, scale2, gate2 = (x[:, k:] for x in (h, gate1, shift2, scale2, gate2))
            home = turns[2][:, k:]
        else:
            o, home = torch.cat([read_attention(q, key, v, k), o], 1), turns[2]
        o = torch.cat([turn(o[..., :half], home), o[..., half:]], -1)
        h = h + gate1 * block.out(o.flatten(-2))
        a = rms(h) * (1 + scale2) + shift2
        return h + gate2 * block.down(F.gelu(block.up(a), approximate="tanh"))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q (B, F, N, H, d) with k and v (B, F, keys, H, d): each frame by itself."""
    heads, keys, values = (x.flatten(0, 1).transpose(1, 2) for x in (q, k, v))
    o = F.scaled_dot_product_attention(heads, keys, values)
    return o.transpose(1, 2).unflatten(0, q.shape[:2])


def read_attention(q: Tensor, key: Tensor, v: Tensor, k: int) -> Tensor:
    """Context frames see themselves only."""
    return attend(q[:, :k], key[:, :k], v[:, :k])


def write_attention(q: Tensor, key: Tensor, v: Tensor, k: int) -> Tensor:
    """Each wanted frame sees itself and all context frames."""
    wanted = q.shape[1] - k

    def with_context(x: Tensor) -> Tensor:
        shared = x[:, :k].flatten(1, 2).unsqueeze(1).expand(-1, wanted, -1, -1, -1)
        return torch.cat([x[:, k:], shared], 2)

    return attend(q[:, k:], with_context(key), with_context(v))
