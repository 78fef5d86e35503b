# SPDX-License-Identifier: Apache-2.0
"""World files that C++ reads and writes: the same files as Python's, the same worlds."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import forged
import native_worlds
import rtfm_rt
from models import turn, write_model
from native_worlds import SEED, SETTINGS, Maker
from rtfm_rt import world as worlds

# the same worlds


@pytest.mark.parametrize("saver", ["python", "native"])
@pytest.mark.parametrize("frames", [0, 3, 40])
def test_each_goes_on_in_a_world_of_the_other(maker, testing, tmp_path, saver, frames):
    """And saves it again for the other, and so on: always the frames of the twin in memory."""
    path, native = tmp_path / "world", saver == "native"
    session = maker.start(native, frames)
    session.save(str(path))
    twin = maker.start(not native, frames)
    for turns in range(4):
        assert testing.read_world(str(path)) == native_worlds.as_native(path)
        loaded = maker.load(path, not native)
        assert maker.walk(loaded, turns, 7) == maker.walk(session, turns, 7)
        assert maker.walk(twin, turns, 7)
        loaded.save(str(path))
        session, native = loaded, not native
    assert maker.walk(session, 9, 7) == maker.walk(twin, 9, 7)


def test_the_tables_are_the_same(maker, tmp_path):
    """To the byte, but for random names and the digest of these."""
    found = []
    for native in (False, True):
        path = tmp_path / str(native)
        session = maker.start(native, 7)
        session.save(str(path))
        with sqlite3.connect(path) as db:
            values = dict(db.execute("SELECT key, value FROM world"))
            names = [values.pop(key) for key in ("world", "revision", "digest")]
            assert [len(bytes.fromhex(name)) for name in names] == [16, 16, 32]
            values["options"] = json.loads(values["options"])
            rows = [
                db.execute(f"SELECT * FROM {t}").fetchall() for t in ("frames", "sqlite_schema")
            ]
            pages = db.execute("SELECT * FROM pages").fetchall() if maker.kind != "poses" else []
            size = db.execute("PRAGMA page_size").fetchone()
            found.append((values, rows, pages, size))
    assert found[0] == found[1]


def test_an_empty_world(maker, tmp_path):
    path = tmp_path / "world"
    maker.native(maker.path).save(str(path))
    loaded = maker.load(path, native=False)
    assert len(loaded.memory) == 0
    loaded.save(path)
    again = maker.load(path, native=True)
    maker.observe(again, 3)
    again.save(str(path))
    assert maker.load(path, native=False).memory.ids == [0]


def test_options_come_from_the_file(by_poses, world_models, tmp_path, testing):
    by_poses.start(True, 3).fork().save(str(tmp_path / "given"))
    loaded = by_poses.load(tmp_path / "given", native=True)
    assert (loaded.seed, loaded.budget) == (SEED, SETTINGS["memory_budget"])
    for share in (0, 1, 0.1, 1e-5, 2 / 3):
        path = tmp_path / str(share)
        testing.WorldSession(world_models["poses"], commit_below=share).save(str(path))
        assert worlds.load(path)[3]["commit_below"] == share
        assert worlds.load(path)[3] == options_in(testing, path)
        assert "memory_budget" not in worlds.load(path)[3]


def options_in(testing: ModuleType, path: Path) -> dict[str, Any]:
    options = dict(
        zip(
            native_worlds.OPTIONS,
            testing.read_world(str(path))[-len(native_worlds.OPTIONS) :],
            strict=True,
        )
    )
    return {key: value for key, value in options.items() if value is not None}


@pytest.mark.parametrize(
    ("options", "seed"),
    [
        ({"seed": 2**64 - 1}, 2**64 - 1),
        ({"seed": 2**63}, 2**63),
        ({"seed": 0}, 0),
        ({"seed": 2**64}, None),
        ({"seed": -1}, None),
        ({"seed": 1.5}, None),
        ({"seed": "5"}, None),
        ({"about": "seed", "seed": 7}, None),
        ({"steps": 2.0}, None),
        ({"steps": 2**31}, None),
        ({"commit_below": "1"}, None),
        ({"commit_below": 1}, SEED),
        ({"memory_budget": 1.5}, None),
        ({"more": [1, {"a": "b"}]}, SEED),
    ],
    ids=str,
)
def test_options_of_a_forged_file(by_poses, testing, tmp_path, options, seed):
    path = tmp_path / "world"
    by_poses.start(False, 1).save(path)
    with sqlite3.connect(path) as db:
        (text,) = db.execute("SELECT value FROM world WHERE key = 'options'").fetchone()
    forged.put(path, "options", json.dumps({**options, **(json.loads(text) | options)}))
    if seed is None:
        with pytest.raises(rtfm_rt.WorldError, match="expected a world file, got a damaged one"):
            testing.read_world(str(path))
    else:
        assert options_in(testing, path)["seed"] == seed


# saving again


def test_only_new_and_moved_frames_are_written(by_poses, tmp_path):
    path, session = tmp_path / "world", by_poses.start(True, 20)
    session.save(str(path))
    with sqlite3.connect(path) as db:  # marks on old frames: does the next save rewrite them?
        db.execute("UPDATE frames SET image = zeroblob(1152) WHERE id in (3, 5)")
    session.move(5, turn(77))
    by_poses.walk(session, 4, 5)
    session.save(str(path))
    assert os.listdir(tmp_path) == ["world"]
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT image FROM frames WHERE id = 3").fetchone()[0] == bytes(1152)
        assert [row[0] for row in db.execute("SELECT id FROM frames")] == session.ids
    for native in (True, False):
        with pytest.raises(rtfm_rt.WorldError, match=r"1 damaged or missing: 3; the other \d+ are"):
            by_poses.load(path, native)


def test_only_new_pages_are_written(world_models, testing, tmp_path):
    maker = Maker("causal", world_models["causal"], testing.WorldSession)
    path, session = tmp_path / "world", maker.start(True, 12)
    session.save(str(path))
    newest = session.ids[-1]
    with sqlite3.connect(path) as db:
        db.execute("UPDATE pages SET page = zeroblob(length(page)) WHERE id = ?", (newest,))
    maker.walk(session, 1, 2)
    session.save(str(path))
    with pytest.raises(rtfm_rt.WorldError, match=rf"whole pages, got 1 damaged .*: {newest};"):
        maker.load(path, native=True)


@pytest.mark.parametrize("native", [True, False])
def test_whose_file_it_is(by_poses, tmp_path, native):
    """A file that each of two sessions saves to belongs to the one that was there last."""
    path, copy = tmp_path / "world", tmp_path / "copy"
    session = by_poses.start(True, 3)
    session.save(str(path))
    shutil.copy(path, copy)
    with pytest.raises(rtfm_rt.WorldError, match="got another world; choose another path"):
        session.fork().save(str(path))
    session.save(str(path))
    shutil.copy(copy, path)  # rolled back
    with pytest.raises(rtfm_rt.WorldError, match="or an old copy; choose another path"):
        session.save(str(path))
    loaded = by_poses.load(path, native)
    loaded.save(str(path))
    with pytest.raises(rtfm_rt.WorldError, match="got what another session has saved since"):
        session.save(str(path))
    with pytest.raises(rtfm_rt.WorldError, match="got another world"):
        by_poses.start(True, 0).save(str(path))


def test_checkpoints_in_turn(by_poses, tmp_path):
    session = by_poses.start(True, 3)
    for i in range(6):
        by_poses.observe(session, i)
        session.save(str(tmp_path / "ABC"[i % 3]))
        assert by_poses.load(tmp_path / "ABC"[i % 3], native=False).memory.ids == session.ids
    assert len(session.saved.revisions) == 3
    (tmp_path / "link").symlink_to("B")
    session.save(str(tmp_path / "link"))
    assert len(session.saved.revisions) == 3 and (tmp_path / "link").is_symlink()


def test_another_model(by_poses, world_models, tmp_path):
    by_poses.start(False, 1).save(tmp_path / "world")
    other = tmp_path / "other.safetensors"
    write_model(other, native_worlds.DEEP, 10)
    with pytest.raises(rtfm_rt.WorldError) as python:
        rtfm_rt.Session.load(tmp_path / "world", str(other))
    with pytest.raises(rtfm_rt.WorldError) as native:
        by_poses.native.load(str(tmp_path / "world"), str(other))
    assert str(native.value) == str(python.value)


def test_a_model_of_other_images(by_poses, tmp_path):
    """In a file that somebody made who knows its hash: pictures are not read past their end."""
    by_poses.start(False, 1).save(tmp_path / "world")
    other = tmp_path / "other.safetensors"
    write_model(other, native_worlds.DEEP._replace(height=24, image_width=16), 10)
    forged.put(tmp_path / "world", "model", hashlib.sha256(other.read_bytes()).hexdigest())
    with pytest.raises(rtfm_rt.WorldError, match="expected images of 24x16, got 16x24"):
        by_poses.native.load(str(tmp_path / "world"), str(other))


# names


NAMES = [":memory:", "file::memory:", "file:a?mode=memory&b#c%20d", "wörld ☃", "...", " "]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_any_name_is_the_name_of_a_file(by_poses, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    session = by_poses.start(True, 1)
    session.save(name)
    assert os.listdir() == [name]
    assert by_poses.load(tmp_path / name, native=False).memory.ids == session.ids
    assert by_poses.load(name, native=True).ids == session.ids


def test_ways_through_slashes_and_links(by_poses, tmp_path, monkeypatch):
    session = by_poses.start(True, 1)
    session.save(f"/{tmp_path}//slashes")
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    session.save(str(tmp_path / "link" / ".." / "world"))
    (tmp_path / "first").symlink_to("link/../new")
    session.save(str(tmp_path / "first"))
    assert sorted(os.listdir(tmp_path / "far")) == ["away", "new", "world"]
    (tmp_path / "round").symlink_to("round")
    with pytest.raises(rtfm_rt.WorldError, match=r"round: expected .* got"):
        session.save(str(tmp_path / "round"))
    assert sorted(os.listdir(tmp_path)) == ["far", "first", "link", "round", "slashes"]


@pytest.mark.parametrize("name", ["", "a\0b", "folder/", ".", "..", "x" * 300], ids=repr)
def test_what_is_no_name_is_refused(by_poses, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    session = by_poses.start(True, 1)
    for call in (session.save, lambda path: by_poses.load(path, native=True)):
        with pytest.raises(rtfm_rt.WorldError, match=r"expected .* got"):
            call(name)
    assert os.listdir() == []


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_there_and_no_file(by_poses, tmp_path, make):
    make(tmp_path / "it")
    with pytest.raises(rtfm_rt.WorldError, match="got a folder, a device or a pipe"):
        by_poses.start(True, 0).save(str(tmp_path / "it"))
    with pytest.raises(rtfm_rt.WorldError, match="expected a world file, got no file"):
        by_poses.load(tmp_path / "it", native=True)


def test_a_working_directory_that_is_gone(by_poses, tmp_path, monkeypatch):
    session = by_poses.start(True, 0)
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(rtfm_rt.WorldError, match="world: expected the name of a file, got"):
        session.save("world")
