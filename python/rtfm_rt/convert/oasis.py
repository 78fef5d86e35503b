# SPDX-License-Identifier: Apache-2.0
"""Makes a model file of the family `st_dit` from the two published files of Oasis-500M."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rtfm_rt._core import ModelError
from rtfm_rt.convert.common import Checkpoint, Recipe, check_finite
from rtfm_rt.convert.vit_codec import (
    CodecSizes,
    check_shapes,
    codec_shapes,
    codec_sizes,
    codec_tensors,
    count,
    half_split,
    linear_shapes,
    pixel_freqs,
    rope_tables,
    size,
)

# What the files do not say, from the authors' constructors and sampling script.
IMAGE = (360, 640)
CODEC_HEADS = 16
WINDOW = 32
COMMIT_TIME = 14
EPS = 1e-6
NOISE_LEVELS = 1000

# Dead reckoning: walking pace at 20 frames per second, in the camera's yaw frame (x right, y down,
# z forward); what a jump, a sprint or an obstacle does to it is not known here.
STRIDE = 0.2
DEGREES = 20.0  # 40 bins of half a degree to each side of the middle make 1
MOVES = {
    "forward": [0.0, 0.0, STRIDE],
    "back": [0.0, 0.0, -STRIDE],
    "left": [-STRIDE, 0.0, 0.0],
    "right": [STRIDE, 0.0, 0.0],
}
TURNS = {"cameraX": [0.0, -DEGREES], "cameraY": [DEGREES, 0.0]}  # X looks down, Y to the right
ACTIONS = (
    "inventory",
    "ESC",
    *(f"hotbar.{slot}" for slot in range(1, 10)),
    *MOVES,
    *TURNS,
    "jump",
    "sneak",
    "sprint",
    "swapHands",
    "attack",
    "use",
    "pickItem",
    "drop",
)
FOCAL = 0.5 / math.tan(math.radians(70 / 2))  # the game's default: 70 degrees from top to bottom
RETRIEVAL = {"sinks": 0, "near": 0.3, "far": 32.0, "commit_below": 2.0}  # every frame is kept

HALVES = {"s": "spatial", "t": "temporal"}  # theirs -> ours
SPATIAL_FREQS = r"(spatial_rotary_emb|blocks\.\d+\.s_attn\.rotary_emb)\.freqs"
TEMPORAL_FREQS = r"(temporal_rotary_emb|blocks\.\d+\.t_attn\.rotary_emb)\.freqs"


class Sizes(NamedTuple):
    """What its tensors say of the transformer."""

    width: int
    layers: int
    head_dim: int
    mlp: int
    channels: int
    patch: int
    actions: int


def dit_shapes(s: Sizes) -> dict[str, tuple[int, ...]]:
    """The published tensors of the transformer, but for the RoPE frequencies."""
    width, token = s.width, s.channels * s.patch**2
    shapes: dict[str, tuple[int, ...]] = {
        "x_embedder.proj.weight": (width, s.channels, s.patch, s.patch),
        "x_embedder.proj.bias": (width,),
        **linear_shapes("t_embedder.mlp.0", width, 256),
        **linear_shapes("t_embedder.mlp.2", width, width),
        **linear_shapes("external_cond", width, s.actions),
        **linear_shapes("final_layer.linear", token, width),
        **linear_shapes("final_layer.adaLN_modulation.1", 2 * width, width),
    }
    for half in (f"blocks.{i}.{h}" for i in range(s.layers) for h in HALVES):
        shapes[f"{half}_attn.to_qkv.weight"] = (3 * width, width)
        shapes.update(linear_shapes(f"{half}_attn.to_out", width, width))
        shapes.update(linear_shapes(f"{half}_mlp.fc1", s.mlp, width))
        shapes.update(linear_shapes(f"{half}_mlp.fc2", width, s.mlp))
        shapes.update(linear_shapes(f"{half}_adaLN_modulation.1", 6 * width, width))
    return shapes


def matches(checkpoints: Sequence[Checkpoint]) -> bool:
    """Whether the files hold the transformer and the autoencoder, in this order."""
    signs = ("blocks.0.s_attn.to_qkv.weight", "post_quant_conv.weight")
    return len(checkpoints) == len(signs) and all(
        sign in checkpoint.tensors for sign, checkpoint in zip(signs, checkpoints, strict=True)
    )


def build(
    checkpoints: Sequence[Checkpoint],
    *,
    image: tuple[int, int] = IMAGE,
    codec_heads: int = CODEC_HEADS,
    window: int = WINDOW,
    slide: str = "keep",
    steps: int = 10,
    tables: tuple[int, ...] = (4, 10, 20),
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The manifest, without name, licence and source, and the tensors (float32) under our names.

    image: (height, width) in pixels. window: how many frames see each other, the new one included.
    slide: "keep" or "recompute". steps: the default, one of `tables`. Raises ModelError.
    """
    dit, codec = checkpoints
    space, time, rest = _take_freqs(dit)
    sizes, codec_size = _sizes(dit.path, rest, len(time)), codec_sizes(codec)
    check_shapes(dit.path, dit_shapes(sizes), rest)
    check_shapes(codec.path, codec_shapes(codec_size), codec.tensors)
    check_finite(dit.path, dit.tensors)
    check_finite(codec.path, codec.tensors)
    _check_sizes(dit.path, sizes, len(space))
    _check_codec(codec.path, sizes, codec_size, codec_heads)
    _check_options(image, codec_size.patch * sizes.patch, window, slide)
    grid = (image[0] // codec_size.patch, image[1] // codec_size.patch)
    pairs = codec_size.width // codec_heads // 4
    tensors = {
        **_tensors(sizes, {name: t.float() for name, t in rest.items()}),
        **rope_tables("rope", space, (grid[0] // sizes.patch, grid[1] // sizes.patch)),
        "rope.time": time,
        **codec_tensors(codec_size, codec.tensors, pairs, codec_heads),
        **rope_tables("codec.rope", pixel_freqs(pairs // 2, grid), grid),
    }
    manifest = {
        **_dimensions(sizes, codec_size, image, codec_heads, pairs),
        "window": window,
        "slide": slide,
        "commit_time": COMMIT_TIME,
        "actions": actions(),
        "camera": {"fx": FOCAL * image[0] / image[1], "fy": FOCAL, "world_scale": 1.0},
        "steps": steps,
        "samplers": {str(n): ddim_table(n) for n in tables},
        "retrieval": {**RETRIEVAL, "context": window - 1, "recent": window - 1},
    }
    return manifest, tensors


def _dimensions(
    s: Sizes, codec: CodecSizes, image: tuple[int, int], codec_heads: int, pairs: int
) -> dict[str, Any]:
    """The part of the manifest that the tensors' shapes must agree with."""
    return {
        "format": 1,
        "family": "st_dit",
        "requires": [],
        "image": {"height": image[0], "width": image[1]},
        "latent": {
            "height": image[0] // codec.patch,
            "width": image[1] // codec.patch,
            "channels": s.channels,
            "patch": s.patch,
        },
        "codec": {
            "kind": "vit",
            "patch": codec.patch,
            "width": codec.width,
            "encoder_layers": codec.encoder_layers,
            "decoder_layers": codec.decoder_layers,
            "heads": codec_heads,
            "head_dim": codec.width // codec_heads,
            "mlp": codec.mlp,
            "rope": pairs,
            "eps": EPS,
        },
        "width": s.width,
        "layers": s.layers,
        "heads": s.width // s.head_dim,
        "head_dim": s.head_dim,
        "mlp": s.mlp,
        "eps": EPS,
    }


def actions() -> list[dict[str, Any]]:
    """The manifest's `actions`, in the order of the network's vector."""
    return [
        {
            "name": name,
            "min": -1.0 if name in TURNS else 0.0,
            "max": 1.0,
            "move": MOVES.get(name, [0.0, 0.0, 0.0]),
            "turn": TURNS.get(name, [0.0, 0.0]),
        }
        for name in ACTIONS
    ]


def signal_levels() -> Tensor:
    """The share of signal in the square of a noisy latent at every time 0 to 999: float32.

    A sigmoid from 3 down to -3, as products of float32 ratios of at least 0.001.
    """
    points = torch.linspace(0, 1, NOISE_LEVELS + 1, dtype=torch.float64)
    ends = torch.tensor([-3.0, 3.0]).sigmoid()
    curve = (ends[1] - (6 * points - 3).sigmoid()) / (ends[1] - ends[0])
    losses = (1 - curve[1:] / curve[:-1]).clip(0, 0.999)
    return torch.cumprod(1 - losses.float(), 0)


def ddim_table(steps: int) -> list[list[float]]:
    """Rows [t, a, b, c] of DDIM without noise for a network that predicts v.

    With s² the share of signal and n² = 1 - s², v gives x0 = s·x - n·v and noise = n·x + s·v,
    which the next level mixes again.
    """
    levels = [1.0, *signal_levels().tolist()]  # the level before time 0 is clean
    times = [int(t) for t in torch.linspace(-1, NOISE_LEVELS - 1, steps + 1).tolist()]
    rows = []
    for t, following in zip(times[:0:-1], times[-2::-1], strict=True):
        s, n = math.sqrt(levels[t + 1]), math.sqrt(1 - levels[t + 1])
        s_next, n_next = math.sqrt(levels[following + 1]), math.sqrt(1 - levels[following + 1])
        rows.append([float(t), s_next * s + n_next * n, n_next * s - s_next * n, 0.0])
    return rows


def _take_freqs(dit: Checkpoint) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The RoPE frequencies of space and time, and the other tensors.

    Each is one parameter that all blocks share; a file holds it under any number of its names.
    """
    found = []
    rest = dict(dit.tensors)
    for pattern in (SPATIAL_FREQS, TEMPORAL_FREQS):
        names = [name for name in dit.tensors if re.fullmatch(pattern, name)]
        if not names:
            raise ModelError(f"{dit.path}: expected a tensor named {pattern}, got none")
        first = rest[names[0]]
        for name in names:
            if first.ndim != 1 or not len(first) or not torch.equal(rest.pop(name), first):
                raise ModelError(f"{dit.path}: {name}: expected one vector for all blocks")
        found.append(first.float())
    return found[0], found[1], rest


def _sizes(path: Path, tensors: dict[str, Tensor], pairs: int) -> Sizes:
    return Sizes(
        width=size(path, tensors, "x_embedder.proj.weight", 0, 4),
        layers=count(tensors, r"blocks\.(\d+)\."),
        head_dim=2 * pairs,  # time turns whole heads
        mlp=size(path, tensors, "blocks.0.s_mlp.fc1.bias", 0, 1),
        channels=size(path, tensors, "x_embedder.proj.weight", 1, 4),
        patch=size(path, tensors, "x_embedder.proj.weight", 2, 4),
        actions=size(path, tensors, "external_cond.weight", 1, 2),
    )


def _check_sizes(path: Path, s: Sizes, freqs: int) -> None:
    if s.actions != len(ACTIONS):
        raise ModelError(f"{path}: expected a model of {len(ACTIONS)} actions, got {s.actions}")
    if s.width % s.head_dim or s.head_dim % 8:
        raise ModelError(
            f"{path}: expected heads of a multiple of 8 that divides the width, got "
            f"{s.head_dim} and {s.width}"
        )
    if 4 * freqs != s.head_dim:
        raise ModelError(
            f"{path}: spatial RoPE: expected {s.head_dim // 4} frequencies, a quarter of a head, "
            f"got {freqs}"
        )


def _check_codec(path: Path, s: Sizes, codec: CodecSizes, heads: int) -> None:
    if codec.channels != s.channels:
        raise ModelError(
            f"{path}: expected latents of the transformer's {s.channels} channels, got "
            f"{codec.channels}"
        )
    if heads < 1 or codec.width % (8 * heads):
        raise ModelError(
            f"{path}: expected {heads} heads of a multiple of 8 in the codec's width of "
            f"{codec.width}"
        )


def _check_options(image: tuple[int, int], patch: int, window: int, slide: str) -> None:
    if any(side < 1 or side % patch for side in image):
        raise ModelError(
            f"image: expected sides that are multiples of {patch} pixels, got "
            f"{image[0]} x {image[1]}"
        )
    if window < 2:
        raise ModelError(f"window: expected at least 2 frames, got {window}")
    if slide not in ("keep", "recompute"):
        raise ModelError(f"slide: expected 'keep' or 'recompute', got {slide!r}")


def _tensors(s: Sizes, theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The transformer under our names."""
    tensors = {
        "in.weight": theirs["x_embedder.proj.weight"].permute(0, 2, 3, 1).flatten(1),
        "in.bias": theirs["x_embedder.proj.bias"],
        "time.0.weight": theirs["t_embedder.mlp.0.weight"],
        "time.0.bias": theirs["t_embedder.mlp.0.bias"],
        "time.2.weight": theirs["t_embedder.mlp.2.weight"],
        "time.2.bias": theirs["t_embedder.mlp.2.bias"] + theirs["external_cond.bias"],
        "action.weight": theirs["external_cond.weight"],
        "final.modulation.weight": theirs["final_layer.adaLN_modulation.1.weight"],
        "final.modulation.bias": theirs["final_layer.adaLN_modulation.1.bias"],
        "out.weight": theirs["final_layer.linear.weight"],
        "out.bias": theirs["final_layer.linear.bias"],
    }
    for block in (f"blocks.{i}" for i in range(s.layers)):
        for kind in ("weight", "bias"):
            parts = [theirs[f"{block}.{half}_adaLN_modulation.1.{kind}"] for half in HALVES]
            tensors[f"{block}.modulation.{kind}"] = torch.cat(parts)
        for half, name in HALVES.items():
            ours = f"{block}.{name}"
            qkv = theirs[f"{block}.{half}_attn.to_qkv.weight"]
            tensors[f"{ours}.qkv.weight"] = half_split(qkv, s.width // s.head_dim, s.head_dim // 2)
            for kind in ("weight", "bias"):
                tensors[f"{ours}.out.{kind}"] = theirs[f"{block}.{half}_attn.to_out.{kind}"]
                tensors[f"{ours}.up.{kind}"] = theirs[f"{block}.{half}_mlp.fc1.{kind}"]
                tensors[f"{ours}.down.{kind}"] = theirs[f"{block}.{half}_mlp.fc2.{kind}"]
    return tensors


def recipe(name: str, slide: str, matches: Callable[[Sequence[Checkpoint]], bool]) -> Recipe:
    return Recipe(
        name=name,
        family="st_dit",
        files="oasis500m.safetensors vit-l-20.safetensors",
        source="https://huggingface.co/Etched/oasis-500m",
        parameters="608M and a codec of 229M",
        licence="MIT",
        matches=matches,
        build=partial(build, slide=slide),
    )


RECIPE = recipe("oasis", "keep", matches)
RECIPE_RECOMPUTE = recipe("oasis-recompute", "recompute", lambda checkpoints: False)  # by name only
