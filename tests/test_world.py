# SPDX-License-Identifier: Apache-2.0
"""World files: exact, incremental, safe against crashes, damage and other people's files."""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import signal
import sqlite3
import struct
from pathlib import Path

import numpy as np
import pytest

import forged
import killed
import rtfm_rt
from models import turn, write_model
from rtfm_rt import world as worlds
from rtfm_rt.reference import Config

DEEP = Config(height=16, image_width=16, patch=8, width=64, layers=8, heads=2, mlp=64)
BUDGET = 200_000  # 65 frames, 9 pages


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("world") / "deep.safetensors"
    write_model(path, DEEP, 9)
    return str(path)


@pytest.fixture
def shot() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (16, 16, 3), np.uint8)


def walk(session: rtfm_rt.Session, start: int, count: int) -> list[bytes]:
    rng = np.random.default_rng(start)
    poses = [turn(rng.uniform(0, 360), rng.uniform(-3, 3)) for _ in range(count)]
    return [np.array(session.step(pose)).tobytes() for pose in poses]


def make(deep: str, shot: np.ndarray, length: int = 12, **options) -> rtfm_rt.Session:
    given = {"memory_budget": BUDGET, "commit_below": 2.0, "seed": 5, **options}
    session = rtfm_rt.Session(deep, device="cpu:portable", threads=1, **given)
    session.observe(shot, np.eye(4))
    walk(session, 0, length)
    return session


def load(path: Path, deep: str, **options) -> rtfm_rt.Session:
    return rtfm_rt.Session.load(path, deep, device="cpu:portable", threads=1, **options)


@pytest.fixture
def saved(deep, shot, tmp_path) -> Path:
    path = tmp_path / "walk.world"
    make(deep, shot).save(path)
    return path


@pytest.mark.parametrize("steps", [0, 12, 50])
def test_the_next_frames_are_the_unsaved_twin_s(deep, shot, tmp_path, steps):
    session = make(deep, shot, steps)
    session.memory.update_pose(0, turn(3))
    session.save(tmp_path / "world")
    twin = load(tmp_path / "world", deep)
    assert twin.memory.ids == session.memory.ids
    assert twin.memory.resident == session.memory.resident
    assert walk(twin, 7, 50) == walk(session, 7, 50)
    assert twin.memory.ids == session.memory.ids
    assert np.array_equal(twin.memory.poses, session.memory.poses)


def test_a_world_that_has_forgotten_frames(deep, shot, tmp_path):
    session = make(deep, shot, 100)
    assert session.memory.evicted > 0
    session.save(tmp_path / "world")
    twin = load(tmp_path / "world", deep)
    assert twin.memory.ids == session.memory.ids
    assert walk(twin, 7, 40) == walk(session, 7, 40)
    assert twin.memory.ids == session.memory.ids


@pytest.mark.parametrize("frames", [650, 900])
def test_a_world_larger_than_an_exact_scan(deep, tmp_path, frames):
    """Through the index, with frames that were moved and (of 900) some that are forgotten."""
    rng = np.random.default_rng(6)
    budget = 700 * 16 * 16 * 3 * 4
    session = rtfm_rt.Session(
        deep, device="cpu:portable", memory_budget=budget, commit_below=2.0, threads=1
    )
    for _ in range(frames):
        picture = rng.integers(0, 256, (16, 16, 3), np.uint8)
        session.observe(picture, turn(rng.uniform(0, 360), rng.uniform(-30, 30)))
    assert (session.memory.evicted > 0) == (frames == 900)
    for id_ in session.memory.ids[5:300:7]:
        session.memory.update_pose(id_, turn(rng.uniform(0, 360), rng.uniform(-30, 30)))
    walk(session, 1, 5)
    session.save(tmp_path / "world")
    twin = load(tmp_path / "world", deep)
    assert walk(twin, 7, 50) == walk(session, 7, 50)
    assert twin.memory.ids == session.memory.ids


def test_options_come_from_the_file_unless_given(deep, shot, tmp_path):
    make(deep, shot, context=3, steps=4, commit_below=0.5).save(tmp_path / "world")
    loaded = load(tmp_path / "world", deep)
    assert (loaded.context, loaded.step(turn(9)).steps) == (3, 4)
    assert load(tmp_path / "world", deep, context=2).context == 2


def test_a_budget_comes_from_the_file_if_one_was_given(deep, shot, tmp_path):
    make(deep, shot, 3).fork().save(tmp_path / "given")
    load(tmp_path / "given", deep).save(tmp_path / "again")
    assert load(tmp_path / "again", deep).memory.budget == BUDGET
    assert load(tmp_path / "given", deep, memory_budget=2 * BUDGET).memory.budget == 2 * BUDGET
    default = rtfm_rt.Session(deep).memory.budget
    assert load(tmp_path / "given", deep, memory_budget=None).memory.budget == default
    make(deep, shot, 3, memory_budget=None).save(tmp_path / "none")  # as in older files
    with sqlite3.connect(tmp_path / "none") as db:
        options = db.execute("SELECT value FROM world WHERE key = 'options'").fetchone()[0]
    assert "memory_budget" not in json.loads(options)
    assert load(tmp_path / "none", deep).memory.budget == default


def test_one_file_that_grows_with_new_frames_only(deep, shot, tmp_path):
    path = tmp_path / "world"
    session = make(deep, shot, 20)
    session.save(path)
    with sqlite3.connect(path) as db:  # a mark on an old frame: does the next save rewrite it?
        db.execute("UPDATE frames SET image = zeroblob(768) WHERE id = 3")
    walk(session, 4, 5)
    session.save(path)
    assert os.listdir(tmp_path) == ["world"]
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT image FROM frames WHERE id = 3").fetchone()[0] == bytes(768)
        assert db.execute("SELECT count(*) FROM frames").fetchone()[0] == 26
    with pytest.raises(rtfm_rt.WorldError, match=r"1 damaged or missing: 3; the other 25"):
        load(path, deep)


def test_a_moved_frame_is_written_again(deep, shot, tmp_path):
    session = make(deep, shot)
    session.save(tmp_path / "world")
    session.memory.update_pose(5, turn(77))
    session.save(tmp_path / "world")
    twin = load(tmp_path / "world", deep)
    assert np.array_equal(twin.memory.poses, session.memory.poses)
    assert walk(twin, 1, 3) == walk(session, 1, 3)


def test_kill_at_any_moment(deep, shot, tmp_path, pytestconfig):
    """A process that saves all the time is killed: what a save returned for is there."""
    rng = random.Random(3)
    session = make(deep, shot, 3)
    for attempt in range(pytestconfig.getoption("--kills")):
        path = tmp_path / f"world{attempt}"
        returned = killed.while_saving(
            session, path, lambda: session.step(turn(random.random() * 360)), rng.random() * 0.03
        )
        ids = load(path, deep).memory.ids
        assert not returned or ids[-1] >= returned[-1]


def test_flipped_bits_are_noticed(deep, saved, tmp_path, pytestconfig):
    """Every load of a damaged file fails with a WorldError, or gives the very same world."""
    content, rng = saved.read_bytes(), random.Random(4)
    want, want_images, want_saved, want_options = worlds.load(saved)
    damaged, refused = tmp_path / "damaged", 0
    for _ in range(pytestconfig.getoption("--flips")):
        flipped = bytearray(content)
        flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
        damaged.write_bytes(flipped)
        try:
            got, images, identity, options = worlds.load(damaged)
        except rtfm_rt.WorldError as error:
            assert str(damaged) in str(error)
            refused += 1
            continue
        assert all(np.array_equal(got[key], want[key]) for key in want)
        assert np.array_equal(images, want_images)
        assert (identity, options) == (want_saved, want_options)
    assert refused > 0


def test_a_cut_off_file(deep, saved):
    content = saved.read_bytes()
    for part in range(1, 16):
        saved.write_bytes(content[: len(content) * part // 16])
        with pytest.raises(rtfm_rt.WorldError):
            load(saved, deep)


def refusals(saved: Path, tmp_path: Path) -> dict[str, Path]:
    names = ("empty", "text", "foreign", "newer", "trigger", "folder")
    files = {name: tmp_path / name for name in names}
    files["empty"].touch()
    files["text"].write_text("my favourite places\n" * 100)
    with sqlite3.connect(files["foreign"]) as db:
        db.execute("CREATE TABLE recipes (name TEXT)")
    files["newer"].write_bytes(saved.read_bytes())
    with sqlite3.connect(files["newer"]) as db:
        db.execute("PRAGMA user_version = 3")
    files["trigger"].write_bytes(saved.read_bytes())
    with sqlite3.connect(files["trigger"]) as db:
        db.execute("CREATE TRIGGER trap BEFORE DELETE ON world BEGIN DELETE FROM frames; END")
    files["folder"].mkdir()
    return {**files, "nowhere": tmp_path / "nowhere"}


@pytest.mark.parametrize(
    "name", ["empty", "text", "foreign", "newer", "trigger", "folder", "nowhere"]
)
def test_files_that_are_not_worlds(deep, saved, tmp_path, name):
    path = refusals(saved, tmp_path)[name]
    with pytest.raises(rtfm_rt.WorldError, match=name) as caught:
        load(path, deep)
    assert "expected" in str(caught.value) and "got" in str(caught.value)


FORGED = [None, "x", -1, 2**62, 1e308, b"", b"x" * 7, b"\xff" * 8, b"\xff" * 128, "[]", "{}"]


@pytest.mark.parametrize("value", FORGED, ids=repr)
def test_a_forged_file(deep, saved, value):
    """A digest that is right over values of any kind: refused, or the world is sound."""
    good, refused, frames = saved.read_bytes(), set(), len(load(saved, deep).memory)
    keys = ("model", "revision", "height", "width", "next_id", "last_pose", "options")
    for key in keys:
        saved.write_bytes(good)
        forged.put(saved, key, value)
        try:
            session = load(saved, deep)
            assert len(session.memory) == frames
            session.step(np.eye(4))
        except rtfm_rt.Error:
            refused.add(key)
    assert refused >= {"model", "options"}
    assert refused == set(keys) or not isinstance(value, float | None)


@pytest.mark.parametrize("name", ["text", "foreign", "newer", "trigger", "folder", "nowhere/world"])
def test_save_does_not_touch_what_is_not_its_own(deep, shot, saved, tmp_path, name):
    path = {**refusals(saved, tmp_path), name: tmp_path / name}[name]
    before = path.read_bytes() if path.is_file() else None
    session = make(deep, shot)
    with pytest.raises(rtfm_rt.WorldError):
        session.save(path)
    assert (path.read_bytes() if path.is_file() else None) == before
    session.save(tmp_path / "fine")  # the session is none the worse


def test_another_model(deep, saved, tmp_path):
    other = tmp_path / "other.safetensors"
    write_model(other, DEEP, 10)
    with pytest.raises(rtfm_rt.WorldError, match="model"):
        load(saved, str(other))


def test_a_shared_model_is_read_once_for_its_hash(deep, shot, saved, tmp_path, monkeypatch):
    model = rtfm_rt.Model(deep, "cpu:portable")
    world = rtfm_rt.Session.load(saved, model, threads=1)
    assert model.sha256 == hashlib.sha256(Path(deep).read_bytes()).hexdigest()
    monkeypatch.setattr(worlds, "model_hash", None)  # cannot be called any more
    world.fork().save(tmp_path / "branch.world")
    other = rtfm_rt.Session(model, threads=1)
    other.observe(shot, np.eye(4))
    other.save(tmp_path / "other.world")
    rtfm_rt.Session.load(tmp_path / "other.world", model, threads=1)


def test_another_world_s_file(deep, shot, saved):
    stranger = make(deep, shot)
    with pytest.raises(rtfm_rt.WorldError, match="another world"):
        stranger.save(saved)
    one, other = load(saved, deep), load(saved, deep)
    one.save(saved)
    with pytest.raises(rtfm_rt.WorldError, match="another session"):
        other.save(saved)


def test_a_locked_file(deep, saved, monkeypatch):
    session = load(saved, deep)
    monkeypatch.setattr(worlds, "PATIENCE", 0.05)
    holder = sqlite3.connect(saved, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(rtfm_rt.WorldError, match="locked"):
        session.save(saved)
    holder.close()
    session.save(saved)


def test_a_full_disk(deep, shot, tmp_path):
    """Whatever write fails, the file holds the last world that was saved."""
    path = tmp_path / "world"
    session = make(deep, shot, 4)
    session.save(path)
    size, frames = path.stat().st_size, len(session.memory)
    walk(session, 2, 40)
    for limit in (0, size // 2, size, *(int(size * 1.3**i) for i in range(1, 20))):
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            try:
                session.save(path)
                os._exit(0)
            except rtfm_rt.WorldError:
                os._exit(3)
            except BaseException:
                os._exit(4)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, 3)
        found = len(load(path, deep).memory)
        assert found == (45 if status == 0 else frames)
        if status == 0:
            break
    else:
        pytest.fail("no limit was large enough")


def test_a_budget_too_small_for_the_world(deep, shot, tmp_path):
    make(deep, shot, 50).save(tmp_path / "world")
    with pytest.raises(rtfm_rt.WorldError, match="raise memory_budget to") as refused:
        load(tmp_path / "world", deep, memory_budget=100_000)
    enough = int(str(refused.value).split()[-1])
    assert load(tmp_path / "world", deep, memory_budget=enough).memory.ids
    with pytest.raises(rtfm_rt.WorldError, match="raise memory_budget to"):
        load(tmp_path / "world", deep, memory_budget=enough * 9 // 10)


def test_only_a_new_session_takes_over_a_world(deep, shot, saved):
    world, images, *_ = worlds.load(saved)
    session = make(deep, shot)
    before = walk(make(deep, shot), 3, 2)
    with pytest.raises(rtfm_rt.WorldError, match="new session"):
        session._restore(world, images)
    for key, bad in {"ids": np.array([1, 1]), "by_use": np.array([7]), "next_id": 0}.items():
        fresh = rtfm_rt.Session(deep, device="cpu:portable", memory_budget=BUDGET)
        with pytest.raises(rtfm_rt.WorldError):
            fresh._restore({**world, key: bad}, images)
        assert len(fresh.memory) == 0
    assert walk(session, 3, 2) == before


def test_the_file_is_what_the_documentation_says(saved):
    with sqlite3.connect(saved) as db:
        described = hashlib.sha256()
        for key, kind, value in db.execute(
            "SELECT CAST(key AS BLOB), substr(typeof(value), 1, 1), CAST(value AS BLOB) "
            "FROM world WHERE key != 'digest' ORDER BY key"
        ):
            described.update(key + b"\0" + kind.encode() + struct.pack("<q", len(value)) + value)
        digest = db.execute("SELECT value FROM world WHERE key = 'digest'").fetchone()[0]
        assert digest == described.hexdigest()
        assert db.execute("PRAGMA application_id").fetchone()[0] == 0x7274666D
        keys = {row[0] for row in db.execute("SELECT key FROM world")}
        options = json.loads(
            db.execute("SELECT value FROM world WHERE key = 'options'").fetchone()[0]
        )
        columns = [row[1] for row in db.execute("PRAGMA table_info(frames)")]
    assert {"model", "world", "revision", "next_id", "last_pose", "digest"} <= keys
    assert options["seed"] == 5
    assert columns == ["id", "pose", "intrinsics", "image", "checksum"]
