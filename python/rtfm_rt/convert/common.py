# SPDX-License-Identifier: Apache-2.0
"""What every converter shares: reading published files with distrust, writing model files whole."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from rtfm_rt._core import ModelError, read_info
from rtfm_rt.files import whole_file, writable

CHUNK = 1 << 24
UNPICKLE = (
    'python -c "import torch, safetensors.torch as s; '
    "c = torch.load('{path}', map_location='cpu', weights_only=True); "
    "s.save_file({{k: v.contiguous().clone() for k, v in c.get('model', c).items()}}, "
    "'checkpoint.safetensors')\""
)


@dataclass(frozen=True)
class Checkpoint:
    """One published .safetensors file: `tensors` as stored, mapped from the file."""

    path: Path
    metadata: dict[str, str]
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class Recipe:
    """One kind of published checkpoint that can be converted."""

    name: str  # what the command line calls it
    family: str
    files: str  # the published files it takes, in order
    source: str  # where the user gets them
    parameters: str
    licence: str  # SPDX name of the weights' licence, written to the model file
    matches: Callable[[Sequence[Checkpoint]], bool]  # by tensor names only
    build: Callable[[Sequence[Checkpoint]], tuple[dict[str, Any], dict[str, Tensor]]]
    # build: the manifest without name, licence and source; the tensors under our names


def refuse_pickle(path: Path, command: str = UNPICKLE) -> None:
    """Raises ModelError if the file is a pickle, which could run code, or cannot be read."""
    try:
        with open(path, "rb") as file:
            start = file.read(9)
    except OSError as error:
        reason = error.strerror
        raise ModelError(f"{path}: expected a readable checkpoint, got: {reason}") from error
    # A header length may begin with these bytes too; then the ninth is the header's brace.
    if start.startswith((b"PK", b"\x80")) and start[8:9] != b"{":
        raise ModelError(
            f"{path}: expected a .safetensors checkpoint, got a pickle, which could run code; "
            f"convert it with: {command.format(path=path)}"
        )


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Raises ModelError for a pickle, half a download, or anything that is not safetensors."""
    source = Path(path)
    refuse_pickle(source)
    try:
        with safetensors.safe_open(source, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
        raise ModelError(f"{source}: expected a .safetensors checkpoint, got: {error}") from error
    return Checkpoint(source, metadata, tensors)


def check_names(path: Path, wanted: Iterable[str], found: Iterable[str]) -> None:
    """Raises ModelError naming what is missing and what is unknown."""
    missing, unknown = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if missing or unknown:
        raise ModelError(
            f"{path}: expected exactly the tensors of this family; "
            f"missing {missing[:8]}{' …' if len(missing) > 8 else ''}, "
            f"unknown {unknown[:8]}{' …' if len(unknown) > 8 else ''}"
        )


def check_finite(path: Path, tensors: dict[str, Tensor]) -> None:
    """Raises ModelError for integers, NaN and infinities."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            raise ModelError(f"{path}: {name}: expected finite floating-point numbers")


def describe(paths: Sequence[Path]) -> dict[str, str]:
    """The manifest's `source`: file names, and the SHA-256 of their bytes one after another."""
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    return {"file": " + ".join(path.name for path in paths), "sha256": digest.hexdigest()}


def write_model(
    out: str | os.PathLike[str],
    manifest: dict[str, Any],
    tensors: dict[str, Tensor],
    check: Callable[[Path], None],
) -> dict[str, Any]:
    """Writes a model file and returns what `read_info` says of it.

    `out` is replaced only when all is written, the runtime's reader accepts it and `check(path)`
    does not raise. The same input gives the same bytes.
    """
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    stored = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with whole_file(out) as part:
        with writable(out, safetensors.SafetensorError):
            safetensors.torch.save_file(stored, part, {"rtfm": text})
        info = read_info(part)  # the runtime's own reader has the last word
        check(Path(part))
    return info


def stored_dtype(dtype: str) -> torch.dtype:
    """Of large matrices. Raises ModelError unless "bfloat16" or "float32"."""
    if dtype not in ("bfloat16", "float32"):
        raise ModelError(f"dtype: expected 'bfloat16' or 'float32', got {dtype!r}")
    return getattr(torch, dtype)
