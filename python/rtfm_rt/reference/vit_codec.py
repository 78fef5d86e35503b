# SPDX-License-Identifier: Apache-2.0
"""A vision transformer that turns an image into a small latent and back, as a plain PyTorch module.

One image at a time, no batch axis. In the shape comments n is the number of codec tokens, D the
width, H the heads, d the head dim, r the number of RoPE pairs in a head, c the latent channels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rtfm_rt.reference.frame_dit import attend


class CodecConfig(NamedTuple):
    """Dimensions of a codec. `height` and `image_width` in pixels, multiples of `patch`."""

    height: int
    image_width: int
    patch: int
    channels: int
    width: int
    encoder_layers: int
    decoder_layers: int
    heads: int
    mlp: int
    rope: int  # pairs in a head
    eps: float

    @staticmethod
    def from_manifest(manifest: dict[str, Any]) -> CodecConfig:
        """The dimensions that a model file's manifest states."""
        codec = manifest["codec"]
        names = ("patch", "width", "encoder_layers", "decoder_layers", "heads", "mlp", "rope")
        return CodecConfig(
            height=manifest["image"]["height"],
            image_width=manifest["image"]["width"],
            channels=manifest["latent"]["channels"],
            eps=codec["eps"],
            **{name: codec[name] for name in names},
        )


def norm(x: Tensor, eps: float) -> Tensor:
    """(x - mean) / sqrt(variance + eps) over the last axis, without weight."""
    return F.layer_norm(x, x.shape[-1:], eps=eps)


def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns the last 2r dims of x [..., d]: dim d-2r+i with dim d-r+i. cos, sin: [..., r]."""
    r = cos.shape[-1]
    rest, a, b = x.split([x.shape[-1] - 2 * r, r, r], -1)
    return torch.cat([rest, a * cos - b * sin, a * sin + b * cos], -1)


def to_patches(grid: Tensor, patch: int) -> Tensor:
    """(height, width, c) -> (N, patch·patch·c), row by row, each (row, column, channel)."""
    height, width, channels = grid.shape
    x = grid.reshape(height // patch, patch, width // patch, patch, channels)
    return x.transpose(1, 2).reshape(-1, patch * patch * channels)


def from_patches(tokens: Tensor, width: int, patch: int) -> Tensor:
    """The inverse of `to_patches` for a grid that is `width` wide: (N, patch·patch·c)."""
    x = tokens.reshape(-1, width // patch, patch, patch, tokens.shape[-1] // patch**2)
    return x.transpose(1, 2).flatten(2, 3).flatten(0, 1)


class Tables(nn.Module):
    """Angles of RoPE, which a model file holds as they are: [tokens, r], and `time` [r]."""

    cos: Tensor
    sin: Tensor
    time: Tensor

    def __init__(self, **shapes: tuple[int, ...]):
        super().__init__()
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape))


class Block(nn.Module):
    def __init__(self, config: CodecConfig):
        super().__init__()
        width, self.heads, self.eps = config.width, config.heads, config.eps
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.up = nn.Linear(width, config.mlp)
        self.down = nn.Linear(config.mlp, width)

    def forward(self, h: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """h (n, D) after full attention and the MLP, which has the exact GELU."""
        a = self.qkv(norm(h, self.eps))
        q, k, v = a.unflatten(-1, (3, self.heads, -1)).permute(1, 2, 0, 3)  # (H, n, d)
        o = attend(rope(q, cos, sin), rope(k, cos, sin), v)
        h = h + self.out(o.transpose(0, 1).flatten(1))
        return h + self.down(F.gelu(self.up(norm(h, self.eps))))


class Tower(nn.Module):
    """A linear layer in, blocks, a norm and a linear layer out. The codec has two of them."""

    def __init__(self, config: CodecConfig, token: int, layers: int, result: int):
        super().__init__()
        self.eps = config.eps
        self.add_module("in", nn.Linear(token, config.width))  # `in` is a keyword
        self.blocks = nn.ModuleList(Block(config) for _ in range(layers))
        self.out = nn.Linear(config.width, result)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        h = getattr(self, "in")(x)
        for block in self.blocks:
            h = block(h, cos, sin)
        return self.out(norm(h, self.eps))


class VitCodec(nn.Module):
    """The codec. Its `state_dict` has the names that a model file has below `codec.`."""

    def __init__(self, config: CodecConfig):
        super().__init__()
        self.config = config
        token = 3 * config.patch**2
        self.encoder = Tower(config, token, config.encoder_layers, config.channels)
        self.decoder = Tower(config, config.channels, config.decoder_layers, token)
        tokens = config.height // config.patch * (config.image_width // config.patch)
        self.rope = Tables(cos=(tokens, config.rope), sin=(tokens, config.rope))

    def encode(self, image: Tensor) -> Tensor:
        """The latent (n, c), row by row, of an image uint8 (height, width, 3)."""
        pixels = image.to(self.rope.cos.dtype) / 127.5 - 1
        tokens = to_patches(pixels, self.config.patch)
        return self.encoder(tokens, self.rope.cos, self.rope.sin)

    def decode(self, latent: Tensor) -> Tensor:
        """The image (height, width, 3) of a latent (n, c); -1 is black and 1 full colour."""
        tokens = self.decoder(latent, self.rope.cos, self.rope.sin)
        return from_patches(tokens, self.config.image_width, self.config.patch)


def to_bytes(image: Tensor) -> Tensor:
    """uint8 of the same shape: round((clamp(x, -1, 1) + 1) · 127.5)."""
    return ((image.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
