# SPDX-License-Identifier: Apache-2.0
"""Which file a world is saved to, by whatever name, and what is left when that fails."""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import signal
import sqlite3
from pathlib import Path

import pytest

import rtfm_rt
from models import turn
from rtfm_rt import world as worlds


def load(path: object, session: rtfm_rt.Session) -> rtfm_rt.Session:
    return rtfm_rt.Session.load(path, session.model, threads=1)


@pytest.mark.parametrize(
    "name",
    [
        ":memory:",
        "file::memory:",
        "a?mode=memory&b#c%20d",
        "wörld ☃",
        "\udce9 is no text",
        b"bytes",
        Path("path"),
    ],
    ids=ascii,
)
def test_any_name_is_the_name_of_a_file(session, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    session.save(name)
    assert os.listdir(os.fsencode(tmp_path)) == [os.fsencode(name)]
    assert load(name, session).memory.ids == session.memory.ids


def test_two_slashes_are_one(session, tmp_path):
    session.save(f"/{tmp_path}/world")
    assert load(tmp_path / "world", session).memory.ids == session.memory.ids


def test_a_way_through_a_link(session, tmp_path):
    """`..` leads to where the link leads from, not back to where it lies."""
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    session.save(tmp_path / "link" / ".." / "world")
    assert (tmp_path / "far" / "world").exists()


@pytest.mark.parametrize("name", ["", b"", "a\0b", "folder/", ".", "..", 5, None], ids=repr)
def test_what_is_no_name_is_refused(session, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for call in (session.save, lambda path: load(path, session)):
        with pytest.raises(rtfm_rt.WorldError, match="expected") as refused:
            call(name)
        assert "got" in str(refused.value)
    assert os.listdir() == []


# saving in turn, and saves that are interrupted


def test_checkpoints_in_turn(session, picture, tmp_path):
    """Each file holds a state of its own, and takes the next one."""
    for i in range(6):
        session.observe(picture, turn(i))
        session.save(tmp_path / "ABC"[i % 3])
        assert load(tmp_path / "ABC"[i % 3], session).memory.ids == session.memory.ids
    assert len(session._saved.revisions) == 3
    (tmp_path / "link").symlink_to("B")
    session.save(tmp_path / "link")
    loaded = load(tmp_path / "B", session)
    loaded.save(tmp_path / "D")
    loaded.save(tmp_path / "B")
    with pytest.raises(rtfm_rt.WorldError, match="another session"):
        session.save(tmp_path / "B")
    with pytest.raises(rtfm_rt.WorldError, match="another session"):
        loaded.save(tmp_path / "A")
    session.save(tmp_path / "A")


class Interrupted:
    """A connection whose commits raise, before they have lasted or after."""

    def __init__(self, db: sqlite3.Connection, error: BaseException, lasting: bool) -> None:
        self._db, self._error, self._lasting = db, error, lasting

    def __getattr__(self, name: str) -> object:
        return getattr(self._db, name)

    def commit(self) -> None:
        if self._lasting:
            self._db.commit()
        raise self._error


@pytest.mark.parametrize("lasting", [True, False])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), sqlite3.OperationalError("disk")], ids=repr)
def test_a_commit_that_is_interrupted(
    session, picture, tmp_path, monkeypatch, error, first, lasting
):
    path, connect = tmp_path / "world", worlds._connect
    if not first:
        session.save(path)
    session.observe(picture, turn(5))
    with monkeypatch.context() as patch:
        patch.setattr(worlds, "_connect", lambda *a: Interrupted(connect(*a), error, lasting))
        with pytest.raises((KeyboardInterrupt, rtfm_rt.WorldError)):
            session.save(path)
    assert not lasting or load(path, session).memory.ids == [0, 1]
    session.observe(picture, turn(9))
    session.save(path)
    session.save(path)
    assert load(path, session).memory.ids == [0, 1, 2]
    assert len(session._saved.revisions) <= 2


# first saves that fail


def test_a_first_save_by_a_busy_session_leaves_no_file(session, tmp_path, monkeypatch):
    def busy() -> None:
        assert os.listdir(tmp_path) == []  # not even for a moment
        raise rtfm_rt.WorldError("session: expected one thread at a time")

    with monkeypatch.context() as patch:
        patch.setattr(session, "_world", busy)
        with pytest.raises(rtfm_rt.WorldError, match="one thread at a time"):
            session.save(tmp_path / "world")
    assert os.listdir(tmp_path) == []
    session.save(tmp_path / "world")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(5, "disk")], ids=repr)
def test_a_first_save_that_fails_leaves_no_file(session, tmp_path, monkeypatch, error):
    def fail(*_: object) -> None:
        raise error

    path, touched = tmp_path / "world", tmp_path / "touched"
    touched.touch()
    with monkeypatch.context() as patch:
        patch.setattr(worlds, "_write", fail)
        for there in (path, touched):
            with pytest.raises((KeyboardInterrupt, rtfm_rt.WorldError)):
                session.save(there)
    assert os.listdir(tmp_path) == ["touched"]  # which was there before
    with pytest.raises(rtfm_rt.WorldError, match="expected a world file, got an empty file"):
        load(touched, session)
    for there in (path, touched):
        session.save(there)
        assert load(there, session).memory.ids == session.memory.ids


@pytest.mark.parametrize("limit", [0, 5000, 40_000])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_first_save_to_a_full_disk_leaves_no_file(session, tmp_path, limit):
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            session.save(tmp_path / "world")
        except rtfm_rt.WorldError as error:
            os._exit(0 if "; nothing was saved there" in str(error) else 2)
        finally:
            os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert os.listdir(tmp_path) == []


def test_what_another_session_saves_meanwhile_stays(session, tmp_path, monkeypatch):
    """One that is a little earlier at the same new file."""
    path, connect, other = tmp_path / "world", worlds._connect, session.fork()

    def late(*where: str) -> sqlite3.Connection:
        monkeypatch.undo()
        other.save(path)
        return connect(*where)

    monkeypatch.setattr(worlds, "_connect", late)
    with pytest.raises(rtfm_rt.WorldError, match="another world"):
        session.save(path)
    assert load(path, other)._saved == other._saved


def test_a_file_that_goes_while_it_is_waited_for(session, tmp_path, monkeypatch):
    path, connect = tmp_path / "world", worlds._connect

    def gone(*where: str) -> sqlite3.Connection:
        monkeypatch.undo()
        db = connect(*where)
        os.unlink(path)
        return db

    monkeypatch.setattr(worlds, "_connect", gone)
    with pytest.raises(rtfm_rt.WorldError, match="nothing was saved there"):
        session.save(path)
    session.save(path)
    assert load(path, session).memory.ids == session.memory.ids


def test_a_folder_that_is_missing(session, tmp_path):
    with pytest.raises(rtfm_rt.WorldError, match=r"expected a folder .*nowhere, got none") as no:
        session.save(tmp_path / "nowhere" / "world")
    assert "last save" not in str(no.value)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_there_and_no_file(session, tmp_path, make):
    make(tmp_path / "it")
    with pytest.raises(rtfm_rt.WorldError, match="got a folder, a device or a pipe"):
        session.save(tmp_path / "it")
    with pytest.raises(rtfm_rt.WorldError, match="expected a world file, got no file"):
        load(tmp_path / "it", session)
    assert os.listdir(tmp_path) == ["it"]


# the file of the model, by whose SHA-256 a world knows it


@pytest.fixture
def own(model, tmp_path, monkeypatch) -> rtfm_rt.Session:
    """A session of a model file that is its own, named from the working directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(model[0], "own.safetensors")
    return rtfm_rt.Session("own.safetensors", device="cpu", threads=1)


def test_a_session_s_model_is_a_model(model, own):
    assert isinstance(own.model, rtfm_rt.Model) and own.fork().model is own.model
    assert own.model.sha256 == hashlib.sha256(Path(model[0]).read_bytes()).hexdigest()
    shared = rtfm_rt.Session(own.model, threads=1)
    assert shared.model is own.model


def test_the_model_is_found_from_another_folder(own, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    own.save("world")
    assert load("world", own)._saved.model == own.model.sha256


@pytest.mark.parametrize("change", ["remove", "replace", "rewrite"])
def test_a_model_file_that_is_not_what_was_loaded(own, change):
    file, branch = Path("own.safetensors"), own.fork()
    about = file.stat()
    if change == "remove":
        file.unlink()
    elif change == "replace":  # by one as long and as old
        file.rename("before")
        shutil.copy2("before", file)
    else:
        file.write_bytes(file.read_bytes())
        os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns + 1))
    for call in (lambda: own.save("world"), lambda: own.model.sha256):
        with pytest.raises(rtfm_rt.WorldError, match=r"own\.safetensors: expected .*, got") as no:
            call()
    assert "Model.sha256" in str(no.value) and not Path("world").exists()
    if change == "replace":  # what was loaded is back in its place
        os.replace("before", file)
        own.save("world")
        file.unlink()
        branch.save("branch")  # it has been read


def test_a_model_in_a_folder_that_a_link_leads_to(model, tmp_path, monkeypatch):
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    shutil.copy(model[0], tmp_path / "far" / "own.safetensors")
    monkeypatch.chdir(tmp_path)
    assert rtfm_rt.Model("link/../own.safetensors", "cpu").sha256
