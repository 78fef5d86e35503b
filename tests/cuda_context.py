# SPDX-License-Identifier: Apache-2.0
"""What test_cuda_context.py runs where the shipped module finds a driver and two devices.

python cuda_context.py NAME MODEL
"""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path
from typing import Any

import numpy as np

import rtfm_rt
from rtfm_rt import _testing

RUNTIME = ctypes.CDLL(str(Path(rtfm_rt._core.__file__).parent / "librtfm_cuda.so"))
RUNTIME.emulated_stream.restype = ctypes.c_void_p
RUNTIME.emulated_left.restype = ctypes.c_int64
RUNTIME.emulated_capture.argtypes = [ctypes.c_void_p]
RUNTIME.emulated_read.argtypes = [
    ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p
]  # fmt: skip
PICTURE = np.random.default_rng(5).integers(0, 256, (16, 24, 3), np.uint8)


def turn(degrees: float) -> rtfm_rt.Pose:
    """The camera at the origin, turned to the right."""
    angle = np.deg2rad(degrees)
    return rtfm_rt.Pose.look_at((0, 0, 0), (np.sin(angle), 0, np.cos(angle)))


class Stream:
    """A stream of the caller's."""

    def __init__(self, device: int = 0) -> None:
        self.handle = RUNTIME.emulated_stream(device)

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.handle


def opened(path: str, device: str = "cuda", **options: Any) -> rtfm_rt.Session:
    session = rtfm_rt.Session(path, device=device, seed=5, **options)
    session.observe(PICTURE, turn(0))
    return session


def refused(call: Any, error: type[Exception]) -> str:
    try:
        call()
    except error as problem:
        return str(problem)
    raise AssertionError(f"expected {error}")


def walks(path: str) -> None:
    """The frames of the other emulator, on the host and on the device, and of a branch."""
    other = _testing.Session(path, device="cuda:emulated", seed=5)
    other.observe(PICTURE, np.eye(4))
    host, device = opened(path), opened(path, "cuda:1", stream=Stream(1))
    assert (host.device, device.device) == ("cuda:0", "cuda:1")
    branch = host.fork()
    for i in range(12):
        want = other.step(turn(20 * i).matrix)["images"][-1]
        frames = [session.step(turn(20 * i)) for session in (host, device, branch)]
        assert all(np.array_equal(frame, want) for frame in frames)
        assert frames[0].__dlpack_device__() == (1, 0)
        assert frames[1].__dlpack_device__() == (2, 1)
        address = frames[1].__cuda_array_interface__["data"][0]
        assert ctypes.string_at(address, want.size) == want.tobytes()
    assert host.memory.ids == device.memory.ids and len(host.memory) > 2
    slot = rtfm_rt.PoseSlot(turn(7))
    assert np.array_equal(host.step(slot), device.step(turn(7)))


def large(path: str) -> None:
    """Weights that do not fit into the staging memory at once, and float8."""
    for precision in ("bfloat16", "float8"):
        other = _testing.Session(path, device="cuda:emulated", precision=precision)
        session = rtfm_rt.Session(path, device="cuda", precision=precision)
        picture = np.random.default_rng(5).integers(0, 256, (*session.image_size, 3), np.uint8)
        session.observe(picture, turn(0))
        other.observe(picture, np.eye(4))
        assert np.array_equal(session.step(turn(9)), other.step(turn(9).matrix)["images"][-1])


def order(path: str) -> None:
    """A frame's memory is not written before what the stream was given has read it."""
    stream = Stream()
    session = opened(path, stream=stream)
    frame = session.step(turn(5))
    want, address = np.array(frame), frame.__cuda_array_interface__["data"][0]
    read = ctypes.create_string_buffer(want.size)
    RUNTIME.emulated_read(stream.handle, address, want.size, read)
    del frame
    for i in range(3):
        again = session.step(turn(90 + i))
    assert again.__cuda_array_interface__["data"][0] == address
    assert read.raw == want.tobytes() and not np.array_equal(again, want)


def streams(path: str) -> None:
    """Streams of another device, in a recording, or of nobody: refused, and nothing is lost."""
    captured, nobody = Stream(), Stream()
    RUNTIME.emulated_capture(captured.handle)
    nobody.handle = 12345
    for bad in (Stream(1), captured, nobody):
        said = refused(lambda bad=bad: opened(path, stream=bad), rtfm_rt.DeviceError)
        assert "stream: expected one of this device that is not being captured" in said, said
        assert "lost" not in said
    stream = Stream()
    session = opened(path, stream=stream)
    want = opened(path).step(turn(3))
    RUNTIME.emulated_capture(stream.handle)
    for _ in range(2):
        said = refused(lambda: session.step(turn(3)), rtfm_rt.DeviceError)
        assert "captured" in said and "lost" not in said
    assert session.memory.ids == [0] and want.id == 1


def lost(path: str) -> None:
    """A device that fails: a typed error with the first cause, now and ever after."""
    session = opened(path, stream=Stream())
    frame = session.step(turn(1))
    RUNTIME.emulated_fail(700)
    said = refused(lambda: session.step(turn(2)), rtfm_rt.DeviceError)
    assert "lost to this session" in said and "cudaErrorEmulated" in said
    refused(lambda: np.asarray(frame.images), rtfm_rt.DeviceError)
    RUNTIME.emulated_fail(0)
    assert refused(lambda: session.step(turn(2)), rtfm_rt.DeviceError) == said
    assert session.memory.ids[0] == 0
    assert opened(path).step(turn(2)).id == 1


def nothing_left(path: str) -> None:
    """Whatever was taken is given back, frames that outlive their session last."""
    session = opened(path, stream=Stream())
    frames = [session.step(turn(i)) for i in range(10)]
    capsules = [frame.__dlpack__() for frame in frames[:3]]
    branch = session.fork()
    branch.step(turn(1))
    before = RUNTIME.emulated_left()
    del session, branch
    gc.collect()
    between = RUNTIME.emulated_left()
    del frames, capsules
    gc.collect()
    assert before > between > RUNTIME.emulated_left() == 1  # the stream of the caller's


if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[2])
