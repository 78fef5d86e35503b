# SPDX-License-Identifier: Apache-2.0
"""The family `st_dit` in the runtime: against its reference and what the authors' code made.

Every tensor is random, and noise is the runtime's own: the golden file was made with it as well.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import rtfm_rt
from emulated import Session
from models import relative_error
from rtfm_rt import _testing
from rtfm_rt.convert.oasis import Sizes, build, ddim_table
from rtfm_rt.convert.vit_codec import CodecSizes
from rtfm_rt.reference import st_dit
from test_latent_ops import single
from tools.parity import oasis as parity

TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2}  # found: 3e-6 and 7e-3
RECENT = parity.WINDOW - 1
TOKENS = parity.GRID[0] * parity.GRID[1] // parity.SIZES.patch**2


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parent / "data" / "oasis.npz") as arrays:
        return dict(arrays)


def write_file(path: Path, manifest: dict[str, Any], tensors: dict[str, torch.Tensor]) -> str:
    whole = {
        **manifest,
        "name": "oasis",
        "licence": "MIT",
        "source": {"file": "random", "sha256": "0" * 64},
    }
    stored = {name: tensor.contiguous() for name, tensor in tensors.items()}
    safetensors.torch.save_file(stored, path, {"rtfm": json.dumps(whole)})
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("oasis")


@pytest.fixture(scope="module")
def model_file(folder: Path) -> Any:
    """model_file(slide="keep", **changes of the manifest): the path of the parity model."""

    def make(slide: str = "keep", **changes: Any) -> str:
        manifest, tensors = parity.convert(slide)
        name = "-".join([slide, *map(str, changes)])
        return write_file(folder / f"{name}.safetensors", {**manifest, **changes}, tensors)

    return make


def passes(path: str, device: str) -> Any:
    return _testing.Passes(path, device, threads=2, context=RECENT)


def parse(page: np.ndarray, model: st_dit.StDit, precision: str) -> tuple[np.ndarray, ...]:
    """K/V (layers, 2, N, D), the latent (N, C) and the actions (A,) of a page."""
    c, tokens = model.config, len(model.rope.cos)
    shape = (c.layers, 2, tokens, c.width)
    kv = int(np.prod(shape)) * (4 if precision == "float32" else 2)
    rest = page[kv:].view(np.float32)
    latent = rest[: -c.actions].reshape(tokens, -1)
    return single(page[:kv], precision).reshape(shape), latent, rest[-c.actions :]


def pages_of(page: st_dit.Page) -> np.ndarray:
    return np.stack([np.stack([k.numpy(), v.numpy()]) for k, v in page])


class Walk:
    """A walk over single passes, as a session does it."""

    def __init__(self, net: Any, slide: str):
        self.net, self.slide = net, slide
        self.pages: list[tuple[int, np.ndarray]] = []  # newest first
        self.frames = 0

    def enter(self, page: np.ndarray) -> np.ndarray:
        self.pages = [(self.frames, page), *self.pages][:RECENT]
        self.frames += 1
        if self.slide == "recompute" and self.frames > RECENT:
            for i in reversed(range(RECENT)):
                frame, old = self.pages[i]
                self.pages[i] = frame, self.net.renew(old, frame, self.pages[i + 1 :])
        return page

    def observe(self, image: np.ndarray, action: np.ndarray) -> np.ndarray:
        return self.enter(self.net.read(image, self.frames, action, self.pages))

    def step(self, action: np.ndarray, steps: int = parity.STEPS) -> np.ndarray:
        image = self.net.write(self.frames, action, self.pages, steps, parity.SEED)
        self.enter(self.net.keep(self.frames, action, self.pages))
        return image


def test_read_pass(golden, model_file, device):
    path = model_file()
    net, model = passes(path, device), st_dit.load(path, torch.float64)[0]
    actions = torch.tensor(golden["actions"][1]).double()
    latent = model.encode(torch.tensor(golden["image"]))
    want = pages_of(model.read(latent, actions, []))
    page = net.read(golden["image"], 1, golden["actions"][1], [])
    kv, got, kept = parse(page, model, net.precision)
    assert relative_error(got, latent) <= TOLERANCE[net.precision]
    assert relative_error(got, golden["latent"]) <= TOLERANCE[net.precision]
    assert np.array_equal(kept, golden["actions"][1])
    for layer in range(len(want)):
        assert relative_error(kv[layer, 0], want[layer, 0]) <= TOLERANCE[net.precision]
        assert relative_error(kv[layer, 1], want[layer, 1]) <= TOLERANCE[net.precision]


def test_float8(golden, model_file, float8):
    """Codec and network with weights in e4m3: near what bfloat16 makes, and something else."""
    path = model_file()
    model = st_dit.load(path)[0]
    given = golden["image"], 1, golden["actions"][1], []
    wide, small = (
        parse(_testing.Passes(path, float8, kind, context=RECENT).read(*given), model, "bfloat16")
        for kind in ("bfloat16", "float8")
    )
    for got, want in zip(small[:2], wide[:2], strict=True):
        assert 1e-2 < relative_error(got, want) < 0.2


def clean_pages(net: Any, golden: Any, count: int) -> list[tuple[int, np.ndarray]]:
    """The pages of the first frames of noise as if they were clean, newest first."""
    pages: list[tuple[int, np.ndarray]] = []
    blank = net.read(golden["image"], 0, golden["actions"][0], [])
    for i in range(count):
        frame = np.concatenate([golden["noise"][i].ravel(), golden["actions"][i]]).view(np.uint8)
        blank[-len(frame) :] = frame
        pages.insert(0, (i, net.renew(blank, i, pages)))
    return pages


@pytest.mark.parametrize("count", [0, 1, RECENT])
@pytest.mark.parametrize("step", [False, True])
def test_one_pass(count, step, golden, model_file, device):
    """v, and one sampler step, of noise after pages that `renew` made of given latents."""
    row = ddim_table(1000)[999 - parity.TIME] if step else [parity.TIME, 0, 1, 0]
    path = model_file(samplers={"1": [row]}, steps=1)
    net, model = passes(path, device), st_dit.load(path, torch.float64)[0]
    pages = clean_pages(net, golden, count)
    action = golden["actions"][count]
    net.write(count, action, pages, 1, parity.SEED)
    got = parse(net.keep(count, action, pages), model, net.precision)[1]

    noise, actions = (torch.tensor(golden[name]).double() for name in ("noise", "actions"))
    past: list[st_dit.Page] = []
    for i in range(count):
        past.append(model.read(noise[i], actions[i], past))
    want = model.sample(noise[count], [row], actions[count], past)
    assert relative_error(got, want) <= TOLERANCE[net.precision]
    for (_, page), other in zip(pages[::-1], past, strict=True):
        kv = parse(page, model, net.precision)[0]
        assert relative_error(kv, pages_of(other)) <= TOLERANCE[net.precision]
    if count == RECENT:
        assert relative_error(got, golden["stepped" if step else "v"]) <= TOLERANCE[net.precision]


def test_decoder(golden, model_file, device):
    """The picture is that of the latent which the page keeps."""
    path = model_file()
    net, model = passes(path, device), st_dit.load(path, torch.float64)[0]
    walk = Walk(net, "keep")
    walk.observe(golden["image"], golden["actions"][0])
    image = walk.step(golden["actions"][1])
    latent = parse(walk.pages[0][1], model, net.precision)[1]
    want = model.decode(torch.tensor(latent).double()).numpy()
    difference = np.abs(image[0].astype(int) - want)
    assert difference.max() <= (1 if net.precision == "float32" else 8)
    assert len(np.unique(image)) > 100


@pytest.mark.parametrize("slide", ["keep", "recompute"])
def test_rollout(slide, golden, model_file, device):
    """The authors' own frames, 12 of them after the window has begun to slide."""
    path = model_file(slide)
    net, model = passes(path, device), st_dit.load(path)[0]
    walk, frames = Walk(net, slide), []
    walk.observe(golden["image"], golden["actions"][0])
    for action in golden["actions"][1:]:
        walk.step(action)
        frames.append(parse(walk.pages[0][1], model, net.precision)[1])
    expected = golden[slide][1:]
    assert len(frames) == parity.FRAMES - 1 == parity.WINDOW + 11
    assert relative_error(np.stack(frames), expected) <= TOLERANCE[net.precision]
    assert relative_error(frames[-1], expected[-1]) <= TOLERANCE[net.precision]


OTHER = {
    "wide": (
        Sizes(width=128, layers=1, head_dim=64, mlp=200, channels=5, patch=1, actions=25),
        CodecSizes(width=64, mlp=24, patch=8, channels=5, encoder_layers=2, decoder_layers=1),
    ),
    "deep": (
        Sizes(width=48, layers=5, head_dim=8, mlp=20, channels=4, patch=2, actions=25),
        CodecSizes(width=96, mlp=40, patch=4, channels=4, encoder_layers=1, decoder_layers=1),
    ),
}


@pytest.mark.parametrize("name", OTHER)
def test_other_sizes(name, folder, device, rng):
    manifest, tensors = build(
        parity.checkpoints(*OTHER[name]), image=(16, 24), codec_heads=4, window=4, tables=(3,),
        steps=3,
    )  # fmt: skip
    path = write_file(folder / f"{name}.safetensors", manifest, tensors)
    net, model = _testing.Passes(path, device, context=3), st_dit.load(path, torch.float64)[0]
    image = rng.integers(0, 256, (16, 24, 3), np.uint8)
    actions = rng.random((2, 25)).astype(np.float32)
    page = net.read(image, 0, actions[0], [])
    net.write(1, actions[1], [(0, page)], 3, parity.SEED)
    got = parse(net.keep(1, actions[1], [(0, page)]), model, net.precision)[1]

    first = torch.tensor(actions[0]).double()
    past = [model.read(model.encode(torch.tensor(image)), first, [])]
    noise = _testing.Device(device).sampler(
        np.zeros(got.shape), np.zeros(got.shape), 0.0, 0.0, 1.0, parity.SEED, 1, 0
    )[0]
    second = torch.tensor(actions[1]).double()
    want = model.sample(torch.tensor(noise).double(), ddim_table(3), second, past)
    assert relative_error(got, want) <= TOLERANCE[net.precision]


@pytest.mark.parametrize("slide", ["keep", "recompute"])
def test_session(slide, golden, model_file, device):
    """A session's frames, recorded work where there is some, are those of the single passes to the
    bit, and the authors' by eye."""
    path = model_file(slide)
    session = Session(path, device=device, seed=parity.SEED, threads=2)
    walk = Walk(passes(path, device), slide)
    session.observe(golden["image"])
    walk.observe(golden["image"], np.zeros(25))
    model = parity.reference(slide)
    for i, action in enumerate(golden["actions"][1:], 1):
        frame = session.step(action=action)
        assert frame.context == list(range(i - 1, max(0, i - RECENT) - 1, -1))
        assert np.array_equal(frame, walk.step(action)[0])
        want = model.decode(torch.tensor(golden[slide][i])).numpy()
        if session.precision == "float32":
            assert np.abs(np.array(frame).astype(int) - want).max() <= 1
        else:
            assert relative_error(np.array(frame) / 127.5 - 1, want / 127.5 - 1) <= 2e-2
    assert len(session.memory.ids) == parity.FRAMES


@pytest.mark.parametrize("slide", ["keep", "recompute"])
def test_branches(slide, golden, model_file, device):
    """A branch and a dream give the frames of the step itself, and leave no trace in the other."""
    session, twin = (Session(model_file(slide), device=device, threads=2, seed=3) for _ in range(2))
    for each in (session, twin):
        each.observe(golden["image"])
        for _ in range(RECENT + 1):
            each.step(action={"forward": 1})
    branch = session.fork()
    (dreamt,) = session.imagine(actions=[{"left": 1}])
    lefts = [np.array(branch.step(action={"left": 1})) for _ in range(RECENT)]
    assert np.array_equal(dreamt, lefts[0])
    for _ in range(RECENT):
        frame = session.step(action={"right": 1})
        assert np.array_equal(frame, twin.step(action={"right": 1}))
    assert not np.array_equal(frame, lefts[-1])


@pytest.mark.parametrize("slide", ["keep", "recompute"])
def test_steps_allocate_nothing(slide, golden, model_file, tier):
    """Past the window, while frames are forgotten: the budget has room for seven."""
    path = model_file(slide)
    assert _testing.allocations_of_actions(path, tier, golden["image"], 8, 80_000) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slide": "drop"}, 'slide: expected "keep" or "recompute"'),
        ({"window": 34}, "window: expected 2..33, got 34"),
        ({"head_dim": 24}, "manifest width: expected heads * head_dim = 48, got 32"),
        ({"latent": {"height": 6, "width": 8, "channels": 3, "patch": 2}}, "patch = 6x10, got 6x8"),
        ({"latent": {"height": 6, "width": 10, "channels": 3, "patch": 4}}, "multiples of 4"),
        ({"commit_time": -1}, "commit_time"),
        ({"mlp": 49}, "expected shape [32, 49], got [32, 48]"),
    ],
)
def test_refuses(changes, message, folder):
    manifest, tensors = parity.convert()
    path = write_file(folder / "refused.safetensors", {**manifest, **changes}, tensors)
    with pytest.raises(rtfm_rt.ModelError) as caught:
        rtfm_rt.Model(path, device="cpu")
    assert message in str(caught.value)
