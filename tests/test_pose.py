# SPDX-License-Identifier: Apache-2.0
"""Poses: every convention by where landmarks land, by round trips, and by what is refused."""

import copy
import math
import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rtfm_rt import ArgumentError, Intrinsics, Pose, PoseError

# convention -> what "right", "down" and "forward" are in that camera's own axes
CAMERA_AXES = {
    "opencv": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "ros_optical": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "opengl": ((1, 0, 0), (0, -1, 0), (0, 0, -1)),
    "openxr": ((1, 0, 0), (0, -1, 0), (0, 0, -1)),
    "blender": ((1, 0, 0), (0, -1, 0), (0, 0, -1)),
    "nerfstudio": ((1, 0, 0), (0, -1, 0), (0, 0, -1)),
    "ros_body": ((0, -1, 0), (0, 0, -1), (1, 0, 0)),
    "unity": ((1, 0, 0), (0, -1, 0), (0, 0, 1)),
}
DIRECTIONS = ("camera_to_world", "world_to_camera")
HALF = math.sqrt(0.5)


def random_matrix(rng: np.random.Generator, reach: float = 100.0) -> np.ndarray:
    """A camera-to-world 4x4 by QR, independent of the quaternions under test."""
    q, r = np.linalg.qr(rng.standard_normal((3, 3)))
    q *= np.sign(np.diagonal(r))
    if np.linalg.det(q) < 0:
        q[:, 0] *= -1
    m = np.eye(4)
    m[:3, :3], m[:3, 3] = q, rng.uniform(-reach, reach, 3)
    return m


def to_world(convention: str, points: np.ndarray) -> np.ndarray:
    """Points (..., 3) of the convention's world in ours: only Unity's is mirrored."""
    return points * (1, -1, 1) if convention == "unity" else points


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("convention", CAMERA_AXES)
def test_landmarks_land_where_the_convention_says(convention: str, direction: str) -> None:
    rng = np.random.default_rng(1)
    right, down, forward = np.array(CAMERA_AXES[convention], float)
    landmarks = np.stack([3 * forward, 3 * forward + right, 3 * forward + down])
    seen = []
    for _ in range(1000):
        theirs = random_matrix(rng)
        given_matrix = theirs if direction == "camera_to_world" else np.linalg.inv(theirs)
        pose = Pose.from_matrix(given_matrix, convention, direction)
        world = to_world(convention, landmarks @ theirs[:3, :3].T + theirs[:3, 3])
        seen.append((world - pose.position) @ pose.matrix[:3, :3])
    x, y, z = np.moveaxis(np.array(seen), -1, 0)
    np.testing.assert_allclose(x / z, np.tile((0, 1 / 3, 0), (1000, 1)), atol=1e-9)
    np.testing.assert_allclose(y / z, np.tile((0, 0, 1 / 3), (1000, 1)), atol=1e-9)
    np.testing.assert_allclose(z, 3, atol=1e-9)


@pytest.mark.parametrize("source", CAMERA_AXES)
@pytest.mark.parametrize("target", CAMERA_AXES)
def test_every_pair_of_conventions_round_trips(source: str, target: str) -> None:
    rng = np.random.default_rng(2)
    for direction in DIRECTIONS:
        for _ in range(50):
            theirs = random_matrix(rng)
            pose = Pose.from_matrix(theirs, source, direction)
            carried = Pose.from_matrix(pose.to_matrix(target, direction), target, direction)
            np.testing.assert_allclose(carried.matrix, pose.matrix, atol=1e-10)
            np.testing.assert_allclose(carried.to_matrix(source, direction), theirs, atol=1e-10)


def test_the_world_is_kept_except_for_unity() -> None:
    m = np.eye(4)
    m[:3, 3] = 1, 2, 3
    for convention in CAMERA_AXES:
        expected = (1, -2, 3) if convention == "unity" else (1, 2, 3)
        np.testing.assert_array_equal(Pose.from_matrix(m, convention).position, expected)


def test_openxr_headset() -> None:
    # Eyes 1.6 m up, turned a quarter to the left about the world's y: looks along -x.
    pose = Pose.from_openxr((0, 1.6, 0), (0, HALF, 0, HALF))
    ahead, right, below = pose @ [(0, 0, 2), (1, 0, 0), (0, 1, 0)]
    np.testing.assert_allclose(ahead, (-2, 1.6, 0), atol=1e-12)
    np.testing.assert_allclose(right, (0, 1.6, -1), atol=1e-12)
    np.testing.assert_allclose(below, (0, 0.6, 0), atol=1e-12)


def test_ros_robot() -> None:
    # Half a metre up, turned a quarter to the left about the world's z: drives along +y.
    body = Pose.from_ros((0, 0, 0.5), (0, 0, HALF, HALF), optical=False)
    ahead, right, below = body @ [(0, 0, 2), (1, 0, 0), (0, 1, 0)]
    np.testing.assert_allclose(ahead, (0, 2, 0.5), atol=1e-12)
    np.testing.assert_allclose(right, (1, 0, 0.5), atol=1e-12)
    np.testing.assert_allclose(below, (0, 0, -0.5), atol=1e-12)
    # The same camera as its optical frame says it.
    optical = Pose.from_ros(body.position, body.quaternion)
    np.testing.assert_allclose(optical.matrix, body.matrix, atol=1e-12)


def test_colmap_centre_and_axes() -> None:
    rng = np.random.default_rng(3)
    for _ in range(100):
        extrinsic = random_matrix(rng)
        x, y, z, w = Pose(extrinsic).quaternion
        pose = Pose.from_colmap((w, x, y, z), extrinsic[:3, 3])
        centre = -extrinsic[:3, :3].T @ extrinsic[:3, 3]
        np.testing.assert_allclose(pose.position, centre, atol=1e-9)
        np.testing.assert_allclose(pose.inverse().matrix, extrinsic, atol=1e-9)


def test_quaternion_known_values() -> None:
    assert Pose.from_quaternion((0, 0, 0), (0, 0, 0, 1)) == Pose(np.eye(4))
    quarter = Pose.from_quaternion((0, 0, 0), (0, 0, HALF, HALF))  # x towards y
    np.testing.assert_allclose(quarter @ (1, 0, 0), (0, 1, 0), atol=1e-15)
    half = Pose.from_quaternion((0, 0, 0), (1, 0, 0, 0))
    np.testing.assert_allclose(half.matrix, np.diag((1.0, -1, -1, 1)), atol=1e-15)
    np.testing.assert_allclose(half.quaternion, (1, 0, 0, 0), atol=1e-15)


def test_quaternion_round_trip() -> None:
    rng = np.random.default_rng(4)
    for _ in range(1000):
        m = random_matrix(rng)
        q = Pose(m).quaternion
        assert q[3] >= 0
        assert abs(np.linalg.norm(q) - 1) < 1e-12
        np.testing.assert_allclose(Pose.from_quaternion(m[:3, 3], q).matrix, m, atol=1e-12)


@pytest.mark.parametrize("norm", [0.9901, 0.999, 1.0, 1.0099])
def test_quaternion_norm_within_one_percent_is_made_exact(norm: float) -> None:
    q = np.array((0.5, -0.5, 0.5, 0.5))
    made = Pose.from_quaternion((0, 0, 0), norm * q)
    np.testing.assert_allclose(made.quaternion, q, atol=1e-15)


@pytest.mark.parametrize("norm", [0.0, 1e-300, 0.98, 1.02, 7.5, 1e200])
def test_quaternion_norm_beyond_is_named(norm: float) -> None:
    for make in (Pose.from_quaternion, Pose.from_openxr, Pose.from_ros):
        with pytest.raises(PoseError, match=f"got norm {norm:g}".replace("+", r"\+")):
            make((0, 0, 0), (0, 0, 0, norm))
    with pytest.raises(PoseError, match="qvec"):
        Pose.from_colmap((norm, 0, 0, 0), (0, 0, 0))


def test_bad_numbers_and_shapes_are_named() -> None:
    with pytest.raises(PoseError, match="nan"):
        Pose.from_openxr((0, math.nan, 0), (0, 0, 0, 1))
    with pytest.raises(PoseError, match=r"expected 4 numbers, got shape \(3,\)"):
        Pose.from_quaternion((0, 0, 0), (0, 0, 1))
    with pytest.raises(PoseError, match=r"shape \(4, 4\), got \(3, 4\)"):
        Pose(np.eye(4)[:3])
    with pytest.raises(PoseError, match="row 1, column 3"):
        bad = np.eye(4)
        bad[1, 3] = math.inf
        Pose(bad)
    with pytest.raises(PoseError, match="transposed"):
        bad = np.eye(4)
        bad[3, 0] = 1.5
        Pose(bad)
    with pytest.raises(PoseError, match="mirror"):
        Pose(np.diag((1.0, 1, -1, 1)))
    with pytest.raises(PoseError, match="remove scale"):
        Pose(np.diag((2.0, 2, 2, 1)))
    with pytest.raises(PoseError, match="metres"):
        bad = np.eye(4)
        bad[0, 3] = 2e6
        Pose(bad)
    with pytest.raises(PoseError, match="one of opencv, opengl"):
        Pose.from_matrix(np.eye(4), "opencl")
    with pytest.raises(PoseError, match="camera_to_world or world_to_camera"):
        Pose.from_matrix(np.eye(4), direction="c2w")


@pytest.mark.parametrize(
    "bad",
    [None, "pose", 1.0, [[1, 2], [3]], np.eye(4, dtype=complex), np.eye(4, dtype=bool), {}, b"\0"],
    ids=repr,
)
def test_what_is_not_a_matrix_is_refused(bad: object) -> None:
    with pytest.raises(PoseError, match="expected"):
        Pose(bad)  # type: ignore[arg-type]


@settings(deadline=None, max_examples=500)
@given(
    hnp.arrays(
        st.sampled_from([np.float64, np.float32, np.float16, np.int64, np.dtype(">f8")]),
        st.one_of(st.just((4, 4)), hnp.array_shapes(max_dims=3, max_side=5)),
        fill=st.nothing(),
    )
)
def test_any_array_is_a_pose_or_a_pose_error(array: np.ndarray) -> None:
    try:
        m = Pose(array).matrix
    except PoseError as error:
        assert "expected" in str(error) and "got" in str(error)
        return
    np.testing.assert_allclose(m[:3, :3].T @ m[:3, :3], np.eye(3), atol=1e-12)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.floats(), min_size=4, max_size=4), st.lists(st.floats(), min_size=3, max_size=3))
def test_any_quaternion_is_a_pose_or_a_pose_error(q: list[float], t: list[float]) -> None:
    try:
        m = Pose.from_quaternion(t, q).matrix
    except PoseError:
        return
    np.testing.assert_allclose(m[:3, :3].T @ m[:3, :3], np.eye(3), atol=1e-12)


def test_rounded_rotations_are_made_exact_and_exact_ones_kept() -> None:
    rng = np.random.default_rng(5)
    for _ in range(100):
        m = random_matrix(rng)
        np.testing.assert_array_equal(Pose(m).matrix, m)
        rounded = Pose(m.astype(np.float32)).matrix
        np.testing.assert_allclose(rounded[:3, :3].T @ rounded[:3, :3], np.eye(3), atol=1e-14)
        np.testing.assert_allclose(rounded[:3, :3], m[:3, :3], atol=1e-6)


def test_look_at_default_world_is_y_down() -> None:
    pose = Pose.look_at((0, -1.5, 0), (0, -1.5, 4))
    np.testing.assert_allclose(pose.matrix[:3, :3], np.eye(3), atol=1e-15)
    pose = Pose.look_at((1, -1, 2), (4, 0, 2))
    x, y, z = pose.inverse() @ (4, 0, 2)
    np.testing.assert_allclose((x, y, z), (0, 0, math.sqrt(10)), atol=1e-12)
    assert pose.matrix[1, 0] == pytest.approx(0)  # level horizon
    assert pose.matrix[1, 1] > 0  # the camera's down goes down


@pytest.mark.parametrize("up", [(0, 1, 0), (0, 0, 1), (0, -5, 0)])
def test_look_at_up_points_up_in_the_image(up: tuple[float, ...]) -> None:
    eye, target = np.array((1.0, 2, 3)), np.array((-4.0, 0.5, 2))
    pose = Pose.look_at(eye, target, up)
    x, y, z = pose.inverse() @ (target + 0.1 * np.array(up) / np.linalg.norm(up))
    assert y < 0 < z
    assert abs(x) < 1e-12


def test_look_at_refuses_no_view_and_no_up() -> None:
    with pytest.raises(PoseError, match="away from the eye"):
        Pose.look_at((1, 2, 3), (1, 2, 3))
    with pytest.raises(PoseError, match="choose another up"):
        Pose.look_at((0, 0, 0), (0, 3, 0))
    with pytest.raises(PoseError, match="choose another up"):
        Pose.look_at((0, 0, 0), (0, 0, 3), (0, 0, 0))


def test_interpolate() -> None:
    start = Pose(np.eye(4))
    end = Pose.from_quaternion((2, 0, -4), (0, HALF, 0, HALF))
    assert start.interpolate(end, 0) is start
    assert start.interpolate(end, 1) == end
    third = start.interpolate(end, 1 / 3)
    np.testing.assert_allclose(third.position, (2 / 3, 0, -4 / 3), atol=1e-15)
    np.testing.assert_allclose(
        third.quaternion, (0, math.sin(math.pi / 12), 0, math.cos(math.pi / 12)), atol=1e-15
    )
    for u in (-0.1, 1.1, math.nan):
        with pytest.raises(PoseError, match=r"u in \[0, 1\]"):
            start.interpolate(end, u)


def test_interpolate_turns_the_shorter_way_at_constant_speed() -> None:
    rng = np.random.default_rng(6)
    for _ in range(200):
        a, b = Pose(random_matrix(rng)), Pose(random_matrix(rng))
        points = [a.interpolate(b, u) for u in np.linspace(0, 1, 6)]
        angles = [
            2 * math.acos(min(1.0, (p.inverse() @ q).quaternion[3])) for p, q in pairwise(points)
        ]
        np.testing.assert_allclose(angles, angles[0], atol=1e-7)
        assert sum(angles) <= math.pi + 1e-6


def test_interpolate_tiny_turns() -> None:
    a = Pose(np.eye(4))
    b = Pose.from_quaternion((0, 0, 0), (1e-8, 0, 0, 1))
    assert a.interpolate(b, 0.5).quaternion[0] == pytest.approx(5e-9)
    assert a.interpolate(a, 0.5) == a


def test_inverse_and_composition() -> None:
    rng = np.random.default_rng(7)
    a, b = Pose(random_matrix(rng)), Pose(random_matrix(rng))
    np.testing.assert_allclose((a.inverse() @ a).matrix, np.eye(4), atol=1e-12)
    np.testing.assert_allclose((a @ b).matrix, a.matrix @ b.matrix, atol=1e-12)
    assert a @ b.matrix == a @ b
    points = rng.standard_normal((2, 5, 3))
    np.testing.assert_allclose(a.inverse() @ (a @ points), points, atol=1e-10)
    with pytest.raises(PoseError, match="points"):
        a @ np.zeros((3, 2))


def test_it_is_a_value() -> None:
    m = np.eye(4)
    pose = Pose(m)
    m[0, 3] = 5  # the caller's array is the caller's
    assert pose == Pose(np.eye(4)) and pose != Pose(m) and pose != "pose"
    assert hash(pose) == hash(Pose(-0.0 + np.eye(4))) and Pose(pose) == pose
    assert copy.deepcopy(pose) == pickle.loads(pickle.dumps(pose)) == pose
    for array in (pose.matrix, pose.position, np.asarray(pose)):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    with pytest.raises(AttributeError):
        pose.matrix = m  # type: ignore[misc]
    assert np.array(pose).flags.writeable
    assert np.asarray(pose, np.float32).dtype == np.float32
    assert repr(pose) == "Pose(position=[0, 0, 0], quaternion=[0, 0, 0, 1])"


def test_intrinsics() -> None:
    assert Intrinsics.from_fov(90) == pytest.approx((0.5, 0.5))
    wide = Intrinsics.from_fov(75, aspect=16 / 9)
    assert wide == pytest.approx(Intrinsics.from_pixels(wide.fx * 640, wide.fx * 640, 640, 360))
    assert wide.horizontal_fov == pytest.approx(75)
    fx, fy = Intrinsics(0.6, 0.7)
    assert (fx, fy) == (0.6, 0.7)
    for degrees in (0, 180, -5, math.nan):
        with pytest.raises(ArgumentError, match="degrees"):
            Intrinsics.from_fov(degrees)
    with pytest.raises(ArgumentError, match="aspect"):
        Intrinsics.from_fov(75, 0)
    with pytest.raises(ArgumentError, match="width"):
        Intrinsics.from_pixels(500, 500, 0, 480)
