# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks of memory share: rooms that training never saw, variants of a model, JSON."""

from __future__ import annotations

import functools
import json
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

import rtfm_rt
from rtfm_rt.bench import machine
from rtfm_rt.session import model_path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent


class Rooms(NamedTuple):
    """Rendered pictures uint8 (rooms, views, 64, 64, 3) and poses float64 (rooms, views, 4, 4)."""

    images: np.ndarray  # 24 rooms, 8 views each
    poses: np.ndarray
    walk_images: np.ndarray  # 6 walks of 60 frames there and back
    walk_poses: np.ndarray


@functools.cache
def load_rooms() -> Rooms:
    with np.load(HERE / "data" / "rooms64.npz") as file:
        there = [file["walk_images"], file["walk_poses"].astype(np.float64)]
        back = [np.concatenate([half, half[:, ::-1]], axis=1) for half in there]
        return Rooms(file["images"], file["poses"].astype(np.float64), *back)


@contextmanager
def variant(model: str, **retrieval: float) -> Iterator[Path]:
    """The path of a copy of a model whose manifest has other retrieval numbers (near, far, ...).

    A .safetensors file is the length of its header (uint64), the header (JSON), the tensors.
    """
    content = Path(model_path(model)).read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    manifest = json.loads(header["__metadata__"]["rtfm"])
    manifest["retrieval"].update(retrieval)
    header["__metadata__"]["rtfm"] = json.dumps(manifest)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "variant.safetensors"
        path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
        yield path


def psnr(a: Any, b: Any) -> float:
    """Of two uint8 images, in dB; 60 at most, so that means stay finite."""
    error = float(np.mean((np.asarray(a, np.float64) - np.asarray(b, np.float64)) ** 2))
    return 10 * np.log10(255.0**2 / max(error, 255.0**2 / 1e6))


def about(session: rtfm_rt.Session) -> dict[str, Any]:
    """What measured: machine, versions, model, command."""
    command = " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    return {
        **machine(),
        "rtfm_rt": rtfm_rt.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "command": command,
        "model": session.model.manifest["name"],
        "source": session.model.manifest["source"],
        "retrieval": session.model.manifest["retrieval"],
        "device": session.device,
        "precision": session.precision,
        "steps": session.steps,
    }


def write_json(path: Path, about: dict[str, Any], **results: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"about": about, **results}, indent=1, ensure_ascii=False) + "\n")
