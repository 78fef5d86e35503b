# SPDX-License-Identifier: Apache-2.0
"""Makes a model file from a training checkpoint of the `frame_dit` family (extra `convert`)."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rtfm_rt._core import ModelError
from rtfm_rt.convert.common import (
    check_finite,
    describe,
    open_checkpoint,
    refuse_pickle,
    stored_dtype,
    write_model,
)
from rtfm_rt.files import check_outputs
from rtfm_rt.reference.frame_dit import Config, FrameDiT, View, load

# Trainer's name -> ours; {} is the block's number.
NAMES = {
    "inp.weight": "in.weight",
    "inp.bias": "in.bias",
    "t1.weight": "time.0.weight",
    "t1.bias": "time.0.bias",
    "t2.weight": "time.2.weight",
    "t2.bias": "time.2.bias",
    "fm": "final.modulation",
    "out.weight": "out.weight",
    "out.bias": "out.bias",
}
BLOCK_NAMES = {
    "mod": "modulation",
    "qkv.weight": "qkv.weight",
    "qg": "q_gain",
    "kg": "k_gain",
    "o.weight": "out.weight",
    "up.weight": "up.weight",
    "up.bias": "up.bias",
    "down.weight": "down.weight",
    "down.bias": "down.bias",
}
METADATA = ("image", "patch", "width", "layers", "heads")
OPTIONAL = ("samplers", "trainer")
IGNORED = ("format",)  # "pt", by convention, of files that PyTorch wrote
MAX_SIZE = 65536
UNPICKLE = (
    'python -c "import torch, safetensors.torch as s; '
    "c = torch.load('{path}', weights_only=True); "
    "s.save_file(c['net'], 'checkpoint.safetensors', dict(zip("
    "('image', 'patch', 'width', 'layers', 'heads'), map(str, c['cfg'].values()))))\""
)
FOCAL = 0.5 / math.tan(math.radians(75 / 2))  # the trainer's cameras: 75 degrees across
RETRIEVAL = {
    "context": 4,
    "sinks": 1,
    "recent": 1,
    "near": 0.3,
    "far": 10.0,
    "commit_below": 0.9,
}


def flow_table(steps: int) -> list[list[float]]:
    """Rows [t, a, b, c] of the Euler flow sampler: t from 1 to 0 in equal steps."""
    rows = []
    for i in range(steps):
        ratio = (steps - i - 1) / (steps - i)  # next t / t
        rows.append([(steps - i) / steps, ratio, 1 - ratio, 0.0])
    return rows


def make_manifest(
    config: Config,
    *,
    name: str,
    licence: str,
    source: dict[str, str],
    steps: int = 2,
    tables: tuple[int, ...] = (1, 2, 4),
    samplers: dict[str, Any] | None = None,
    fx: float = FOCAL,
    fy: float = FOCAL,
    retrieval: dict[str, float] | None = None,
) -> dict[str, Any]:
    """The manifest of a `frame_dit` model; arguments as for `convert`.

    samplers: tables by number of steps that replace or join the flow tables of `tables`.
    """
    return {
        "format": 1,
        "family": "frame_dit",
        "name": name,
        "licence": licence,
        "source": source,
        "requires": [],
        "image": {"height": config.height, "width": config.image_width},
        "codec": {"kind": "patch", "patch": config.patch},
        "width": config.width,
        "layers": config.layers,
        "heads": config.heads,
        "head_dim": config.width // config.heads,
        "mlp": config.mlp,
        "camera": {"fx": fx, "fy": fy, "world_scale": config.world_scale},
        "steps": steps,
        "samplers": {**{str(n): flow_table(n) for n in tables}, **(samplers or {})},
        "retrieval": {**RETRIEVAL, **(retrieval or {})},
    }


def convert(
    checkpoint: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    name: str,
    licence: str,
    dtype: str = "bfloat16",
    steps: int = 2,
    tables: tuple[int, ...] = (1, 2, 4),
    fx: float = FOCAL,
    fy: float = FOCAL,
    world_scale: float = 1.0,
    retrieval: dict[str, float] | None = None,
) -> dict[str, Any]:
    """Writes the model file `out` and returns what `read_info` says of it.

    checkpoint: a .safetensors file with the trainer's names and metadata. dtype: how the large
    matrices are stored, "bfloat16" or "float32". steps: the default number of sampler steps, one of
    `tables`. fx, fy: focal lengths in units of image width and height. world_scale: model units per
    metre. retrieval: entries that replace the defaults. The same input gives the same bytes; `out`
    is replaced only when all of it is written and checked. Raises ModelError, and ArgumentError for
    an `out` that is the checkpoint or no file.
    """
    matrices = stored_dtype(dtype)
    check_outputs([out], [checkpoint])
    source = Path(checkpoint)
    metadata, tensors = _open(source)
    config = _config(source, metadata, tensors, world_scale)
    state = _rename(source, config, tensors)
    manifest = make_manifest(
        config,
        name=name,
        licence=licence,
        source=describe([source]),
        steps=steps,
        tables=tables,
        samplers=_samplers(source, metadata),
        fx=fx,
        fy=fy,
        retrieval=retrieval,
    )
    stored = {
        name: tensor.to(torch.float32 if _small(name, tensor) else matrices)
        for name, tensor in state.items()
    }
    exact = dtype == "float32"
    return write_model(
        out, manifest, stored, lambda path: _check_forward(path, config, state, exact=exact)
    )


def _open(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors (as float32) of a checkpoint."""
    refuse_pickle(path, UNPICKLE)
    checkpoint = open_checkpoint(path)
    check_finite(path, checkpoint.tensors)
    return checkpoint.metadata, {name: t.float() for name, t in checkpoint.tensors.items()}


def _config(
    path: Path, metadata: dict[str, str], tensors: dict[str, Tensor], world_scale: float
) -> Config:
    """Dimensions from the metadata; mlp from the first block."""
    sizes = {}
    for key in METADATA:
        text = metadata.get(key, "nothing")
        if not re.fullmatch("[1-9][0-9]{0,4}", text) or int(text) > MAX_SIZE:
            raise ModelError(f"{path}: metadata {key!r}: expected an integer >= 1, got {text!r}")
        sizes[key] = int(text)
    known = (*METADATA, *OPTIONAL)
    for key in sorted(set(metadata) - {*known, *IGNORED}):
        raise ModelError(f"{path}: metadata {key!r}: expected only {', '.join(known)}")
    if sizes["width"] % (8 * sizes["heads"]) or sizes["image"] % sizes["patch"]:
        raise ModelError(
            f"{path}: expected a head dim that is a multiple of 8 and an image side that is a "
            f"multiple of the patch, got {sizes}"
        )
    up = tensors.get("blocks.0.up.bias")
    if up is None or up.ndim != 1:
        raise ModelError(f"{path}: tensor 'blocks.0.up.bias' is missing or not a vector")
    return Config(
        height=sizes["image"],
        image_width=sizes["image"],
        patch=sizes["patch"],
        width=sizes["width"],
        layers=sizes["layers"],
        heads=sizes["heads"],
        mlp=len(up),
        world_scale=world_scale,
    )


def _samplers(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """The sampler tables, by number of steps, that the trainer made the weights for."""
    text = metadata.get("samplers", "{}")
    try:
        samplers = json.loads(text)
    except json.JSONDecodeError:
        samplers = None
    if not isinstance(samplers, dict):
        raise ModelError(f"{path}: metadata 'samplers': expected a JSON object, got {text!r}")
    return samplers


def _rename(path: Path, config: Config, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under our names, each with the shape that the module wants."""
    names = dict(NAMES)
    for block in range(config.layers):
        for theirs, ours in BLOCK_NAMES.items():
            names[f"blocks.{block}.{theirs}"] = f"blocks.{block}.{ours}"
    missing, unknown = sorted(names.keys() - tensors.keys()), sorted(tensors.keys() - names.keys())
    if missing or unknown:
        raise ModelError(
            f"{path}: expected exactly the tensors of {config.layers} blocks; "
            f"missing {missing[:8]}, unknown {unknown[:8]}"
        )
    with torch.device("meta"):
        wanted = FrameDiT(config).state_dict()
    state = {}
    for theirs, ours in names.items():
        expected, got = list(wanted[ours].shape), list(tensors[theirs].shape)
        if expected != got:
            raise ModelError(f"{path}: {theirs}: expected shape {expected}, got {got}")
        state[ours] = tensors[theirs]
    return state


def _small(name: str, tensor: Tensor) -> bool:
    """Vectors, modulation tables and the time network, which stay float32."""
    return tensor.ndim < 2 or name.endswith("modulation") or name.startswith("time.")


def _check_forward(path: Path, config: Config, state: dict[str, Tensor], *, exact: bool) -> None:
    """Compares one forward pass of the written file with the checkpoint's, both in float32."""
    before = FrameDiT(config).requires_grad_(False)
    before.load_state_dict(state)
    after, _ = load(str(path))
    noise = torch.randn(
        before.rows * before.cols, 3 * config.patch**2, generator=torch.Generator().manual_seed(0)
    )
    view = View(torch.eye(4, dtype=torch.float64), FOCAL, FOCAL)
    page_before, page_after = before.read(noise.clamp(-1, 1)), after.read(noise.clamp(-1, 1))
    expected = before.write(noise, 0.5, [page_before], [view], view)
    got = after.write(noise, 0.5, [page_after], [view], view)
    error = float((got - expected).norm() / expected.norm().clamp(min=1e-12))
    limit = 0.0 if exact else 0.05  # each weight is rounded to 8 bits
    if not error <= limit:
        raise ModelError(f"{path}: self-check: expected an error of at most {limit}, got {error}")
