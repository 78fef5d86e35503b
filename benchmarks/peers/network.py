# SPDX-License-Identifier: Apache-2.0
"""The write pass as one would write it in PyTorch to be compiled or exported."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rtfm_rt.reference import EPS, Block, FrameDiT


def rms(x: Tensor, gain: Tensor | None = None) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), gain, EPS)


class WritePass(nn.Module):
    """The layers of a model in the order of `rtfm_rt.reference`, with fused attention and norms.

    What does not change between the denoising steps of a frame is an input or a constant, as it is
    in rtfm_rt: modulation, rotations, context in the query's camera.
    """

    def __init__(self, model: FrameDiT):
        super().__init__()
        self.entry = getattr(model, "in")  # exporters want names that are no keywords
        self.blocks, self.out = model.blocks, model.out
        self.final = model.final.modulation
        self.register_buffer("cos", model.angles.cos().to(model.dtype))
        self.register_buffer("sin", model.angles.sin().to(model.dtype))

    def forward(self, x: Tensor, table: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """x [N, 3·p·p], table [L, 6, D], keys and values [L, H, C·N, d] -> x0 [N, 3·p·p]."""
        h = self.entry(x)
        for i, block in enumerate(self.blocks):
            h = self.block(block, h, table[i], keys[i], values[i])
        shift, scale = self.final.unbind()
        return self.out(rms(h) * (1 + scale) + shift)

    def block(self, block: Block, h: Tensor, m: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = m.unbind()
        qkv = block.qkv(rms(h) * scale1 + shift1)
        q, k, v = qkv.unflatten(-1, (3, block.heads, -1)).permute(1, 2, 0, 3).unbind()
        q, k = self.turn(rms(q, block.q_gain)), self.turn(rms(k, block.k_gain))
        k, v = torch.cat([k, keys], 1), torch.cat([v, values], 1)
        o = F.scaled_dot_product_attention(q[None], k[None], v[None])[0]
        h = h + gate1 * block.out(o.transpose(0, 1).flatten(1))
        up = F.gelu(block.up(rms(h) * scale2 + shift2), approximate="tanh")
        return h + gate2 * block.down(up)

    def turn(self, x: Tensor) -> Tensor:
        half, quarter = x.shape[-1] // 2, x.shape[-1] // 4
        lower, a, b = x.split([half, quarter, quarter], -1)
        return torch.cat([lower, a * self.cos - b * self.sin, a * self.sin + b * self.cos], -1)
