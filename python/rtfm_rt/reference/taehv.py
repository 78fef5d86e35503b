# SPDX-License-Identifier: Apache-2.0
"""The video codec TAEHV as a plain PyTorch module: what the runtime must compute.

T consecutive RGB frames become one latent and the other way round, both frame by frame. Images are
channels-last, [rows, cols, channels]. What a frame needs of the one before it is the input that
each memory block had then; before the first frame that is zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Memory = list[Tensor]  # of a decoder: what each memory block was last given, in order

STAGES = 3
BLOCKS = 3  # memory blocks per stage
LATENT_LIMIT = 3.0  # latents are squashed to ±3 before they are decoded


class CodecConfig(NamedTuple):
    """Dimensions of a codec: `latent` channels of a latent, `patch` pixels to a side folded into
    channels, feature channels and frame ratio of each of the three stages."""

    latent: int
    patch: int
    encoder_width: int
    encoder_strides: tuple[int, ...]  # frames that become one before each stage
    decoder_widths: tuple[int, ...]  # of the stages, and of what follows the last one
    decoder_strides: tuple[int, ...]  # frames that one becomes after each stage
    warmup: int  # times that the first latent is decoded before its frames are shown

    @staticmethod
    def from_manifest(codec: dict[str, Any]) -> CodecConfig:
        """The dimensions in the section `codec` of a manifest."""
        return CodecConfig(
            latent=codec["latent"],
            patch=codec["patch"],
            encoder_width=codec["encoder_width"],
            encoder_strides=tuple(codec["encoder_strides"]),
            decoder_widths=tuple(codec["decoder_widths"]),
            decoder_strides=tuple(codec["decoder_strides"]),
            warmup=codec["warmup"],
        )

    @property
    def images(self) -> int:
        """T, the RGB frames of one latent."""
        return math.prod(self.decoder_strides)

    @property
    def scale(self) -> int:
        """Pixels to a side that one position of a latent stands for."""
        return int(self.patch * 2**STAGES)


class Conv(nn.Module):
    """3x3 convolution over zero-padded [rows, cols, in], its weight a matrix [out, 9·in]: the
    columns in order (row, column, channel)."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True, stride: int = 1):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, 9 * inputs))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.unflatten(1, (3, 3, -1)).permute(0, 3, 1, 2)
        y = F.conv2d(x.permute(2, 0, 1)[None], weight, self.bias, self.stride, padding=1)
        return y[0].permute(1, 2, 0)


class MemoryBlock(nn.Module):
    """relu(x + conv(relu(conv(relu(conv([x | past]))))))."""

    def __init__(self, width: int):
        super().__init__()
        self.convs = nn.ModuleList(Conv(n * width, width) for n in (2, 1, 1))

    def forward(self, x: Tensor, past: Tensor) -> Tensor:
        h = torch.cat([x, past], -1)
        for conv in self.convs[:-1]:
            h = conv(h).relu()
        return (x + self.convs[-1](h)).relu()


def remember(block: nn.Module, frames: Sequence[Tensor], past: Tensor) -> tuple[Memory, Tensor]:
    """The block over consecutive frames, and what it must know of the last one."""
    out = []
    for x in frames:
        out.append(block(x, past))
        past = x
    return out, past


class EncoderStage(nn.Module):
    def __init__(self, width: int, stride: int):
        super().__init__()
        self.stride = stride
        self.pool = nn.Linear(stride * width, width, bias=False)
        self.down = Conv(width, width, bias=False, stride=2)
        self.blocks = nn.ModuleList(MemoryBlock(width) for _ in range(BLOCKS))

    def forward(self, frames: list[Tensor]) -> list[Tensor]:
        groups = [frames[i : i + self.stride] for i in range(0, len(frames), self.stride)]
        frames = [self.down(self.pool(torch.cat(group, -1))) for group in groups]
        for block in self.blocks:
            frames, _ = remember(block, frames, torch.zeros_like(frames[0]))
        return frames


class Encoder(nn.Module):
    def __init__(self, config: CodecConfig):
        super().__init__()
        width = config.encoder_width
        self.add_module("in", Conv(3 * config.patch**2, width))
        self.stages = nn.ModuleList(EncoderStage(width, s) for s in config.encoder_strides)
        self.out = Conv(width, config.latent)

    def forward(self, frames: list[Tensor]) -> Tensor:
        frames = [getattr(self, "in")(x).relu() for x in frames]
        for stage in self.stages:
            frames = stage(frames)
        return self.out(frames[-1])


class DecoderStage(nn.Module):
    def __init__(self, width: int, outputs: int, stride: int):
        super().__init__()
        self.stride = stride
        self.blocks = nn.ModuleList(MemoryBlock(width) for _ in range(BLOCKS))
        self.grow = nn.Linear(width, stride * width, bias=False)
        self.out = Conv(width, outputs, bias=False)

    def forward(self, frames: list[Tensor], memory: Memory) -> tuple[list[Tensor], Memory]:
        kept = []
        for block, past in zip(self.blocks, memory, strict=True):
            frames, last = remember(block, frames, past)
            kept.append(last)
        grown = [part for x in frames for part in self.grow(x).chunk(self.stride, -1)]
        wide = [x.repeat_interleave(2, 0).repeat_interleave(2, 1) for x in grown]
        return [self.out(x) for x in wide], kept


class Decoder(nn.Module):
    def __init__(self, config: CodecConfig):
        super().__init__()
        widths = config.decoder_widths
        self.add_module("in", Conv(config.latent, widths[0]))
        self.stages = nn.ModuleList(
            DecoderStage(widths[i], widths[i + 1], stride)
            for i, stride in enumerate(config.decoder_strides)
        )
        self.out = Conv(widths[-1], 3 * config.patch**2)

    def forward(self, latent: Tensor, memory: Memory) -> tuple[list[Tensor], Memory]:
        x = (latent / LATENT_LIMIT).tanh() * LATENT_LIMIT
        frames, kept = [getattr(self, "in")(x).relu()], []
        for i, stage in enumerate(self.stages):
            frames, last = stage(frames, memory[i * BLOCKS : (i + 1) * BLOCKS])
            kept += last
        return [self.out(x.relu()) for x in frames], kept


class Taehv(nn.Module):
    """The codec. A patch of an image is the channels in order (row, column, channel)."""

    def __init__(self, config: CodecConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    @property
    def dtype(self) -> torch.dtype:
        return self.decoder.out.weight.dtype

    def encode(self, images: Tensor) -> Tensor:
        """uint8 (T, height, width, 3), a clip that nothing precedes -> latent (h, w, C)."""
        p = self.config.patch
        x = images.to(self.dtype) / 255
        x = x.unflatten(2, (-1, p)).unflatten(1, (-1, p)).transpose(2, 3).flatten(3)
        return self.encoder(list(x))

    def decode(self, latent: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        """The T images (T, height, width, 3) of the latent (h, w, C), values around [0, 1], and
        the memory for the next latent. No memory: this is the first one, decoded `warmup` times
        more beforehand."""
        if memory is None:
            memory = self.empty(latent)
            for _ in range(self.config.warmup):
                _, memory = self.decoder(latent, memory)
        frames, memory = self.decoder(latent, memory)
        p = self.config.patch
        x = torch.stack(frames).unflatten(-1, (p, p, 3)).transpose(2, 3)
        return x.flatten(3, 4).flatten(1, 2), memory

    def empty(self, latent: Tensor) -> Memory:
        """The memory before the first latent: zeros."""
        rows, cols, _ = latent.shape
        widths = self.config.decoder_widths[:STAGES]
        return [
            latent.new_zeros(rows << stage, cols << stage, width)
            for stage, width in enumerate(widths)
            for _ in range(BLOCKS)
        ]


def to_images(x: Tensor) -> Tensor:
    """Decoded values -> uint8: round(clamp(x, 0, 1) · 255)."""
    return (x.clamp(0, 1) * 255).round().to(torch.uint8)
