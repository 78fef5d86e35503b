# SPDX-License-Identifier: Apache-2.0
"""Where a camera stands and how it sees: poses in named conventions, intrinsics without pixels."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rtfm_rt._core import ArgumentError, PoseError

_KEEP = np.eye(3)
# OpenCV camera coordinates -> camera coordinates of the convention: columns are OpenCV's x right,
# y down, z forward.
_Y_UP_Z_BACK = np.diag([1.0, -1.0, -1.0])
_X_FORWARD_Z_UP = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
_MIRROR_Y = np.diag([1.0, -1.0, 1.0])

# convention -> (camera axes, world axes); the world changes only where it is left-handed.
_CONVENTIONS = {
    "opencv": (_KEEP, _KEEP),
    "opengl": (_Y_UP_Z_BACK, _KEEP),
    "openxr": (_Y_UP_Z_BACK, _KEEP),
    "blender": (_Y_UP_Z_BACK, _KEEP),
    "nerfstudio": (_Y_UP_Z_BACK, _KEEP),
    "ros_optical": (_KEEP, _KEEP),
    "ros_body": (_X_FORWARD_Z_UP, _KEEP),
    "unity": (_MIRROR_Y, _MIRROR_Y),
}
_DIRECTIONS = ("camera_to_world", "world_to_camera")

_RIGID = 1e-3  # |RᵀR - I| that is still taken for a rotation
_ROUND_OFF = 1e-12  # ... and below which it is kept bit for bit
_FARTHEST = 1e6  # metres


class Pose:
    """A camera's place in the world: an immutable camera-to-world 4x4, float64, metres.

    World: right-handed, yours to choose. Camera axes: x right, y down, z forward (OpenCV).
    `Pose(matrix)` takes exactly that; every other convention has a named constructor, and nothing
    is guessed. Equal when all numbers are equal; usable as a dictionary key; `np.asarray(pose)` is
    the matrix.

    A rotation is accepted when |RᵀR - I| <= 1e-3 (Frobenius) and replaced by the nearest exact one;
    double-precision rotations are kept bit for bit. Anything else (not finite, scaled, mirrored,
    farther than 1e6 m) is a `PoseError`.
    """

    __slots__ = ("_matrix",)
    _matrix: NDArray[np.float64]

    def __init__(self, matrix: ArrayLike) -> None:
        self._matrix = matrix._matrix if isinstance(matrix, Pose) else _rigid(matrix)

    @classmethod
    def from_matrix(
        cls, m: ArrayLike, convention: str = "opencv", direction: str = "camera_to_world"
    ) -> Pose:
        """A pose from a 4x4 of another program.

        convention   camera axes            world axes
        opencv       x right, y down, z fwd kept
        opengl       x right, y up, z back  kept (also "openxr", "blender", "nerfstudio")
        ros_optical  x right, y down, z fwd kept (REP-103 `_optical` frames; z-up world)
        ros_body     x fwd, y left, z up    kept (REP-103 body frames; z-up world)
        unity        x right, y up, z fwd   MIRRORED: Unity is left-handed, so its y is negated;
                                            up in the resulting right-handed world is -y

        direction: "camera_to_world" (columns are the camera's axes, then its position) or
        "world_to_camera" (an extrinsic or view matrix).
        """
        camera, world = _convention(convention)
        own = _rigid(m)
        if _is_inverse(direction):
            own = _inverse(own)
        return cls(_change_axes(world, own, camera))

    @classmethod
    def from_quaternion(cls, position: ArrayLike, xyzw: ArrayLike) -> Pose:
        """A camera at `position` (metres) turned by the unit quaternion (x, y, z, w), OpenCV axes.

        As in OpenXR a norm within 1 % of one is accepted and made exact; others are a `PoseError`.
        """
        return cls(_compose(_vector("position", position, 3), _unit("quaternion", xyzw)))

    @classmethod
    def from_openxr(cls, position: ArrayLike, orientation: ArrayLike) -> Pose:
        """An OpenXR `XrPosef`: orientation (x, y, z, w), camera x right, y up, looking along -z.

        The world keeps OpenXR's axes (y up); only the camera's axes convert.
        """
        matrix = _compose(_vector("position", position, 3), _unit("orientation", orientation))
        return cls.from_matrix(matrix, "openxr")

    @classmethod
    def from_ros(cls, position: ArrayLike, orientation: ArrayLike, optical: bool = True) -> Pose:
        """A `geometry_msgs/Pose` of a camera frame: orientation (x, y, z, w).

        optical=True for an `_optical` frame (z forward, x right, y down), False for a body frame
        (x forward, y left, z up). The world keeps ROS axes (z up); only the camera's axes convert.
        """
        matrix = _compose(_vector("position", position, 3), _unit("orientation", orientation))
        return cls.from_matrix(matrix, "ros_optical" if optical else "ros_body")

    @classmethod
    def from_colmap(cls, qvec: ArrayLike, tvec: ArrayLike) -> Pose:
        """A line of COLMAP's images.txt: world-to-camera, quaternion (w, x, y, z), OpenCV axes.

        The world keeps COLMAP's axes.
        """
        xyzw = np.roll(_vector("qvec", qvec, 4), -1)
        matrix = _compose(_vector("tvec", tvec, 3), _unit("qvec", xyzw))
        return cls.from_matrix(matrix, "opencv", "world_to_camera")

    @classmethod
    def look_at(cls, eye: ArrayLike, target: ArrayLike, up: ArrayLike = (0.0, -1.0, 0.0)) -> Pose:
        """A camera at `eye` looking at `target`, its image upright along the world's `up`.

        The default `up` is -y: the demo world is y down, as the camera is. Pass (0, 1, 0) for an
        OpenXR world and (0, 0, 1) for a ROS world.
        """
        position = _vector("eye", eye, 3)
        forward = _vector("target", target, 3) - position
        reach = float(np.linalg.norm(forward))
        if not 1e-9 <= reach < math.inf:
            raise PoseError(
                f"look_at: expected a target away from the eye, got a distance of {reach:g} m"
            )
        forward /= reach
        upward = _vector("up", up, 3)
        length = float(np.linalg.norm(upward))
        down = -upward / length if 0.0 < length < math.inf else np.zeros(3)
        down = down - (down @ forward) * forward
        across = float(np.linalg.norm(down))
        if across < 1e-6:
            raise PoseError(
                f"look_at: expected an up direction across the view, got up {upward.tolist()} for "
                f"a view along {forward.round(6).tolist()}; choose another up"
            )
        down /= across
        matrix = np.eye(4)
        matrix[:3, :3] = np.stack([np.cross(down, forward), down, forward], axis=1)
        matrix[:3, 3] = position
        return cls(matrix)

    @property
    def matrix(self) -> NDArray[np.float64]:
        """Camera-to-world (4, 4) float64, read-only, OpenCV camera axes."""
        return self._matrix

    @property
    def position(self) -> NDArray[np.float64]:
        """The camera's centre in the world, (3,) float64, metres, read-only."""
        return self._matrix[:3, 3]

    @property
    def quaternion(self) -> NDArray[np.float64]:
        """Orientation as a unit quaternion (x, y, z, w) with w >= 0."""
        return _quaternion(self._matrix[:3, :3])

    def inverse(self) -> Pose:
        """World-to-camera, as a pose: `pose.inverse() @ pose` is the identity."""
        return Pose(_inverse(self._matrix))

    def to_matrix(
        self, convention: str = "opencv", direction: str = "camera_to_world"
    ) -> NDArray[np.float64]:
        """The (4, 4) float64 that `from_matrix` with the same arguments would read. A new array."""
        camera, world = _convention(convention)
        own = _change_axes(world.T, self._matrix, camera.T)
        return _inverse(own) if _is_inverse(direction) else own

    def interpolate(self, other: Pose, u: float) -> Pose:
        """The pose at `u` in [0, 1] of the way to `other`: position along the line, orientation
        along the shorter arc at constant speed. u = 0 is this pose and u = 1 the other, exactly."""
        if not 0.0 <= u <= 1.0:
            raise PoseError(f"interpolate: expected u in [0, 1], got {u}")
        if u in (0.0, 1.0):
            return Pose(other) if u else self
        a, b = self.quaternion, Pose(other).quaternion
        b = -b if a @ b < 0 else b
        # The angle by its half chords: accurate for small turns too.
        angle = 2.0 * math.atan2(float(np.linalg.norm(b - a)), float(np.linalg.norm(b + a)))
        if angle > 1e-9:
            a, b = math.sin((1.0 - u) * angle) * a, math.sin(u * angle) * b
        else:
            a, b = (1.0 - u) * a, u * b
        between = (1.0 - u) * self.position + u * Pose(other).position
        return Pose(_compose(between, (a + b) / np.linalg.norm(a + b)))

    def __matmul__(self, other: Any) -> Any:
        """`pose @ pose` composes (the right one is relative to the left camera); `pose @ points`
        carries points (..., 3) from the camera into the world."""
        if isinstance(other, Pose):
            return Pose(self._matrix @ other._matrix)
        values = _array("operand", other)
        if values.shape == (4, 4):
            return Pose(self._matrix @ _rigid(values))
        if values.ndim == 0 or values.shape[-1] != 3:
            raise PoseError(
                f"pose @: expected a pose, a (4, 4) matrix or points (..., 3), got shape "
                f"{values.shape}"
            )
        return values @ self._matrix[:3, :3].T + self._matrix[:3, 3]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        same = dtype is None or np.dtype(dtype) == self._matrix.dtype
        if same and not copy:
            return self._matrix
        if copy is False:
            raise ValueError(f"a Pose is float64: as {np.dtype(dtype)} it cannot avoid a copy")
        return self._matrix.astype(dtype or np.float64)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Pose):
            return NotImplemented
        return bool(np.array_equal(self._matrix, other._matrix))

    def __hash__(self) -> int:
        return hash(self._matrix.tobytes())

    def __reduce__(self) -> tuple[type[Pose], tuple[NDArray[np.float64]]]:
        return Pose, (self._matrix,)

    def __repr__(self) -> str:
        place = ", ".join(f"{v:.4g}" for v in self.position)
        turn = ", ".join(f"{v:.4g}" for v in self.quaternion)
        return f"Pose(position=[{place}], quaternion=[{turn}])"


class Intrinsics(NamedTuple):
    """Focal lengths in units of image width and height; the principal point is the image centre.

    Independent of the resolution: a camera keeps its intrinsics when its image is resized.
    """

    fx: float
    fy: float

    @classmethod
    def from_fov(cls, horizontal: float, aspect: float = 1.0) -> Intrinsics:
        """From the horizontal field of view in degrees and width / height, for square pixels."""
        if not 0.0 < horizontal < 180.0:
            raise ArgumentError(f"field of view: expected 0 < degrees < 180, got {horizontal}")
        if not 0.0 < aspect < math.inf:
            raise ArgumentError(f"aspect: expected width / height > 0, got {aspect}")
        fx = 0.5 / math.tan(math.radians(horizontal) / 2.0)
        return cls(fx, fx * aspect)

    @classmethod
    def from_pixels(cls, fx: float, fy: float, width: int, height: int) -> Intrinsics:
        """From focal lengths in pixels of an image of `width` x `height` pixels."""
        given = {"fx": fx, "fy": fy, "width": width, "height": height}
        for name, value in given.items():
            if not 0.0 < value < math.inf:
                raise ArgumentError(f"{name}: expected a number of pixels > 0, got {value}")
        return cls(fx / width, fy / height)

    @property
    def horizontal_fov(self) -> float:
        """The horizontal field of view in degrees."""
        return math.degrees(2.0 * math.atan(0.5 / self.fx))


def _convention(name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if name not in _CONVENTIONS:
        known = ", ".join(_CONVENTIONS)
        raise PoseError(f"convention: expected one of {known}, got {name!r}")
    return _CONVENTIONS[name]


def _is_inverse(direction: str) -> bool:
    if direction not in _DIRECTIONS:
        raise PoseError(f"direction: expected {' or '.join(_DIRECTIONS)}, got {direction!r}")
    return direction == "world_to_camera"


def _array(name: str, value: Any) -> NDArray[np.float64]:
    """A float64 copy of anything numeric."""
    try:
        given = np.asarray(value)
    except Exception as error:  # ragged lists, tensors on a device
        raise PoseError(f"{name}: expected an array of numbers, got {error}") from None
    if given.dtype.kind not in "fiu":
        raise PoseError(f"{name}: expected an array of real numbers, got dtype {given.dtype}")
    with np.errstate(over="ignore"):
        return given.astype(np.float64)


def _vector(name: str, value: Any, length: int) -> NDArray[np.float64]:
    vector = _array(name, value)
    if vector.shape != (length,):
        raise PoseError(f"{name}: expected {length} numbers, got shape {vector.shape}")
    if not np.isfinite(vector).all():
        raise PoseError(f"{name}: expected finite numbers, got {vector.tolist()}")
    return vector


def _unit(name: str, xyzw: Any) -> NDArray[np.float64]:
    q = _vector(name, xyzw, 4)
    norm = math.hypot(*q)
    if not abs(norm - 1.0) <= 0.01:
        raise PoseError(
            f"{name}: expected a unit quaternion (norm within 1 % of 1), got norm {norm:g}; "
            "normalise it"
        )
    return q / norm


def _rigid(matrix: Any) -> NDArray[np.float64]:
    """A read-only, exactly rigid copy of a 4x4."""
    m = _array("pose", matrix)
    if m.shape != (4, 4):
        raise PoseError(f"pose: expected a matrix of shape (4, 4), got {m.shape}")
    if not np.isfinite(m).all():
        row, column = np.argwhere(~np.isfinite(m))[0]
        raise PoseError(
            f"pose: expected finite numbers, got {m[row, column]} in row {row}, column {column}"
        )
    if np.abs(m[3] - (0.0, 0.0, 0.0, 1.0)).max() > 1e-6:
        raise PoseError(
            f"pose: expected the last row 0 0 0 1, got {m[3].tolist()}; is it transposed?"
        )
    turn = m[:3, :3]
    with np.errstate(over="ignore", invalid="ignore"):
        error = float(np.linalg.norm(turn.T @ turn - np.eye(3)))
    if not error <= _RIGID:
        raise PoseError(
            f"pose: expected a rotation (|RᵀR - I| <= {_RIGID:g}), got {error:.3g}; remove scale "
            "and shear"
        )
    if np.linalg.det(turn) < 0.0:
        raise PoseError(
            "pose: expected a right-handed rotation (determinant 1), got a mirror (determinant -1);"
            " name its convention with Pose.from_matrix"
        )
    farthest = float(np.abs(m[:3, 3]).max())
    if farthest > _FARTHEST:
        raise PoseError(
            f"pose: expected a position within {_FARTHEST:g} m of the origin, got {farthest:g} m; "
            "use metres and a nearer origin"
        )
    if error > _ROUND_OFF:
        left, _, right = np.linalg.svd(turn)
        m[:3, :3] = left @ right
    m[3] = (0.0, 0.0, 0.0, 1.0)
    m += 0.0  # -0 becomes 0, so that equal poses have equal bytes
    m.setflags(write=False)
    return m


def _inverse(m: NDArray[np.float64]) -> NDArray[np.float64]:
    inverse = np.eye(4)
    inverse[:3, :3] = m[:3, :3].T
    inverse[:3, 3] = -m[:3, :3].T @ m[:3, 3]
    return inverse


def _change_axes(
    world: NDArray[np.float64], m: NDArray[np.float64], camera: NDArray[np.float64]
) -> NDArray[np.float64]:
    """world · m · camera: the camera matrix enters on the right, the world matrix on the left."""
    changed = np.eye(4)
    changed[:3, :3] = world @ m[:3, :3] @ camera
    changed[:3, 3] = world @ m[:3, 3]
    return changed


def _compose(position: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    """The 4x4 of a position and a unit quaternion (x, y, z, w)."""
    x, y, z, w = q
    m = np.eye(4)
    m[0, :3] = 1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)
    m[1, :3] = 2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)
    m[2, :3] = 2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)
    m[:3, 3] = position
    return m


def _quaternion(r: NDArray[np.float64]) -> NDArray[np.float64]:
    """xyzw of a rotation: 4·q·qᵀ has the quaternion in every row; the largest is the exact one."""
    xx, yy, zz = np.diagonal(r)
    xy, xz, yz = r[0, 1] + r[1, 0], r[0, 2] + r[2, 0], r[1, 2] + r[2, 1]
    xw, yw, zw = r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]
    outer = np.array(
        [
            [1 + xx - yy - zz, xy, xz, xw],
            [xy, 1 - xx + yy - zz, yz, yw],
            [xz, yz, 1 - xx - yy + zz, zw],
            [xw, yw, zw, 1 + xx + yy + zz],
        ]
    )
    q = outer[np.argmax(np.diagonal(outer))]
    return np.asarray(q / math.copysign(float(np.linalg.norm(q)), q[3]))
