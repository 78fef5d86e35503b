# SPDX-License-Identifier: Apache-2.0
"""Random rooms, walks in them and their pictures, rendered on the host or on a GPU.

A room is a seed; its views are a function of the seed alone. Seeds from HELD_OUT on are for
evaluation: `training_seeds` never draws them.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import math
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
FOCAL = 0.5 / math.tan(math.radians(75 / 2))  # in units of the image side: 75 degrees across
SAMPLES = 2  # rays per pixel: SAMPLES squared
HELD_OUT = 1 << 40

# Not -ffast-math: a library linked with it flushes denormal numbers to zero in the whole process.
_FAST = ["-fno-math-errno", "-ffinite-math-only", "-fno-signed-zeros", "-fno-trapping-math"]
_FAST += ["-fassociative-math", "-freciprocal-math"]
_GXX = ["g++", "-O3", "-march=native", *_FAST, "-std=c++20", "-pthread", "-fPIC"]
_NVCC = ["nvcc", "-O3", "-arch=native", "-use_fast_math", "-std=c++20", "-Xcompiler", "-fPIC"]


def training_seeds(seed: int, step: int, count: int) -> np.ndarray:
    """uint64 (count,): the rooms of one training step of the run `seed`, all below HELD_OUT."""
    return np.random.default_rng([seed, step]).integers(HELD_OUT, size=count, dtype=np.uint64)


def held_out_seeds(count: int) -> np.ndarray:
    """uint64 (count,): rooms for evaluation, always the same."""
    return HELD_OUT + np.arange(count, dtype=np.uint64)


def sample_poses(seeds: np.ndarray, views: int) -> np.ndarray:
    """float32 (rooms, views, 12): rows right, down, forward and position of each camera."""
    seeds = np.ascontiguousarray(seeds, np.uint64)
    poses = np.empty((len(seeds), views, 12), np.float32)
    _host().rooms_sample_poses(_pointer(seeds), len(seeds), views, _pointer(poses))
    return poses


def stand(x: float, z: float, yaw: float, pitch: float = 0.0) -> np.ndarray:
    """float32 (12,): the camera of a walker at (x, z) in metres; angles in radians."""
    pose = np.empty(12, np.float32)
    _host().rooms_pose(x, z, yaw, pitch, _pointer(pose))
    return pose


def is_free(seed: int, x: float, z: float) -> bool:
    """Whether a walker may stand there."""
    return bool(_host().rooms_is_free(int(seed), x, z))


def there_and_back(seed: int, frames: int) -> np.ndarray:
    """float32 (frames, 12): a metre and more ahead while turning, then the same way back.

    frames is even; the last pose is the first.
    """
    rng = np.random.default_rng(int(seed))
    along = (1 - np.cos(np.linspace(0, np.pi, frames // 2))) / 2  # begins and ends at rest
    for _ in range(10_000):
        x, z = rng.uniform(-3, 3, 2)
        yaw, turn, length = rng.uniform(-np.pi, np.pi), rng.uniform(-1, 1), rng.uniform(1, 2)
        path = [(x + length * a * np.sin(yaw), z + length * a * np.cos(yaw)) for a in along]
        if all(is_free(seed, *place) for place in path):
            out = [stand(*place, yaw + turn * a) for place, a in zip(path, along, strict=True)]
            return np.stack([*out, *out[::-1]])
    raise ValueError(f"seed {seed}: expected a free metre somewhere in the room, found none")


def matrices(poses: np.ndarray) -> np.ndarray:
    """Camera-to-world float64 (..., 4, 4) of poses (..., 12)."""
    result = np.zeros((*poses.shape[:-1], 4, 4))
    result[..., :3, :3] = poses[..., :9].reshape(*poses.shape[:-1], 3, 3).swapaxes(-1, -2)
    result[..., :3, 3] = poses[..., 9:]
    result[..., 3, 3] = 1
    return result


def render(seeds: np.ndarray, poses: np.ndarray, size: int, *, threads: int = 1) -> np.ndarray:
    """uint8 (rooms, views, size, size, 3) of rooms (rooms,) from poses (rooms, views, 12)."""
    seeds, poses, shape = _inputs(seeds, poses, size)
    rgb = np.empty(shape, np.uint8)
    _host().rooms_render(
        *(_pointer(seeds), *shape[:2], _pointer(poses)),
        *(FOCAL, FOCAL, size, size, SAMPLES, threads, _pointer(rgb)),
    )
    return rgb


def render_on_gpu(seeds: np.ndarray, poses: np.ndarray, size: int) -> torch.Tensor:
    """As `render`, into memory of the current CUDA device, on torch's current stream."""
    seeds, poses, shape = _inputs(seeds, poses, size)
    rgb = torch.empty(shape, dtype=torch.uint8, device="cuda")
    stream = torch.cuda.current_stream().cuda_stream
    error = _cuda().rooms_render_cuda(
        *(_pointer(seeds), *shape[:2], _pointer(poses)),
        *(FOCAL, FOCAL, size, size, SAMPLES, stream, rgb.data_ptr()),
    )
    if error:
        raise RuntimeError(f"rooms_render_cuda: expected CUDA to accept the launch, got {error}")
    return rgb


def _inputs(
    seeds: np.ndarray, poses: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    seeds = np.ascontiguousarray(seeds, np.uint64)
    poses = np.ascontiguousarray(poses, np.float32)
    if poses.ndim != 3 or poses.shape[0] != len(seeds) or poses.shape[2] != 12:
        raise ValueError(f"poses: expected shape ({len(seeds)}, views, 12), got {poses.shape}")
    return seeds, poses, (*poses.shape[:2], size, size, 3)


def _pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def compile_command(source: str, out: Path) -> list[str]:
    """How render.cc or render.cu becomes a shared library."""
    compiler = _NVCC if source.endswith(".cu") else _GXX
    return [*compiler, "-shared", f"-I{REPOSITORY}", "-o", str(out), str(HERE / source)]


def _load(source: str) -> ctypes.CDLL:
    """The library of a source, compiled when no build of these sources by this compiler exists."""
    command = compile_command(source, Path("out.so"))
    if shutil.which(command[0]) is None:
        raise RuntimeError(f"{source}: expected {command[0]} on the path; install it")
    text = b"".join((HERE / name).read_bytes() for name in ("render.h", "scene.h", source))
    key = hashlib.sha256(text + " ".join(command).encode()).hexdigest()[:16]
    library = HERE / "build" / f"{Path(source).stem}-{command[0]}-{key}.so"
    if not library.exists():
        library.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            built = Path(folder) / library.name
            subprocess.run(compile_command(source, built), check=True)
            os.replace(built, library)  # whole or not at all, whoever else builds
    return ctypes.CDLL(str(library))


_POINTER, _INT, _FLOAT, _SEED = ctypes.c_void_p, ctypes.c_int, ctypes.c_float, ctypes.c_uint64
_PICTURE: list[Any] = [_POINTER, _INT, _INT, _POINTER, _FLOAT, _FLOAT, _INT, _INT, _INT]


@functools.cache
def _host() -> ctypes.CDLL:
    library = _load("render.cc")
    library.rooms_sample_poses.argtypes = [_POINTER, _INT, _INT, _POINTER]
    library.rooms_pose.argtypes = [_FLOAT, _FLOAT, _FLOAT, _FLOAT, _POINTER]
    library.rooms_is_free.argtypes = [_SEED, _FLOAT, _FLOAT]
    library.rooms_render.argtypes = [*_PICTURE, _INT, _POINTER]
    return library


@functools.cache
def _cuda() -> ctypes.CDLL:
    library = _load("render.cu")
    library.rooms_render_cuda.argtypes = [*_PICTURE, _POINTER, _POINTER]
    return library
