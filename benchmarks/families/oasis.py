# SPDX-License-Identifier: Apache-2.0
"""Oasis-500M: `benchmarks.families oasis [CHECKOUT]`.

CHECKOUT is a checkout of github.com/etched-ai/open-oasis; einops must be installed.

"a frame": the steps and the decoder, after the frames of the window, which are observed pictures.
rtfm_rt attends to their pages and makes the page of the new frame; the authors' loop computes all
frames of the window at every step.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import rtfm_rt
from benchmarks.families.side import How

CASES = {  # the window with the new frame in it, and the steps
    "window of 4, 10 steps": (4, 10),
    "window of 32, 4 steps": (32, 4),
    "window of 32, 10 steps": (32, 10),
}
HEIGHT, WIDTH, SEED = 360, 640, 1
FRAME = "a frame"
Calls = dict[str, Callable[[], np.ndarray]]


def inputs(window: int) -> tuple[np.ndarray, np.ndarray]:
    """Smooth pictures (window - 1, height, width, 3), and an action (25,) for every frame."""
    rng = np.random.default_rng(window)
    coarse = rng.integers(0, 256, (window - 1, HEIGHT // 40, WIDTH // 40, 3), np.uint8)
    actions = np.zeros((window, 25), np.float32)
    actions[:, 11], actions[:, 16] = 1, rng.uniform(-0.3, 0.3, window)  # forward, looking around
    return coarse.repeat(40, 1).repeat(40, 2), actions


def write(folder: Path, case: str) -> None:
    import safetensors.torch
    import torch

    from rtfm_rt.convert import convert_published
    from rtfm_rt.convert.oasis import Sizes
    from rtfm_rt.convert.vit_codec import CodecSizes
    from tools.parity import oasis as parity

    files = []
    dit = Sizes(width=1024, layers=16, head_dim=64, mlp=4096, channels=16, patch=2, actions=25)
    codec = CodecSizes(1024, 4096, 20, 16, encoder_layers=6, decoder_layers=12)
    for checkpoint in parity.checkpoints(dit, codec):
        tensors = {name: t.to(torch.bfloat16) for name, t in checkpoint.tensors.items()}
        files.append(folder / checkpoint.path)
        safetensors.torch.save_file(tensors, files[-1])
        checkpoint.tensors.clear()
    convert_published(files, folder / "model.safetensors", dtype="float32")


def ours(folder: Path, case: str, how: How) -> Calls:
    window, steps = CASES[case]
    images, actions = inputs(window)
    model = rtfm_rt.Model(folder / "model.safetensors", how.device, how.precision)
    session = rtfm_rt.Session(model, threads=how.threads, steps=steps, seed=SEED)
    for image, action in zip(images, actions, strict=False):
        session.observe(image, action=action)
    return {FRAME: lambda: np.asarray(session.fork().step(action=actions[-1]))}


def theirs(folder: Path, case: str, checkout: Path) -> Calls:
    import safetensors.torch
    import torch

    from rtfm_rt.reference.vit_codec import from_patches
    from tests.reference import normal
    from tools.parity import oasis as parity

    window, steps = CASES[case]
    authors = parity.Authors(checkout)
    parity.GRID = (HEIGHT // 20, WIDTH // 20)
    authors.net, authors.codec = (module.eval() for module in authors.published())
    for module, name in ((authors.net, "oasis500m"), (authors.codec, "vit-l-20")):
        module.load_state_dict(safetensors.torch.load_file(folder / f"{name}.safetensors"))
    images, actions = (torch.from_numpy(x) for x in inputs(window))
    past = torch.stack([authors.encode(image) for image in images])
    noise = torch.from_numpy(normal(SEED, len(images), 0, past[0].numel())).float()
    fresh = from_patches(noise.reshape(-1, 64), parity.GRID[1], 2).reshape(1, *past[0].shape)
    times = [int(t) for t in torch.linspace(-1, 999, steps + 1)]

    def frame() -> Any:
        frames = torch.cat([past, fresh])
        for i in reversed(range(1, steps + 1)):
            frames[-1] = authors.step(frames, times[i], times[i - 1], actions)
        return ((authors.decode(frames[-1]) + 1) / 2).numpy()

    return {FRAME: frame}
