# SPDX-License-Identifier: Apache-2.0
"""World files on disks that fail: no write or sync may fail, or be lost in a crash, unnoticed."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import action_models
import rtfm_rt
from models import write_model
from rtfm_rt import world as worlds
from rtfm_rt.reference import Config

CONFIG = Config(height=16, image_width=16, patch=8, width=64, layers=1, heads=2, mlp=64)
COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="preloads a library as Linux does"),
    pytest.mark.skipif(not COMPILER, reason="needs a C++ compiler for tests/disk.cc"),
]

# Runs in a process of its own, in which every call of SQLite to the system goes through disk.cc.
START = """
import ctypes, json, sys
import numpy as np
import rtfm_rt
from pathlib import Path
from rtfm_rt import world as worlds

folder, model = Path(sys.argv[1]), sys.argv[2]
disk = ctypes.CDLL(None)
disk.disk_fail.argtypes = [ctypes.c_int64] * 2
disk.disk_operations.restype = ctypes.c_int64
disk.disk_watch(str(folder).encode())
"""

PYTHON = """
session = rtfm_rt.Session(model, device="cpu:portable", threads=1, memory_budget=1_000_000)

def load(path):
    return rtfm_rt.Session.load(path, model, device="cpu:portable").memory.ids
"""

NATIVE = """
import copy
from rtfm_rt import _testing

class Memory:
    def __init__(self, session):
        self._session = session
        self.update_pose = session.move

    ids = property(lambda self: self._session.ids)

class Session(_testing.WorldSession):  # with the names of Python's
    image_size = (16, 16)
    memory = property(Memory)
    _saved = property(lambda self: copy.copy(self.saved), lambda self, x: setattr(self, "saved", x))

    def save(self, path):
        super().save(str(path))

session = Session(model, memory_budget=1_000_000)

def load(path):
    return _testing.WorldSession.load(str(path), model).ids
"""

GROW = """
rng = np.random.default_rng(1)

def grow(frames):
    for _ in range(frames):
        pose = np.eye(4)
        pose[:3, 3] = rng.uniform(-9, 9, 3)
        session.observe(rng.integers(0, 256, (*session.image_size, 3), np.uint8), pose)
"""

FAIL = """
import shutil

# a save that fails at operation n, once or for good; then the disk is well again
grow(30)
session.save(folder / "world")
shutil.copy(folder / "world", folder / "before")
before = session.memory.ids
grow(20)
session.memory.update_pose(before[3], np.eye(4))
saved, n, results = session._saved, 0, []
for lasting in (False, True):
    n = 0
    while True:
        n += 1
        path = folder / f"{lasting}{n}"
        shutil.copy(folder / "before", path)
        session._saved = saved
        disk.disk_watch(str(folder).encode())  # whose own syncs may fail when a save has lasted
        disk.disk_fail(n, 2**40 if lasting else n)
        try:
            session.save(path)
            error = None
        except rtfm_rt.WorldError as refused:
            error = str(refused)
        reached = disk.disk_operations() >= n
        disk.disk_fail(0, 0)
        found = worlds.load(path)[0]["ids"].tolist()
        session.save(path)  # once more, to a disk that works
        again = worlds.load(path)[0]["ids"].tolist()
        results.append([lasting, n, error, found == before, found == session.memory.ids,
                        again == session.memory.ids])
        if not reached:
            break
print(json.dumps(results))
"""

RECORD = """
disk.disk_record(sys.argv[3].encode())
for frames in (12, 1, 30, 0, 7):
    grow(frames)
    session.memory.update_pose(0, np.diag([1.0, 1, 1, 1]) if frames % 2 else np.eye(4))
    disk.disk_note(json.dumps(["saving", session.memory.ids]).encode())
    session.save(folder / "world")
    disk.disk_note(json.dumps(["saved", session.memory.ids]).encode())
"""


READ_ONLY = """
grow(12)
session.save(folder / "world")
disk.disk_read_only(1)
loaded = load(folder / "world")
grow(1)
errors = []
for target in ("world", "new"):
    try:
        session.save(folder / target)
    except rtfm_rt.WorldError as error:
        errors.append(str(error))
disk.disk_read_only(0)
session.save(folder / "world")
print(json.dumps([len(loaded), errors, len(worlds.load(folder / "world")[0]["ids"])]))
"""


@pytest.fixture(scope="module", params=["poses", "actions", "native"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """run(code, folder, *arguments) -> what the code prints, of a model that goes by either.

    "native": by poses, and saved without Python.
    """
    if request.param == "native":
        request.getfixturevalue("testing")
    tools = tmp_path_factory.mktemp("disk")
    library, model = tools / "disk.so", tools / "model.safetensors"
    source = str(Path(__file__).with_name("disk.cc"))
    subprocess.run([COMPILER, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    if request.param == "actions":
        action_models.write(model, "keep")
    else:
        write_model(model, CONFIG, 3)
    begin = START + (NATIVE if request.param == "native" else PYTHON) + GROW

    def start(code: str, folder: Path, *arguments: Path) -> str:
        command = [sys.executable, "-c", begin + code, folder, model, *arguments]
        environment = {"LD_PRELOAD": str(library), "PYTHONPATH": ":".join(filter(None, sys.path))}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return start


def test_any_operation_that_fails(run, tmp_path):
    """save() raises or has saved; either way the file is whole, and the next save succeeds."""
    results = json.loads(run(FAIL, tmp_path))
    assert len(results) > 40 and {lasting for lasting, *_ in results} == {False, True}
    for lasting, n, error, old, new, again in results:
        assert old != new, (lasting, n)
        assert new or error is not None, (lasting, n)  # what returned is there
        assert again, (lasting, n)
        assert error is None or "expected" in error
    assert sum(error is not None for _, _, error, *_ in results) > 30


def test_a_read_only_file(run, tmp_path):
    """It loads, and does not save: refused, with nothing changed."""
    frames, errors, saved = json.loads(run(READ_ONLY, tmp_path))
    assert frames == 12 and saved == 13
    assert len(errors) == 2 and all("readonly" in e or "unable to open" in e for e in errors)


class Operation(NamedTuple):
    kind: str  # create, write, truncate, sync, unlink, note
    offset: int
    data: bytes
    path: str


def history(path: Path) -> Iterator[Operation]:
    content, at = path.read_bytes(), 0
    while at < len(content):
        end = content.index(b"\n", at)
        kind, offset, size, name = content[at:end].decode().split(" ", 3)
        at = end + 1 + (int(size) if kind == "write" else 0)
        yield Operation(kind, int(offset), content[end + 1 : at], name)


class Disk:
    """What may be on a disk after a crash: what was synced, and anything of the rest."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.files: list[bytearray] = []  # durable content, by inode
        self.pending: dict[int, list[Operation]] = {}  # writes of an inode since its last sync
        self.names: dict[str, int] = {}  # as a process sees them
        self.durable: dict[str, int] = {}
        self.unsynced: list[tuple[str, int | None]] = []  # names made and removed, in order

    def do(self, o: Operation) -> None:
        if o.kind == "create":
            self.names[o.path] = len(self.files)
            self.pending[len(self.files)] = []
            self.files.append(bytearray())
            self.unsynced.append((o.path, self.names[o.path]))
        elif o.kind == "unlink":
            self.unsynced.append((o.path, None))
            del self.names[o.path]
        elif o.kind == "sync" and o.path == self.folder:
            for name, inode in self.unsynced:
                self.rename(self.durable, name, inode)
            self.unsynced = []
        elif o.kind == "sync":
            inode = self.names[o.path]
            for write in self.pending[inode]:
                self.apply(self.files[inode], write)
            self.pending[inode] = []
        elif o.kind != "note":
            self.pending[self.names[o.path]].append(o)

    @staticmethod
    def rename(names: dict[str, int], name: str, inode: int | None) -> None:
        if inode is None:
            names.pop(name, None)
        else:
            names[name] = inode

    @staticmethod
    def apply(content: bytearray, o: Operation) -> None:
        if o.kind == "truncate":
            del content[o.offset :]
            content.extend(bytes(o.offset - len(content)))
        else:
            content.extend(bytes(max(0, o.offset + len(o.data) - len(content))))
            content[o.offset : o.offset + len(o.data)] = o.data

    def crash(self, rng: random.Random, folder: Path) -> None:
        """Each unsynced operation is there or lost; of a write, any of its sectors."""
        kept = rng.choice([0.0, 0.5, 0.9, 1.0])
        names = dict(self.durable)
        for name, inode in self.unsynced:
            if rng.random() < kept:
                self.rename(names, name, inode)
        for name, inode in names.items():
            content = bytearray(self.files[inode])
            for o in self.pending[inode]:
                for at in range(0, max(1, len(o.data)), 512):
                    if rng.random() < kept:
                        part = o.data[at : at + 512]
                        self.apply(content, o._replace(offset=o.offset + at, data=part))
            (folder / Path(name).name).write_bytes(content)


def test_a_crash_at_any_moment_loses_nothing(run, tmp_path, pytestconfig):
    """Power fails between any two operations, and what was not synced may be gone or torn."""
    folder, log = tmp_path / "saving", tmp_path / "history"
    folder.mkdir()
    run(RECORD, folder, log)
    operations = list(history(log))
    assert sum(o.kind == "sync" for o in operations) > 15
    rng, disk = random.Random(2), Disk(str(folder))
    allowed: list[list[int]] = []  # ids that a file may hold
    saved = False
    for number, operation in enumerate(operations):
        if operation.kind == "note":
            what, ids = json.loads(operation.path)
            allowed = [ids] if what == "saved" else [*allowed[-1:], ids]
            saved = saved or what == "saved"
        disk.do(operation)
        for attempt in range(pytestconfig.getoption("--crashes")):
            crashed = tmp_path / f"crash{number}-{attempt}"
            crashed.mkdir()
            disk.crash(rng, crashed)
            try:
                found = worlds.load(crashed / "world")[0]["ids"].tolist()
            except rtfm_rt.WorldError:
                assert not saved, (number, attempt)  # no save had returned yet
            else:
                assert found in allowed, (number, attempt)
            shutil.rmtree(crashed)
    assert saved


def test_the_simulated_disk_does_lose_what_is_not_synced(tmp_path):
    """The crash test can fail: without its syncs the same history ends in a lost world."""
    disk, rng = Disk("/d"), random.Random(1)
    for o in (
        Operation("create", 0, b"", "/d/file"),
        Operation("sync", 0, b"", "/d"),
        Operation("write", 0, b"a" * 2048, "/d/file"),
        Operation("sync", 0, b"", "/d/file"),
        Operation("write", 0, b"b" * 2048, "/d/file"),
    ):
        disk.do(o)
    seen = set()
    for _ in range(100):
        disk.crash(rng, tmp_path)
        seen.add((tmp_path / "file").read_bytes()[::512])
    assert {b"aaaa", b"bbbb"} < seen
