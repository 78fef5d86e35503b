# SPDX-License-Identifier: Apache-2.0
"""World files of models that go by actions: what the frames of a window remember is in them."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import action_models
import emulated
import forged
import killed
import rtfm_rt
from rtfm_rt import world as worlds

Open = Callable[..., rtfm_rt.Session]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("actions")
    return {
        kind: action_models.write(folder / f"{kind}.safetensors", kind)
        for kind in action_models.KINDS
    }


@pytest.fixture(params=action_models.KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def start(files: dict[str, str], kind: str) -> Open:
    """start(frames=0, device="cpu:portable", **options): a session that took that many steps."""

    def made(frames: int = 0, device: str = "cpu:portable", **options: Any) -> rtfm_rt.Session:
        session = rtfm_rt.Session(files[kind], device=device, threads=1, seed=5, **options)
        shape = (*session.image_size, 3)
        session.observe(np.random.default_rng(1).integers(0, 256, shape, np.uint8))
        walk(session, 0, frames)
        return session

    return made


@pytest.fixture
def load(files: dict[str, str], kind: str) -> Open:
    return lambda path, device="cpu:portable", **options: rtfm_rt.Session.load(
        path, files[kind], device=device, threads=1, **options
    )


def walk(session: rtfm_rt.Session, start: int, count: int) -> list[bytes]:
    """Steps by random actions; all images, the pose and the receipt of each."""
    rng, seen = np.random.default_rng(start), []
    spans = list(session.actions.values())
    for _ in range(count):
        action = np.array([rng.uniform(least, most) for least, most in spans], np.float32)
        frame = session.step(action=action)
        seen.append(frame.images.tobytes() + frame.pose.tobytes())
        seen.append(repr((frame.id, frame.support, frame.context)).encode())
    return seen


@pytest.mark.parametrize("frames", [0, 2, 3, 11, 40])  # ... before, at and after the window slides
def test_the_next_frames_are_the_unsaved_twin_s(start, load, tmp_path, frames):
    session = start(frames)
    session.save(tmp_path / "world")
    twin = load(tmp_path / "world")
    assert twin.memory.ids == session.memory.ids
    assert twin.memory.resident == session.memory.resident
    assert twin.memory.bytes == session.memory.bytes
    assert walk(twin, 7, 30) == walk(session, 7, 30) == walk(start(frames), 7, 30)


def test_an_empty_world(start, load, tmp_path):
    rtfm_rt.Session(start().model).save(tmp_path / "world")
    loaded = load(tmp_path / "world")
    assert len(loaded.memory) == 0
    with pytest.raises(rtfm_rt.WorldError, match="call observe first"):
        walk(loaded, 0, 1)
    loaded.observe(np.zeros((*loaded.image_size, 3), np.uint8))
    walk(loaded, 0, 1)


def test_a_memory_that_is_full(start, load, tmp_path, kind):
    """Room for two windows: frames of the window's far end may be forgotten, in both alike."""
    budget = start().memory.bytes * 2 * (start().context + 1)
    session = start(60, memory_budget=budget)
    assert session.memory.evicted > 0
    session.save(tmp_path / "world")
    twin = load(tmp_path / "world")
    assert walk(twin, 7, 60) == walk(session, 7, 60)
    assert twin.memory.ids == session.memory.ids
    with pytest.raises(rtfm_rt.WorldError, match="memory_budget"):
        load(tmp_path / "world", memory_budget=budget // 2 + 1)


def test_a_frame_takes_the_room_of_one_it_attends_to(files):
    """The older one is forgotten when the new one comes, and its page is read to the end."""

    def start(**options: Any) -> rtfm_rt.Session:
        session = rtfm_rt.Session(files["causal"], device="cpu:portable", threads=1, **options)
        session.observe(np.zeros((*session.image_size, 3), np.uint8))
        return session

    roomy = start()
    tight = start(memory_budget=roomy.memory.bytes * (roomy.context + 1) * 11 // 10)
    turn, stay = np.zeros((2, len(roomy.actions)), np.float32)
    turn[0] = 8  # 80 degrees: frames that no later one stands in for, unlike those to come
    for _ in range(7):
        roomy.step(action=turn), tight.step(action=turn)
    lost = set()
    while not lost:
        known = set(tight.memory.ids)
        frame, same = tight.step(action=stay), roomy.step(action=stay)
        assert frame.context == same.context
        assert tight._page(frame.id) == roomy._page(frame.id)
        lost = (known - set(tight.memory.ids)) & set(frame.context)


def test_a_long_turn_does_not_shear_the_camera(files, tmp_path):
    session = rtfm_rt.Session(files["keep"], device="cpu:portable", threads=1)
    session.observe(np.zeros((*session.image_size, 3), np.uint8))
    turns = {a["name"]: 0.7 for a in session.model.manifest["actions"] if any(a["turn"])}
    for _ in range(400):
        pose = session.step(action=turns).pose[:3, :3]
    assert np.linalg.norm(pose.T @ pose - np.eye(3)) < 1e-14
    session.save(tmp_path / "world")
    loaded = rtfm_rt.Session.load(
        tmp_path / "world", files["keep"], device="cpu:portable", threads=1
    )
    assert np.array_equal(loaded.memory.poses, session.memory.poses)


def test_branches_and_dreams(start, load, tmp_path):
    """A branch is a world of its own, from the window that it shares with the other."""
    session = start(9)
    branch = session.fork()
    branch.save(tmp_path / "branch")
    ahead = walk(session, 2, 12)
    assert walk(session.fork(), 3, 2) != walk(branch.fork(), 3, 2)
    twin = load(tmp_path / "branch")
    action = np.zeros(len(twin.actions), np.float32)
    dreams = [each.imagine(actions=[action])[0].images for each in (twin, branch)]
    assert np.array_equal(*dreams)
    assert walk(twin, 2, 12) == walk(branch, 2, 12) == ahead


def test_only_new_pages_are_written(start, load, tmp_path):
    path, session = tmp_path / "world", start(12)
    session.save(path)
    newest, size = session._world()["with_page"].max(), path.stat().st_size
    with sqlite3.connect(path) as db:  # a mark on a page: does the next save rewrite it?
        db.execute("UPDATE pages SET page = zeroblob(length(page)) WHERE id = ?", (int(newest),))
    walk(session, 1, 2)
    session.save(path)
    window = sorted(session._world()["with_page"].tolist())
    with sqlite3.connect(path) as db:
        assert [row[0] for row in db.execute("SELECT id FROM pages ORDER BY id")] == window
        mark = db.execute("SELECT page FROM pages WHERE id = ?", (int(newest),)).fetchone()[0]
    assert not any(mark) and path.stat().st_size < 1.5 * size
    with pytest.raises(rtfm_rt.WorldError, match=rf"whole pages, got 1 damaged .*: {newest};"):
        load(path)


def test_a_loaded_world_is_saved_again(start, load, tmp_path):
    session = start(7)
    session.save(tmp_path / "world")
    twin = load(tmp_path / "world")
    assert walk(twin, 1, 9) == walk(session, 1, 9)
    twin.save(tmp_path / "world")
    with pytest.raises(rtfm_rt.WorldError, match="another session"):
        session.save(tmp_path / "world")
    assert walk(load(tmp_path / "world"), 2, 5) == walk(session, 2, 5)


def test_other_devices(start, load, tmp_path, kind):
    """Pages of the same numbers are read by any device; others are refused, saying which."""
    session = start(6)
    session.save(tmp_path / "world")
    for device in ("cpu", "cpu:avx2"):
        try:
            loaded = load(tmp_path / "world", device)
        except rtfm_rt.DeviceError:
            continue
        except rtfm_rt.WorldError as refused:  # this CPU computes in bfloat16
            assert kind != "recompute" and "pages are bfloat16" in str(refused)
            continue
        assert walk(loaded, 1, 3)[1] == walk(session.fork(), 1, 3)[1]
    world, images, *_ = worlds.load(tmp_path / "world")
    fresh = rtfm_rt.Session(session.model)
    with pytest.raises(
        rtfm_rt.WorldError,
        match=r"whose pages are float32, .* got bfloat16; load it with precision='bf",
    ):
        fresh._restore({**world, "page_dtype": "bfloat16"}, images)
    with pytest.raises(rtfm_rt.WorldError, match=r"pages of \d+ bytes, got 3"):
        fresh._restore({**world, "pages": [b"abc", *world["pages"][1:]]}, images)
    assert len(fresh.memory) == 0


@pytest.mark.parametrize("where", ["cpu:amx", "cuda:emulated"])
@pytest.mark.parametrize("frames", [1, 3, 9])
def test_bfloat16_and_the_memory_of_a_device(files, kind, where, frames):
    """On devices that this machine may lack: worlds and branches, from pages in their memory."""
    image = rtfm_rt.read_info(files[kind])["manifest"]["image"]
    session = emulated.Session(files[kind], device=where, threads=1, seed=5)
    session.observe(np.full((image["height"], image["width"], 3), 99, np.uint8))
    for _ in range(frames):
        session.step(action={})
    branch, twin = session.fork(), session.reloaded()
    for _ in range(6):
        walkers = (session, branch, twin, branch.reloaded())
        first, *others = (each.step(action={}).images for each in walkers)
        assert all(np.array_equal(first, other) for other in others)


def test_int8_goes_on_in_a_world_of_float32(start, load, tmp_path):
    session = start(6)
    session.save(tmp_path / "world")
    try:
        loaded = load(tmp_path / "world", "cpu", precision="int8")
    except rtfm_rt.DeviceError as error:
        pytest.skip(str(error))
    assert walk(loaded, 1, 3)[1] == walk(session, 1, 3)[1]


def test_another_model(start, files, kind, tmp_path):
    start(2).save(tmp_path / "world")
    other = files["causal" if kind != "causal" else "keep"]
    with pytest.raises(rtfm_rt.WorldError, match="expected the model that the world was made with"):
        rtfm_rt.Session.load(tmp_path / "world", other, device="cpu:portable")


def test_flipped_bits_are_noticed(start, tmp_path, pytestconfig):
    """Every load of a damaged file fails with a WorldError, or gives the very same world."""
    path, rng = tmp_path / "world", random.Random(4)
    start(7).save(path)
    content, refused = path.read_bytes(), 0
    want, want_images, *_ = worlds.load(path)
    for _ in range(pytestconfig.getoption("--flips") // 3):
        flipped = bytearray(content)
        flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        try:
            got, images, *_ = worlds.load(path)
        except rtfm_rt.WorldError as error:
            assert str(path) in str(error)
            refused += 1
            continue
        assert all(np.array_equal(got[key], want[key]) for key in want)
        assert np.array_equal(images, want_images)
    assert refused > 0


@pytest.mark.parametrize("value", [None, "x", -1, 2**62, b"", b"\xff" * 8, "float32"], ids=repr)
def test_a_forged_file(start, load, tmp_path, value):
    """A digest that is right over values of any kind: refused, or the world is sound."""
    path = tmp_path / "world"
    start(5).save(path)
    good, refused = path.read_bytes(), set()
    for key in ("page_dtype", "with_page", "ids", "next_id", "last_pose", "options"):
        path.write_bytes(good)
        forged.put(path, key, value)
        try:
            walk(load(path), 1, 2)
        except rtfm_rt.Error:
            refused.add(key)
    assert refused >= {"with_page", "ids", "options"}
    assert ("page_dtype" in refused) == (value != "float32")


def test_pages_of_anything(start, load, tmp_path):
    """Whoever writes a file may write what is no number. Frames are of no use then, and made."""
    path = tmp_path / "world"
    start(5).save(path)
    with sqlite3.connect(path) as db:
        for id_, size in db.execute("SELECT id, length(page) FROM pages").fetchall():
            page = b"\xff" * size
            row = page, worlds._checksum(id_, page), id_
            db.execute("UPDATE pages SET page = ?, checksum = ? WHERE id = ?", row)
    assert len(walk(load(path), 1, 3)) == 6


def test_kill_at_any_moment(start, load, tmp_path, pytestconfig):
    """A process that saves all the time is killed: what a save returned for is there."""
    rng, session = random.Random(3), start(3)
    for attempt in range(max(1, pytestconfig.getoption("--kills") // 4)):
        path = tmp_path / f"world{attempt}"
        returned = killed.while_saving(
            session, path, lambda: walk(session, 1, 1), rng.random() * 0.05
        )
        ids = load(path).memory.ids
        assert not returned or ids[-1] >= returned[-1]


def test_the_file_is_what_the_documentation_says(start, tmp_path, kind):
    session = start(7)
    session.save(tmp_path / "world")
    with sqlite3.connect(tmp_path / "world") as db:
        assert db.execute("PRAGMA user_version").fetchone()[0] == 2
        values = dict(db.execute("SELECT key, value FROM world"))
        columns = [row[1] for row in db.execute("PRAGMA table_info(pages)")]
        *older, newest = [x for (x,) in db.execute("SELECT length(page) FROM pages ORDER BY id")]
    assert columns == ["id", "page", "checksum"] and len(set(older)) == 1
    assert newest > older[0] if kind == "causal" else newest == older[0]  # with the state
    assert values["page_dtype"] == "float32" and "origin" not in values
    assert json.loads(values["options"]) == {"seed": 5, "steps": session.steps}
