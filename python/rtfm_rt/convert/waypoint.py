# SPDX-License-Identifier: Apache-2.0
"""Makes `causal_dit` models from Waypoint-1.5 (Overworld) and the codec TAEHV (extra `convert`)."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rtfm_rt._core import ModelError
from rtfm_rt.convert import taehv
from rtfm_rt.convert.common import Checkpoint, Recipe, check_finite, check_names
from rtfm_rt.reference.causal_dit import Window

Entry = dict[str, Any]  # of the manifest's list of actions
BLOCKS = "transformer.blocks."
DEAD = {"ctrl_cfg.null_emb"}  # stands for the action in training only
REFUSED = {  # switches of the published code that Waypoint-1.5 leaves off
    r"prompt_cfg\.|.*\.prompt_cross_attn\.": "without text prompts (a Waypoint-1 model?)",
    r".*\.attn\.gate_proj\.": "without attention gates (a Waypoint-1 model?)",
}
EPS = float(torch.finfo(torch.float32).eps)  # what torch's rms_norm takes when none is given
TIME_FEATURES = 512
HEAD_DIM = 64
SIGMAS = (1.0, 0.9, 0.75, 0.3, 0.0)
GRID = (16, 32)  # tokens of a 720P frame, rows and columns; 8 x 16 in a 360P frame
WINDOW = Window(local_frames=16, global_frames=128, dilation=8, period=4, offset=3)
NYQUIST = 0.8  # the fastest spatial angle, as a share of what the shorter side can tell apart
THETA = 1e4
VIEW = (0.5, 0.5 * 16 / 9)  # focal lengths: 90 degrees across a frame that is shown as 16:9

# Dead reckoning: nobody measured how far a key carries the network's camera.
STRIDE = 0.1  # metres per step, a walk at 15 steps a second
TURN = 10.0  # degrees per unit of mouse
KEYS = {0x57: (0, 0, 1), 0x41: (-1, 0, 0), 0x53: (0, 0, -1), 0x44: (1, 0, 0)}  # W, A, S, D


def build(
    checkpoints: Sequence[Checkpoint],
    *,
    grid: tuple[int, int] = GRID,
    window: Window = WINDOW,
    head_dim: int = HEAD_DIM,
    sigmas: Sequence[float] = SIGMAS,
    time_step: float = 1.0,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The manifest, without name, licence and source, and the tensors of a model file.

    checkpoints: the transformer, then its codec. What the tensors do not say: grid, tokens of a
    frame (rows, columns); window; head_dim; sigmas, down to 0; time_step. Raises ModelError.
    """
    if len(checkpoints) != 2:
        raise ModelError(f"expected a transformer and its codec, got {len(checkpoints)} file(s)")
    transformer, codec = checkpoints
    _refuse(transformer)
    check_finite(transformer.path, transformer.tensors)
    sizes = _sizes(transformer, head_dim)
    state = _in_release_style(transformer, sizes)
    _check_options(transformer, grid, window, sigmas)
    codec_manifest, codec_tensors = taehv.build(codec)
    if codec_manifest["latent"] != sizes["channels"]:
        raise ModelError(
            f"{codec.path}: expected a codec of {sizes['channels']} latent channels as "
            f"{transformer.path} has, got {codec_manifest['latent']}"
        )
    manifest = _manifest(sizes, grid, window, sigmas, codec_manifest)
    tensors = _weights(state, sizes, grid)
    tensors |= _modulation(state, sizes["layers"], sigmas)
    tensors |= _rope(grid, head_dim, time_step)
    return manifest, tensors | {f"codec.{name}": t for name, t in codec_tensors.items()}


def matches(checkpoints: Sequence[Checkpoint]) -> bool:
    """Whether these are a Waypoint transformer and a TAEHV codec, by the names of their tensors."""
    if len(checkpoints) != 2:
        return False
    transformer, codec = (checkpoint.tensors for checkpoint in checkpoints)
    return f"{BLOCKS}0.attn.q_proj.weight" in transformer and taehv.matches(codec)


def _refuse(checkpoint: Checkpoint) -> None:
    """Raises ModelError naming a part of the network that is not supported."""
    for pattern, wanted in REFUSED.items():
        for name in sorted(checkpoint.tensors):
            if re.match(pattern, name):
                raise ModelError(f"{checkpoint.path}: expected a model {wanted}, got {name}")


def _shape(checkpoint: Checkpoint, name: str, rank: int) -> list[int]:
    tensor = checkpoint.tensors.get(name)
    got = "nothing" if tensor is None else list(tensor.shape)
    if tensor is None or tensor.ndim != rank or min(tensor.shape) < 1:
        raise ModelError(f"{checkpoint.path}: {name}: expected a tensor of rank {rank}, got {got}")
    return list(tensor.shape)


def _sizes(checkpoint: Checkpoint, head_dim: int) -> dict[str, Any]:
    """Dimensions, from the shapes and names of the tensors."""
    tensors = checkpoint.tensors
    numbers = {int(m[1]) for n in tensors if (m := re.match(r"transformer\.blocks\.(\d+)\.", n))}
    width, channels, patch, _ = _shape(checkpoint, "patchify.weight", 4)
    released = f"{BLOCKS}0.dit_mlp.fc1.weight" in tensors
    mlp = f"{BLOCKS}0.{'dit_mlp' if released else 'mlp'}.fc1.weight"
    kv_rows = _shape(checkpoint, f"{BLOCKS}0.attn.k_proj.weight", 2)[0]
    control_mlp, actions = _shape(checkpoint, "ctrl_emb.mlp.fc1.weight", 2)
    if sorted(numbers) != list(range(len(numbers))):
        raise ModelError(f"{checkpoint.path}: expected blocks 0, 1, 2, ..., got {sorted(numbers)}")
    heads, kv_heads = width // head_dim, kv_rows // head_dim
    if head_dim % 16 or width % head_dim or kv_rows % head_dim or not kv_heads or heads % kv_heads:
        raise ModelError(
            f"{checkpoint.path}: expected heads of {head_dim}, a multiple of 16, with queries in "
            f"equal groups; got {width} rows of queries and {kv_rows} of keys"
        )
    return {
        "released": released,
        "width": width,
        "channels": channels,
        "patch": patch,
        "layers": len(numbers),
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "mlp": _shape(checkpoint, mlp, 2)[0],
        "control_layers": [
            i for i in sorted(numbers) if any(f"{BLOCKS}{i}.ctrl_mlpfusion." in n for n in tensors)
        ],
        "control_mlp": control_mlp,
        "actions": actions,
        "noise_mlp": _shape(checkpoint, "denoise_step_emb.mlp.fc1.weight", 2)[0],
        "value_residual": f"{BLOCKS}0.attn.v_lamb" in tensors,
    }


def published_shapes(sizes: Mapping[str, Any]) -> dict[str, list[int]]:
    """Name -> shape of every tensor of the transformer, in its file's own style."""
    width, released = sizes["width"], sizes["released"]
    token, square = sizes["channels"] * sizes["patch"] ** 2, [width, width]
    conv = [width, sizes["channels"], sizes["patch"], sizes["patch"]]
    shapes = {
        "patchify.weight": conv,
        "unpatchify.weight": conv if released else [token, width],
        "unpatchify.bias": [sizes["channels"] if released else token],
        "out_norm.fc.weight": [2 * width, width],
        "denoise_step_emb.mlp.fc1.weight": [sizes["noise_mlp"], TIME_FEATURES],
        "denoise_step_emb.mlp.fc2.weight": [width, sizes["noise_mlp"]],
        "ctrl_emb.mlp.fc1.weight": [sizes["control_mlp"], sizes["actions"]],
        "ctrl_emb.mlp.fc2.weight": [width, sizes["control_mlp"]],
    }
    heads = {"attn_cond_head": 3, "mlp_cond_head": 3} if released else {"cond_head": 6}
    mlp = "dit_mlp" if released else "mlp"
    for layer in range(sizes["layers"]):
        kv = [sizes["kv_heads"] * sizes["head_dim"], width]
        block = {
            "attn.q_proj.weight": square,
            "attn.k_proj.weight": kv,
            "attn.v_proj.weight": kv,
            "attn.out_proj.weight": square,
            f"{mlp}.fc1.weight": [sizes["mlp"], width],
            f"{mlp}.fc2.weight": [width, sizes["mlp"]],
        }
        if sizes["value_residual"]:
            block["attn.v_lamb"] = []
        for head, count in heads.items():
            block[f"{head}.bias_in"] = [width]
            block |= {f"{head}.cond_proj.{i}.weight": square for i in range(count)}
        if layer in sizes["control_layers"] and released:
            block |= {f"ctrl_mlpfusion.{part}.weight": square for part in ("fc1_x", "fc1_c", "fc2")}
        elif layer in sizes["control_layers"]:
            block["ctrl_mlpfusion.mlp.fc1.weight"] = [width, 2 * width]
            block["ctrl_mlpfusion.mlp.fc2.weight"] = square
        shapes |= {f"{BLOCKS}{layer}.{name}": shape for name, shape in block.items()}
    return shapes


def _in_release_style(checkpoint: Checkpoint, sizes: Mapping[str, Any]) -> dict[str, Tensor]:
    """The checked tensors in float32 under the names of the release, except that the output
    projection is the linear layer of training: [C, D] and [C] in order (channel, row, column)."""
    tensors, shapes = checkpoint.tensors, published_shapes(sizes)
    check_names(checkpoint.path, shapes, tensors.keys() - DEAD)
    for name, shape in shapes.items():
        if list(tensors[name].shape) != shape:
            got = list(tensors[name].shape)
            raise ModelError(f"{checkpoint.path}: {name}: expected shape {shape}, got {got}")
    state = {name: tensors[name].float() for name in shapes}
    if sizes["released"]:
        patch = sizes["patch"] ** 2
        state["unpatchify.weight"] = state["unpatchify.weight"].flatten(1).T
        state["unpatchify.bias"] = state["unpatchify.bias"].repeat_interleave(patch)
        return state
    for layer in range(sizes["layers"]):
        prefix = f"{BLOCKS}{layer}."
        for i in (1, 2):
            state[f"{prefix}dit_mlp.fc{i}.weight"] = state.pop(f"{prefix}mlp.fc{i}.weight")
        bias = state.pop(f"{prefix}cond_head.bias_in")
        for first, head in ((0, "attn_cond_head"), (3, "mlp_cond_head")):
            state[f"{prefix}{head}.bias_in"] = bias
            for i in range(3):
                name = f"cond_proj.{first + i}.weight"
                state[f"{prefix}{head}.cond_proj.{i}.weight"] = state.pop(
                    f"{prefix}cond_head.{name}"
                )
        if layer in sizes["control_layers"]:
            fuse = f"{prefix}ctrl_mlpfusion."
            both = state.pop(f"{fuse}mlp.fc1.weight").chunk(2, 1)
            state[f"{fuse}fc1_x.weight"], state[f"{fuse}fc1_c.weight"] = both
            state[f"{fuse}fc2.weight"] = state.pop(f"{fuse}mlp.fc2.weight")
    return state


def _check_options(
    checkpoint: Checkpoint, grid: tuple[int, int], window: Window, sigmas: Sequence[float]
) -> None:
    if min(grid) < 2:
        raise ModelError(f"{checkpoint.path}: grid: expected at least 2 rows and columns of tokens")
    if window.global_frames % window.dilation or not 0 <= window.offset < window.period:
        raise ModelError(
            f"{checkpoint.path}: window: expected global_frames in multiples of dilation and "
            f"0 <= offset < period, got {window}"
        )
    if len(sigmas) < 2 or sigmas[-1] != 0 or sorted(set(sigmas), reverse=True) != list(sigmas):
        raise ModelError(f"{checkpoint.path}: sigmas: expected numbers falling to 0, got {sigmas}")


def _per_head(weight: Tensor, head_dim: int) -> Tensor:
    """Rows of W_q or W_k so that the published pairs (2i, 2i+1) of a head become (i, i + d/2)."""
    return weight.unflatten(0, (-1, head_dim // 2, 2)).transpose(1, 2).flatten(0, 2)


def _weights(
    state: Mapping[str, Tensor], sizes: Mapping[str, Any], grid: tuple[int, int]
) -> dict[str, Tensor]:
    """What is stored as published, up to fusing and the order of rows and columns."""
    p, channels, head_dim = sizes["patch"], sizes["channels"], sizes["head_dim"]
    out = state["unpatchify.weight"].unflatten(0, (channels, p, p))
    tensors = {
        "in.weight": state["patchify.weight"].permute(0, 2, 3, 1).flatten(1),
        "out.weight": out.permute(1, 2, 0, 3).flatten(0, 2),
        "out.bias": state["unpatchify.bias"].reshape(channels, p * p).T.flatten(),
        "control.0.weight": state["ctrl_emb.mlp.fc1.weight"],
        "control.2.weight": state["ctrl_emb.mlp.fc2.weight"],
    }
    if sizes["value_residual"]:
        tensors["value_mix"] = torch.stack(
            [state[f"{BLOCKS}{i}.attn.v_lamb"] for i in range(sizes["layers"])]
        )
    for layer in range(sizes["layers"]):
        theirs, ours = f"{BLOCKS}{layer}.", f"blocks.{layer}."
        q, k, v = (state[f"{theirs}attn.{name}_proj.weight"] for name in "qkv")
        tensors[f"{ours}qkv.weight"] = torch.cat(
            [_per_head(q, head_dim), _per_head(k, head_dim), v]
        )
        tensors[f"{ours}out.weight"] = state[f"{theirs}attn.out_proj.weight"]
        tensors[f"{ours}up.weight"] = state[f"{theirs}dit_mlp.fc1.weight"]
        tensors[f"{ours}down.weight"] = state[f"{theirs}dit_mlp.fc2.weight"]
        if layer in sizes["control_layers"]:
            for part, name in (("x", "fc1_x"), ("c", "fc1_c"), ("out", "fc2")):
                fuse = state[f"{theirs}ctrl_mlpfusion.{name}.weight"]
                tensors[f"{ours}fuse.{part}.weight"] = fuse
    return tensors


def _modulation(
    state: Mapping[str, Tensor], layers: int, sigmas: Sequence[float]
) -> dict[str, Tensor]:
    """The tables of all that depends on sigma alone, from double precision: [sigmas, layers, 6, D]
    and [sigmas, 2, D]."""
    weights = {
        name: state[f"denoise_step_emb.mlp.{name}.weight"].double() for name in ("fc1", "fc2")
    }
    half = TIME_FEATURES // 2
    freqs = 1e4 ** (-torch.arange(half, dtype=torch.float64) / (half - 1))
    phase = 1000 * torch.tensor(sigmas, dtype=torch.float64)[:, None] * freqs
    features = math.sqrt(2) * torch.cat([phase.sin(), phase.cos()], 1)
    noise = torch.nn.functional.silu(features @ weights["fc1"].T) @ weights["fc2"].T
    rows = []
    for layer in range(layers):
        for part in ("attn_cond_head", "mlp_cond_head"):
            prefix = f"{BLOCKS}{layer}.{part}."
            e = torch.nn.functional.silu(noise + state[f"{prefix}bias_in"].double())
            scale, shift, gate = (
                e @ state[f"{prefix}cond_proj.{i}.weight"].double().T for i in range(3)
            )
            rows += [shift, scale, gate]
    table = torch.stack(rows, 1).unflatten(1, (layers, 6))
    final = torch.nn.functional.silu(noise) @ state["out_norm.fc.weight"].double().T
    scale, shift = final.chunk(2, 1)
    return {
        "modulation": table.float(),
        "final.modulation": torch.stack([shift, scale], 1).float(),
    }


def _rope(grid: tuple[int, int], head_dim: int, time_step: float) -> dict[str, Tensor]:
    """Of each token, the d/8 pairs of its column then of its row; of the d/4 pairs that turn with
    time, the angle from frame to frame. Every frequency serves two pairs."""
    rows, cols = grid
    space, time = head_dim // 16, head_dim // 8
    freqs = torch.linspace(1, min(grid) * NYQUIST / 2, space, dtype=torch.float64) * math.pi
    freqs = freqs.repeat_interleave(2)
    x = torch.linspace(-1 + 1 / cols, 1 - 1 / cols, cols, dtype=torch.float64).repeat(rows)
    y = torch.linspace(-1 + 1 / rows, 1 - 1 / rows, rows, dtype=torch.float64)
    y = y.repeat_interleave(cols)
    angles = torch.cat([x[:, None] * freqs, y[:, None] * freqs], 1)
    turning = THETA ** (-torch.arange(time, dtype=torch.float64) / time) * time_step
    return {
        "rope.cos": angles.cos().float(),
        "rope.sin": angles.sin().float(),
        "rope.time": turning.repeat_interleave(2).float(),
    }


def actions(count: int, stride: float = STRIDE, turn: float = TURN) -> list[Entry]:
    """The manifest's list for `count` numbers: mouse velocity, buttons by virtual-key code, sign
    of the scroll wheel. stride: metres per step; turn: degrees per unit of mouse."""

    def entry(name: str, low: float, move: Sequence[float], angles: Sequence[float]) -> Entry:
        high = 100.0 if low < -1 else 1.0
        return {"name": name, "min": low, "max": high, "move": list(move), "turn": list(angles)}

    still = (0.0, 0.0, 0.0)
    listed = [
        entry("mouse_x", -100.0, still, (turn, 0.0)),
        entry("mouse_y", -100.0, still, (0.0, -turn)),
    ]
    for code in range(count - 3):
        move = [stride * axis for axis in KEYS.get(code, (0, 0, 0))]
        listed.append(entry(f"button.{code}", 0.0, move, (0.0, 0.0)))
    return [*listed, entry("scroll", -1.0, still, (0.0, 0.0))]


def _manifest(
    sizes: Mapping[str, Any],
    grid: tuple[int, int],
    window: Window,
    sigmas: Sequence[float],
    codec: dict[str, Any],
) -> dict[str, Any]:
    pixels = sizes["patch"] * codec["patch"] * 2**3
    layers, times = range(sizes["layers"]), range(window.global_frames + window.dilation)
    context = max(len({f for i in layers for f in window.visible(i, t)}) for t in times)
    steps = len(sigmas) - 1
    rows = itertools.pairwise(sigmas)
    plain = ("patch", "width", "layers", "heads", "kv_heads", "head_dim", "mlp")
    return {
        "format": 1,
        "family": "causal_dit",
        "requires": [],
        "image": {"height": grid[0] * pixels, "width": grid[1] * pixels},
        "images": math.prod(codec["decoder_strides"]),
        "camera": {"fx": VIEW[0], "fy": VIEW[1], "world_scale": 1.0},
        "steps": steps,
        "samplers": {str(steps): [[t, 1.0, after - t, 0.0] for t, after in rows]},
        "retrieval": {
            "context": context,
            "sinks": 0,
            "recent": context,
            "near": 0.3,
            "far": 10.0,
            "commit_below": 2.0,
        },
        "actions": actions(sizes["actions"]),
        "rows": grid[0],
        "cols": grid[1],
        **{key: sizes[key] for key in plain},
        "control_layers": sizes["control_layers"],
        "control_mlp": sizes["control_mlp"],
        "value_residual": sizes["value_residual"],
        "eps": EPS,
        "sigmas": list(sigmas),
        "window": window._asdict(),
        "codec": {"kind": "taehv", **codec},
    }


WAYPOINT = Recipe(
    name="waypoint",
    family="causal_dit",
    files="model.safetensors of Waypoint-1.5 (720P), then taehv1_5.safetensors",
    source="https://huggingface.co/Overworld/Waypoint-1.5-1B, https://github.com/madebyollin/taehv",
    parameters="1.24 B",
    licence="Apache-2.0 AND MIT",
    matches=matches,
    build=build,
)
WAYPOINT_360P = replace(
    WAYPOINT,
    name="waypoint-360p",
    files="model.safetensors of Waypoint-1.5 (360P), then taehv1_5.safetensors",
    source="https://huggingface.co/Overworld/Waypoint-1.5-1B-360P, "
    "https://github.com/madebyollin/taehv",
    matches=lambda checkpoints: False,  # its tensors are those of 720P; the user must say
    build=partial(build, grid=(8, 16)),
)
