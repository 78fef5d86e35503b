# SPDX-License-Identifier: Apache-2.0
"""Waypoint-1.5 (360P): `benchmarks.families waypoint [CHECKOUT]`.

CHECKOUT holds checkouts of github.com/Overworldai/world_engine and github.com/madebyollin/taehv
under the names world_engine and taehv; einops, tensordict and rotary-embedding-torch must be
installed. Their attention, flex_attention, is for GPUs: here it is PyTorch's fused one with the
same mask. As in their player, the vectors that depend on the noise level alone are computed once
and the codec goes image by image.

"a step": the next frame, four images, of a world whose window is full. So that it fills soon,
global layers of the first case see the last 16 frames and not every eighth of 128: as many keys as
in a long walk, in the pages of 15 frames instead of 29. The second case is that long walk.
"""

from __future__ import annotations

import importlib
import itertools
import math
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import rtfm_rt
from benchmarks.families.side import How


class Case(NamedTuple):
    grid: tuple[int, int]  # tokens of a frame
    frames: int  # observed before the first step, so that every layer's window is full
    window: dict[str, int]


NEAR = {"local_frames": 16, "global_frames": 16, "dilation": 1, "period": 4, "offset": 3}
CASES = {
    "360P, 4 images of 512x256": Case((8, 16), 16, NEAR),
    "360P, after 128 frames": Case((8, 16), 128, {**NEAR, "global_frames": 128, "dilation": 8}),
}
STEP = "a step"
SIGMAS = (1.0, 0.9, 0.75, 0.3, 0.0)
SIZES: dict[str, Any] = {
    "released": False,
    "width": 2048,
    "channels": 32,
    "patch": 2,
    "layers": 24,
    "heads": 32,
    "kv_heads": 16,
    "head_dim": 64,
    "mlp": 8192,
    "control_layers": list(range(0, 24, 3)),
    "control_mlp": 8192,
    "actions": 259,
    "noise_mlp": 8192,
    "value_residual": True,
}
CODEC: dict[str, Any] = {
    "latent": 32,
    "patch": 2,
    "encoder_width": 64,
    "encoder_strides": [2, 2, 1],
    "decoder_widths": [256, 128, 64, 64],
    "decoder_strides": [1, 2, 2],
}
WARMUP = 3  # of the converter
Calls = dict[str, Callable[[], np.ndarray]]


def draw(name: str, shape: list[int]) -> Any:
    """The tensor of a published name: random, the same on both sides, in bfloat16 steps."""
    import torch

    layer = name.split(".")[2] if name.startswith("transformer.blocks.") else ""
    shared = name.replace(f"blocks.{layer}.", "blocks.0.", 1) if "cond_proj" in name else name
    generator = torch.Generator().manual_seed(zlib.crc32(shared.encode()))
    scale = math.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 0.3
    tensor = (torch.randn(shape, generator=generator) * scale).bfloat16().float()
    if name == "decoder.22.weight":
        return tensor / 8  # images within [0, 1], but for a few
    return tensor + 0.5 if name == "decoder.22.bias" else tensor


def codec_tensors() -> dict[str, Any]:
    from rtfm_rt.convert import taehv

    return {name: draw(name, shape) for name, (_, shape) in taehv.published_shapes(CODEC).items()}


def pictures(case: str) -> np.ndarray:
    (rows, cols), frames, _ = CASES[case]
    return np.random.default_rng(0).integers(0, 256, (frames, rows * 32, cols * 32, 3), np.uint8)


def write(folder: Path, case: str) -> None:
    import torch

    from rtfm_rt.convert import waypoint
    from rtfm_rt.convert.common import Checkpoint, write_model
    from rtfm_rt.reference.causal_dit import Window

    tensors = {name: draw(name, shape) for name, shape in waypoint.published_shapes(SIZES).items()}
    for name in tensors:  # one tensor for all layers, as it is trained
        if "cond_proj" in name:
            tensors[name] = tensors["transformer.blocks.0." + name.split(".", 3)[3]]
    checkpoints = [Checkpoint(Path("a"), {}, tensors), Checkpoint(Path("b"), {}, codec_tensors())]
    del tensors
    grid, _, window = CASES[case]
    manifest, ours = waypoint.build(checkpoints, grid=grid, window=Window(**window))
    checkpoints.clear()
    manifest |= {"name": "waypoint", "licence": "none", "source": {"file": "random"}}
    manifest["source"]["sha256"] = "0" * 64
    for name in list(ours):
        if name.endswith(".weight"):
            ours[name] = ours[name].to(torch.bfloat16)
    write_model(folder / "model.safetensors", manifest, ours, lambda path: None)


def action(frame: int) -> np.ndarray:
    values = np.zeros(SIZES["actions"], np.float32)
    values[0], values[2 + 0x57] = 0.1 * math.sin(frame), 1  # mouse_x, and W held down
    return values


def ours(folder: Path, case: str, how: How) -> Calls:
    model = rtfm_rt.Model(folder / "model.safetensors", how.device, how.precision)
    session = rtfm_rt.Session(model, threads=how.threads)
    for frame, picture in enumerate(pictures(case)):
        session.observe(picture, action=action(frame))

    def step() -> np.ndarray:
        return session.step(action=action(len(session.memory))).images

    return {STEP: step}


class Remembered:
    """A function of the noise level, once for each of them."""

    def __init__(self, function: Any):
        self.function, self.known = function, {}

    def __call__(self, x: Any) -> Any:
        key = tuple(x.flatten()[:4].tolist())
        if key not in self.known:
            self.known[key] = self.function(x)
        return self.known[key]


def theirs(folder: Path, case: str, checkout: Path) -> Calls:
    import torch

    from tests.reference import normal
    from tools.parity import waypoint as parity

    grid, before, window = CASES[case]
    rows, cols = grid
    recipe = {
        "grid": grid,
        "sizes": SIZES,
        "codec": CODEC,
        "window": window,
        "frames": before + 48,
    }
    network, cache = parity.authors(checkout / "world_engine", recipe)
    for name, tensor in network.named_parameters():
        tensor.copy_(draw(name, list(tensor.shape)))
    for block in network.transformer.blocks:
        block.cond_head.forward = Remembered(block.cond_head.forward)
    network.denoise_step_emb.forward = Remembered(network.denoise_step_emb.forward)
    sys.path.insert(0, str(checkout / "taehv"))
    library = importlib.import_module("taehv")
    codec = library.TAEHV(None, patch_size=CODEC["patch"], latent_channels=CODEC["latent"]).eval()
    codec.load_state_dict(codec_tensors(), strict=True)
    stream = library.StreamingTAEHV(codec)
    frames = 0

    def run(x: Any, sigma: float) -> Any:
        mouse, button, scroll = torch.from_numpy(action(frames))[None, None].split(
            [2, SIZES["actions"] - 3, 1], -1
        )
        return network(
            x,
            torch.full((1, 1), sigma),
            torch.full((1, 1), frames),
            mouse=mouse,
            button=button,
            scroll=scroll,
            kv_cache=cache,
        )

    def keep(x: Any) -> np.ndarray:
        """The page of the frame, and its images."""
        nonlocal frames
        cache.set_frozen(False)
        run(x, 0.0)
        frames += 1
        for _ in range(1 if frames > 1 else 1 + WARMUP):
            images = [stream.decode(x), *iter(stream.decode, None)]
        return torch.cat(images, 1)[0].permute(0, 2, 3, 1).numpy()

    def step() -> np.ndarray:
        p, channels = SIZES["patch"], SIZES["channels"]
        noise = normal(0, frames, 0, rows * cols * p * p * channels).astype(np.float32)
        x = torch.from_numpy(noise).reshape(rows, cols, p, p, channels)
        x = x.permute(4, 0, 2, 1, 3).reshape(1, 1, channels, rows * p, cols * p)
        cache.set_frozen(True)
        for sigma, after in itertools.pairwise(SIGMAS):
            x = x + (after - sigma) * run(x, sigma)
        return keep(x)

    for picture in pictures(case):
        clip = torch.from_numpy(picture).permute(2, 0, 1)[None, None].float() / 255
        keep(
            codec.encode_video(clip.repeat(1, 4, 1, 1, 1), parallel=False, show_progress_bar=False)
        )
    return {STEP: step}
