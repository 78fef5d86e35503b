# SPDX-License-Identifier: Apache-2.0
"""The benchmarks of memory run, write every figure, and remembering beats forgetting."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

import rtfm_rt
from chromium import CHROMIUM
from rtfm_rt.session import model_path

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
ABOUT = {"command", "cpus", "date", "device", "model", "numpy", "processor", "python", "rtfm_rt"}


def run(name: str, folder: Path) -> dict[str, Any]:
    """The JSON of `name --quick`; its SVG must be XML."""
    out, picture = folder / "out.json", folder / "out.svg"
    command = [sys.executable, str(BENCHMARKS / name), "--quick", "--json", out, "--svg", picture]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert ElementTree.parse(picture).getroot().tag.endswith("svg")
    result: dict[str, Any] = json.loads(out.read_text())
    assert set(result["about"]) >= ABOUT
    return result


def test_persistence(tmp_path: Path) -> None:
    result = run("persistence.py", tmp_path)
    assert set(result) == {"about", "rooms", "lengths", "detours", "truth"}
    paths = [*result["lengths"].values(), *result["detours"].values()]
    assert len(paths) == 3
    for row in [*paths, result["truth"]]:
        assert set(row) == {"pose-keyed", "recent", "previous"}
    for row in paths:
        for figures in row.values():
            for key in ("return", "self", "revisit", "start"):
                assert 5 < figures[key] <= 60
            assert 0 <= figures["support"] <= 1
        assert row["pose-keyed"]["return"] > row["recent"]["return"] + 1
        assert row["recent"]["kept"] > row["pose-keyed"]["kept"]
    for figures in result["truth"].values():
        assert all(5 < figures[key] < 60 for key in ("out", "back", "last"))
    assert result["truth"]["pose-keyed"]["last"] > result["truth"]["recent"]["last"] + 1


def test_drift(tmp_path: Path) -> None:
    drift = run("drift.py", tmp_path)["drift"]
    assert set(drift) == {"pose-keyed", "recent", "previous"}
    for row in drift.values():
        assert len(row["laps"]) == 2 and all(5 < score < 60 for score in row["laps"])
    assert drift["pose-keyed"]["laps"][1] > drift["recent"]["laps"][1] + 1


def test_support(tmp_path: Path) -> None:
    result = run("support.py", tmp_path)
    assert set(result) == {"about", "rooms", "calibration", "sweep"}
    row = result["calibration"]
    for bins in (row["bins"], row["fine"]):
        assert sum(b["frames"] for b in bins) >= 3 * 2 * (7 + 6 + 5 + 4) - len(bins)
        for b in bins:
            assert b["from"] <= b["support"] <= b["to"]
            assert 5 < b["psnr"] < 60
    for flag, kind, key in (
        ("monotone", "bins", "psnr"),
        ("monotone_relative", "bins", "relative"),
        ("monotone_fine", "fine", "psnr"),
    ):
        means = [b[key] for b in row[kind]]
        assert row[flag] == (means == sorted(set(means)))
    assert 0.2 < row["spearman"] <= 1
    assert -1 <= row["spearman_in_room"] <= 1
    assert 0 <= row["saturated"] <= 1
    assert 0 <= row["explained_by_room"] <= 1


def test_rooms_gif(tmp_path: Path) -> None:
    out = tmp_path / "rooms.gif"
    command = [sys.executable, str(BENCHMARKS / "rooms_gif.py"), str(out), "--walks", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert out.stat().st_size < 2_000_000
    with Image.open(out) as film:
        assert film.n_frames == 60
        film.seek(30)
        frame = np.asarray(film.convert("RGB"), np.int16)
    top, bottom = np.split(frame[:-6], 2)  # truth over generated: alike, and not the same
    assert 1 < np.abs(top[22:] - bottom[22:]).mean() < 20


def test_a_variant_differs_in_its_retrieval_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import heldout

    before = rtfm_rt.read_info(model_path("rooms"))
    with heldout.variant("rooms", far=3.5, commit_below=0.5) as path:
        after = rtfm_rt.read_info(str(path))
    changed = {**before["manifest"]["retrieval"], "far": 3.5, "commit_below": 0.5}
    assert after["manifest"] == {**before["manifest"], "retrieval": changed}
    assert after["parameters"] == before["parameters"]


def test_ranks_share_ties(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import support

    assert support.ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [3.5, 1.0, 3.5, 2.0]
    assert math.isclose(support.spearman(np.array([1, 2, 3]), np.array([1, 8, 9])), 1.0)
    assert support.spearman(np.array([1, 2, 3]), np.array([9, 8, 1])) < -0.99


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
def test_play(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = [sys.executable, BENCHMARKS / "play.py", "--seconds", "1", "--presses", "2"]
    done = subprocess.run([*command, "--json", out], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert set(result["about"]) >= ABOUT
    assert 0 < result["walk"]["frames_per_second"] < 31
    assert result["walk"]["latency_ms"]["p50"] > 1
    assert result["keys"]["key_to_screen_ms"]["p50"] > 1


def test_jitter(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    shape = "rooms (D 256, N 64, 8 blocks)"
    command = [sys.executable, BENCHMARKS / "jitter.py", "--rounds", "20", "--shape", shape]
    done = subprocess.run([*command, "--json", out], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert set(result["about"]) >= ABOUT - {"device", "model"}
    assert list(result["results"]) == [shape]
    step, equal_work = (result["results"][shape][name] for name in ("step", "equal work"))
    assert step["calls"] == equal_work["calls"] == 20
    assert equal_work["p99/p50"] >= 1 and step["p99/p50"] >= 1
    assert 0.1 < step["p50_ms"] / equal_work["p50_ms"] < 10  # on any machine
