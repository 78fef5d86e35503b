# SPDX-License-Identifier: Apache-2.0
"""The folder of saved worlds. Names are made here; those that come from a page are looked up."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from typing import Any

from rtfm_rt._core import Error, WorldError
from rtfm_rt.session import Model, Session

UPLOAD_BYTES = 64 << 20
MOST = 100  # worlds in a folder
_SUFFIX = ".world"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
_LAST_ID = 1 << 31  # the page counts frames in 32 bits


def default_folder() -> str:
    """Where a user's programs keep their data."""
    data = os.environ.get("XDG_DATA_HOME") or os.path.join("~", ".local", "share")
    return os.path.join(os.path.expanduser(data), "rtfm_rt", "worlds")


class Worlds:
    """Saves to and loads from a folder, which the first save makes.

    options: keyword arguments of `Session.load`. Every error is a WorldError or another `Error`
    that names worlds and no paths. All calls block.
    """

    def __init__(self, folder: str, model: Model, **options: Any) -> None:
        if os.path.exists(folder) and not os.path.isdir(folder):
            raise WorldError(f"{folder}: expected a folder for worlds, got a file")
        self._folder, self._model, self._options = folder, model, options

    def list(self) -> list[dict[str, Any]]:
        """Name, bytes and time (seconds since 1970) of every world, the newest first."""
        found = []
        with contextlib.suppress(OSError), os.scandir(self._folder) as entries:
            for entry in entries:
                name = entry.name.removesuffix(_SUFFIX)
                if name != entry.name and _NAME.fullmatch(name) and entry.is_file():
                    about = entry.stat()
                    if about.st_size:  # else it is being saved
                        found.append(
                            {"name": name, "bytes": about.st_size, "saved": about.st_mtime}
                        )
        return sorted(found, key=lambda world: (-world["saved"], world["name"]))

    def file(self, name: str) -> str:
        """The path of a world in the list; anything else is a WorldError."""
        if not any(world["name"] == name for world in self.list()):
            raise WorldError("There is no such world.")
        return os.path.join(self._folder, name + _SUFFIX)

    def save(self, session: Session) -> str:
        """Saves to a new file and returns its name. The file appears when it is whole."""
        with self._plainly(self._folder, "The folder of worlds"):
            os.makedirs(self._folder, exist_ok=True)
            name, path = self._reserve()
        part = path + ".part"
        try:
            with self._plainly(path, name):
                session.save(part)
                os.replace(part, path)
        except BaseException:
            for file in (part, path):
                with contextlib.suppress(OSError):
                    os.unlink(file)
            raise
        return name

    def load(self, name: str) -> Session:
        return self._load(self.file(name), name)

    def load_upload(self, path: str) -> Session:
        return self._load(path, "That file")

    def _load(self, path: str, name: str) -> Session:
        with self._plainly(path, name):
            # the budget is this server's, not one that whoever made the file asked for
            session = Session.load(path, self._model, memory_budget=None, **self._options)
        if not len(session.memory):
            raise WorldError(f"{name}: expected a world with frames, got an empty one")
        if session._world()["next_id"] >= _LAST_ID:
            raise WorldError(f"{name}: expected fewer than {_LAST_ID} frames, got more")
        return session

    def _reserve(self) -> tuple[str, str]:
        taken = os.listdir(self._folder)
        if sum(file.endswith(_SUFFIX) for file in taken) >= MOST:
            raise WorldError(f"The folder holds {MOST} worlds, which is the most. Remove some.")
        number = 1
        while True:
            name = f"world-{number}"
            path = os.path.join(self._folder, name + _SUFFIX)
            try:
                open(path, "xb").close()
                return name, path
            except FileExistsError:
                number += 1

    @contextlib.contextmanager
    def _plainly(self, path: str, name: str) -> Iterator[None]:
        """Errors in words for the page, which is told no paths."""
        try:
            yield
        except OSError as error:
            raise WorldError(f"{name}: expected to be written, got: {error.strerror}") from None
        except Error as error:
            model = self._model.path, self._model.manifest["name"]
            text = str(error)
            for found, shown in ((path + ".part", name), (path, name), model):
                text = text.replace(found, shown)
            raise type(error)(text) from None
