# SPDX-License-Identifier: Apache-2.0
"""examples/csharp, compiled and run by Mono, does what the Python API does."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import rtfm_rt
from conftest import INSTALL
from rtfm_rt import Pose

ROOT = Path(__file__).parents[1]
PREFIX = Path(rtfm_rt.__file__).parent / "_cpp"
BUNDLED = Path(rtfm_rt.__file__).parent / "models" / "rooms.safetensors"
MISSING = [tool for tool in ("mcs", "mono") if not shutil.which(tool)]
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
    pytest.mark.skipif(not PREFIX.exists(), reason=f"no C++ package in this build: {INSTALL}"),
]


def run(folder: Path, sources: list[Path], *arguments: object) -> str:
    program = folder / "program.exe"
    subprocess.run(
        ["mcs", "-langversion:5", "-warn:4", "-warnaserror", f"-out:{program}", *sources],
        check=True,
    )
    (library,) = {path.resolve().parent for path in PREFIX.glob("lib*/librtfm_rt.so")}
    own = {"LD_LIBRARY_PATH": str(library)}
    command = ["mono", str(program), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, timeout=100, env=os.environ | own)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def ahead(metres: float) -> Pose:
    matrix = np.eye(4)
    matrix[2, 3] = metres
    return Pose.from_matrix(matrix, convention="unity")


def test_the_example_walks(tmp_path):
    """The pictures that it leaves are those that Python makes of the same poses."""
    room = ROOT / "examples/embed/room.ppm"
    sources = [ROOT / f"examples/csharp/{name}.cs" for name in ("RtfmRt", "Walk")]
    printed = run(tmp_path, sources, BUNDLED, room, f"{tmp_path}/")
    assert len(printed.splitlines()) == 6
    session = rtfm_rt.Session("rooms", seed=7)
    picture = np.frombuffer(room.read_bytes()[-64 * 64 * 3 :], np.uint8).reshape(64, 64, 3)
    session.observe(picture, np.eye(4))
    for i in range(1, 61):
        frame = session.step(ahead(0.02 * (i if i <= 30 else 60 - i)))
        if i in (30, 60):
            kept = (tmp_path / ("turn.ppm" if i == 30 else "return.ppm")).read_bytes()
            assert kept == b"P6\n64 64\n255\n" + np.asarray(frame).tobytes()


def test_it_does_what_python_does(model, picture, tmp_path):
    raw, world = tmp_path / "picture", tmp_path / "räume.world"
    raw.write_bytes(picture.tobytes())
    sources = [ROOT / "examples/csharp/RtfmRt.cs", ROOT / "tests/walking.cs"]
    lines = [line.split() for line in run(tmp_path, sources, model[0], raw, world).splitlines()]
    made = rtfm_rt.Model(model[0], "cpu")
    said = [1, *picture.shape[:2], made.device, made.precision]
    assert lines[0] == ["model", *map(str, said)]

    session = rtfm_rt.Session(made, seed=7, threads=1)
    session.observe(picture, np.eye(4))
    want = [session.step(ahead(0.1 * i)) for i in range(3)]
    want += [*session.imagine([ahead(0.5)]), session.fork().step(ahead(0.5))]
    want += [session.step(ahead(0.3)), *session.imagine([ahead(0)]) * 2]
    assert rtfm_rt.Session.load(world, made).memory.ids == session.memory.ids
    for _ in range(11):
        session.step(ahead(0.1))
    want += session.imagine([ahead(0.1)]) * 2
    frames = [line for line in lines if line[0] == "frame"]
    for frame, (_, *receipt, shown) in zip(want, frames, strict=True):
        given = [frame.id, frame.steps, frame.late, frame.committed, len(frame.context)]
        assert [float(word) for word in receipt] == [*map(int, given), frame.support]
        assert shown == np.asarray(frame).tobytes().hex()

    assert lines[-1] == ["collected", "0"]  # bytes of the garbage collector's, in 11 steps
    refused = [line[1].rstrip(":") for line in lines if line[0] == "refused"]
    assert refused == (
        ["World", "Model", "Device", "Pose", *["Argument"] * 4, "World", "World", "Argument"]
        + ["Disposed"] * 3
    )
    assert "'räume'" in [line[-1] for line in lines if line[:2] == ["refused", "Device:"]]
