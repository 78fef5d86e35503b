# SPDX-License-Identifier: Apache-2.0
"""World files that somebody made who knows the format."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from typing import Any

from rtfm_rt import world as worlds


def put(path: os.PathLike[str], key: str, value: Any) -> None:
    """Sets a value of the table `world`, and the digest to be right where it has one."""
    with sqlite3.connect(path) as db:
        db.execute("UPDATE world SET value = ? WHERE key = ?", (value, key))
        values = dict(db.execute("SELECT key, value FROM world WHERE key != 'digest'"))
        with contextlib.suppress(TypeError):  # neither NULL nor a float is a value of the format
            digest = worlds._digest(values)
            db.execute("UPDATE world SET value = ? WHERE key = 'digest'", (digest,))
