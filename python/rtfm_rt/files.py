# SPDX-License-Identifier: Apache-2.0
"""Where files that appear when they are whole go."""

from __future__ import annotations

import os

from rtfm_rt._core import ArgumentError


def replaceable(path: str | os.PathLike[str]) -> str:
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
