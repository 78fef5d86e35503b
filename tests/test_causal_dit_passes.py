# SPDX-License-Identifier: Apache-2.0
"""What the runtime makes of `causal_dit` models, against the reference and the authors' numbers."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import cases
import reference
import rtfm_rt
from rtfm_rt.convert import waypoint
from rtfm_rt.reference.causal_dit import CausalDiT, Window
from rtfm_rt.reference.taehv import to_images
from test_causal_dit import GOLDEN, SMALL
from tools.parity import waypoint as parity

FRAMES = 12  # past every window
SEED = 11
# By precision: one pass, and what passes over many.
LIMIT = {"float32": (1e-5, 1e-4), "bfloat16": (2e-2, 2e-2)}
TABLE = [[t, 1.0, after - t, 0.0] for t, after in itertools.pairwise(SMALL["sigmas"])]
Images = np.ndarray[Any, np.dtype[np.uint8]]


def write(path: Path, recipe: dict[str, Any], **changes: Any) -> str:
    """The model file of a recipe, every tensor random."""
    manifest, tensors = parity.build(recipe)
    source = {"file": "random", "sha256": "0" * 64}
    manifest |= {"name": "random", "licence": "Apache-2.0 AND MIT", "source": source} | changes
    stored = {name: x.contiguous() for name, x in tensors.items()}
    path.write_bytes(safetensors.torch.save(stored, {"rtfm": json.dumps(manifest)}))
    return str(path)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("causal_dit") / "small.safetensors", SMALL)


@pytest.fixture(scope="module")
def model() -> CausalDiT:
    return parity.load(SMALL).double()


@pytest.fixture(scope="module")
def given() -> dict[str, torch.Tensor]:
    return parity.inputs(SMALL)


@pytest.fixture
def network(testing: ModuleType, device: str, path: str) -> Any:
    return testing.CausalDit(path, device, threads=2)


def limits(device: str) -> tuple[float, float]:
    return LIMIT["bfloat16" if cases.rounds(device) else "float32"]


def error(got: Any, want: torch.Tensor) -> float:
    return parity.error(torch.as_tensor(np.asarray(got)).double().reshape(want.shape), want)


def assert_same_images(got: Images, want: torch.Tensor, device: str) -> None:
    """A level off at most, and seldom; more of both in bfloat16."""
    off = np.abs(got.astype(int) - want.numpy().astype(int))
    most, often = (6, 0.6) if cases.rounds(device) else (1, 1e-3)
    assert off.max() <= most and (off > 0).mean() <= often, (off.max(), (off > 0).mean())


@pytest.mark.parametrize(
    "window",
    [waypoint.WINDOW, Window(**SMALL["window"]), Window(2, 6, 3, 2, 0), Window(9, 4, 1, 2, 1)],
)
def test_sees_the_frames_of_the_reference(testing, window):
    for frame in range(2 * window.global_frames + 20):
        local, wide = testing.seen(
            window.local_frames - 1, window.dilation, window.global_frames, frame
        )
        assert sorted(local) == window.visible(window.offset + 1, frame)
        assert sorted(wide) == window.visible(window.offset, frame)


def test_matches_the_authors(testing, tmp_path):
    golden, recipe = np.load(GOLDEN), parity.RECIPE
    device = rtfm_rt.Model("rooms", device="cpu").device  # none that is emulated
    network = testing.CausalDit(write(tmp_path / "m.safetensors", recipe), device, threads=2)
    given, past, got = parity.inputs(), [], {"velocity": [], "tokens": []}
    for noise, action in zip(given["noise"].numpy(), given["action"].numpy(), strict=True):
        got["velocity"].append(network.write(noise, recipe["sigmas"][1], action, past))
        got["tokens"].append(network.sample(noise, action, past))
        past.append(network.read(got["tokens"][-1], action, past))
    got["pages"] = past[-1][:, :, :, ::5]
    arrange = parity.load(recipe)
    latents = [torch.tensor(network.encode(clip.numpy())) for clip in given["images"]]
    got["latents"] = [arrange.latent(tokens).numpy() for tokens in latents]
    bfloat16 = cases.rounds(device)
    for name, values in got.items():
        want = torch.tensor(golden[name])
        assert error(np.stack(values), want) < (2e-2 if bfloat16 else 1e-5), name
    for i, want in enumerate(golden["decoded"]):
        shown = network.decode(golden["tokens"][i], i == 0)[:, ::7, ::9] / 255
        assert np.abs(shown - want).max() < (0.03 if bfloat16 else 0.6 / 255)


def test_codec_streams(network, device, model, given):
    clips = [*given["images"][:, :2], given["images"][0, 2:]]
    latents = [model.codec.encode(clip) for clip in clips]
    for clip, latent in zip(clips, latents, strict=True):
        got = network.encode(clip.contiguous().numpy())
        assert error(got, model.tokens(latent)) < limits(device)[0]
    memory = None
    for i, latent in enumerate(latents):
        shown, memory = model.codec.decode(latent, memory)
        got = network.decode(model.tokens(latent).numpy(), i == 0)
        assert_same_images(got, to_images(shown), device)


def test_passes_over_a_walk(network, device, model, given):
    """Every frame from the pages that the runtime made itself."""
    single, end = limits(device)
    walked = parity.walk(model, SMALL, given)
    mine: list[Any] = []
    for i in range(FRAMES):
        noise, action = given["noise"][i].numpy(), given["action"][i].numpy()
        theirs = [x.float().numpy() for x in walked["pages"][:i]]
        velocity = network.write(noise, SMALL["sigmas"][1], action, theirs)
        assert error(velocity, walked["velocity"][i]) < single
        assert error(network.sample(noise, action, theirs), walked["tokens"][i]) < single
        tokens = network.sample(noise, action, mine)
        assert error(tokens, walked["tokens"][i]) < end
        mine.append(network.read(tokens, action, mine))
        assert error(mine[-1], walked["pages"][i]) < end


@pytest.mark.parametrize("tiers", cases.INT8.items(), ids=lambda tiers: tiers[0])
def test_int8_leaves_the_codec_alone(testing, path, model, given, tiers):
    if tiers[0] not in testing.tiers():
        pytest.skip(f"no tier {tiers[0]} here")
    int8, exact = (testing.CausalDit(path, f"cpu:{tier}") for tier in tiers)
    noise, action = given["noise"][0].numpy(), given["action"][0].numpy()
    want = model.write(given["noise"][0].double(), 0.75, given["action"][0].double(), [])
    assert 1e-3 < error(int8.write(noise, 0.75, action, []), want) < 4e-2
    assert np.array_equal(int8.decode(noise, True), exact.decode(noise, True))
    clip = given["images"][0, :2].numpy()
    assert np.array_equal(int8.encode(clip), exact.encode(clip))


class Player:
    """What a session should show, by the reference."""

    def __init__(self, model: CausalDiT):
        self.model, self.past, self.memory = model, [], None

    def observe(self, image: torch.Tensor, action: torch.Tensor) -> None:
        tokens = self.model.encode(image[None].repeat(self.model.codec.config.images, 1, 1, 1))
        self._keep(tokens, action)

    def step(self, action: torch.Tensor) -> torch.Tensor:
        config, frame = self.model.config, len(self.past)
        count = config.rows * config.cols * config.channels * config.patch**2
        noise = torch.tensor(reference.normal(SEED, frame, 0, count))
        tokens = self.model.sample(
            noise.reshape(config.rows * config.cols, -1), TABLE, action.double(), self.past
        )
        return self._keep(tokens, action)

    def _keep(self, tokens: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        images, self.memory = self.model.decode(tokens, self.memory)
        self.past.append(self.model.read(tokens, action.double(), self.past))
        return images


@pytest.fixture
def start(open_session: Callable[..., Any], device: str, path: str) -> Callable[..., Any]:
    return lambda **options: open_session(path, seed=SEED, threads=2, **options)


def test_session_shows_what_the_reference_shows(start, device, model, given):
    session, player = start(), Player(model)
    image, actions = given["images"][0, 0], given["action"].clamp(0, 1)
    session.observe(image.numpy(), action=np.zeros(9, np.float32))
    player.observe(image, torch.zeros(9))
    for i in range(1, FRAMES):
        if i == 7:  # a picture from elsewhere
            session.observe(given["images"][1, 1].numpy(), action=actions[i].numpy())
            player.observe(given["images"][1, 1], actions[i])
            continue
        frame = session.step(action=actions[i].numpy())
        assert frame.id == i and frame.images.shape == (2, 48, 64, 3)
        assert_same_images(frame.images, player.step(actions[i]), device)
        assert np.array_equal(np.asarray(frame), frame.images[-1])


def test_branches_go_their_own_ways(start, given):
    session = start()
    session.observe(given["images"][0, 0].numpy())
    for _ in range(4):
        session.step(action={"button.0": 1})
    branch = session.fork()
    (dream,) = session.imagine(actions=[{"mouse_x": 0.5}])
    turned = branch.step(action={"mouse_x": 0.5})
    ahead = session.step(action={"button.1": 1})
    assert np.array_equal(dream.images, turned.images)
    assert not np.array_equal(turned.images, ahead.images)
    same = branch.fork()  # each remembers what its own decoder has seen
    again = [x.step(action={"button.1": 1}).images for x in (same, branch)]
    assert np.array_equal(*again)


def test_what_is_in_sight_is_never_dropped(start, given):
    """With room for one window, standing still: frames look alike, and the memory is full."""
    with pytest.raises(rtfm_rt.ArgumentError, match="memory_budget: expected at least") as refused:
        start(memory_budget=1)
    (least,) = re.findall(r"at least (\d+) bytes", str(refused.value))
    roomy, tight = start(), start(memory_budget=int(least))
    for session in (roomy, tight):
        session.observe(given["images"][0, 0].numpy())
    for frame in range(40):
        action = {"button.0": frame % 2}
        a, b = (session.step(action=action) for session in (roomy, tight))
        assert np.array_equal(a.images, b.images) and a.context == b.context


def test_names_of_actions(path, given):
    session = rtfm_rt.Session(path, device="cpu", threads=2)
    session.observe(given["images"][0, 0].numpy())
    with pytest.raises(rtfm_rt.ArgumentError, match=r"mouse_x, mouse_y, button\.0.*'jump'"):
        session.step(action={"jump": 1})
    with pytest.raises(rtfm_rt.ArgumentError, match="expected 0 to 1, got 2"):
        session.step(action={"button.0": 2})
    assert session.step(action={"mouse_y": -0.25}).id == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": 4}, "images: expected 2 as the codec makes, got 4"),
        ({"rows": 4}, "image: expected 64x64"),
        ({"sigmas": [1.0, 0.75, 0.3]}, "sigmas: expected numbers falling to 0"),
        ({"sigmas": [1.0, 0.3, 0.75, 0.0]}, "sigmas: expected numbers falling to 0"),
        ({"sigmas": [1.0, 0.7, 0.3, 0.0]}, "samplers: expected times that are in sigmas, got 0.75"),
        ({"value_residual": 1}, "value_residual: expected a boolean, got an integer"),
        ({"value_residual": False}, "unknown tensor 'value_mix'"),
        ({"control_layers": [3, 0]}, "control_layers: expected rising integers"),
        ({"control_layers": [0]}, "unknown tensor 'blocks.3.fuse.c.weight'"),
        ({"kv_heads": 3}, "kv_heads: expected a divisor of heads = 4, got 3"),
        ({"head_dim": 36}, "head_dim: expected a multiple of 8, got 36"),
        ({"window": SMALL["window"] | {"global_frames": 7}}, "global_frames: expected a multiple"),
        ({"window": SMALL["window"] | {"local_frames": 1}}, r"local_frames: expected 2\.\.33"),
        (
            {"window": SMALL["window"] | {"local_frames": 33, "global_frames": 64}},
            "window: expected at most 32 frames",
        ),
        (
            {"codec": SMALL["codec"] | {"encoder_strides": [2, 2, 1]}},
            "codec.encoder_strides: expected 2 images together",
        ),
        ({"codec": SMALL["codec"] | {"decoder_widths": [12, 8, 4]}}, "expected 4 numbers"),
        ({"codec": SMALL["codec"] | {"kind": "vae"}}, "codec.kind: expected 'taehv'"),
    ],
)
def test_refuses_manifests(tmp_path, changes, message):
    if "codec" in changes:
        changes["codec"] = {"kind": "taehv", "warmup": 3} | changes["codec"]
    file = write(tmp_path / "m.safetensors", SMALL, **changes)
    with pytest.raises(rtfm_rt.ModelError, match=message):
        rtfm_rt.Model(file, device="cpu:portable")
