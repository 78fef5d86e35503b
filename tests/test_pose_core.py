# SPDX-License-Identifier: Apache-2.0
"""What the core takes for a pose, and the transform between two cameras."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rtfm_rt
from rtfm_rt import _testing


def rotation(g):
    q, r = np.linalg.qr(g.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.linalg.det(q)


def rigid(g, distance=10.0):
    pose = np.eye(4)
    pose[:3, :3] = rotation(g)
    pose[:3, 3] = g.normal(size=3)
    pose[:3, 3] *= distance / np.linalg.norm(pose[:3, 3])
    return pose


def gram_error(pose):
    r = pose[:3, :3]
    return np.linalg.norm(r.T @ r - np.eye(3))


def test_a_rigid_pose_passes_bit_for_bit():
    g = np.random.default_rng(0)
    for distance in (0.0, 1.0, 1e3, 1e6 * (1 - 1e-12)):
        pose = rigid(g, distance)
        assert np.array_equal(_testing.pose_from_matrix(pose), pose)


@pytest.mark.parametrize("size", [1e-12, 1e-7, 1e-5, 2e-4])
def test_a_small_error_is_removed(size):
    g = np.random.default_rng(1)
    for _ in range(50):
        pose = rigid(g)
        rough = pose.copy()
        rough[:3, :3] += size * g.uniform(-1, 1, (3, 3))
        if gram_error(rough) > 1e-3:
            continue
        found = _testing.pose_from_matrix(rough)
        u, _, vt = np.linalg.svd(rough[:3, :3])
        assert gram_error(found) < 4e-15
        assert np.abs(found[:3, :3] - u @ vt).max() < 1e-14  # the nearest rotation
        assert np.array_equal(found[:, 3], pose[:, 3])
        assert np.array_equal(_testing.pose_from_matrix(found), found)


def test_float32_matrices_pass():
    pose = rigid(np.random.default_rng(2)).astype(np.float32)
    assert gram_error(_testing.pose_from_matrix(pose)) < 4e-15


def edited(*edits):
    pose = rigid(np.random.default_rng(3))
    for index, value in edits:
        pose[index] = value
    return pose


def sheared():
    pose = np.eye(4)
    pose[0, 1] = 0.01
    return pose


def transposed():
    return rigid(np.random.default_rng(4)).T.copy()


REFUSED = {
    "nan": (edited(((1, 2), np.nan)), "16 finite numbers, got nan at row 1, column 2"),
    "inf": (edited(((0, 3), -np.inf)), "16 finite numbers, got -inf at row 0, column 3"),
    "sheared": (sheared(), r"expected a rotation, .* <= 0.001, got 0.0141.*sheared"),
    "scaled": (np.diag([2.0, 2.0, 2.0, 1.0]), "got one scaled by 2; divide"),
    "slightly scaled": (np.diag([1.001, 1.001, 1.001, 1.0]), "got one scaled by 1.001; divide"),
    "stretched": (np.diag([1.0, 1.1, 1.0, 1.0]), "sheared, stretched"),
    "zero": (np.diag([0.0, 0.0, 0.0, 1.0]), "got 1.73"),
    "huge": (edited((np.s_[:3, :3], 1e200)), "got inf"),
    "left-handed": (np.diag([1.0, 1.0, -1.0, 1.0]), "determinant 1, got -1; .*left-handed"),
    "transposed": (transposed(), "bottom row 0 0 0 1, got .* so pass the transpose"),
    "bottom row": (
        edited(((3, 3), 2.0)),
        "bottom row 0 0 0 1, got 0 0 0 2; pass a camera-to-world",
    ),
    "bottom row, slightly": (edited(((3, 0), 2e-6)), "got 2e-06 0 0 1"),
    "far": (edited(((0, 3), 1e7)), "within 1e[+]06 m of the origin, got 1e[+]07 m; .*metres"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    matrix, message = REFUSED[name]
    with pytest.raises(rtfm_rt.PoseError, match=message):
        _testing.pose_from_matrix(matrix)


@given(st.lists(st.floats(width=64), min_size=16, max_size=16))
@settings(max_examples=200, deadline=None)
def test_any_numbers_end_in_a_rotation_or_a_pose_error(numbers):
    try:
        pose = _testing.pose_from_matrix(np.array(numbers).reshape(4, 4))
    except rtfm_rt.PoseError:
        return
    assert gram_error(pose) < 4e-15 and np.linalg.det(pose[:3, :3]) > 0


def projection(pose, focal, scale):
    """P, the world-to-camera projection, and its inverse, written out: float64 [4, 4] each."""
    r, c, f = pose[:3, :3], pose[:3, 3] * scale, np.array([*focal, 1.0])
    p, inverse = np.eye(4), np.eye(4)
    p[:3, :3], p[:3, 3] = f[:, None] * r.T, f * (-r.T @ c)
    inverse[:3, :3], inverse[:3, 3] = r / f, c
    return p, inverse


@pytest.mark.parametrize("distance", [0.0, 1.0, 1e3, 1e5])
def test_camera_transform(distance):
    g = np.random.default_rng(5)
    for _ in range(50):
        origin = rigid(g, distance)[:3, 3] if distance else np.zeros(3)
        query, page = rigid(g, 3.0), rigid(g, 3.0)
        query[:3, 3] += origin
        page[:3, 3] += origin
        lenses = tuple(g.uniform(0.3, 2.5, 2)), tuple(g.uniform(0.3, 2.5, 2))
        scale = g.uniform(0.1, 3)
        expected = projection(query, lenses[0], scale)[0] @ projection(page, lenses[1], scale)[1]
        found = _testing.camera_transform(query, lenses[0], page, lenses[1], scale)
        assert found.dtype == np.float32
        assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()


def test_camera_transform_of_a_camera_to_itself_is_exact():
    pose = np.eye(4)
    pose[:3, 3] = [1e5, -2e5, 3e5]
    assert np.array_equal(_testing.camera_transform(pose, (0.7, 0.9), pose, (0.7, 0.9)), np.eye(4))


@pytest.mark.parametrize(
    "focal", [(0.0, 1.0), (1.0, -0.5), (np.nan, 1.0), (1.0, np.inf), (500.0, 500.0)]
)
def test_intrinsics_out_of_range(focal):
    cache = _testing.FrameCache(8)
    with pytest.raises(rtfm_rt.ArgumentError, match=r"focal lengths within 0.01 .. 100, got \("):
        cache.insert(0, np.eye(4), focal)
