# SPDX-License-Identifier: Apache-2.0
"""Efficient-LVSM's published checkpoints -> family `dual_stream`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rtfm_rt._core import ModelError
from rtfm_rt.convert.common import Checkpoint, Recipe, check_finite, check_names
from rtfm_rt.reference.dual_stream import Config, DualStream

# Published name -> ours.
NAMES = {
    "rgbp_tokenizer.1.weight": "reader.in.weight",
    "target_pose_tokenizer.1.weight": "writer.in.weight",
    "image_token_decoder.1.weight": "out.weight",
}
MLP = {"mlp.mlp.0.weight": "up.weight", "mlp.mlp.2.weight": "down.weight"}
ATTENTION = {
    "to_qkv.weight": "qkv.weight",
    "q_norm.weight": "q_gain",
    "k_norm.weight": "k_gain",
    "fc.weight": "out.weight",
}
# The keys and values of the pages are the reader's: it alone needs them.
CROSS = {
    "to_q.weight": "writer.blocks.{}.cross_q.weight",
    "q_norm.weight": "writer.blocks.{}.cross_q_gain",
    "fc.weight": "writer.blocks.{}.cross_out.weight",
    "to_kv.weight": "reader.blocks.{}.page_kv.weight",
    "k_norm.weight": "reader.blocks.{}.page_k_gain",
}
COMPILED = "_orig_mod."  # what torch.compile puts in front of the names
DEAD = ("repa_", "loss_computer.")  # used in training only
EPS = (
    1e-5  # of LayerNorm and of the norm of q and k: neither is in the checkpoint nor in its options
)
FOCAL = 0.5 / math.tan(math.radians(60 / 2))  # 60 degrees across; images are square
WORLD_SCALE = 1 / 1.35  # a walk within a metre of its start: see reference/dual_stream.py
RETRIEVAL = {
    "context": 4,
    "sinks": 1,
    "recent": 1,
    "near": 0.3,
    "far": 10.0,
    "commit_below": 0.0,  # a rendered frame holds nothing that its pages do not
}


def block_names(layer: int) -> dict[str, str]:
    """Published name -> ours, of the layer's two blocks."""
    reader, writer = f"input_self_attn_blocks.{layer}.", f"self_cross_blocks.{layer}."
    names = {f"{writer}cross_attn.{theirs}": ours.format(layer) for theirs, ours in CROSS.items()}
    for stream, theirs, attention in (("reader", reader, "attn"), ("writer", writer, "self_attn")):
        pairs = {f"{attention}.{key}": ours for key, ours in ATTENTION.items()} | MLP
        names |= {theirs + key: f"{stream}.blocks.{layer}.{ours}" for key, ours in pairs.items()}
    return names


def alive(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the network, by the names of the module that was trained."""
    if all(name.startswith(COMPILED) for name in tensors):
        tensors = {name.removeprefix(COMPILED): tensor for name, tensor in tensors.items()}
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(DEAD)}


def matches(checkpoints: Sequence[Checkpoint]) -> bool:
    return len(checkpoints) == 1 and (
        "self_cross_blocks.0.cross_attn.to_kv.weight" in alive(checkpoints[0].tensors)
    )


def build(
    checkpoints: Sequence[Checkpoint], *, side: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The manifest (without name, licence, source) and the tensors of a model of side² pixels.

    Nothing in a checkpoint says for which size of image it was trained. Raises ModelError.
    """
    if len(checkpoints) != 1:
        raise ModelError(f"expected one checkpoint, got {len(checkpoints)}")
    path, tensors = checkpoints[0].path, alive(checkpoints[0].tensors)
    if not any(name.endswith(("q_norm.weight", "k_norm.weight")) for name in tensors) and matches(
        checkpoints
    ):
        raise ModelError(f"{path}: the switch use_qk_norm: false is not supported")
    layers = len({name.split(".")[1] for name in tensors if name.startswith("self_cross_blocks.")})
    names = dict(NAMES)
    for layer in range(max(layers, 1)):
        names |= block_names(layer)
    check_names(path, names, tensors)
    config = sizes(checkpoints[0], tensors, layers, side)
    with torch.device("meta"):
        wanted = DualStream(config).state_dict()
    for theirs, ours in names.items():
        expected, got = list(wanted[ours].shape), list(tensors[theirs].shape)
        if expected != got:
            raise ModelError(f"{path}: {theirs}: expected shape {expected}, got {got}")
    check_finite(path, tensors)
    return manifest(config), {ours: tensors[theirs] for theirs, ours in names.items()}


def sizes(checkpoint: Checkpoint, tensors: dict[str, Tensor], layers: int, side: int) -> Config:
    """The dimensions, read from a few tensors that must be matrices and vectors."""

    def shape(name: str, dims: int) -> tuple[int, ...]:
        got = tuple(tensors[name].shape)
        if len(got) != dims or 0 in got:
            raise ModelError(f"{checkpoint.path}: {name}: expected {dims} axes, got shape {got}")
        return got

    token, width = shape("image_token_decoder.1.weight", 2)
    patch = math.isqrt(token // 3)
    if 3 * patch * patch != token or side % max(patch, 1):
        raise ModelError(
            f"{checkpoint.path}: image_token_decoder.1.weight: expected 3·p·p rows for a patch p "
            f"that divides {side}, got {token}"
        )
    for name, channels in (("rgbp_tokenizer", 9), ("target_pose_tokenizer", 6)):
        got = shape(f"{name}.1.weight", 2)[1]
        if got != channels * patch * patch:
            raise ModelError(
                f"{checkpoint.path}: {name}.1.weight: expected in_channels: {channels} and a patch "
                f"of {patch}, so {channels * patch * patch} columns, got {got}; another ray "
                "embedding or patch_size is not supported"
            )
    (head_dim,) = shape("self_cross_blocks.0.cross_attn.k_norm.weight", 1)
    if width % head_dim:
        raise ModelError(f"{checkpoint.path}: expected heads of {head_dim} in a width of {width}")
    mlp = shape("self_cross_blocks.0.mlp.mlp.0.weight", 2)[0]
    return Config(side, side, patch, width, layers, width // head_dim, head_dim, mlp, EPS, EPS)


def manifest(config: Config) -> dict[str, Any]:
    """Of a `dual_stream` model, without name, licence and source."""
    return {
        "format": 1,
        "family": "dual_stream",
        "requires": [],
        "image": {"height": config.height, "width": config.image_width},
        "patch": config.patch,
        "width": config.width,
        "layers": config.layers,
        "heads": config.heads,
        "head_dim": config.head_dim,
        "mlp": config.mlp,
        "norm_eps": config.norm_eps,
        "qk_norm_eps": config.qk_norm_eps,
        "camera": {"fx": FOCAL, "fy": FOCAL, "world_scale": WORLD_SCALE},
        "steps": 1,
        "samplers": {"1": [[0, 0, 1, 0]]},  # no noise: the frame is the network's output
        "retrieval": RETRIEVAL,
    }


def recipe(name: str, side: int) -> Recipe:
    """For checkpoints that were trained on side² pixels; their tensors look the same."""
    return Recipe(
        name=name,
        family="dual_stream",
        files=f"efficient_lvsm_res{side}.pt as .safetensors",
        source="https://huggingface.co/Ayakaee/efficient-lvsm",
        parameters="199M",
        # The repository's LICENSE.md; a badge in its README says MIT. Until the authors say which,
        # the stricter one.
        licence="CC-BY-NC-SA-4.0",
        matches=matches,
        build=partial(build, side=side),
    )


RECIPE = recipe("efficient-lvsm", 256)
RECIPE_512 = recipe("efficient-lvsm-512", 512)
