# SPDX-License-Identifier: Apache-2.0
"""The shapes that bite, random data for them, and the one table of tolerances."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float32]


class Tolerance(NamedTuple):
    norm: float  # ||got - want|| / ||want||
    element: float  # the worst |got - want| / (|want| + rms(want)): one wrong element cannot hide


# By the dtype that a result is stored in; storing in bfloat16 alone rounds by up to 2^-8 = 3.9e-3.
# "far" is float32 attention to cameras a kilometre apart: of scores in the thousands, float32 keeps
# four decimals, and that is what a weight is exact to.
# "float8" is an e4m3 product beside an exact one: rounding is off by half a place at most, 2^-4
# of a value and 2^-4/sqrt(3) in the mean square, and both operands are rounded. "tensor" is one
# beside the same roundings: tensor cores of Hopper keep some 13 bits of a sum of 128 products.
TOLERANCE = {
    "float32": Tolerance(5e-6, 2e-5),
    "bfloat16": Tolerance(4e-3, 2e-2),
    "float8": Tolerance(2**-4 * (2 / 3) ** 0.5, 0.5),
    "tensor": Tolerance(1e-3, 2e-2),
    "far": Tolerance(1e-4, 3e-3),
}
NOISE_TOLERANCE = 1e-6  # absolute, from the reference: any two devices are within twice that

# Tiers that multiply in int8, the best one first, and the exact ones they are otherwise.
# test_int8.py has them.
INT8 = {"amx_int8": "amx", "vnni": "avx512", "avx_vnni": "avx2", "sdot": "portable"}

BFLOAT16 = ("amx", "avx512_bf16")  # tiers with such operands; those of all others are float32


def rounds(device: str) -> bool:
    """Whether the device has operands in bfloat16."""
    return not device.startswith("cpu") or device.removeprefix("cpu:") in BFLOAT16


# rows, n, k: tails of every tier's tiles (6 to 32 rows, 8 to 32 columns, depth 2 to 32), deep sums,
# more than one part of the rows and of the depth
MATMULS = [
    (1, 3, 3),
    (5, 1, 31),
    (31, 33, 17),
    (32, 16, 32),
    (33, 31, 33),
    (64, 48, 100),
    (100, 65, 5),
    (1, 257, 64),
    (33, 100, 1000),
    (5, 40, 5000),
    (64, 192, 256),
    (130, 40, 1100),
    (33, 64, 96),
]
# of 64 x 128 and of 128 x 128 on 132 multiprocessors, whole and with k split
LARGE_MATMULS = [(192, 2880, 64), (512, 2112, 64), (128, 2048, 8192), (512, 1280, 5120)]
EPILOGUES = ["store", "gelu", "gated"]

NORMS = [(1, 3), (5, 16), (31, 33), (32, 24), (33, 100), (64, 256), (100, 65), (5, 5000)]


class Attend(NamedTuple):
    tokens: int
    heads: int
    dim: int
    pages: int
    metres: float = 1.0  # between the cameras: transforms lengthen keys and values freely


ATTENDS = [
    Attend(1, 1, 8, 0),
    Attend(1, 5, 64, 9),
    Attend(6, 3, 16, 1),
    Attend(31, 2, 8, 3),
    Attend(33, 4, 40, 2),
    Attend(60, 2, 24, 2),
    Attend(64, 4, 64, 4),
    Attend(77, 12, 40, 1),
    Attend(64, 1, 256, 9),
    Attend(129, 7, 16, 0),
    Attend(300, 1, 128, 2),
    Attend(128, 2, 64, 1),  # these two: the kernels of a GPU that take tensor maps
    Attend(192, 1, 128, 2),
    Attend(77, 2, 64, 3, metres=1000),
    Attend(60, 3, 24, 9, metres=1000),
    Attend(6, 1, 8, 2, metres=1e6),
]

SAMPLERS = [(1, 3), (5, 17), (31, 48), (33, 1000), (64, 192), (100, 5), (7, 4099)]

# height, width, patch
PATCHES = [(8, 8, 8), (16, 24, 8), (24, 8, 4), (4, 6, 2), (3, 5, 1), (64, 64, 8), (32, 48, 16)]


def name(case: ArrayLike) -> str:
    return "x".join(f"{int(extent)}" for extent in case)


def normal(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> Array:
    return (scale * rng.standard_normal(shape)).astype(np.float32)


def matmul(case: tuple[int, int, int], epilogue: str, rng: np.random.Generator) -> dict[str, Any]:
    """Arguments of reference.matmul and of Device.matmul."""
    rows, n, k = case
    arguments: dict[str, Any] = {
        "x": normal(rng, rows, k),
        "w": normal(rng, n, k, scale=k**-0.5),
        "bias": normal(rng, n) if (rows + n) % 2 else None,
        "epilogue": epilogue,
    }
    if epilogue == "gated":
        arguments |= {"gate": normal(rng, n), "y0": normal(rng, rows, n)}
    return arguments


def norm_modulate(case: tuple[int, int], rng: np.random.Generator) -> dict[str, Any]:
    """Arguments of norm_modulate: rows from tiny to huge, so that eps matters in some."""
    rows, cols = case
    x = normal(rng, rows, cols) * np.float32(10) ** rng.integers(-4, 5, (rows, 1))
    x[rows // 2] = 0
    scale, shift = 1 + normal(rng, cols, scale=0.3), normal(rng, cols)
    return {"x": x.astype(np.float32), "scale": scale, "shift": shift, "eps": 1e-6}


def camera(rng: np.random.Generator, metres: float) -> NDArray[np.float64]:
    """P = diag(fx, fy, 1, 1) [R | t; 0 1], world-to-camera, (4, 4)."""
    rotation, upper = np.linalg.qr(rng.standard_normal((3, 3)))
    rotation *= np.sign(np.diag(upper))
    rotation[0] *= np.linalg.det(rotation)
    p = np.eye(4)
    p[:3, :3] = rotation
    p[:3, 3] = metres * rng.standard_normal(3)
    return np.diag([0.65, 0.8, 1, 1]) @ p


def attend(case: Attend, rng: np.random.Generator) -> dict[str, Any]:
    """Arguments of attend. RoPE angles are any; pages are as QK-norm leaves them."""
    tokens, heads, dim, pages, metres = case
    angles = rng.uniform(-np.pi, np.pi, (tokens, dim // 4))
    query = camera(rng, metres)
    return {
        "qkv": normal(rng, tokens, 3 * heads * dim),
        "q_gain": 1 + normal(rng, dim, scale=0.3),
        "k_gain": 1 + normal(rng, dim, scale=0.3),
        "cos": np.cos(angles).astype(np.float32),
        "sin": np.sin(angles).astype(np.float32),
        "heads": heads,
        "eps": 1e-6,
        "pages": [
            (
                normal(rng, heads, tokens, dim),
                normal(rng, heads, tokens, dim),
                (query @ np.linalg.inv(camera(rng, metres))).astype(np.float32),
            )
            for _ in range(pages)
        ],
    }


def errors(got: ArrayLike, want: ArrayLike) -> Tolerance:
    """Both measures of TOLERANCE; infinite for a shape or a value that is none."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    if got.shape != want.shape or not np.isfinite(got).all():
        return Tolerance(np.inf, np.inf)
    difference, rms = np.abs(got - want), np.sqrt(np.mean(want**2))
    if rms == 0:
        return Tolerance(*[0.0 if not difference.any() else np.inf] * 2)
    norm = np.linalg.norm(difference) / np.linalg.norm(want)
    return Tolerance(float(norm), float(np.max(difference / (np.abs(want) + rms))))


def assert_close(got: ArrayLike, want: ArrayLike, dtype: str) -> None:
    found, allowed = errors(got, want), TOLERANCE[dtype]
    assert found.norm <= allowed.norm and found.element <= allowed.element, (found, allowed)
