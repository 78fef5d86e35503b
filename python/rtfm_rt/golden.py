# SPDX-License-Identifier: Apache-2.0
"""What the first frame of a model looks like, in 48 numbers that its file may carry.

They tell whether a device, a precision or a copy of the file computes what it should. They are no
measure of quality.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from rtfm_rt._core import ModelError
from rtfm_rt.bench import test_picture
from rtfm_rt.session import Session

CELLS = 4  # across and down
LIMIT = 8.0  # grey levels of 255 that a cell's mean may be off; random models in int8: 0.1 to 0.7


def colours(model: str | os.PathLike[str], **options: Any) -> list[float]:
    """Mean colours, 0 to 255, of 4x4 cells of the first frame: row, column, channel.

    A fresh session with seed 0 observes coloured gradients and then looks where it stood, or does
    nothing. options: device and precision, as for `Session`.
    """
    with Session(model, seed=0, **options) as session:
        picture = test_picture(session.image_size, 0)
        if session.actions:
            session.observe(picture)
            frame = np.array(session.step(action={}))
        else:
            session.observe(picture, np.eye(4))
            frame = np.array(session.step(np.eye(4)))
    bands = np.array_split(frame, CELLS, axis=0)
    cells = [cell for band in bands for cell in np.array_split(band, CELLS, axis=1)]
    return [round(float(value), 1) for cell in cells for value in cell.mean((0, 1))]


def check(model: str | os.PathLike[str], manifest: dict[str, Any], **options: Any) -> float:
    """The largest difference, in grey levels, between what a file says and what is made here.

    Raises ModelError if it is more than LIMIT, or if the file says nothing.
    """
    if "golden" not in manifest:
        raise ModelError(
            f"{os.fspath(model)}: expected a golden frame in the file, got none, so there is "
            "nothing to check it against; rtfm-rt convert writes one for published checkpoints"
        )
    made = np.array(colours(model, **options))
    off = float(np.abs(made - manifest["golden"]).max())
    if not off <= LIMIT:
        raise ModelError(
            f"{os.fspath(model)}: expected the frame that its converter made, to {LIMIT:g} grey "
            f"levels of 255, got one that is off by {off:.1f}; is the file whole, and does another "
            "device or precision agree?"
        )
    return off
