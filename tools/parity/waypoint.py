# SPDX-License-Identifier: Apache-2.0
"""Compares `causal_dit` and its codec with the code of their authors, every tensor random.

    pip install einops tensordict rotary-embedding-torch tqdm
    python tools/parity/waypoint.py WORLD_ENGINE TAEHV [--golden tests/data/waypoint.npz]

WORLD_ENGINE and TAEHV are checkouts of github.com/Overworldai/world_engine and
github.com/madebyollin/taehv. With --golden, what the authors' code makes of RECIPE is written down,
so that tests compare with it without that code.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import sys
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rtfm_rt.convert import taehv, waypoint
from rtfm_rt.convert.common import Checkpoint
from rtfm_rt.reference.causal_dit import CausalDiT, Config, Page, Window

RECIPE: dict[str, Any] = {
    "seed": 7,
    "grid": (3, 4),
    "head_dim": 32,
    "window": {"local_frames": 3, "global_frames": 6, "dilation": 2, "period": 2, "offset": 1},
    "sigmas": (1.0, 0.75, 0.3, 0.0),
    "frames": 12,
    "sizes": {
        "released": False,
        "width": 128,
        "channels": 4,
        "patch": 2,
        "layers": 4,
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 32,
        "mlp": 256,
        "control_layers": [0, 3],
        "control_mlp": 256,
        "actions": 9,
        "noise_mlp": 512,
        "value_residual": True,
    },
    "codec": {
        "latent": 4,
        "patch": 2,
        "encoder_width": 64,
        "encoder_strides": [2, 2, 1],
        "decoder_widths": [256, 128, 64, 64],
        "decoder_strides": [1, 2, 2],
    },
}


def draw(state: np.random.RandomState, shape: Iterable[int]) -> Tensor:
    """Normal numbers; those of a matrix keep the size of what they multiply."""
    shape = list(shape)
    scale = np.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 0.3
    return torch.tensor(state.standard_normal(shape) * scale, dtype=torch.float32)


def published(recipe: dict[str, Any] = RECIPE) -> list[Checkpoint]:
    """The two checkpoints, under the published names. Layers share `cond_proj` as trained."""
    state, sizes = np.random.RandomState(recipe["seed"]), recipe["sizes"]
    shapes = waypoint.published_shapes(sizes)
    transformer = {name: draw(state, shape) for name, shape in sorted(shapes.items())}
    for name in transformer:
        if "cond_proj" in name:
            first = waypoint.BLOCKS + "0." + name.removeprefix(waypoint.BLOCKS).split(".", 1)[1]
            transformer[name] = transformer[first]
    transformer["ctrl_cfg.null_emb"] = draw(state, [1, 1, sizes["width"]])
    codec = {
        name: draw(state, shape)
        for name, (_, shape) in sorted(taehv.published_shapes(recipe["codec"]).items())
    }
    codec["decoder.22.weight"] /= 8  # images within [0, 1], but for a few
    codec["decoder.22.bias"] += 0.5
    return [
        Checkpoint(Path("model.safetensors"), {}, transformer),
        Checkpoint(Path("taehv1_5.safetensors"), {}, codec),
    ]


def build(recipe: dict[str, Any] = RECIPE) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Manifest and tensors that the converter makes of them, in float32."""
    return waypoint.build(
        published(recipe),
        grid=recipe["grid"],
        window=Window(**recipe["window"]),
        head_dim=recipe["head_dim"],
        sigmas=recipe["sigmas"],
    )


def load(recipe: dict[str, Any] = RECIPE) -> CausalDiT:
    """The reference with these tensors."""
    manifest, tensors = build(recipe)
    model = CausalDiT(Config.from_manifest(manifest)).requires_grad_(False)
    model.load_state_dict(tensors)
    return model


def inputs(recipe: dict[str, Any] = RECIPE) -> dict[str, Tensor]:
    """noise [frames, N, C] as our tokens, action [frames, A], images [2, 4, height, width, 3]."""
    state, (rows, cols) = np.random.RandomState(recipe["seed"] + 1), recipe["grid"]
    token = recipe["sizes"]["channels"] * recipe["sizes"]["patch"] ** 2
    scale = recipe["sizes"]["patch"] * recipe["codec"]["patch"] * 8

    def normal(*shape: int) -> Tensor:
        return torch.tensor(state.standard_normal(shape), dtype=torch.float32)

    return {
        "noise": normal(recipe["frames"], rows * cols, token),
        "action": normal(recipe["frames"], recipe["sizes"]["actions"]),
        "images": torch.tensor(state.randint(0, 256, (2, 4, rows * scale, cols * scale, 3))).byte(),
    }


def walk(model: CausalDiT, recipe: dict[str, Any], given: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the reference makes of the noise, frame after frame; see `theirs`."""
    sigmas, noise = recipe["sigmas"], given["noise"].to(model.dtype)
    action = given["action"].to(model.dtype)
    table = [[t, 1.0, n - t, 0.0] for t, n in itertools.pairwise(sigmas)]
    past: list[Page] = []
    velocity, tokens, pages = [], [], []
    for frame in range(recipe["frames"]):
        velocity.append(model.write(noise[frame], sigmas[1], action[frame], past))
        tokens.append(model.sample(noise[frame], table, action[frame], past))
        past.append(model.read(tokens[-1], action[frame], past))
        pages.append(torch.stack([torch.stack(kv) for kv in past[-1]]))
    return {
        "velocity": torch.stack(velocity),
        "tokens": torch.stack(tokens),
        "pages": torch.stack(pages),
    }


def ours(model: CausalDiT, recipe: dict[str, Any], given: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the reference makes of the inputs; see `theirs`."""
    walked = walk(model, recipe, given)
    memory, decoded = None, []
    for x in walked["tokens"][:3]:
        images, memory = model.codec.decode(model.latent(x), memory)
        decoded.append(images.clamp(0, 1))
    return {
        **walked,
        "latents": torch.stack([model.codec.encode(clip) for clip in given["images"]]),
        "decoded": torch.stack(decoded),
    }


def masked_attention(
    q: Tensor, k: Tensor, v: Tensor, *, block_mask: Any, enable_gqa: bool = False
) -> Tensor:
    """What flex_attention computes with a mask over keys."""
    index = torch.arange(k.shape[2])
    seen = block_mask.mask_mod(0, 0, torch.zeros_like(index), index)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=seen.expand(q.shape[2], -1), enable_gqa=enable_gqa
    )


def authors(world_engine: Path, recipe: dict[str, Any]) -> Any:
    """The authors' network, its tensors not set yet, and its cache."""
    for name in ("huggingface_hub", "omegaconf"):  # they fetch files, which is not asked of them
        sys.modules.setdefault(name, types.ModuleType(name)).__dict__.setdefault("OmegaConf", None)
    package = types.ModuleType("authors")
    package.__path__ = [str(world_engine / "src")]
    sys.modules["authors"] = package
    model = importlib.import_module("authors.model.world_model")
    importlib.import_module("authors.model.attn").flex_attention = masked_attention
    sizes, window, (rows, cols) = recipe["sizes"], recipe["window"], recipe["grid"]
    config = types.SimpleNamespace(
        d_model=sizes["width"],
        n_heads=sizes["heads"],
        n_kv_heads=sizes["kv_heads"],
        n_layers=sizes["layers"],
        n_buttons=sizes["actions"] - 3,
        n_frames=recipe["frames"],
        mlp_ratio=sizes["mlp"] // sizes["width"],
        channels=sizes["channels"],
        patch=[sizes["patch"]] * 2,
        height=rows,
        width=cols,
        tokens_per_frame=rows * cols,
        noise_conditioning="wan",
        prompt_conditioning=None,
        ctrl_conditioning="mlp_fusion",
        ctrl_conditioning_period=3,
        ctrl_cond_dropout=0.0,
        value_residual=sizes["value_residual"],
        gated_attn=False,
        local_window=window["local_frames"],
        global_window=window["global_frames"],
        global_pinned_dilation=window["dilation"],
        global_attn_period=window["period"],
        global_attn_offset=window["offset"] - window["period"],
    )
    network = model.WorldModel(config).eval().requires_grad_(False)
    cache = importlib.import_module("authors.model.kv_cache").StaticKVCache(
        config, 1, torch.float32
    )
    return network, cache


def theirs(
    paths: tuple[Path, Path], recipe: dict[str, Any], given: dict[str, Tensor], model: CausalDiT
) -> dict[str, Any]:
    """By the authors' code, in our order of tokens and axes: velocity, tokens of the sampled
    frames [frames, N, C], pages [frames, layers, 2, G, N, d], latents of the clips
    [2, h, w, channels], decoded [3, T, height, width, 3]. `model` only arranges tokens."""
    transformer, codec = (checkpoint.tensors for checkpoint in published(recipe))
    network, cache = authors(paths[0], recipe)
    network.load_state_dict(transformer, strict=True)
    sigmas, patch = recipe["sigmas"], recipe["sizes"]["patch"]
    buttons = recipe["sizes"]["actions"] - 3

    def run(x: Tensor, sigma: float, frame: int) -> Tensor:
        action = given["action"][frame][None, None]
        mouse, button, scroll = action.split([2, buttons, 1], -1)
        return network(
            x,
            torch.full((1, 1), sigma),
            torch.full((1, 1), frame),
            mouse=mouse,
            button=button,
            scroll=scroll,
            kv_cache=cache,
        )

    def tokens_of(x: Tensor) -> Tensor:
        return model.tokens(x[0, 0].permute(1, 2, 0))

    velocity, tokens, pages, latents = [], [], [], []
    size = recipe["grid"][0] * recipe["grid"][1]
    for frame in range(recipe["frames"]):
        noise = model.latent(given["noise"][frame]).permute(2, 0, 1)[None, None]
        assert noise.shape[-1] == recipe["grid"][1] * patch
        cache.set_frozen(True)
        velocity.append(tokens_of(run(noise, sigmas[1], frame)))
        x = noise
        for sigma, after in itertools.pairwise(sigmas):
            x = x + (after - sigma) * run(x, sigma, frame)
        cache.set_frozen(False)
        run(x, 0.0, frame)
        tokens.append(tokens_of(x))
        latents.append(x)
        pages.append(torch.stack([layer.kv[:, 0, :, -size:] for layer in cache.layers]).clone())

    sys.path.insert(0, str(paths[1]))
    library = importlib.import_module("taehv")
    sizes = recipe["codec"]
    net = library.TAEHV(None, patch_size=sizes["patch"], latent_channels=sizes["latent"]).eval()
    net.load_state_dict(codec, strict=True)
    clips = given["images"].permute(0, 1, 4, 2, 3).float() / 255
    encoded = net.encode_video(clips, parallel=False, show_progress_bar=False)[:, 0]
    stream = library.StreamingTAEHV(net)
    decoded = []
    for i, x in enumerate([latents[0]] * taehv.WARMUP + latents[:3]):
        images = [stream.decode(x), *iter(stream.decode, None)]
        if i >= taehv.WARMUP:
            decoded.append(torch.cat(images, 1)[0].permute(0, 2, 3, 1))
    return {
        "velocity": torch.stack(velocity),
        "tokens": torch.stack(tokens),
        "pages": torch.stack(pages),
        "latents": encoded.permute(0, 2, 3, 1),
        "decoded": torch.stack(decoded),
    }


def thinned(results: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a golden file holds of the results."""
    pages = results["pages"]
    return {
        **{name: results[name] for name in ("velocity", "tokens")},
        "pages": pages[-1, :, :, :, ::5],
        "latents": results["latents"],
        "decoded": results["decoded"][:, :, ::7, ::9],
    }


def error(got: Tensor, expected: Tensor) -> float:
    """Relative, over all numbers."""
    return float((got - expected).norm() / expected.norm())


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description="compare causal_dit with its authors' code")
    parser.add_argument("world_engine", type=Path)
    parser.add_argument("taehv", type=Path)
    parser.add_argument("--golden", type=Path, help="write the authors' results there")
    parser.add_argument("--limit", type=float, default=1e-4, help="largest relative error")
    options = parser.parse_args()
    plain = RECIPE | {"sizes": RECIPE["sizes"] | {"value_residual": False, "kv_heads": 4}}
    for recipe in (plain, RECIPE):
        model = load(recipe)
        given = inputs(recipe)
        expected = theirs((options.world_engine, options.taehv), recipe, given, model)
        got = ours(model, recipe, given)
        errors = {name: error(got[name], expected[name]) for name in expected}
        frames = zip(got["tokens"], expected["tokens"], strict=True)
        errors["tokens of the worst frame"] = max(error(a, b) for a, b in frames)
        print(json.dumps(errors, indent=1))
        if not max(errors.values()) <= options.limit:
            sys.exit(f"expected at most {options.limit}")
    if options.golden:
        arrays = {name: x.numpy() for name, x in thinned(expected).items()}
        np.savez_compressed(options.golden, recipe=json.dumps(RECIPE), **arrays)


if __name__ == "__main__":
    main()
