# SPDX-License-Identifier: Apache-2.0
"""The autoencoder of Oasis-500M under our names, and what both conversions share."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from rtfm_rt._core import ModelError
from rtfm_rt.convert.common import Checkpoint, check_names

LATENT_SCALE = 0.07843137255  # between the autoencoder's latents and the transformer's


class CodecSizes(NamedTuple):
    """What its tensors say of the autoencoder."""

    width: int
    mlp: int
    patch: int
    channels: int
    encoder_layers: int
    decoder_layers: int


def codec_sizes(codec: Checkpoint) -> CodecSizes:
    """Raises ModelError if a tensor that says a size is missing."""
    path, tensors = codec.path, codec.tensors
    return CodecSizes(
        width=size(path, tensors, "patch_embed.proj.weight", 0, 4),
        mlp=size(path, tensors, "encoder.0.mlp.fc1.bias", 0, 1),
        patch=size(path, tensors, "patch_embed.proj.weight", 2, 4),
        channels=size(path, tensors, "post_quant_conv.weight", 1, 2),
        encoder_layers=count(tensors, r"encoder\.(\d+)\."),
        decoder_layers=count(tensors, r"decoder\.(\d+)\."),
    )


def codec_shapes(s: CodecSizes) -> dict[str, tuple[int, ...]]:
    """The published tensors of the autoencoder."""
    width, token = s.width, 3 * s.patch**2
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embed.proj.weight": (width, 3, s.patch, s.patch),
        "patch_embed.proj.bias": (width,),
        **linear_shapes("quant_conv", 2 * s.channels, width),
        **linear_shapes("post_quant_conv", width, s.channels),
        **linear_shapes("predictor", token, width),
    }
    blocks = [f"encoder.{i}" for i in range(s.encoder_layers)]
    blocks += [f"decoder.{i}" for i in range(s.decoder_layers)]
    for block in blocks:
        shapes.update(linear_shapes(f"{block}.attn.qkv", 3 * width, width))
        shapes.update(linear_shapes(f"{block}.attn.proj", width, width))
        shapes.update(linear_shapes(f"{block}.mlp.fc1", s.mlp, width))
        shapes.update(linear_shapes(f"{block}.mlp.fc2", width, s.mlp))
    norms = [f"{block}.norm{i}" for block in blocks for i in (1, 2)]
    for norm in (*norms, "enc_norm", "dec_norm"):
        shapes[f"{norm}.weight"] = shapes[f"{norm}.bias"] = (width,)
    return shapes


def codec_tensors(
    s: CodecSizes, published: dict[str, Tensor], pairs: int, heads: int
) -> dict[str, Tensor]:
    """The autoencoder (float32) under our names. Norms are folded into the matrices that follow,
    the latent's scale into those beside it, and of the encoder's result only the mean remains."""
    theirs = {name: tensor.float() for name, tensor in published.items()}

    def folded(norm: str, linear: str) -> tuple[Tensor, Tensor]:
        weight = theirs[f"{linear}.weight"].double()
        bias = theirs[f"{linear}.bias"].double() + weight @ theirs[f"{norm}.bias"].double()
        return (weight * theirs[f"{norm}.weight"].double()).float(), bias.float()

    def pixels_last(rows: Tensor) -> Tensor:  # (c, y, x) -> (y, x, c)
        return rows.unflatten(0, (3, s.patch, s.patch)).movedim(0, 2).flatten(0, 2)

    mean_weight, mean_bias = (t[: s.channels] for t in folded("enc_norm", "quant_conv"))
    last_weight, last_bias = (pixels_last(t) for t in folded("dec_norm", "predictor"))
    tensors = {
        "encoder.in.weight": theirs["patch_embed.proj.weight"].permute(0, 2, 3, 1).flatten(1),
        "encoder.in.bias": theirs["patch_embed.proj.bias"],
        "encoder.out.weight": mean_weight * LATENT_SCALE,
        "encoder.out.bias": mean_bias * LATENT_SCALE,
        "decoder.in.weight": theirs["post_quant_conv.weight"] / LATENT_SCALE,
        "decoder.in.bias": theirs["post_quant_conv.bias"],
        "decoder.out.weight": last_weight,
        "decoder.out.bias": last_bias,
    }
    blocks = [("encoder", i) for i in range(s.encoder_layers)]
    blocks += [("decoder", i) for i in range(s.decoder_layers)]
    for tower, i in blocks:
        source, ours = f"{tower}.{i}", f"{tower}.blocks.{i}"
        qkv = folded(f"{source}.norm1", f"{source}.attn.qkv")
        up = folded(f"{source}.norm2", f"{source}.mlp.fc1")
        for axis, kind in enumerate(("weight", "bias")):
            tensors[f"{ours}.qkv.{kind}"] = half_split(qkv[axis], heads, pairs)
            tensors[f"{ours}.out.{kind}"] = theirs[f"{source}.attn.proj.{kind}"]
            tensors[f"{ours}.up.{kind}"] = up[axis]
            tensors[f"{ours}.down.{kind}"] = theirs[f"{source}.mlp.fc2.{kind}"]
    return {f"codec.{name}": tensor for name, tensor in tensors.items()}


def pixel_freqs(count: int, grid: tuple[int, int]) -> Tensor:
    """The codec's RoPE frequencies of one axis, which its file does not hold: float32 (count,)."""
    return torch.linspace(1.0, grid[0] * grid[1] / 2, count) * math.pi


def rope_tables(prefix: str, freqs: Tensor, grid: tuple[int, int]) -> dict[str, Tensor]:
    """cos and sin (N, 2·freqs) of every token: rows first, both axes from -1 to 1."""
    y, x = (torch.linspace(-1, 1, n)[:, None] * freqs for n in grid)  # float32, as in training
    angles = torch.cat([y.repeat_interleave(grid[1], 0), x.repeat(grid[0], 1)], -1).double()
    return {f"{prefix}.cos": angles.cos().float(), f"{prefix}.sin": angles.sin().float()}


def half_split(qkv: Tensor, heads: int, pairs: int) -> Tensor:
    """q|k|v rows [3D, ...] with neighbours 2i and 2i+1 of a head's first 2·pairs dims moved to the
    end of q's and k's heads, all the first before all the second."""
    head_dim = len(qkv) // 3 // heads
    turned = torch.arange(2 * pairs).reshape(pairs, 2).T.flatten()
    order = torch.cat([torch.arange(2 * pairs, head_dim), turned])
    q, k, v = qkv.unflatten(0, (3, heads, head_dim))
    return torch.stack([q[:, order], k[:, order], v]).flatten(0, 2)


def check_shapes(
    path: Path, wanted: dict[str, tuple[int, ...]], tensors: dict[str, Tensor]
) -> None:
    """Raises ModelError unless the names and the shapes are those wanted."""
    check_names(path, wanted, tensors)
    for name, shape in wanted.items():
        if tuple(tensors[name].shape) != shape:
            raise ModelError(
                f"{path}: {name}: expected shape {list(shape)}, got {list(tensors[name].shape)}"
            )


def linear_shapes(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    """The two tensors of a linear layer."""
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def size(path: Path, tensors: dict[str, Tensor], name: str, axis: int, dims: int) -> int:
    """One extent of a tensor. Raises ModelError if it is missing or has not `dims` dimensions."""
    tensor = tensors.get(name)
    if tensor is None or tensor.ndim != dims or min(tensor.shape) < 1:
        raise ModelError(f"{path}: tensor {name!r} is missing or has not {dims} dimensions")
    return tensor.shape[axis]


def count(tensors: dict[str, Tensor], pattern: str) -> int:
    """How many different numbers the names give where `pattern` has its group."""
    found = [re.match(pattern, name) for name in tensors]
    return len({match[1] for match in found if match})
