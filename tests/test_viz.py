# SPDX-License-Identifier: Apache-2.0
"""Recordings for Rerun: what is logged, to a stand-in that writes it down; and to the real one."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import rtfm_rt
from models import turn
from rtfm_rt import cli
from rtfm_rt.viz import Recording

FEW = ["walk", "--frames", "6", "--steps", "1"]


class Stream:
    """Takes what a rerun.RecordingStream is told."""

    def __init__(self, _: str) -> None:
        self.frame: int | None = None
        self.logged: list[tuple[int | None, str, Any]] = []

    def save(self, path: str) -> None:
        Path(path).write_text("recording")

    def set_time(self, timeline: str, *, sequence: int) -> None:
        assert timeline == "frame"
        self.frame = sequence

    def log(self, path: str, what: Any, *, static: bool = False) -> None:
        self.logged.append((None if static else self.frame, path, what))

    def flush(self) -> None:
        pass

    disconnect = flush


@pytest.fixture
def rerun(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A stand-in for the module: each archetype is (its name, its arguments)."""

    def archetype(name: str) -> Any:
        return lambda *values, **options: SimpleNamespace(kind=name, values=values, **options)

    names = ("Transform3D", "Pinhole", "Image", "LineStrips3D", "Scalars", "AnyValues", "Clear")
    axes = SimpleNamespace(RDF="RDF", RIGHT_HAND_Y_DOWN="RIGHT_HAND_Y_DOWN")
    fake = SimpleNamespace(
        RecordingStream=Stream, ViewCoordinates=axes, **{name: archetype(name) for name in names}
    )
    monkeypatch.setitem(sys.modules, "rerun", fake)
    return fake


def test_what_is_recorded(rerun: Any, session: rtfm_rt.Session, tmp_path: Path) -> None:
    poses = [turn(8.0 * i, 0.1 * i) for i in range(8)]
    with Recording(tmp_path / "walk.rrd", session) as recording:
        frames = []
        for pose in poses:
            frames.append(session.step(pose))
            recording.write(frames[-1])
        assert not (tmp_path / "walk.rrd").exists()
    assert [file.name for file in tmp_path.iterdir()] == ["walk.rrd"]

    logged = recording._stream.logged
    assert logged[0] == (None, "world", "RIGHT_HAND_Y_DOWN")
    told = {(frame, path, getattr(what, "kind", "")): what for frame, path, what in logged}
    height, width, _ = frames[0].shape
    for i, (frame, pose) in enumerate(zip(frames, poses, strict=True), start=1):
        camera = told[i, "world/camera", "Transform3D"]
        assert np.array_equal(camera.mat3x3, pose[:3, :3])
        assert np.array_equal(camera.translation, pose[:3, 3])
        lens = told[i, "world/camera", "Pinhole"]
        assert lens.resolution == (width, height) and lens.camera_xyz == "RDF"
        focal = np.divide(lens.focal_length, (width, height))
        assert focal == pytest.approx(session.intrinsics)
        assert np.array_equal(told[i, "world/camera/image", "Image"].values[0], np.asarray(frame))
        assert told[i, "support", "Scalars"].values == (frame.support,)
        assert told[i, "latency_ms", "Scalars"].values == (frame.latency * 1e3,)
        assert told[i, "context", "AnyValues"].ids == frame.context
        lines = told[i, "world/context", "LineStrips3D"].values[0]
        assert len(lines) == len(frame.context)
        assert all(np.array_equal(line[0], pose[:3, 3]) for line in lines)
    kept = [path for _, path, what in logged if path.startswith("world/memory/")]
    assert (0, "world/memory/0", "Pinhole") in told  # the picture, before the first step
    assert {int(path.split("/")[2]) for path in kept} == set(session.memory.ids)
    for id_ in session.memory.ids:
        (image,) = (what for _, path, what in logged if path == f"world/memory/{id_}/image")
        assert np.array_equal(image.values[0], session.memory.image(id_))


def test_what_is_forgotten_is_cleared(
    rerun: Any, model: tuple[str, Any], picture: np.ndarray, tmp_path: Path
) -> None:
    probe = rtfm_rt.Session(model[0], device="cpu", threads=1)
    probe.observe(picture, np.eye(4))
    small = rtfm_rt.Session(
        model[0], device="cpu", threads=1, context=1, sinks=1, recent=0, commit_below=2.0,
        memory_budget=3 * probe.memory.bytes,
    )  # fmt: skip
    small.observe(picture, np.eye(4))
    with Recording(tmp_path / "walk.rrd", small) as recording:
        for i in range(40):
            recording.write(small.step(turn(9.0 * i)))
    assert small.memory.evicted > 0
    logged = recording._stream.logged
    shown = {path for _, path, what in logged if getattr(what, "kind", "") == "Pinhole"}
    gone = {path for _, path, what in logged if getattr(what, "kind", "") == "Clear"}
    assert len(gone) == small.memory.evicted
    there = {f"world/memory/{id_}" for id_ in small.memory.ids}
    assert shown - gone == there | {"world/camera"}


def test_the_command(rerun: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main([*FEW, "--rerun", "walk.rrd"]) == 0
    assert "walk.rrd  Rerun recording" in capsys.readouterr().out
    assert {file.name for file in tmp_path.iterdir()} == {"walk.mp4", "walk.png", "walk.rrd"}


def test_refusals_leave_nothing(
    rerun: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main([*FEW, "--rerun", "nowhere/walk.rrd"]) == 2
    assert cli.main([*FEW, "--rerun", "w" * 250 + ".rrd"]) == 2
    monkeypatch.setitem(sys.modules, "rerun", None)  # not installed
    assert cli.main([*FEW, "--rerun", "walk.rrd"]) == 2
    errors = capsys.readouterr().err.splitlines()
    for error, text in zip(errors, ("nowhere", "can be written", "rtfm_rt[viz]"), strict=True):
        assert text in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(
    importlib.util.find_spec("rerun") is None,
    reason="170 MB; pip install 'rtfm_rt[viz]' runs this test",
)
def test_the_real_one(session: rtfm_rt.Session, tmp_path: Path) -> None:
    with Recording(tmp_path / "walk.rrd", session) as recording:
        for i in range(5):
            recording.write(session.step(turn(8.0 * i)))
    command = [sys.executable, "-m", "rerun_cli", "rrd", "verify", str(tmp_path / "walk.rrd")]
    subprocess.run(command, check=True, timeout=60)
