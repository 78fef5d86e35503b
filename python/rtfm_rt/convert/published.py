# SPDX-License-Identifier: Apache-2.0
"""Model files from the checkpoints that others publish, by one recipe for each kind."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rtfm_rt._core import ModelError
from rtfm_rt.convert import efficient_lvsm, oasis, waypoint
from rtfm_rt.convert.common import (
    Checkpoint,
    Recipe,
    describe,
    open_checkpoint,
    stored_dtype,
    write_model,
)
from rtfm_rt.files import check_outputs
from rtfm_rt.golden import colours

RECIPES = {
    recipe.name: recipe
    for recipe in (
        oasis.RECIPE,
        oasis.RECIPE_RECOMPUTE,
        waypoint.WAYPOINT,
        waypoint.WAYPOINT_360P,
        efficient_lvsm.RECIPE,
        efficient_lvsm.RECIPE_512,
    )
}
PRECISE = ("rope.", "time.", "action.", "modulation", "final.modulation")  # names stay float32


def find(checkpoints: Sequence[Checkpoint]) -> Recipe | None:
    """The recipe whose tensor names these files have, or None."""
    return next((recipe for recipe in RECIPES.values() if recipe.matches(checkpoints)), None)


def convert_published(
    checkpoints: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    recipe: str | None = None,
    name: str | None = None,
    dtype: str = "bfloat16",
) -> dict[str, Any]:
    """Writes the model file `out` from published files and returns what `read_info` says of it.

    recipe: a name of RECIPES; None finds it by the names of the tensors. name: what the model is
    called, the recipe's own name by default. The licence of the weights is written to the file, and
    what a first frame looks like (`rtfm_rt.golden`), made here in float32.
    dtype: of large matrices, "bfloat16" or "float32". `out` is replaced only when all of it is
    written and read back. Raises ModelError, and ArgumentError for an `out` that is one of the
    checkpoints or no file.
    """
    matrices = stored_dtype(dtype)
    check_outputs([out], checkpoints)
    opened = [open_checkpoint(path) for path in checkpoints]
    if recipe is not None and recipe not in RECIPES:
        raise ModelError(f"family: expected one of {', '.join(RECIPES)}, got {recipe!r}")
    chosen = RECIPES[recipe] if recipe is not None else find(opened)
    if chosen is None:
        raise ModelError(
            f"{', '.join(map(str, checkpoints))}: expected the tensors of a known checkpoint, got "
            f"others; one of {', '.join(RECIPES)} or, of the trainer in tools/rooms, frame_dit"
        )
    manifest, tensors = chosen.build(opened)
    manifest |= {
        "name": name or chosen.name,
        "licence": chosen.licence,
        "source": describe([Path(path) for path in checkpoints]),
    }
    stored = {key: _store(key, tensor, matrices) for key, tensor in tensors.items()}
    checked: list[float] = []

    def check(path: Path) -> None:
        check_stored(path, tensors)
        checked.extend(colours(path, device="cpu", precision="float32"))

    plain = Path(out).with_name(f".{Path(out).name}.{os.getpid()}.plain.tmp")
    try:
        write_model(plain, manifest, stored, check)
    finally:
        plain.unlink(missing_ok=True)
    return write_model(out, {**manifest, "golden": checked}, stored, lambda path: None)


def _store(name: str, tensor: Tensor, matrices: torch.dtype) -> Tensor:
    """Large matrices as asked; tables and vectors, and what conditions all of them, in float32."""
    small = tensor.ndim != 2 or name.startswith(PRECISE) or not name.endswith(".weight")
    return tensor.to(torch.float32 if small else matrices)


def check_stored(path: Path, tensors: dict[str, Tensor]) -> None:
    """Refuses a written file whose tensors are not those of the checkpoint to 8 bits."""
    written = open_checkpoint(path).tensors
    for name, tensor in tensors.items():
        before, after = tensor.double(), written[name].double()
        error = float((after - before).norm() / before.norm().clamp(min=1e-30))
        if not error <= 4e-3:
            raise ModelError(f"{path}: self-check: {name}: expected it as it was, off by {error}")
