# SPDX-License-Identifier: Apache-2.0
"""What a run leaves: the fp32 weights, the model file made of them, and a model card."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from rtfm_rt.bench import machine
from rtfm_rt.convert import BLOCK_NAMES, NAMES, convert
from rtfm_rt.files import whole_file
from tools.rooms.evaluate import evaluate, load, table
from tools.rooms.network import Frames

_CARD = """# {name}

A `frame_dit` model of procedurally generated rooms, written by `{command}`.

| | |
|---|---|
| frames | {size} x {size}, patch {patch} ({tokens} tokens), 75° field of view |
| network | width {width}, {layers} layers, {heads} heads, {parameters:.1f} M parameters |
| began from | {init} |
| data | procedural rooms rendered during training, each used for one step: {rooms} in all |
| training | {steps} steps, {targets} wanted frames, {hours:.2f} hours of wall-clock time |
| machine | {machine} |
| seed | {seed} |
| licence | Apache-2.0 |

## Held-out rooms
{figures}

Mean PSNR to the rendered picture, then the gradient energy of the generated pictures over that
of the rendered ones (1 is as sharp as the truth), measured on the model file by
`python -m tools.rooms.evaluate`: the seventh of eight views, wanted from the first 1, 2 or 4.
"""


def export(model: Frames, state: dict[str, Any], args: argparse.Namespace) -> None:
    """Writes weights.safetensors, rooms.safetensors and README.md into args.out."""
    weights, target = args.out / "weights.safetensors", args.out / "rooms.safetensors"
    save_weights(model, weights, state["samplers"])
    convert(weights, target, name="rooms", licence="Apache-2.0")
    card = _CARD.format(
        **_facts(model, state, args), figures=_figures(target) if args.evaluate else "Not measured."
    )
    (args.out / "README.md").write_text(card, encoding="utf-8")


def save_weights(model: Frames, path: Path, samplers: dict[str, Any]) -> None:
    """The fp32 weights with the names and the metadata that `rtfm-rt convert` expects."""
    theirs = {ours: name for name, ours in NAMES.items()}
    for block in range(model.config.layers):
        for name, ours in BLOCK_NAMES.items():
            theirs[f"blocks.{block}.{ours}"] = f"blocks.{block}.{name}"
    tensors = {theirs[name]: value.cpu() for name, value in model.state_dict().items()}
    config = model.config
    metadata = {
        "image": config.height,
        "patch": config.patch,
        "width": config.width,
        "layers": config.layers,
        "heads": config.heads,
        "samplers": json.dumps(samplers),
    }
    text = {key: str(value) for key, value in metadata.items()}
    with whole_file(path) as part:
        safetensors.torch.save_file(tensors, part, {**text, "trainer": "tools/rooms/train.py"})


def _facts(model: Frames, state: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    config = model.config
    return {
        "name": "rooms",
        "command": state["command"],
        "size": config.height,
        "patch": config.patch,
        "tokens": model.rows * model.cols,
        "width": config.width,
        "layers": config.layers,
        "heads": config.heads,
        "parameters": sum(p.numel() for p in model.parameters()) / 1e6,
        "init": f"`{args.init.name}`" if args.init else "random weights",
        "rooms": state["step"] * args.rooms,
        "steps": state["step"],
        "targets": state["targets"],
        "hours": state["seconds"] / 3600,
        "machine": _machine(args),
        "seed": args.seed,
    }


def _machine(args: argparse.Namespace) -> str:
    if args.device == "cuda":
        return torch.cuda.get_device_name()
    return f"{machine()['processor']}, {args.threads} threads"


def _figures(path: Path) -> str:
    model, manifest = load(path)
    return table(evaluate(model, manifest["samplers"]))
