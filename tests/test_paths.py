# SPDX-License-Identifier: Apache-2.0
"""Camera paths: where they begin and end, and trajectory files, good and bad."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rtfm_rt import ArgumentError, Error, Pose, PoseError
from rtfm_rt.paths import load_trajectory, look_around, orbit, there_and_back

START = Pose.look_at((3, -1.5, 40), (5, -1.2, 41))
TUM = """# a comment, then the start
0.0 0 0 0 0 0 0 1

1.5 1 2 3 0 0.7071068 0 0.7071068  # turned
"""


def yaw(start: Pose, pose: Pose) -> float:
    """Degrees to the right of the start."""
    m = (start.inverse() @ pose).matrix
    return math.degrees(math.atan2(m[0, 2], m[2, 2]))


@pytest.mark.parametrize("frames", [1, 2, 3, 6, 7, 120])
@pytest.mark.parametrize("path", [there_and_back, orbit, look_around])
def test_begins_and_ends_at_the_start_exactly(path, frames: int) -> None:
    poses = path(frames, start=START)
    assert len(poses) == frames
    assert poses[0] == START
    assert poses[-1] == START


@pytest.mark.parametrize("frames", [2, 5, 60, 61])
def test_there_and_back_is_symmetric(frames: int) -> None:
    poses = there_and_back(frames, start=START)
    assert poses == poses[::-1]


def test_there_and_back_goes_forward_and_turns_right() -> None:
    farthest = there_and_back(61, distance=2.0, turn=30.0, start=START)[30]
    np.testing.assert_allclose(START.inverse() @ farthest.position, (0, 0, 2), atol=1e-12)
    assert yaw(START, farthest) == pytest.approx(30)


def test_orbit_turns_once_around_a_small_circle() -> None:
    poses = orbit(121, radius=0.2, start=START)
    turns = np.unwrap([yaw(START, pose) for pose in poses], period=360)
    np.testing.assert_allclose(np.diff(turns), 3, atol=1e-9)
    centre = START @ (0, 0, -0.2)
    distances = [np.linalg.norm(pose.position - centre) for pose in poses]
    np.testing.assert_allclose(distances, 0.2, atol=1e-12)
    np.testing.assert_allclose(poses[60] @ (0, 0, -0.2), centre, atol=1e-12)


def test_look_around_stands_still() -> None:
    poses = look_around(81, turn=40.0, start=START)
    turns = [yaw(START, pose) for pose in poses]
    assert max(turns) == pytest.approx(40) and min(turns) == pytest.approx(-40)
    assert turns[20] == pytest.approx(40)  # right first
    assert all((pose.position == START.position).all() for pose in poses)


@pytest.mark.parametrize("frames", [0, -1, 2.5, "3"])
def test_frames_are_counted(frames) -> None:
    for path in (there_and_back, orbit, look_around):
        with pytest.raises(ArgumentError, match="whole number"):
            path(frames)


def test_json_list_and_object(tmp_path: Path) -> None:
    poses = [START, Pose.from_quaternion((1, 2, 3), (0, 0.6, 0, 0.8))]
    file = tmp_path / "path.json"
    file.write_text(json.dumps([pose.matrix.tolist() for pose in poses]))
    assert load_trajectory(file) == poses
    for convention in ("opencv", "opengl", "unity"):
        for direction in ("camera_to_world", "world_to_camera"):
            matrices = [pose.to_matrix(convention, direction).tolist() for pose in poses]
            content = {"poses": matrices, "convention": convention, "direction": direction}
            file.write_text(json.dumps(content))
            for loaded, pose in zip(load_trajectory(file), poses, strict=True):
                np.testing.assert_allclose(loaded.matrix, pose.matrix, atol=1e-12)


def test_tum(tmp_path: Path) -> None:
    file = tmp_path / "trajectory.txt"
    file.write_text(TUM)
    first, second = load_trajectory(str(file))
    assert first == Pose(np.eye(4))
    np.testing.assert_allclose(second @ (0, 0, 1), (2, 2, 3), atol=1e-6)


def test_a_trajectory_moves_to_a_start(tmp_path: Path) -> None:
    file = tmp_path / "trajectory.txt"
    file.write_text(TUM)
    original, moved = load_trajectory(file), load_trajectory(file, start=START)
    assert moved[0] == START
    there, here = (p[0].inverse() @ p[1] for p in (original, moved))
    np.testing.assert_allclose(here.matrix, there.matrix, atol=1e-12)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", ArgumentError, "at least one pose"),
        ("[]", ArgumentError, "at least one pose"),
        ("# only a comment\n", ArgumentError, "at least one pose"),
        ("0 0 0 0 0 0 0 1\n1 2 3\n", ArgumentError, r"bad:2: expected timestamp"),
        ("0 0 0 0 0 0 0 1\n\nhello\n", ArgumentError, r"bad:3: .*'hello'"),
        ("0 0 0 0 0 0 0 2\n", PoseError, r"bad:1: .*norm 2"),
        ("0 0 nan 0 0 0 0 1\n", PoseError, r"bad:1: .*nan"),
        ("[\n[1,\n}", ArgumentError, r"bad:3: expected JSON"),
        ("[" * 100_000, ArgumentError, "expected JSON"),
        ("[[1, 2], [3, 4]]", PoseError, "pose 0"),
        ('{"poses": 3}', ArgumentError, "no list of poses"),
        ('{"poses": [], "fps": 30}', ArgumentError, "'fps'"),
        ('{"poses": [[1]], "convention": "maya"}', PoseError, "'maya'"),
        (json.dumps([np.eye(4).tolist(), (2 * np.eye(4)).tolist()]), PoseError, "pose 1"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, text: str, error: type, message: str) -> None:
    file = tmp_path / "bad"
    file.write_text(text)
    with pytest.raises(error, match=message):
        load_trajectory(file)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"nowhere\.txt: .*No such file"):
        load_trajectory(tmp_path / "nowhere.txt")
    with pytest.raises(ArgumentError, match="directory"):
        load_trajectory(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ArgumentError, match="not UTF-8"):
        load_trajectory(tmp_path / "binary")


@settings(deadline=None, max_examples=200)
@given(content=st.one_of(st.text(), st.text(alphabet='[]{}0123456789., -e\n#"ps')))
def test_any_text_is_a_trajectory_or_an_error(tmp_path_factory, content: str) -> None:
    file = tmp_path_factory.getbasetemp() / "any"
    file.write_text(content, encoding="utf-8", errors="replace")
    try:
        assert load_trajectory(file)
    except Error as error:
        assert "expected" in str(error)
