# SPDX-License-Identifier: Apache-2.0
"""What everybody computes: one write pass of a `frame_dit` model, and the answer to it.

A problem is a folder: `model.safetensors` and `arrays.npz`, so that every contestant reads the same
bits in a process of its own.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from benchmarks.random_model import poses, write_random_model
from rtfm_rt.reference import Config, FrameDiT, View, lift, load, projection

PATCH = 8
FOCAL = 0.75  # of both axes
# D/N: image height and width, width D, blocks, heads, MLP
SHAPES = {
    "256/64": Config(64, 64, PATCH, 256, 4, 4, 1024),
    "256/256": Config(128, 128, PATCH, 256, 4, 4, 1024),
    "512/64": Config(64, 64, PATCH, 512, 4, 8, 2048),
    "512/256": Config(128, 128, PATCH, 512, 4, 8, 2048),
    "1024/64": Config(64, 64, PATCH, 1024, 2, 16, 4096),
    "1024/256": Config(128, 128, PATCH, 1024, 2, 16, 4096),
    "1024/576": Config(192, 192, PATCH, 1024, 2, 16, 4096),
}


def write_problem(folder: Path, config: Config, pages: int) -> None:
    """Random weights, `pages` random pictures as context, noise to denoise, and the answer."""
    write_random_model(folder / "model.safetensors", config)
    write_arrays(folder, folder / "model.safetensors", pages)


@torch.inference_mode()
def write_arrays(folder: Path, path: Path, pages: int) -> None:
    """`arrays.npz` of a model file. C: pages, L: blocks, H: heads, d: head dim, N: tokens.

    images [C, height, width, 3], transforms [C, 4, 4], x [N, 3·p·p], t: what rtfm_rt is given.
    table [L, 6, D] (scales hold their 1 +), keys and values [L, H, C·N, d] (in the query's camera):
    what a peer is given instead. x0 [N, 3·p·p]: the answer, float64.
    """
    model, manifest = load(str(path), torch.float64)
    config, t = model.config, manifest["samplers"][str(manifest["steps"])][0][0]
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (pages, config.height, config.image_width, 3), np.uint8)
    x = rng.standard_normal((model.rows * model.cols, 3 * config.patch**2), np.float32)
    views = [View(torch.from_numpy(pose), FOCAL, FOCAL) for pose in poses(pages + 1)]
    query = projection(views[-1], config.world_scale)
    moves = [query @ torch.linalg.inv(projection(view, config.world_scale)) for view in views[:-1]]
    book = [model.read(model.tokens(torch.from_numpy(image))) for image in images]
    keys, values = (
        torch.stack(
            [
                torch.cat([lift(m, page[i][which]) for m, page in zip(moves, book, strict=True)], 1)
                for i in range(config.layers)
            ]
        )
        for which in (0, 1)
    )
    expected = model.write(torch.from_numpy(x).double(), t, book, views[:-1], views[-1])
    np.savez(
        folder / "arrays.npz",
        images=images,
        transforms=torch.stack(moves).float().numpy(),
        x=x,
        t=np.float64(t),
        table=modulation(model, t).float().numpy(),
        keys=keys.float().numpy(),
        values=values.float().numpy(),
        x0=expected.numpy(),
    )


def modulation(model: FrameDiT, t: float) -> torch.Tensor:
    """[L, 6, D] at one time; scales hold their 1 +."""
    table = torch.stack([model.modulation(t) + block.modulation for block in model.blocks])
    table[:, [1, 4]] += 1
    return table


def gflop(config: Config, pages: int) -> float:
    """Of one write pass: matrix products and attention, 10⁹ multiplications and additions."""
    n = config.height * config.image_width // config.patch**2
    block = 2 * n * (4 * config.width**2 + 2 * config.width * config.mlp)
    attention = 4 * n * (pages + 1) * n * config.width
    ends = 2 * 2 * n * config.width * 3 * config.patch**2
    return (config.layers * (block + attention) + ends) / 1e9
