# SPDX-License-Identifier: Apache-2.0
"""Files that appear when they are whole, and where they may."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterable, Iterator

from rtfm_rt._core import ArgumentError

Path = str | os.PathLike[str]


def replaceable(path: Path) -> str:
    """The file that a finished one may take the place of: new, or what links at `path` lead to.

    Raises ArgumentError for what is no file, such as a folder or /dev/null.
    """
    target = os.path.realpath(path)
    if os.path.exists(target) and not os.path.isfile(target):
        kind = "a folder" if os.path.isdir(target) else "a device or a pipe"
        raise ArgumentError(
            f"{os.fspath(path)}: expected a file or a new name, got {kind}; choose another name"
        )
    return target


def check_outputs(outputs: Iterable[Path], inputs: Iterable[Path] = ()) -> None:
    """Raises ArgumentError unless each output is a file, old or new, in a folder that exists, and
    neither one of the inputs nor another output."""
    read, written = {os.path.realpath(path) for path in inputs}, set()
    for path in outputs:
        name = os.fspath(path)
        folder = os.path.dirname(name)
        if not os.path.isdir(folder or "."):
            raise ArgumentError(f"{name}: expected a folder that exists, got {folder!r}")
        target = replaceable(path)
        if target in read:
            raise ArgumentError(
                f"{name}: expected a file to write, got one that is read; choose another name"
            )
        if target in written:
            raise ArgumentError(f"{name}: expected a file for each output, got one twice")
        written.add(target)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[str]:
    """The name of a new, empty file, which takes the place of `path` when the block has written it.

    If the block raises, it goes and `path` stays what it was. What it replaces keeps its
    permissions; a new file has those that the system gives new files, however the block made it.
    """
    target = replaceable(path)
    part = f"{target}.{secrets.token_hex(4)}.part"
    try:
        with writable(path):
            open(part, "xb").close()
            mode = os.stat(target if os.path.exists(target) else part).st_mode & 0o777
        yield part
        with writable(path):
            with open(part, "rb+") as file:
                os.fsync(file.fileno())
            if stat.S_IMODE(os.stat(part).st_mode) != mode:
                os.chmod(part, mode)
            os.replace(part, target)
    except BaseException:  # an interrupt too leaves nothing behind
        with contextlib.suppress(OSError):
            os.unlink(part)
        raise


@contextlib.contextmanager
def writable(path: Path, *errors: type[Exception]) -> Iterator[None]:
    """Makes ArgumentErrors of the system's errors in the block, which writes to `path`.

    errors: those that another library has for them.
    """
    caught: tuple[type[Exception], ...] = (OSError, *errors)
    try:
        yield
    except MemoryError:  # some of PyAV's are errors of the system too
        raise
    except caught as error:
        reason = getattr(error, "strerror", None) or error
        raise ArgumentError(
            f"{os.fspath(path)}: expected a file that can be written, got: {reason}"
        ) from None
