# SPDX-License-Identifier: Apache-2.0
"""Efficient-LVSM: `benchmarks.families efficient_lvsm [CHECKOUT]`.

CHECKOUT is a checkout of github.com/Ayakaee/Efficient-LVSM; einops and easydict must be installed.
What its imports need for training only is replaced by nothing, and xformers' attention by PyTorch's
own fused one.

"a view of known frames": the context has been seen before. rtfm_rt attends to its pages; the
authors' code has no call for it but the one that encodes the whole context again.
"a new frame, and a view": the last frame of the context is new, and is encoded by both; the others
are in rtfm_rt's pages and in the K/V cache of the authors' incremental mode.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import rtfm_rt
from benchmarks.families.side import How

CASES = {"256x256, 1 context frame": (256, 1), "256x256, 4 context frames": (256, 4)}
KNOWN, NEW = "a view of known frames", "a new frame, and a view"
FOCAL = 0.8660254  # of the converter: 60 degrees across
Calls = dict[str, Callable[[], np.ndarray]]


def poses(count: int) -> np.ndarray:
    """Camera-to-world: a slow turn while going sideways, from the origin."""
    result = np.tile(np.eye(4), (count, 1, 1))
    for i in range(count):
        angle = 0.1 * i
        c, s = np.cos(angle), np.sin(angle)
        result[i, :3, :3] = [[c, 0, s], [0, 1, 0], [-s, 0, c]]
        result[i, :3, 3] = [0.1 * i, -0.02 * i, 0.03 * i]
    return result


def write(folder: Path, case: str) -> None:
    import safetensors.torch
    import torch

    from rtfm_rt.convert import convert_published
    from tools.parity.efficient_lvsm import FULL, published

    side, context = CASES[case]
    tensors = {name: t.to(torch.bfloat16) for name, t in published(FULL).items()}
    safetensors.torch.save_file(tensors, folder / "published.safetensors")
    del tensors
    recipe = "efficient-lvsm" if side == 256 else "efficient-lvsm-512"
    convert_published(
        [folder / "published.safetensors"], folder / "model.safetensors", recipe=recipe
    )
    images = np.random.default_rng(0).integers(0, 256, (context, side, side, 3), np.uint8)
    np.savez(folder / "inputs.npz", images=images, poses=poses(context + 1))


def ours(folder: Path, case: str, how: How) -> Calls:
    inputs = np.load(folder / "inputs.npz")
    images, where = inputs["images"], inputs["poses"]
    model = rtfm_rt.Model(folder / "model.safetensors", how.device, how.precision)

    before = rtfm_rt.Session(model, threads=how.threads, context=len(images))
    for image, pose in zip(images[:-1], where, strict=False):
        before.observe(image, pose)
    whole = before.fork()
    whole.observe(images[-1], where[len(images) - 1])

    def new() -> np.ndarray:
        branch = before.fork()
        branch.observe(images[-1], where[len(images) - 1])
        return np.asarray(branch.step(where[-1]))

    return {KNOWN: lambda: np.asarray(whole.step(where[-1])), NEW: new}


def theirs(folder: Path, case: str, checkout: Path) -> Calls:
    import safetensors.torch
    import torch
    import torch.nn.functional as F

    from rtfm_rt.reference import View
    from tools.parity import efficient_lvsm as parity

    def attention(q: Any, k: Any, v: Any, **_: Any) -> Any:
        """xformers' (batch, tokens, heads, d)."""
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)

    side, context = CASES[case]
    config = parity.FULL._replace(height=side, image_width=side)
    tensors = safetensors.torch.load_file(folder / "published.safetensors")
    parity.attention, parity.published = attention, lambda *_: tensors
    model = parity.Authors(checkout, config, torch.float32)
    inputs = np.load(folder / "inputs.npz")
    in_gauge = inputs["poses"] * 1.0
    in_gauge[:, :3, 3] /= 1.35  # the converter's world_scale; the first camera is the origin
    views = [View(torch.from_numpy(pose), FOCAL, FOCAL) for pose in in_gauge]
    seen = [
        (torch.from_numpy(image).float() / 255, view)
        for image, view in zip(inputs["images"], views[:-1], strict=True)
    ]
    model.model.clear_kv_cache()
    if context > 1:
        model.render(seen[:-1], views[-1], incremental=True)
    cache = dict(model.model.kv_cache)

    def known() -> np.ndarray:
        return model.render(seen, views[-1]).numpy()

    def new() -> np.ndarray:
        model.model.kv_cache = dict(cache)
        return model.render(seen[-1:], views[-1], incremental=True).numpy()

    return {KNOWN: known, NEW: new}
