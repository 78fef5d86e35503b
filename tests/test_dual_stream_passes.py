# SPDX-License-Identifier: Apache-2.0
"""The runtime's dual_stream against the reference: its ops, its passes and whole sessions."""

from __future__ import annotations

import contextlib
import json
import math
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import cases
import reference as ops
import rtfm_rt
from emulated import Session
from models import pages_of, random_pose, relative_error, turn
from rtfm_rt import _testing
from rtfm_rt import world as worlds
from rtfm_rt.convert.common import Checkpoint
from rtfm_rt.convert.efficient_lvsm import build, manifest
from rtfm_rt.reference import View
from rtfm_rt.reference.dual_stream import Config, DualStream, in_gauge, load, patches, rays
from tools.parity import efficient_lvsm as parity

GOLDEN = np.load(Path(__file__).parent / "data" / "efficient_lvsm.npz")
CONFIGS = {
    "golden": parity.TINY,  # 3 heads of 16, 15 tokens
    "odd": Config(16, 24, 8, 40, 2, 1, 40, 72, 1e-4, 1e-3),  # 6 tokens, a head of 40
    "wide": Config(64, 48, 4, 64, 2, 4, 16, 96),  # 192 tokens
}
TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2}


def write_model(path: Path, config: Config, dtype: str = "float32", **changes: Any) -> str:
    """Writes a model file, every tensor random; returns its path."""
    square = [Checkpoint(Path("random"), {}, parity.published(config))]
    _, state = build(square, side=config.patch)  # tensors know no size of image
    big = getattr(torch, dtype)
    state = {name: t.to(big if t.ndim > 1 else torch.float32) for name, t in state.items()}
    said = manifest(config) | {
        "name": "random",
        "licence": "Apache-2.0",
        "source": {"file": "random", "sha256": "0" * 64},
        **changes,
    }
    path.write_bytes(safetensors.torch.save(state, {"rtfm": json.dumps(said)}))
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, DualStream]]:
    """By name: the path of a model file, and its reference in float64."""
    folder, made = tmp_path_factory.mktemp("dual_stream"), {}
    for name, config in CONFIGS.items():
        dtype = "float32" if name == "golden" else "bfloat16"
        path = write_model(folder / f"{name}.safetensors", config, dtype)
        made[name] = path, load(path, torch.float64)[0]
    return made


def seen_by(view: View) -> tuple[np.ndarray, float, float]:
    return np.asarray(view.pose, np.float32), view.fx, view.fy


# ---- Ops.


@pytest.mark.parametrize("case", cases.PATCHES, ids=cases.name)
@pytest.mark.parametrize("with_image", [True, False])
def test_ray_patches(testing, device, case, with_image, rng):
    height, width, patch = case
    view = View(torch.from_numpy(random_pose(rng, 0.3, 0.7)), *rng.uniform(0.5, 1.2, 2))
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    pixels = rays(view, height, width)
    if with_image:
        pixels = torch.cat([torch.from_numpy(image / 127.5 - 1), pixels], -1)
    shown = image if with_image else None
    got = [testing.ray_patches(device, n, shown, seen_by(view), *case) for n in (1, 3)]
    dtype = testing.Device(device).precision
    cases.assert_close(got[0], patches(pixels, patch), dtype)
    assert got[0].tobytes() == got[1].tobytes()


@pytest.mark.parametrize("case", cases.NORMS, ids=cases.name)
def test_layer_norm(testing, device, case, rng):
    arguments = cases.norm_modulate(case, rng)
    x = arguments["x"]
    x += x.std(1, keepdims=True) * cases.normal(rng, case[0], 1, scale=3)
    x = arguments["x"].astype(np.float64)
    x = x - x.mean(1, keepdims=True)
    want = x / np.sqrt((x**2).mean(1, keepdims=True) + 1e-6)
    want = want * arguments["scale"] + arguments["shift"]
    cases.assert_close(
        testing.layer_norm(device, **arguments), want, testing.Device(device).precision
    )


@pytest.mark.parametrize("name", ["gelu_erf", "signed_sigmoid", "ungated"])
@pytest.mark.parametrize("case", cases.MATMULS[:9], ids=cases.name)
def test_epilogues(testing, device, case, name, rng):
    rows, n, k = case
    x, w = cases.normal(rng, rows, k), cases.normal(rng, n, k, scale=2 * k**-0.5)
    y0 = cases.normal(rng, rows, n)
    dtype = testing.Device(device).precision
    r = ops.matmul(x, w, precision=dtype)
    want = {
        "gelu_erf": r / 2 * (1 + np.vectorize(math.erf)(r / math.sqrt(2))),
        "signed_sigmoid": np.tanh(r / 2),
        "ungated": y0 + r,
    }[name]
    got = testing.epilogue(device, name, x, w, y0)
    cases.assert_close(got, want, dtype if name == "gelu_erf" else "float32")


def test_signed_sigmoid_saturates(testing, device):
    x = np.array([[-1e20, -1e4, -100, 0, 100, 1e4, 1e20, 3e38]], np.float32).T
    one = np.ones((1, 1), np.float32)
    got = testing.epilogue(device, "signed_sigmoid", x, one, one)
    assert got[:, 0].tolist() == [-1, -1, -1, 0, 1, 1, 1, 1]


# ---- Passes.


@pytest.mark.parametrize("name", CONFIGS)
def test_read_pass(files, name, device):
    path, reference = files[name]
    (image,), (view,) = parity.scene(CONFIGS[name], 1)
    want = pages_of(reference.read(reference.tokens(image), view))
    for threads in 1, 3:
        net = _testing.DualStream(path, device, threads)
        got = net.read(image.numpy(), seen_by(view))
        for layer in range(len(want)):
            for half in 0, 1:
                error = relative_error(got[layer, half], want[layer, half])
                assert error <= TOLERANCE[net.precision]


@pytest.mark.parametrize("pages", [0, 1, 4])
@pytest.mark.parametrize("name", CONFIGS)
def test_write_pass(files, name, pages, device):
    path, reference = files[name]
    images, views = parity.scene(CONFIGS[name], pages + 1)
    book = [
        reference.read(reference.tokens(image), view)
        for image, view in zip(images[:pages], views[:pages], strict=True)
    ]
    net = _testing.DualStream(path, device)
    got = net.write([pages_of(page) for page in book], seen_by(views[-1]))
    want = reference.write(book, views[-1]).numpy()
    assert relative_error(got, want) <= TOLERANCE[net.precision]
    if pages > 1:  # in any order
        other = net.write([pages_of(page) for page in book[::-1]], seen_by(views[-1]))
        assert relative_error(other, got) <= TOLERANCE[net.precision]


def test_passes_are_the_authors(files, device):
    """Against what their code gave, tests/data/efficient_lvsm.npz: pages, and frames of them."""
    images, views = parity.scene(parity.TINY, parity.OBSERVED + parity.ROLLOUT)
    net = _testing.DualStream(files["golden"][0], device)
    tolerance = TOLERANCE[net.precision]
    book = [net.read(images[i].numpy(), seen_by(views[i])) for i in range(3)]
    assert relative_error(book[0][:, 0], GOLDEN["page_k"]) <= tolerance
    assert relative_error(book[0][:, 1], GOLDEN["page_v"]) <= tolerance
    assert relative_error(net.write(book[:1], seen_by(views[-1])), GOLDEN["one"]) <= tolerance
    assert relative_error(net.write(book, seen_by(views[-1])), GOLDEN["three"]) <= tolerance
    assert relative_error(net.write(book, seen_by(views[3])), GOLDEN["rollout"][0]) <= tolerance


# ---- Sessions: one world, and the reference beside it.

SCALE = 1 / 1.35


def spots(rng: np.random.Generator, count: int) -> list[np.ndarray]:
    """Poses within half a metre of one far from the origin, so that a wrong gauge shows."""
    return [random_pose(rng, 100.0, 0.5) for _ in range(count)]


def pictures(config: Config, count: int) -> np.ndarray:
    return parity.scene(config, count)[0].numpy()


class Told:
    """The same world as the reference has it; intrinsics are the manifest's."""

    def __init__(self, model: DualStream, first: np.ndarray, focal: float):
        self.model, self.focal = model, focal
        self.first = self.view(first)
        self.frames: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def view(self, pose: np.ndarray) -> View:
        return View(torch.from_numpy(pose), self.focal, self.focal)

    def page(self, id_: int):
        image, pose = self.frames[id_]
        seen = in_gauge(self.view(pose), self.first, SCALE)
        return self.model.read(self.model.tokens(torch.from_numpy(image)), seen)

    def pixels(self, pose: np.ndarray, context: list[int]) -> np.ndarray:
        """Not rounded yet."""
        view = in_gauge(self.view(pose), self.first, SCALE)
        tokens = self.model.write([self.page(i) for i in context], view).numpy()
        size = self.model.config.height, self.model.config.image_width
        return ops.unpatchify(tokens, *size, self.model.config.patch)


@pytest.mark.parametrize("name", ["golden", "wide"])
def test_frames_are_the_reference_s(files, name, device, rng):
    path, reference = files[name]
    config, poses = CONFIGS[name], spots(rng, 8)
    focal = rtfm_rt.read_info(path)["manifest"]["camera"]["fx"]
    session = Session(path, device=device, commit_below=2.0, threads=2)
    told = Told(reference, poses[0], focal)
    for pose, image in zip(poses[:3], pictures(config, 3), strict=True):
        told.frames[session.observe(image, pose)] = image, pose
    for pose in poses[3:]:
        frame = session.step(pose)
        want = told.pixels(pose, frame.context)
        assert 1 <= len(frame.context) <= 4 and frame.committed and frame.steps == 1
        if session.precision == "float32":  # rounding, and 1e-4 of the range
            assert np.abs(frame.pixels - want).max() <= 0.5 + 127.5e-4
        else:
            assert relative_error(frame.pixels / 127.5 - 1, want / 127.5 - 1) <= 2e-2
        told.frames[frame.id] = frame.pixels, pose


@pytest.fixture
def world(files, rng):
    """Begins a session that has observed `count` frames from given places."""
    path, _ = files["golden"]
    shown = pictures(CONFIGS["golden"], 5)

    def begin(poses: list[np.ndarray], **options: Any) -> rtfm_rt.Session:
        session = rtfm_rt.Session(path, device="cpu:portable", threads=1, **options)
        for pose, image in zip(poses, shown, strict=False):
            session.observe(image, pose)
        return session

    return begin


def same(a: rtfm_rt.Session, b: rtfm_rt.Session, poses: list[np.ndarray]) -> bool:
    """Whether the two go on alike; false also if two poses give one frame."""
    walks = [[np.array(s.step(pose)).tobytes() for pose in poses] for s in (a, b)]
    return walks[0] == walks[1] and len(set(walks[0])) == len(poses)


def test_a_moved_frame_is_seen_from_where_it_is(world, rng):
    """Its page depends on its pose: it is made again."""
    poses, ahead = spots(rng, 3), spots(rng, 3)
    there = random_pose(rng, 100.0, 0.5)
    moved, direct, still = world(poses), world([poses[0], there, poses[2]]), world(poses)
    moved.memory.update_pose(1, there)
    assert same(moved, direct, ahead)
    assert not same(direct, still, ahead)


def test_the_gauge_stays(world, rng):
    """When the first frame moves, the others keep their place in the gauge that it once gave."""
    poses, there = spots(rng, 3), random_pose(rng, 100.0, 0.5)
    moved, direct = world(poses), world([there, *poses[1:]])
    moved.memory.update_pose(0, there)
    assert not same(moved, direct, spots(rng, 2))


def test_a_world_may_stand_anywhere(world, rng):
    """Moved and turned as a whole it looks the same, but for rounding."""
    poses, ahead = spots(rng, 4), turn(70, 40.0)
    here, there = world(poses[:3]), world([ahead @ pose for pose in poses[:3]])
    one, other = here.step(poses[3]), there.step(ahead @ poses[3])
    assert np.abs(np.asarray(one).astype(int) - np.asarray(other)).max() <= 1


def test_a_branch_has_the_same_gauge(world, rng):
    poses = spots(rng, 3)
    session = world(poses, commit_below=2.0)
    branch, twin = session.fork(), world(poses, commit_below=2.0)
    ahead = spots(rng, 6)
    assert same(branch, twin, ahead)
    assert same(session, world(poses, commit_below=2.0), ahead[::-1])


@pytest.mark.parametrize("move", [False, True])
def test_a_loaded_world_goes_on_to_the_bit(world, files, rng, tmp_path, move):
    poses = spots(rng, 5)
    saved, twin = world(poses, commit_below=2.0), world(poses, commit_below=2.0)
    for session in saved, twin:
        if move:  # the gauge is in no frame of the file any more
            session.memory.update_pose(0, turn(10))
    saved.save(tmp_path / "a.world")
    for session in saved, twin:
        session.step(poses[2])
    saved.save(tmp_path / "a.world")
    loaded = rtfm_rt.Session.load(
        tmp_path / "a.world", files["golden"][0], device="cpu:portable", threads=1
    )
    assert same(loaded, twin, spots(rng, 5))
    loaded.save(tmp_path / "a.world")


def test_a_new_world_is_saved_without_a_gauge(world, files, tmp_path, rng):
    world([]).save(tmp_path / "new.world")
    loaded = rtfm_rt.Session.load(
        tmp_path / "new.world", files["golden"][0], device="cpu:portable", threads=1
    )
    poses, ahead = spots(rng, 1), spots(rng, 2)
    loaded.observe(pictures(CONFIGS["golden"], 1)[0], poses[0])
    assert same(loaded, world(poses), ahead)


def described(path: Path) -> dict[str, Any]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        return dict(db.execute("SELECT key, value FROM world"))


def test_only_worlds_that_need_it_say_their_gauge(world, rng, tmp_path):
    poses = spots(rng, 2)
    world(poses).save(tmp_path / "posed.world")
    rooms = rtfm_rt.Session("rooms", device="cpu:portable", threads=1)
    rooms.observe(np.zeros((*rooms.image_size, 3), np.uint8), poses[0])
    rooms.save(tmp_path / "rooms.world")
    stored = np.frombuffer(described(tmp_path / "posed.world")["origin"], np.float64)
    assert np.array_equal(stored.reshape(4, 4), poses[0])
    assert "origin" not in described(tmp_path / "rooms.world")


@pytest.mark.parametrize("origin", [None, b"", b"x" * 7, b"\xff" * 128, 3])
def test_refuses_a_world_without_its_gauge(world, files, rng, tmp_path, origin):
    path = tmp_path / "a.world"
    world(spots(rng, 2)).save(path)
    values = described(path) | {"origin": origin}
    del values["digest"]
    if origin is None:
        del values["origin"]
    values["digest"] = worlds._digest(values)
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("DELETE FROM world")
        db.executemany("INSERT INTO world VALUES (?, ?)", values.items())
    with pytest.raises((rtfm_rt.WorldError, rtfm_rt.PoseError), match="expected"):
        rtfm_rt.Session.load(path, files["golden"][0], device="cpu:portable", threads=1)


# ---- Model files.


def test_walks_allocate_nothing(files, rng):
    poses = np.stack(spots(rng, 6))
    image = pictures(CONFIGS["golden"], 1)[0]
    # room for 40 pictures and pages: frames are forgotten and pages made again on the way
    page = 3 * 2 * 15 * 48 * 4
    budget = 40 * (page + image.size)
    path = files["golden"][0]
    assert _testing.allocations_of_walk(path, "cpu:portable", image, poses, budget) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 4}, r"width: expected heads \* head_dim = 64, got 48"),
        ({"head_dim": 12, "heads": 4}, "head_dim: expected a multiple of 8, got 12"),
        ({"patch": 8}, "image: expected sides that are multiples of 8, got 12x20"),
        ({"image": {"height": 16, "width": 16}, "patch": 2}, "tensor 'out.weight'"),
        ({"layers": 4}, "tensor 'reader.blocks.3.down.weight' is missing"),
        ({"layers": 2}, "unknown tensor 'reader.blocks.2"),
        ({"norm_eps": 0}, "norm_eps: expected 1e-12..1, got 0"),
        ({"actions": []}, "unknown key"),
        ({"samplers": {"1": [[0, 0, 1, 1]]}}, "samplers: expected .* without noise"),
        ({"samplers": {"2": [[0, 0, 1, 0], [0, 0, 1, 0]]}, "steps": 2}, "samplers: expected"),
    ],
)
def test_refuses(tmp_path, change, message):
    rtfm_rt.read_info(write_model(tmp_path / "good.safetensors", parity.TINY))
    bad = write_model(tmp_path / "bad.safetensors", parity.TINY, **change)
    with pytest.raises(rtfm_rt.ModelError, match=message):
        rtfm_rt.read_info(bad)
