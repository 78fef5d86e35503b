# SPDX-License-Identifier: Apache-2.0
"""Compares `reference/dual_stream.py` with the authors' code, every tensor random.

    python tools/parity/efficient_lvsm.py CHECKOUT [--full] [--write FILE]

CHECKOUT is a checkout of github.com/Ayakaee/Efficient-LVSM (read at commit 03269d5); einops and
easydict must be installed. Their other imports, which serve training, are replaced by nothing, and
xformers' attention by a plain one. --write keeps what their code gave as the golden file of
tests/test_dual_stream.py. Nothing of theirs is part of this project.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, patch

import numpy as np
import torch
from torch import Tensor

from rtfm_rt.convert.common import Checkpoint
from rtfm_rt.convert.efficient_lvsm import NAMES, block_names, build
from rtfm_rt.reference import View
from rtfm_rt.reference.dual_stream import Config, DualStream

TINY = Config(height=12, image_width=20, patch=4, width=48, layers=3, heads=3, head_dim=16, mlp=192)
FULL = Config(256, 256, 8, 768, 12, 12, 64, 3072)
SEED, WINDOW, OBSERVED, ROLLOUT = 7, 3, 3, 12
UNUSED = (
    "imageio jaxtyping lpips scipy scipy.io torchvision torchvision.models torchvision.transforms "
    "transformers"
)


def published(config: Config, seed: int = SEED) -> dict[str, Tensor]:
    """A checkpoint with the published names, float32; no tensor has a value that hides a mistake.

    RandomState's numbers are the same in every version of NumPy.
    """
    random = np.random.RandomState(seed)
    names = dict(NAMES)
    for layer in range(config.layers):
        names |= block_names(layer)
    with torch.device("meta"):
        shapes = {name: tuple(t.shape) for name, t in DualStream(config).state_dict().items()}
    tensors = {}
    for theirs, ours in sorted(names.items()):
        values = random.standard_normal(shapes[ours])
        values = 1 + 0.3 * values if values.ndim == 1 else values / math.sqrt(shapes[ours][1])
        tensors[theirs] = torch.tensor(values, dtype=torch.float32)
    return tensors


def scene(config: Config, count: int, seed: int = SEED) -> tuple[Tensor, list[View]]:
    """uint8 images (count, height, width, 3) of noise, and where each was seen from, in the gauge.

    No two views share their pose or focal lengths.
    """
    random = np.random.RandomState(seed + 1)
    images = random.randint(0, 256, (count, config.height, config.image_width, 3), np.uint8)
    views = []
    for i in range(count):
        q, r = np.linalg.qr(random.standard_normal((3, 3)))
        q *= np.sign(np.diag(r))
        q[:, 0] *= np.linalg.det(q)
        pose = torch.eye(4, dtype=torch.float64)
        pose[:3, :3] = torch.tensor(q)
        pose[:3, 3] = torch.tensor(random.uniform(-0.7, 0.7, 3))
        views.append(View(pose, 0.7 + 0.02 * i, 1.1 - 0.03 * i))
    return torch.tensor(images), views


def reference(config: Config, dtype: torch.dtype, seed: int = SEED) -> DualStream:
    """Our module with the tensors of `published`, through the converter."""
    side = config.patch  # the converter makes square models; the tensors know no image size
    _, state = build([Checkpoint(Path("random"), {}, published(config, seed))], side=side)
    model = DualStream(config).to(dtype).requires_grad_(False)
    model.load_state_dict(state)
    return model


def ours(config: Config, dtype: torch.dtype) -> dict[str, Tensor]:
    """What the golden file holds, by our reference."""
    model = reference(config, dtype)
    images, views = scene(config, OBSERVED + ROLLOUT)
    frames = [model.tokens(image) for image in images[:OBSERVED]]
    pages = [model.read(x, view) for x, view in zip(frames, views[:OBSERVED], strict=True)]
    result = {
        "rays": model.rays(views[0]),
        "page_k": torch.stack([k for k, _ in pages[0]]),
        "page_v": torch.stack([v for _, v in pages[0]]),
        "one": model.write(pages[:1], views[-1]),
        "three": model.write(pages, views[-1]),
    }
    rollout = []
    for view in views[OBSERVED:]:  # every page is made once and kept
        rollout.append(model.write(pages[-WINDOW:], view))
        pages.append(model.read(rollout[-1], view))
    return result | {"rollout": torch.stack(rollout)}


def attention(q: Tensor, k: Tensor, v: Tensor, **_: Any) -> Tensor:
    """softmax(q·kᵀ/√d)·v: (batch, tokens, heads, d), as xformers has it."""
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.shape[-1])
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v)


class Authors:
    """The published code, one target at a time."""

    def __init__(self, checkout: Path, config: Config, dtype: torch.dtype):
        sys.modules |= {name: MagicMock() for name in UNUSED.split()}
        xformers = MagicMock()
        xformers.memory_efficient_attention = attention
        sys.modules |= {"xformers": MagicMock(ops=xformers), "xformers.ops": xformers}
        sys.path.insert(0, str(checkout))
        from easydict import EasyDict
        from model.efficient_lvsm import Images2LatentScene  # type: ignore[import-not-found]

        self.edict, self.config, self.dtype = EasyDict, config, dtype
        tokenizer = {"patch_size": config.patch}
        options = {
            "model": {
                "image_tokenizer": {"type": "none", "in_channels": 9, **tokenizer},
                "target_pose_tokenizer": {"in_channels": 6, **tokenizer},
                "transformer": {
                    "d": config.width,
                    "d_head": config.head_dim,
                    "n_layer": config.layers,
                    "use_qk_norm": True,
                    "attention_arch": "flash",
                },
            },
            "training": {
                "enable_repa": False,
                "lpips_loss_weight": 0.0,
                "perceptual_loss_weight": 0.0,
            },
        }
        self.model = Images2LatentScene(EasyDict(options)).to(dtype)
        self.model.eval()  # returns nothing
        self.model.load_state_dict(published(config))  # strict: the names are exactly theirs

    def views(self, views: list[View], images: list[Tensor]) -> Any:
        """Their input: images (height, width, 3) in [0, 1] and rays in pixels, as float `dtype`."""
        h, w = self.config.height, self.config.image_width
        pose = torch.stack([view.pose for view in views])[None].to(self.dtype)
        focal = [[view.fx * w, view.fy * h, w / 2, h / 2] for view in views]
        origin, direction = self.model.process_data.compute_rays(
            pose, torch.tensor([focal], dtype=self.dtype), h, w, device="cpu"
        )
        image = torch.stack(images)[None].permute(0, 1, 4, 2, 3).to(self.dtype)
        return self.edict(image=image, ray_o=origin, ray_d=direction, image_h_w=(h, w))

    def render(
        self, seen: list[tuple[Tensor, View]], view: View, *, incremental: bool = False
    ) -> Tensor:
        """(height, width, 3) in [0, 1]; incremental: with the K/V of all frames seen before."""
        h, w = self.config.height, self.config.image_width
        inputs = self.views([v for _, v in seen], [image for image, _ in seen])
        target = self.views([view], [torch.zeros(h, w, 3)])
        result = self.model(
            inputs, target, has_target_image=False, train=False, incremental_mode=incremental
        )
        return result.render[0, 0].permute(1, 2, 0)

    def patches(self, image: Tensor) -> Tensor:
        """Theirs, by the layer in front of the tokenizer: (height, width, c) -> (N, p·p·c)."""
        return self.model.rgbp_tokenizer[0](image.permute(2, 0, 1)[None, None])[0]

    def golden(self) -> dict[str, Tensor]:
        """What the golden file holds, by their code; images as tokens in [-1, 1]."""
        images, views = scene(self.config, OBSERVED + ROLLOUT)
        shown = [image.to(self.dtype) / 255 for image in images]
        seen = list(zip(shown[:OBSERVED], views[:OBSERVED], strict=True))

        posed = self.model.get_posed_input(
            **{k: v for k, v in self.views(views[:1], shown[:1]).items() if k.startswith("ray")}
        )
        result = {"rays": self.patches(posed[0, 0].permute(1, 2, 0))}
        self.model.clear_kv_cache()
        one = self.render(seen[:1], views[-1], incremental=True)
        cache = [
            self.model.kv_cache[f"self_cross_{i}"]["cross_attn"] for i in range(self.config.layers)
        ]
        result["page_k"] = torch.stack([kv["k"][0].transpose(0, 1) for kv in cache])
        result["page_v"] = torch.stack([kv["v"][0].transpose(0, 1) for kv in cache])
        result["one"] = self.patches(2 * one - 1)
        self.render(seen[1:2], views[-1], incremental=True)
        grown = self.render(seen[2:], views[-1], incremental=True)
        result["three"] = self.patches(2 * self.render(seen, views[-1]) - 1)
        print(f"their cache against their joint pass: {error(grown, self.render(seen, views[-1]))}")

        rollout = []
        for view in views[OBSERVED:]:  # the window is encoded anew for every frame
            image = self.render(seen[-WINDOW:], view)
            seen.append((image, view))
            rollout.append(self.patches(2 * image - 1))
        return result | {"rollout": torch.stack(rollout)}


def error(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want.double()).norm() / want.double().norm())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--full", action="store_true", help="at the published size, float32 only")
    parser.add_argument("--write", metavar="FILE", help="the golden file to write")
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    config = FULL if args.full else TINY
    worst = 0.0
    limits = {torch.float32: 1e-4} if args.full else {torch.float64: 1e-10, torch.float32: 1e-4}
    for dtype, limit in limits.items():
        # Their norm of q and k computes in float32 whatever the dtype; here in the run's own.
        with patch.object(torch.Tensor, "float", lambda x, dtype=dtype: x.to(dtype)):
            theirs = Authors(args.checkout, config, dtype).golden()
        mine = ours(config, dtype)
        for name, want in theirs.items():
            worst = max(worst, error(mine[name], want) / limit)
            print(f"{dtype} {name} {tuple(want.shape)}: {error(mine[name], want):.1e}")
        if args.write and dtype == torch.float64:
            values = {name: value.numpy().astype(np.float32) for name, value in theirs.items()}
            np.savez_compressed(args.write, **values)
    return int(worst > 1)


if __name__ == "__main__":
    sys.exit(main())
