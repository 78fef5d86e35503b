# SPDX-License-Identifier: Apache-2.0
"""World files: one SQLite database with all that a session's later frames depend on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import sqlite3
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import numpy as np

from rtfm_rt import _core
from rtfm_rt._core import WorldError

if TYPE_CHECKING:
    from rtfm_rt.session import Session

APPLICATION = 0x7274666D  # "rtfm", in the header of the file
VERSION = 2  # of the newest schema, user_version; 1: without pages, of models that go by poses
PATIENCE = 5.0  # seconds to wait for another process that has the file
TABLES = (
    "CREATE TABLE world (key TEXT PRIMARY KEY, value) WITHOUT ROWID",
    """CREATE TABLE frames (id INTEGER PRIMARY KEY, pose BLOB NOT NULL, intrinsics BLOB NOT NULL,
                     image BLOB NOT NULL, checksum INTEGER NOT NULL)""",
    "CREATE TABLE pages (id INTEGER PRIMARY KEY, page BLOB NOT NULL, checksum INTEGER NOT NULL)",
)
# what values of a wrong type or length lead to, before their checksums are looked at
DAMAGE = (sqlite3.Error, ValueError, TypeError, AttributeError, LookupError, OverflowError)
OPTIONS = ("seed", "context", "sinks", "recent", "steps", "commit_below")
ACTION_OPTIONS = ("seed", "steps")  # of models that go by actions
GIVEN_OPTIONS = ("memory_budget",)  # only in the file if the session was given them
ORDERS = ("ids", "by_use", "with_page")  # int64 arrays that are saved whole


class Saved(NamedTuple):
    """What a session knows of its files: the model's hash, the world, the revisions in them.

    A file with one of these is as this session loaded or saved it, and may be written over.
    """

    model: str
    world: str
    revisions: frozenset[str]


def model_hash(path: str) -> str:
    """SHA-256 of a model file, hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def save(session: Session, path: str | os.PathLike[str]) -> None:
    """Writes the world; only frames that the file lacks are written in full.

    path: a new file, or a file that this world was saved to or loaded from. When it returns
    everything is on the disk; until then the file holds the world of the last save, whatever
    happens. Raises WorldError.
    """
    path, file = _named(path)
    new = not os.path.exists(file)
    if not new and not os.path.isfile(file):
        raise WorldError(
            f"{path}: expected a file or a new name, got a folder, a device or a pipe; choose "
            "another name"
        )
    world = session._world()  # refuses before there is a file
    last = session._saved
    revision = secrets.token_hex(16)
    saved = Saved(
        last.model if last else session.model.sha256,
        last.world if last else secrets.token_hex(16),
        (last.revisions if last else frozenset()) | {revision},
    )
    with _errors(path, file), contextlib.closing(_connect(file, "rwc")) as db:
        try:
            _begin(db)
            version = 1 if world["page_dtype"] is None else VERSION
            replaced = _check_same_world(db, path, last, version)
            _write(db, session, world, saved, revision)
            session._saved = saved  # a commit that fails or is interrupted may yet have lasted
            db.commit()
        except BaseException:
            db.rollback()
            if new:
                _remove_empty(db, file)
            raise
    session._saved = saved._replace(revisions=saved.revisions - {replaced})


def load(path: str | os.PathLike[str]) -> tuple[dict[str, Any], np.ndarray, Saved, dict[str, Any]]:
    """World, images (n, height, width, 3), identity and options of a world file, all checked."""
    path, file = _named(path)
    if not os.path.isfile(file):
        raise WorldError(f"{path}: expected a world file, got no file there")
    with _errors(path, file), contextlib.closing(_connect(file, "rw")) as db:
        db.execute("BEGIN")
        version = _check_format(db, path)
        problem = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if problem != "ok":
            raise WorldError(f"{path}: expected a whole file, got a damaged one: {problem}")
        return _read(db, path, version)


# writing


def _begin(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA page_size=16384")  # of a new file: rows are large
    # a rollback journal, not WAL: between saves a world is one file, readable from anywhere
    db.execute("PRAGMA journal_mode=DELETE")
    db.execute("PRAGMA synchronous=EXTRA")
    db.execute("BEGIN IMMEDIATE")


def _remove_empty(db: sqlite3.Connection, file: str) -> None:
    """Removes the file that a first save made for nothing, unless another one is writing to it.

    One that waits to is refused by SQLite, which does not write to what has lost its name.
    """
    db.execute("PRAGMA busy_timeout=0")
    try:
        db.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            return  # else nobody can write to that disk
    with contextlib.suppress(OSError):
        if not os.path.getsize(file):
            os.unlink(file)


def _write(
    db: sqlite3.Connection,
    session: Session,
    world: dict[str, Any],
    saved: Saved,
    revision: str,
) -> None:
    memory = session.memory
    there = {
        row[0]: (row[1], row[2]) for row in db.execute("SELECT id, pose, intrinsics FROM frames")
    }
    ids = world["ids"].tolist()
    gone = there.keys() - set(ids)
    db.executemany("DELETE FROM frames WHERE id = ?", [(id_,) for id_ in gone])
    for i, id_ in enumerate(ids):
        pose, intrinsics = world["poses"][i].tobytes(), world["intrinsics"][i].tobytes()
        if there.get(id_) == (pose, intrinsics):
            continue
        image = memory.image(id_).tobytes()
        row = (id_, pose, intrinsics, image, _checksum(id_, pose, intrinsics, image))
        db.execute("INSERT OR REPLACE INTO frames VALUES (?, ?, ?, ?, ?)", row)
    if world["page_dtype"] is not None:
        _write_pages(db, session, world["with_page"].tolist())
    last_pose, origin = world["last_pose"], world["origin"]
    values = {
        "model": saved.model,
        "model_name": session.model.manifest["name"],
        "world": saved.world,
        "revision": revision,
        "height": session.image_size[0],
        "width": session.image_size[1],
        "next_id": world["next_id"],
        "last_pose": b"" if last_pose is None else last_pose.tobytes(),
        **{key: world[key].tobytes() for key in ORDERS},
        "options": json.dumps(session._options()),
    }
    if origin is not None:
        values["origin"] = origin.tobytes()
    if world["page_dtype"] is not None:
        values["page_dtype"] = world["page_dtype"]
    values["digest"] = _digest(values)
    db.execute("DELETE FROM world")
    db.executemany("INSERT INTO world VALUES (?, ?)", values.items())


def _write_pages(db: sqlite3.Connection, session: _core.Session, ids: list[int]) -> None:
    """Those of the window that the file lacks: what is written of a page never changes."""
    there = {row[0] for row in db.execute("SELECT id FROM pages")}
    db.executemany("DELETE FROM pages WHERE id = ?", [(id_,) for id_ in there - set(ids)])
    for id_ in sorted(set(ids) - there):
        page = session._page(id_)
        db.execute("INSERT INTO pages VALUES (?, ?, ?)", (id_, page, _checksum(id_, page)))


def _check_same_world(
    db: sqlite3.Connection, path: str, last: Saved | None, version: int
) -> str | None:
    """The revision in the file, which this session may write over; of a new file None."""
    if not db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:  # a new file
        for statement in _tables(version):
            db.execute(statement)
        db.execute(f"PRAGMA application_id = {APPLICATION}")
        db.execute(f"PRAGMA user_version = {version}")
        return None
    _check_format(db, path)
    values = dict(db.execute("SELECT key, value FROM world"))
    if last is None or values.get("world") != last.world:
        raise WorldError(
            f"{path}: expected a new file or one that this world was saved to, got another "
            "world; choose another path, or remove the file"
        )
    revision = values.get("revision")
    if revision not in last.revisions:
        raise WorldError(
            f"{path}: expected the world as this session saved or loaded it, got what another "
            "session has saved since, or an old copy; choose another path"
        )
    return str(revision)


# reading


def _check_format(db: sqlite3.Connection, path: str) -> int:
    """The version of the file, which is one of ours with the tables of that version."""
    application = db.execute("PRAGMA application_id").fetchone()[0]
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if application != APPLICATION:
        tables = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        kind = (
            "a database of something else" if tables else "an empty file, as a killed save leaves"
        )
        raise WorldError(f"{path}: expected a world file, got {kind}")
    if version > VERSION:
        raise WorldError(
            f"{path}: expected a world file of version {VERSION} or older, got version {version}; "
            "upgrade rtfm_rt"
        )
    if version < 1:
        raise WorldError(f"{path}: expected a version from 1, got {version}; the file is damaged")
    tables = {row[0] for row in db.execute("SELECT sql FROM sqlite_schema")}
    if tables != set(_tables(version)):  # views and triggers of a foreign file are never run
        raise WorldError(f"{path}: expected the tables of a world file, got others")
    return int(version)


def _read(
    db: sqlite3.Connection, path: str, version: int
) -> tuple[dict[str, Any], np.ndarray, Saved, dict[str, Any]]:
    values = dict(db.execute("SELECT key, value FROM world"))
    if values.pop("digest", None) != _digest(values):
        raise WorldError(
            f"{path}: expected a whole file, got one whose description is damaged, or that an "
            "early build before 0.1.0 saved"
        )
    texts = all(isinstance(values[key], str) for key in ("model", "world", "revision"))
    if not texts or not isinstance(values["next_id"], int):
        raise TypeError("a name or number of another type")
    orders = {key: np.frombuffer(values[key], np.int64) for key in ORDERS}
    ordered = _whole(db, path, "frames", orders["ids"].tolist())
    by_actions = version > 1
    shape = (len(ordered), values["height"], values["width"], 3)
    pose, origin = values["last_pose"], values.get("origin")
    world: dict[str, Any] = {
        **orders,
        "next_id": values["next_id"],
        "last_pose": np.frombuffer(pose, np.float64).reshape(4, 4) if pose else None,
        "origin": np.frombuffer(origin, np.float64).reshape(4, 4) if origin else None,
        "poses": np.frombuffer(b"".join(r[1] for r in ordered), np.float64).reshape(-1, 4, 4),
        "intrinsics": np.frombuffer(b"".join(r[2] for r in ordered), np.float64).reshape(-1, 2),
        "page_dtype": str(values["page_dtype"]) if by_actions else None,
        "pages": [],
    }
    if by_actions:
        pages = _whole(db, path, "pages", orders["with_page"].tolist())
        world["pages"] = [page for _, page, _ in pages]
    images = np.frombuffer(b"".join(r[3] for r in ordered), np.uint8).reshape(shape)
    saved = Saved(values["model"], values["world"], frozenset({values["revision"]}))
    options = json.loads(values["options"])
    made_with = {key: options[key] for key in (ACTION_OPTIONS if by_actions else OPTIONS)}
    made_with |= {key: options[key] for key in GIVEN_OPTIONS if key in options}
    return world, images, saved, made_with


def _whole(db: sqlite3.Connection, path: str, table: str, ids: list[int]) -> list[Any]:
    """The rows of a table in the order of ids, if these are all of them and each is whole."""
    rows = {row[0]: row for row in db.execute(f"SELECT * FROM {table}")}
    whole = {id_ for id_, *blobs, sum_ in rows.values() if sum_ == _checksum(id_, *blobs)}
    damaged = sorted(set(ids) - whole) + sorted(rows.keys() - set(ids))
    if damaged:
        named = ", ".join(map(str, damaged[:8])) + (", ..." if len(damaged) > 8 else "")
        raise WorldError(
            f"{path}: expected {len(ids)} whole {table}, got {len(damaged)} damaged or "
            f"missing: {named}; the other {len(set(ids) & whole)} are whole"
        )
    return [rows[id_] for id_ in ids]


# both


def _tables(version: int) -> tuple[str, ...]:
    return TABLES if version > 1 else TABLES[:2]


def _checksum(id_: int, *blobs: bytes) -> int:
    check = zlib.crc32(id_.to_bytes(8, "little"))
    for blob in blobs:
        check = zlib.crc32(blob, check)
    return check


def _digest(values: dict[str, Any]) -> str:
    """Of everything in the table `world` but itself; docs/world_file.md says of which bytes."""
    digest = hashlib.sha256()
    for key in sorted(values):
        kind, raw = _raw(values[key])
        digest.update(key.encode() + b"\0" + kind + len(raw).to_bytes(8, "little") + raw)
    return digest.hexdigest()


def _raw(value: Any) -> tuple[bytes, bytes]:
    """A letter for the type of a value, and its bytes."""
    if isinstance(value, int):
        return b"i", str(value).encode()
    if isinstance(value, str):
        return b"t", value.encode()
    if isinstance(value, bytes):
        return b"b", value
    raise TypeError(f"a value of the type {type(value).__name__}")


def _named(path: str | os.PathLike[str]) -> tuple[str, str]:
    """A path as messages name it, and the file that it leads to."""
    try:
        name = os.fsdecode(path)
        if os.path.basename(name) and "\0" not in name:
            return name, os.path.realpath(name)
    except (TypeError, OSError) as error:  # the working directory may be gone
        raise WorldError(f"path: expected the name of a file, got {path!r}: {error}") from None
    raise WorldError(f"path: expected the name of a file, got {name!r}")


def _connect(file: str, mode: str) -> sqlite3.Connection:
    # one slash: what stands after two would be the name of a host
    uri = "file:/" + quote(os.fsencode(file).lstrip(b"/"))
    db = sqlite3.connect(f"{uri}?mode={mode}", timeout=PATIENCE, isolation_level=None, uri=True)
    db.text_factory = lambda raw: raw.decode("utf-8", "replace")
    return db


@contextlib.contextmanager
def _errors(path: str, file: str) -> Iterator[None]:
    """SQLite's and the system's errors as WorldError, naming the file."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if not os.path.isdir(folder := os.path.dirname(file)):
            raise WorldError(
                f"{path}: expected a folder for it at {folder}, got none; make it first"
            ) from error
        held = "the world in the file is the one of the last save that returned"
        raise WorldError(
            f"{path}: expected to read and write it, got: {error}; "
            f"{held if os.path.isfile(file) else 'nothing was saved there'}"
        ) from error
    except OSError as error:
        raise WorldError(f"{path}: expected to read and write it, got: {error}") from error
    except DAMAGE as error:
        raise WorldError(f"{path}: expected a world file, got a damaged one: {error}") from error
