# SPDX-License-Identifier: Apache-2.0
"""Compares the reference of `st_dit` with the authors' own code, every tensor random.

    python -m tools.parity.oasis CHECKOUT [--write tests/data/oasis.npz]

CHECKOUT is a clone of https://github.com/etched-ai/open-oasis, which is only imported. It needs
einops; what it uses of timm is two linear layers, of torchvision nothing here, so both may be
absent. Rollouts run 12 frames past the window; noise is what the runtime draws. What they have no
code for, pages that stay when the window slides, is their network over the whole walk with a band
instead of a triangle as its mask.
"""

from __future__ import annotations

import argparse
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rtfm_rt.convert.common import Checkpoint
from rtfm_rt.convert.oasis import Sizes, build, ddim_table, dit_shapes
from rtfm_rt.convert.vit_codec import LATENT_SCALE, CodecSizes, codec_shapes
from rtfm_rt.reference.st_dit import Config, StDit, Walk
from rtfm_rt.reference.vit_codec import CodecConfig, from_patches, to_patches
from tests.reference import normal

SEED, LIMIT = 7, 1e-4
IMAGE, GRID, HEADS, WINDOW, STEPS = (24, 40), (6, 10), 2, 5, 4
FRAMES = 1 + WINDOW + 11  # the prompt, and what comes until the window has slid 12 times
TIME = 499
SIZES = Sizes(width=32, layers=2, head_dim=16, mlp=48, channels=3, patch=2, actions=25)
CODEC = CodecSizes(width=32, mlp=48, patch=4, channels=3, encoder_layers=1, decoder_layers=2)


def checkpoints(sizes: Sizes = SIZES, codec: CodecSizes = CODEC) -> list[Checkpoint]:
    """The two published files, random numbers in every tensor and in the RoPE frequencies."""
    rng = np.random.default_rng(SEED)

    def draw(name: str, shape: tuple[int, ...]) -> Tensor:
        scale = 0.3 if len(shape) == 1 else np.prod(shape[1:]) ** -0.5
        middle = 1 if "norm" in name and name.endswith("weight") else 0
        return torch.tensor(middle + scale * rng.standard_normal(shape), dtype=torch.float32)

    dit = {name: draw(name, shape) for name, shape in dit_shapes(sizes).items()}
    vit = {name: draw(name, shape) for name, shape in codec_shapes(codec).items()}
    freqs = {
        "spatial": torch.tensor(rng.uniform(1, 20, sizes.head_dim // 4), dtype=torch.float32),
        "temporal": torch.tensor(rng.uniform(0.01, 1, sizes.head_dim // 2), dtype=torch.float32),
    }
    for axis, value in freqs.items():
        dit[f"{axis}_rotary_emb.freqs"] = value
        for layer in range(sizes.layers):
            dit[f"blocks.{layer}.{axis[0]}_attn.rotary_emb.freqs"] = value.clone()
    return [
        Checkpoint(Path("oasis500m.safetensors"), {}, dit),
        Checkpoint(Path("vit-l-20.safetensors"), {}, vit),
    ]


def convert(slide: str = "keep", **options: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The manifest and the tensors of the random files."""
    given = {"image": IMAGE, "codec_heads": HEADS, "window": WINDOW, "steps": STEPS, **options}
    return build(checkpoints(), slide=slide, tables=(STEPS, 10), **given)


def reference(slide: str = "keep", dtype: torch.dtype = torch.float32) -> StDit:
    """Our module of the random files."""
    manifest, tensors = convert(slide)
    model = StDit(Config.from_manifest(manifest), CodecConfig.from_manifest(manifest))
    model.load_state_dict(tensors)
    return model.to(dtype).requires_grad_(False)


def rollout(slide: str, inputs: dict[str, Tensor]) -> Tensor:
    """The frames (FRAMES, N, C) that our reference makes after the prompt, which is the first."""
    walk, frames = Walk(reference(slide)), [inputs["latent"]]
    walk.commit(inputs["latent"], inputs["actions"][0])
    for noise, action in zip(inputs["noise"][1:], inputs["actions"][1:], strict=True):
        frames.append(walk.step(noise, ddim_table(STEPS), action))
    return torch.stack(frames)


class Mlp(nn.Module):
    """timm's, as far as the authors use it."""

    def __init__(self, in_features: int, hidden_features: int, act_layer: Any, drop: float = 0):
        super().__init__()
        self.fc1 = nn.Linear(in_features, hidden_features)
        self.act = act_layer()
        self.fc2 = nn.Linear(hidden_features, in_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Authors:
    """Their two networks with the random numbers, and their sampling loop around them."""

    def __init__(self, checkout: Path):
        pieces: dict[str, Any] = {
            "timm.models.vision_transformer": {"Mlp": Mlp},
            "timm.layers.helpers": {"to_2tuple": lambda x: (x, x)},
            "torchvision.io": {"read_image": None, "read_video": None},
            "torchvision.transforms.functional": {"resize": None},
        }
        for name, members in pieces.items():
            sys.modules[name] = types.ModuleType(name)
            vars(sys.modules[name]).update(members)
        sys.path.insert(0, str(checkout))
        import attention  # type: ignore[import-not-found]
        import dit  # type: ignore[import-not-found]
        import utils  # type: ignore[import-not-found]
        import vae  # type: ignore[import-not-found]

        self.attention = attention
        self.actions = utils.ACTION_KEYS
        self.published = lambda: (dit.DiT_S_2(), vae.ViT_L_20_Shallow_Encoder())
        self.levels = torch.cumprod(1 - utils.sigmoid_beta_schedule(1000).float(), 0)
        ratio = SIZES.mlp / SIZES.width
        self.net = dit.DiT(
            *GRID, SIZES.patch, SIZES.channels, SIZES.width, SIZES.layers,
            SIZES.width // SIZES.head_dim, ratio, SIZES.actions, WINDOW,
        )  # fmt: skip
        self.codec = vae.AutoencoderKL(
            CODEC.channels, *IMAGE, CODEC.patch, CODEC.width, CODEC.encoder_layers, HEADS,
            CODEC.width, CODEC.decoder_layers, HEADS, CODEC.mlp / CODEC.width,
        )  # fmt: skip
        for module, file in zip((self.net, self.codec), checkpoints(), strict=True):
            module.requires_grad_(False).eval().load_state_dict(file.tensors)

    def check_names(self) -> None:
        """Whether the converter knows the tensors and the actions of the published model."""
        with torch.device("meta"):
            dit, codec = self.published()
        full = Sizes(1024, 16, 64, 4096, 16, 2, 25)
        shapes = {name: tuple(t.shape) for name, t in dit.state_dict().items()}
        freqs = [shapes.pop(name) for name in list(shapes) if name.endswith("freqs")]
        assert shapes == dit_shapes(full) and sorted(set(freqs)) == [(16,), (32,)]
        shapes = {name: tuple(t.shape) for name, t in codec.state_dict().items()}
        assert shapes == codec_shapes(CodecSizes(1024, 4096, 20, 16, 6, 12))
        assert self.actions == [action["name"] for action in convert()[0]["actions"]]
        print(f"published: {len(dit.state_dict())} and {len(shapes)} tensors")

    def encode(self, image: Tensor) -> Tensor:
        """(h, w, c) of an image uint8."""
        pixels = image.movedim(-1, 0)[None] / 255
        return self.codec.encode(pixels * 2 - 1).mean.reshape(*GRID, -1) * LATENT_SCALE

    def decode(self, latent: Tensor) -> Tensor:
        """(height, width, 3), -1 to 1, of (h, w, c)."""
        flat = latent.reshape(1, GRID[0] * GRID[1], -1)
        return self.codec.decode(flat / LATENT_SCALE)[0].movedim(0, -1)

    def v(self, frames: Tensor, time: int, actions: Tensor) -> Tensor:
        """v (h, w, c) of the last of the frames (T, h, w, c), the others being clean."""
        times = torch.tensor([[14] * (len(frames) - 1) + [time]])
        return self.net(frames.movedim(-1, 1)[None], times, actions[None])[0, -1].movedim(0, -1)

    def step(self, frames: Tensor, time: int, following: int, actions: Tensor) -> Tensor:
        """The last frame after one sampler step; -1 is the clean level."""
        v, x = self.v(frames, time, actions), frames[-1]
        level = self.levels[time]
        start = level.sqrt() * x - (1 - level).sqrt() * v
        noise = ((1 / level).sqrt() * x - start) / (1 / level - 1).sqrt()
        level = self.levels[following] if following >= 0 else torch.tensor(1.0)
        return level.sqrt() * start + noise * (1 - level).sqrt()

    def rollout(self, window: int, inputs: dict[str, Tensor]) -> Tensor:
        """(FRAMES, h, w, c): each new frame after at most `window` - 1 of those before it."""
        frames = inputs["prompt"][None]
        times = [int(t) for t in torch.linspace(-1, 999, STEPS + 1)]
        for i in range(1, FRAMES):
            frames = torch.cat([frames, inputs["noise_grid"][i, None].clamp(-20, 20)])
            first = max(0, i + 1 - window)
            for step in reversed(range(1, STEPS + 1)):
                frames[-1] = self.step(
                    frames[first:], times[step], times[step - 1], inputs["actions"][first : i + 1]
                )
        return frames

    def banded(self, inputs: dict[str, Tensor]) -> Tensor:
        """A rollout in which no frame ever leaves, but each sees only WINDOW - 1 before it."""

        def attend(query: Tensor, key: Tensor, value: Tensor, is_causal: bool) -> Tensor:
            mask = None
            if is_causal:
                count = query.shape[-2]
                mask = torch.ones(count, count, dtype=torch.bool).tril().triu(1 - WINDOW)
            return F.scaled_dot_product_attention(query, key, value, mask)

        plain = self.attention.F
        self.attention.F = types.SimpleNamespace(scaled_dot_product_attention=attend)
        try:
            return self.rollout(FRAMES, inputs)
        finally:
            self.attention.F = plain


def error(got: Tensor, expected: Tensor) -> float:
    """Of the whole, relative."""
    return float((got.double() - expected.double()).norm() / expected.double().norm())


def tokens(grids: Tensor) -> Tensor:
    """(..., N, C) of grids (..., h, w, c)."""
    flat = grids.reshape(-1, *GRID, SIZES.channels)
    return torch.stack([to_patches(grid, SIZES.patch) for grid in flat]).reshape(
        *grids.shape[:-3], -1, SIZES.channels * SIZES.patch**2
    )


def draw(authors: Authors) -> dict[str, Tensor]:
    """A random image, its latent, and the noise and actions of a walk."""
    rng = np.random.default_rng(SEED + 1)
    image = torch.tensor(rng.integers(0, 256, (*IMAGE, 3)), dtype=torch.uint8)
    token = SIZES.channels * SIZES.patch**2
    count = GRID[0] * GRID[1] * SIZES.channels
    noise = torch.stack(
        [torch.tensor(normal(SEED, i, 0, count)).float().reshape(-1, token) for i in range(FRAMES)]
    )
    grids = torch.stack([from_patches(frame, GRID[1], SIZES.patch) for frame in noise])
    grids = grids.reshape(FRAMES, *GRID, SIZES.channels)
    low = torch.tensor([action["min"] for action in convert()[0]["actions"]])
    actions = low + (1 - low) * torch.tensor(rng.random((FRAMES, SIZES.actions))).float()
    actions[0] = 0  # as the authors prepend
    prompt = authors.encode(image)
    return {
        "image": image,
        "latent": tokens(prompt),
        "prompt": prompt,
        "noise": noise,
        "noise_grid": grids,
        "actions": actions,
    }


def theirs(authors: Authors, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the authors' code makes of the inputs; of the noise as frames, the last is noisy."""
    few, actions = inputs["noise_grid"][:WINDOW], inputs["actions"][:WINDOW]
    return {
        "latent": inputs["latent"],
        "decoded": authors.decode(inputs["prompt"]),
        "v": tokens(authors.v(few, TIME, actions)),
        "stepped": tokens(authors.step(few, TIME, TIME - 1, actions)),
        "recompute": tokens(authors.rollout(WINDOW, inputs)),
        "keep": tokens(authors.banded(inputs)),
    }


def ours(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """What our reference makes of them."""
    model, pages = reference(), []
    noise, actions = inputs["noise"][:WINDOW], inputs["actions"][:WINDOW]
    for latent, action in zip(noise[:-1], actions[:-1], strict=True):
        pages.append(model.read(latent, action, pages))
    row = ddim_table(1000)[999 - TIME]
    grid = from_patches(inputs["latent"], GRID[1], SIZES.patch)
    return {
        "latent": model.encode(inputs["image"]),
        "decoded": model.codec.decode(grid.flatten(0, 1)),
        "v": model.write(noise[-1], TIME, actions[-1], pages),
        "stepped": model.sample(noise[-1], [row], actions[-1], pages),
        "recompute": rollout("recompute", inputs),
        "keep": rollout("keep", inputs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--write", type=Path, metavar="NPZ")
    args = parser.parse_args()
    authors = Authors(args.checkout)
    authors.check_names()
    inputs = draw(authors)
    expected, got = theirs(authors, inputs), ours(inputs)
    errors = {name: error(got[name], expected[name]) for name in expected}
    for name, value in errors.items():
        print(f"{name:10} {value:.1e}")
    print(f"keep against recompute {error(expected['keep'], expected['recompute']):.1e}")
    if max(errors.values()) > LIMIT:
        raise SystemExit(f"expected errors of at most {LIMIT}")
    if args.write:
        kept = {name: inputs[name] for name in ("image", "noise", "actions")}
        arrays = {name: value.numpy() for name, value in {**kept, **expected}.items()}
        np.savez_compressed(args.write, **arrays)


if __name__ == "__main__":
    main()
