# SPDX-License-Identifier: Apache-2.0
"""The comparison of families with their authors' code: who takes turns, and what is reported."""

import json
from pathlib import Path

import numpy as np
import pytest

import family_stub
from benchmarks.families import __main__ as families
from benchmarks.families import efficient_lvsm
from benchmarks.families.side import How

HOW = How("cpu", "int8", 1)


def test_the_sides_take_turns():
    result = families.measure(family_stub, "grey", Path("0.75"), 3, HOW)
    assert set(result) == {"a frame", "peak_mb", "seconds_to_load"}
    frame = result["a frame"]
    assert frame["worst_step"] == pytest.approx(0.25) and frame["differ"] == 1
    assert frame["seconds"]["theirs"] >= 0.05 and frame["seconds"]["ratio"] > 5
    assert len(frame["samples"]["ours"]) == len(frame["samples"]["theirs"]) == 3
    assert result["peak_mb"]["theirs"] > 2 * result["peak_mb"]["ours"] > 20  # PyTorch on one side


def test_what_goes_wrong_in_a_side_is_said():
    with pytest.raises(RuntimeError, match="theirs: ValueError: no such checkout"):
        families.measure(family_stub, "broken", Path("0"), 1, HOW)


def test_ours_alone():
    result = families.measure(family_stub, "grey", None, 2, HOW)
    frame = result["a frame"]
    assert set(frame) == {"seconds", "cpu_seconds", "samples"} and set(result["peak_mb"]) == {
        "ours"
    }
    assert set(frame["seconds"]) == {"ours"} and len(frame["samples"]["ours"]) == 2


@pytest.mark.parametrize(
    ("words", "how"),
    [
        (["--threads", "1"], How("cpu", "float32", 1)),
        (["checkout", "--precision", "int8"], How("cpu", "int8", 2)),
        (["--device", "cuda"], How("cuda", "bfloat16", 2)),
        (["--device", "cuda:1", "--precision", "float8"], How("cuda:1", "float8", 2)),
    ],
)
def test_arguments(monkeypatch, words, how):
    asked = []
    monkeypatch.setattr(families, "measure", lambda *asks: asked.append(asks) or {})
    monkeypatch.setattr("sys.argv", ["families", "oasis", *words])
    families.main()
    assert len(asked) == 3 and all(asks[4] == how for asks in asked)
    assert all((asks[2] is None) == (words[0] != "checkout") for asks in asked)


def test_the_authors_are_not_compared_with_a_gpu(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["families", "oasis", "checkout", "--device", "cuda"])
    with pytest.raises(SystemExit):
        families.main()
    assert "expected no checkout with --device" in capsys.readouterr().err


def test_frames_of_other_shapes_are_not_compared():
    with pytest.raises(ValueError, match="one shape"):
        families.difference(np.zeros((2, 2, 3), np.uint8), np.zeros((3, 2, 2)))


def test_results_of_other_families_and_cases_stay(tmp_path):
    path = tmp_path / "results.json"
    for family, case in [("a", "one"), ("b", "one"), ("a", "two"), ("a", "one")]:
        families.save(path, family, case, {"peak_mb": 1}, {"threads": 2})
    found = json.loads(path.read_text())
    assert list(found) == ["a", "b"] and list(found["a"]["results"]) == ["one", "two"]
    assert found["a"]["about"]["threads"] == 2


def test_poses_are_rigid():
    for pose in efficient_lvsm.poses(5):
        assert np.allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3))
        assert np.linalg.det(pose[:3, :3]) == pytest.approx(1)
