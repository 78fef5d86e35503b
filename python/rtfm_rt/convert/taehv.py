# SPDX-License-Identifier: Apache-2.0
"""The codec section of a model file, from the published tensors of TAEHV (extra `convert`)."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from rtfm_rt._core import ModelError
from rtfm_rt.convert.common import Checkpoint, check_finite, check_names
from rtfm_rt.reference.taehv import BLOCKS, STAGES

WARMUP = 3  # as Waypoint's own player does, so that the first frames are not a fade-in
# The published networks are lists of layers; these are the places in them.
ENCODER: dict[str, Any] = {
    "in": 0,
    "pool": (2, 7, 12),
    "down": (3, 8, 13),
    "blocks": (4, 9, 14),
    "out": 17,
}
DECODER: dict[str, Any] = {
    "in": 1,
    "blocks": (3, 9, 15),
    "grow": (7, 13, 19),
    "conv": (8, 14, 20),
    "out": 22,
}
LAYERS = (0, 2, 4)  # the convolutions of a memory block


def matches(tensors: dict[str, Tensor]) -> bool:
    """Whether these are the tensors of TAEHV, by their names."""
    return {"encoder.0.weight", "decoder.1.weight", "decoder.3.conv.0.weight"} <= tensors.keys()


def build(checkpoint: Checkpoint) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Sizes, as in the manifest's `codec`, and tensors, without the prefix. Raises ModelError."""
    path, tensors = checkpoint.path, checkpoint.tensors
    if "decoder.0.weight" in tensors:
        raise ModelError(f"{path}: expected the plain TAEHV decoder, got the 'super' variant")
    check_names(path, _names(), tensors)
    check_finite(path, tensors)
    sizes = _sizes(checkpoint)
    stored = {}
    for theirs, (ours, shape) in published_shapes(sizes).items():
        if list(tensors[theirs].shape) != shape:
            got = list(tensors[theirs].shape)
            raise ModelError(f"{path}: {theirs}: expected shape {shape}, got {got}")
        stored[ours] = _matrix(tensors[theirs].float())
    patch = sizes["patch"]
    stored["encoder.in.weight"] = _pixels_in(tensors["encoder.0.weight"].float(), patch)
    for part in ("weight", "bias"):
        stored[f"decoder.out.{part}"] = _pixels_out(stored[f"decoder.out.{part}"], patch)
    return sizes, stored


def _names() -> dict[str, str]:
    """Published name -> ours."""
    names = {}
    for side, places in (("encoder", ENCODER), ("decoder", DECODER)):
        for end in ("in", "out"):
            for part in ("weight", "bias"):
                names[f"{side}.{places[end]}.{part}"] = f"{side}.{end}.{part}"
        for stage in range(STAGES):
            ours = f"{side}.stages.{stage}"
            if side == "encoder":
                names[f"{side}.{ENCODER['pool'][stage]}.conv.weight"] = f"{ours}.pool.weight"
                names[f"{side}.{ENCODER['down'][stage]}.weight"] = f"{ours}.down.weight"
            else:
                names[f"{side}.{DECODER['grow'][stage]}.conv.weight"] = f"{ours}.grow.weight"
                names[f"{side}.{DECODER['conv'][stage]}.weight"] = f"{ours}.out.weight"
            for block in range(BLOCKS):
                theirs = f"{side}.{places['blocks'][stage] + block}.conv"
                for i, layer in enumerate(LAYERS):
                    for part in ("weight", "bias"):
                        names[f"{theirs}.{layer}.{part}"] = (
                            f"{ours}.blocks.{block}.convs.{i}.{part}"
                        )
    return names


def _sizes(checkpoint: Checkpoint) -> dict[str, Any]:
    """Widths and frame ratios, from the shapes."""

    def size(name: str, axis: int) -> int:
        shape = checkpoint.tensors[name].shape
        if len(shape) != 4 or min(shape) < 1:
            raise ModelError(f"{checkpoint.path}: {name}: expected rank 4, got {list(shape)}")
        return shape[axis]

    width = size("encoder.0.weight", 0)
    widths = [size(f"decoder.{place}.weight", 1) for place in DECODER["conv"]]
    grown = [size(f"decoder.{place}.conv.weight", 0) for place in DECODER["grow"]]
    pooled = [size(f"encoder.{place}.conv.weight", 1) for place in ENCODER["pool"]]
    sizes: dict[str, Any] = {
        "latent": size("encoder.17.weight", 0),
        "patch": math.isqrt(size("encoder.0.weight", 1) // 3),
        "encoder_width": width,
        "encoder_strides": [n // width for n in pooled],
        "decoder_widths": [*widths, size("decoder.20.weight", 0)],
        "decoder_strides": [n // w for n, w in zip(grown, widths, strict=True)],
        "warmup": WARMUP,
    }
    if math.prod(sizes["encoder_strides"]) != math.prod(sizes["decoder_strides"]):
        raise ModelError(
            f"{checkpoint.path}: expected as many frames into a latent as out of it, got ratios "
            f"{sizes['encoder_strides']} and {sizes['decoder_strides']}"
        )
    return sizes


def published_shapes(sizes: dict[str, Any]) -> dict[str, tuple[str, list[int]]]:
    """Published name -> our name and the published shape."""
    pixels, width, widths = 3 * sizes["patch"] ** 2, sizes["encoder_width"], sizes["decoder_widths"]
    ends = {
        "encoder.in": (pixels, width),
        "encoder.out": (width, sizes["latent"]),
        "decoder.in": (sizes["latent"], widths[0]),
        "decoder.out": (widths[-1], pixels),
    }
    shapes = {}
    for theirs, ours in _names().items():
        layer, part = ours.rsplit(".", 1)
        words = layer.split(".")
        if layer in ends:
            inputs, outputs, side = *ends[layer], 3
        else:
            encoder, stage, kind = words[0] == "encoder", int(words[2]), words[3]
            n = width if encoder else widths[stage]
            ratio = sizes["encoder_strides" if encoder else "decoder_strides"][stage]
            inputs, outputs, side = {
                "pool": (ratio * n, n, 1),
                "down": (n, n, 3),
                "grow": (n, ratio * n, 1),
                "out": (n, n if encoder else widths[stage + 1], 3),
                "blocks": (2 * n if words[-1] == "0" else n, n, 3),
            }[kind]
        shapes[theirs] = ours, [outputs] if part == "bias" else [outputs, inputs, side, side]
    return shapes


def _matrix(tensor: Tensor) -> Tensor:
    """[out, in, 3, 3] -> [out, 9·in], columns (row, column, channel); 1x1 -> [out, in]."""
    return tensor.permute(0, 2, 3, 1).flatten(1) if tensor.ndim == 4 else tensor


def _pixels_in(weight: Tensor, patch: int) -> Tensor:
    """The first convolution, whose published channels are in order (channel, row, column)."""
    outputs, _, rows, cols = weight.shape
    weight = weight.reshape(outputs, 3, patch, patch, rows, cols).permute(0, 4, 5, 2, 3, 1)
    return weight.flatten(1)


def _pixels_out(rows: Tensor, patch: int) -> Tensor:
    """The rows of the last convolution, from (channel, row, column) to (row, column, channel)."""
    return rows.unflatten(0, (3, patch * patch)).transpose(0, 1).flatten(0, 1)
