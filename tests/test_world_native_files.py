# SPDX-License-Identifier: Apache-2.0
"""What C++ makes of world files that are damaged, foreign or forged, and of disks that fail."""

from __future__ import annotations

import hashlib
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import forged
import killed
import rtfm_rt
from native_worlds import Maker
from rtfm_rt import world as worlds

# saves that fail


def test_a_folder_that_is_missing(by_poses, tmp_path):
    with pytest.raises(rtfm_rt.WorldError, match=r"expected a folder .*nowhere, got none"):
        by_poses.start(True, 0).save(str(tmp_path / "nowhere" / "world"))


def test_a_locked_file(by_poses, tmp_path):
    path, session = tmp_path / "world", by_poses.start(True, 2)
    session.save(str(path))
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    start = time.monotonic()
    with pytest.raises(rtfm_rt.WorldError, match=r"got: database is locked; the world in the file"):
        session.save(str(path))
    assert time.monotonic() - start > worlds.PATIENCE - 1
    holder.close()
    session.save(str(path))
    assert len(session.saved.revisions) == 1


@pytest.mark.parametrize("change", [False, True])
def test_a_save_that_waits_sees_what_the_other_one_saved(by_poses, tmp_path, change):
    path, session = str(tmp_path / "world"), by_poses.start(True, 2)
    session.save(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    if change:
        other.execute("UPDATE world SET value = 'another' WHERE key = 'revision'")
    with ThreadPoolExecutor(1) as pool:
        save = pool.submit(session.save, path)
        time.sleep(0.2)
        assert not save.done()
        other.execute("COMMIT")
        error = save.exception()
    other.close()
    assert (error is not None) == change
    assert error is None or "got what another session has saved" in str(error)


def limited(session: Any, path: Path, limit: int) -> str:
    """The error of a save in a process whose files may not grow beyond a limit, or ""."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        message = b"another error"
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            session.save(str(path))
            message = b""
        except rtfm_rt.WorldError as error:
            message = str(error).encode()
        finally:
            os.write(write, message)
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as text:
        message = text.read()
    os.waitpid(child, 0)
    return message


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_full_disk(by_poses, testing, tmp_path):
    """Whatever write fails, the file holds the last world that was saved, or there is none."""
    path, new = tmp_path / "world", tmp_path / "new"
    session = by_poses.start(True, 4)
    session.save(str(path))
    ids, size = session.ids, path.stat().st_size
    by_poses.walk(session, 2, 40)
    for limit in (0, size // 2, size, *(int(size * 1.3**i) for i in range(1, 20))):
        said = limited(session.fork(), new, limit)
        assert "nothing was saved there" in said or not said
        assert new.exists() == (not said)
        said = limited(session, path, limit)
        assert "is the one of the last save that returned" in said or not said
        assert testing.read_world(str(path))[1] == (ids if said else session.ids)
        if not said:
            break
    else:
        pytest.fail("no limit was large enough")


def test_kill_at_any_moment(maker, tmp_path, pytestconfig, monkeypatch):
    """A process that saves all the time is killed: what a save returned for is there."""
    rng = random.Random(3)
    session = maker.start(True, 3)

    class Saving:
        """A native session as killed.while_saving knows one."""

        memory = property(lambda self: self)
        ids = property(lambda self: session.ids)

        def save(self, path: Path) -> None:
            session.save(str(path))

    for attempt in range(max(2, pytestconfig.getoption("--kills") // 10)):
        path = tmp_path / f"world{attempt}"
        returned = killed.while_saving(
            Saving(), path, lambda: maker.walk(session, 1, 1), rng.random() * 0.03
        )
        for native in (True, False):
            loaded = maker.load(path, native)
            ids = loaded.ids if native else loaded.memory.ids
            assert not returned or ids[-1] >= returned[-1]


# damaged and foreign files


@pytest.fixture(params=["poses", "causal"])
def damaged(request, world_models, testing) -> Maker:
    """Who made the file that a test damages."""
    return Maker(request.param, world_models[request.param], testing.WorldSession)


@pytest.fixture
def saved(damaged, tmp_path) -> Path:
    path = tmp_path / "walk.world"
    damaged.start(False, 9).save(path)
    return path


def test_flipped_bits_are_noticed(saved, testing, tmp_path, pytestconfig):
    """Every load of a damaged file fails with a WorldError, or gives the very same world."""
    content, rng, refused = saved.read_bytes(), random.Random(4), 0
    want, path = testing.read_world(str(saved)), tmp_path / "flipped"
    for _ in range(pytestconfig.getoption("--flips")):
        flipped = bytearray(content)
        flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        try:
            assert testing.read_world(str(path)) == want
        except rtfm_rt.WorldError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 0


def test_a_cut_off_file(saved, testing):
    content = saved.read_bytes()
    for part in range(16):
        saved.write_bytes(content[: len(content) * part // 16])
        with pytest.raises(rtfm_rt.WorldError):
            testing.read_world(str(saved))


def both(call: Callable[[Any], object], native: Callable[[str], object], path: Path) -> str:
    """The words of a refusal, which are Python's."""
    with pytest.raises(rtfm_rt.WorldError) as python:
        call(path)
    with pytest.raises(rtfm_rt.WorldError) as error:
        native(str(path))
    assert str(error.value) == str(python.value)
    return str(python.value)


SCRIPTS = {
    "foreign": "DROP TABLE frames; DROP TABLE world; PRAGMA application_id = 0",
    "newer": "PRAGMA user_version = 3",
    "zero": "PRAGMA user_version = 0",
    "trigger": "CREATE TRIGGER trap BEFORE DELETE ON world BEGIN DELETE FROM frames; END",
    "index": "CREATE INDEX more ON frames (checksum)",
    "two frames": "DELETE FROM frames WHERE id < 2",
    "many frames": "UPDATE frames SET checksum = checksum + 1",
    "more frames": "INSERT INTO frames SELECT id + 100, pose, intrinsics, image, 1 FROM frames",
    "checksums": "UPDATE frames SET checksum = 'x' WHERE id = 1",
    "description": "UPDATE world SET value = value + 1 WHERE key = 'next_id'",
    "digest": "DELETE FROM world WHERE key = 'digest'",
    "number": "UPDATE world SET value = zeroblob(64) WHERE key = 'digest'",
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_refusals_in_the_same_words(by_poses, testing, tmp_path, script):
    path = tmp_path / "world"
    session = by_poses.start(False, 9)
    session.save(path)
    with sqlite3.connect(path) as db:
        db.executescript(SCRIPTS[script])
    both(worlds.load, testing.read_world, path)


def test_a_refusal_that_quotes_what_is_no_text(saved, testing):
    with sqlite3.connect(saved) as db:
        db.execute("PRAGMA writable_schema = 1")
        db.execute("UPDATE sqlite_schema SET sql = CAST('CREATE TABLE x ' || x'cc20cc' AS TEXT)")
    with pytest.raises(rtfm_rt.WorldError, match=r"malformed database schema .*\?"):
        testing.read_world(str(saved))


@pytest.mark.parametrize("content", [b"", b"my favourite places\n" * 100, None], ids=repr)
def test_what_is_no_database(by_poses, testing, tmp_path, content):
    path = tmp_path / "it"
    if content is not None:
        path.write_bytes(content)
    both(worlds.load, testing.read_world, path)
    if content:
        stranger, native = by_poses.start(False, 0), by_poses.start(True, 0)
        both(stranger.save, native.save, path)
        assert path.read_bytes() == content


FORGED = [
    *(None, "x", 1.5, -1, 2**62, 2**63 - 1, b"", b"x" * 7, b"\xff" * 8, b"\xff" * 128, "[]", "{}"),
    *(bytes(80), bytes(128), np.arange(1, 11).tobytes(), b"\xff" * 10_000),
]


@pytest.mark.parametrize("value", FORGED, ids=lambda value: repr(value)[:40])
def test_a_forged_file(damaged, saved, value):
    """A digest that is right over values of any kind: refused, or the world is sound."""
    good, refused = saved.read_bytes(), set()
    with sqlite3.connect(saved) as db:
        keys = [row[0] for row in db.execute("SELECT key FROM world WHERE key != 'digest'")]
    for key in keys:
        saved.write_bytes(good)
        forged.put(saved, key, value)
        try:
            damaged.walk(damaged.load(saved, native=True), 1, 2)
        except rtfm_rt.WorldError:
            refused.add(key)
    assert refused >= {"model", "options", "ids", "height", "width"} | ({"page_dtype"} & set(keys))
    assert refused == set(keys) or not isinstance(value, float | None)
    assert "next_id" in refused or value == 2**62  # from where ids still have room to grow


@pytest.mark.parametrize("value", ["x", 7, b"", b"\xff" * 128, bytes(128), 1.5], ids=repr)
def test_a_forged_row(damaged, saved, value):
    """A checksum that is right over what is no pose, no focal lengths, no picture, no page."""
    good, columns = saved.read_bytes(), [("frames", c) for c in ("pose", "intrinsics", "image")]
    if damaged.kind != "poses":
        columns.append(("pages", "page"))
    for table, column in columns:
        saved.write_bytes(good)
        with sqlite3.connect(saved) as db:
            db.execute(f"UPDATE {table} SET {column} = ?", (value,))
            for id_, *blobs, _ in db.execute(f"SELECT * FROM {table}").fetchall():
                raw = [blob if isinstance(blob, bytes) else str(blob).encode() for blob in blobs]
                row = worlds._checksum(id_, *raw), id_
                db.execute(f"UPDATE {table} SET checksum = ? WHERE id = ?", row)
        with pytest.raises(rtfm_rt.WorldError):
            damaged.load(saved, native=True)


NO_SQLITE = """
import sys
from rtfm_rt import WorldError, _testing
session = _testing.WorldSession(sys.argv[1])
for call in (lambda: session.save("world"), lambda: _testing.read_world(sys.argv[1])):
    try:
        call()
    except WorldError as error:
        print(error)
"""


def test_a_machine_without_sqlite(world_models, tmp_path):
    """A library that is none is found first: refused, saying what to install."""
    (tmp_path / "libsqlite3.so.0").write_text("none")
    environment = {"LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": ":".join(filter(None, sys.path))}
    command = [sys.executable, "-c", NO_SQLITE, world_models["poses"]]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == second
    assert "expected SQLite's library libsqlite3.so.0" in first and "install it" in first
    assert os.listdir(tmp_path) == ["libsqlite3.so.0"]


# the two sums


@given(st.lists(st.binary(max_size=200), max_size=6))
def test_sums_of_anything_in_parts(testing, parts):
    whole = b"".join(parts)
    assert testing.sha256(parts) == hashlib.sha256(whole).hexdigest()
    assert testing.crc32(parts) == zlib.crc32(whole)


@pytest.mark.parametrize("size", [0, 55, 56, 63, 64, 119, 120, 1 << 20, (1 << 20) + 7])
def test_sums_of_files(testing, tmp_path, rng, size):
    content = rng.bytes(size)
    (tmp_path / "file").write_bytes(content)
    assert testing.sha256_of_file(str(tmp_path / "file")) == hashlib.sha256(content).hexdigest()
    assert testing.crc32([content]) == zlib.crc32(content)


def test_the_sum_of_no_file(testing, tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(rtfm_rt.WorldError, match="expected a file to read, got: "):
            testing.sha256_of_file(str(path))
