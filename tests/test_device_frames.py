# SPDX-License-Identifier: Apache-2.0
"""Frames that stay on the GPU: what other libraries find there, for how long, after which stream.

The device is the emulated one, whose memory can be read through its addresses.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

import emulated
import rtfm_rt
from models import TINY, turn
from rtfm_rt import _testing

SHAPE = (TINY.height, TINY.image_width, 3)


@pytest.fixture
def emulation() -> Iterator[Any]:
    """What emulated devices do; as before when the test is over."""
    state = _testing.cuda_emulation()
    before = state.memory
    yield state
    state.memory, state.launches_left, state.run_stream = before, -1, None


@pytest.fixture
def session(model, picture) -> emulated.Session:
    """One whose frames stay on the device, in the order of stream 7."""
    return open_session(model[0], picture, stream=7)


def open_session(path: str, picture: np.ndarray, **options: Any) -> emulated.Session:
    made = emulated.Session(path, device="cuda:emulated", seed=5, **options)
    made.observe(picture, turn(0))
    return made


def on_device(frame: Any) -> np.ndarray:
    """What lies on the device now, copied from where __cuda_array_interface__ says."""
    interface = frame.__cuda_array_interface__
    data = ctypes.string_at(interface["data"][0], np.prod(interface["shape"]))
    return np.frombuffer(data, np.dtype(interface["typestr"])).reshape(interface["shape"])


# ---- DLPack, read as a consumer does.


class Tensor(ctypes.Structure):
    """A DLTensor."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", ctypes.c_int32 * 2),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class Managed(ctypes.Structure):
    """A DLManagedTensor."""

    _fields_ = (("tensor", Tensor), ("owner", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


class Versioned(ctypes.Structure):
    """A DLManagedTensorVersioned."""

    _fields_ = (
        ("version", ctypes.c_uint32 * 2),
        ("owner", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", Tensor),
    )


PYTHON = ctypes.pythonapi
PYTHON.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
PYTHON.PyCapsule_GetPointer.restype = ctypes.c_void_p
PYTHON.PyCapsule_SetName.argtypes = [ctypes.py_object, ctypes.c_char_p]


class Consumer:
    """Takes a capsule over, as torch.from_dlpack does, and gives it back when it is dropped."""

    def __init__(self, capsule: Any, kind: Any, name: bytes) -> None:
        address = PYTHON.PyCapsule_GetPointer(capsule, name)
        PYTHON.PyCapsule_SetName(capsule, NAMES[name])
        self.managed = kind.from_address(address)

    def pixels(self) -> np.ndarray:
        t = self.managed.tensor
        assert (t.ndim, t.code, t.bits, t.lanes) == (3, 1, 8, 1)
        shape = tuple(t.shape[:3])
        assert tuple(t.strides[:3]) == (3 * shape[1], 3, 1)
        data = ctypes.string_at(t.data + t.byte_offset, np.prod(shape))
        return np.frombuffer(data, np.uint8).reshape(shape)

    def drop(self) -> None:
        address = ctypes.c_void_p(ctypes.addressof(self.managed))
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self.managed.deleter)(address)


NAMES = {b"dltensor": b"used_dltensor", b"dltensor_versioned": b"used_dltensor_versioned"}


def consume(frame: Any, **asked: Any) -> Consumer:
    capsule = frame.__dlpack__(**asked)
    if asked.get("max_version", (0, 0)) >= (1, 0):
        made = Consumer(capsule, Versioned, b"dltensor_versioned")
        assert tuple(made.managed.version) == (1, 0) and made.managed.flags == 0
        return made
    return Consumer(capsule, Managed, b"dltensor")


def test_a_frame_on_the_device_is_that_of_the_host(session, model, picture):
    twin = open_session(model[0], picture)
    for i in range(6):
        frame, other = session.step_frame(turn(20 * i)), twin.step(turn(20 * i))
        assert np.array_equal(on_device(frame), other)
        assert np.array_equal(np.asarray(frame), other)  # copied when it is asked for
        assert frame.id == other.id and frame.context == other.context
        assert frame.committed == other.committed
    assert session.memory.ids == twin.memory.ids and len(twin.memory.ids) > 2


def test_what_other_libraries_find(session):
    frame = session.step_frame(turn(5))
    want = np.array(frame)
    assert frame.__dlpack_device__() == (2, 0)
    address = frame.__cuda_array_interface__.pop("data")[0]
    assert frame.__cuda_array_interface__ == {
        "shape": SHAPE,
        "typestr": "|u1",
        "data": (address, False),
        "strides": None,
        "stream": None,  # finished: nothing to wait for
        "version": 3,
    }
    for asked in (
        {},
        {"stream": 7},
        {"stream": -1, "max_version": (1, 1), "dl_device": (2, 0), "copy": None},
        {"max_version": (0, 8), "copy": False},
    ):
        taken = consume(frame, **asked)
        assert tuple(taken.managed.tensor.device) == (2, 0)
        assert taken.managed.tensor.data + taken.managed.tensor.byte_offset == address
        assert np.array_equal(taken.pixels(), want)
        taken.drop()


def test_a_frame_on_the_device_for_the_host(session):
    frame = session.step_frame(turn(5))
    want = on_device(frame)
    assert np.array_equal(np.from_dlpack(frame, device="cpu"), want)
    assert np.array_equal(frame.images[0], want)
    assert np.array_equal(frame.reproject(frame.pose), want)
    assert not hasattr(frame.reproject(frame.pose), "__cuda_array_interface__")
    with pytest.raises(BufferError, match="copy: expected None or True"):
        frame.__dlpack__(dl_device=(1, 0), copy=False)
    with pytest.raises(BufferError, match="copy: expected None or False"):
        frame.__dlpack__(copy=True)
    with pytest.raises(BufferError, match="dl_device: expected"):
        frame.__dlpack__(dl_device=(2, 1))


def test_frames_of_the_host_stay_as_they_were(model, picture):
    frame = open_session(model[0], picture).step_frame(turn(5))
    assert frame.__dlpack_device__() == (1, 0)
    assert not hasattr(frame, "__cuda_array_interface__")
    assert torch.from_dlpack(frame).data_ptr() == np.asarray(frame).ctypes.data


# ---- For how long.


def test_a_frame_is_whole_as_long_as_anything_of_it_lives(session):
    """However many follow: memory is used again only when frame, capsules and arrays are gone."""
    frames = [session.step_frame(turn(i)) for i in range(12)]
    copies = [on_device(frame) for frame in frames]
    taken = consume(frames[3], max_version=(1, 0))
    alone = consume(session.step_frame(turn(77)))  # the frame itself is gone
    kept, unused = alone.pixels(), frames[4].__dlpack__()
    del frames[4], copies[4]
    for i in range(12):
        session.step_frame(turn(-i))
    assert all(np.array_equal(on_device(f), c) for f, c in zip(frames, copies, strict=True))
    del frames, unused
    gc.collect()
    for i in range(12):
        session.step_frame(turn(3 * i))
    assert np.array_equal(taken.pixels(), copies[3]) and np.array_equal(alone.pixels(), kept)
    taken.drop()
    alone.drop()


def test_a_frame_outlives_its_session(model, picture):
    session = open_session(model[0], picture, stream=7)
    frame = session.step_frame(turn(5))
    want = on_device(frame)
    branch = session.fork()
    other = branch.step_frame(turn(6))
    del session, branch
    gc.collect()
    assert np.array_equal(np.asarray(frame), want) and other.__dlpack_device__() == (2, 0)


def test_dropped_frames_are_used_again(session):
    """Eight and no more, whoever consumed them."""
    addresses = set()
    for i in range(40):
        frame = session.step_frame(turn(i))
        addresses.add(frame.__cuda_array_interface__["data"][0])
        consume(frame).drop()
        frame.__dlpack__(max_version=(1, 0))  # which nobody takes
    assert len(addresses) == 2  # the frame before is held while the next one is made


# ---- In which order.


def test_memory_is_used_again_after_what_the_stream_was_given(session, emulation):
    """The caller's stream still has to read a frame that is already dropped."""
    frame = session.step_frame(turn(5))
    want, address = on_device(frame), frame.__cuda_array_interface__["data"][0]
    given, read = [lambda: ctypes.string_at(address, want.size)], []

    def run_stream(stream: int) -> None:
        assert stream == 7
        read.extend(work() for work in given)
        given.clear()

    emulation.run_stream = run_stream
    del frame
    for i in range(3):
        again = session.step_frame(turn(90 + i))
    assert again.__cuda_array_interface__["data"][0] == address  # used again since
    assert read == [want.tobytes()]
    assert not np.array_equal(on_device(again), want)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device answers PyTorch")
def test_frames_in_pytorch(model, picture):
    """On a real GPU: zero copies, and work on the stream that outlives the frame."""
    stream = torch.cuda.Stream()
    theirs = stream if hasattr(stream, "__cuda_stream__") else Stream((0, stream.cuda_stream))
    session = rtfm_rt.Session(model[0], device="cuda", seed=5, stream=theirs)
    host = rtfm_rt.Session(model[0], device="cuda", seed=5)
    kept, wanted = [], []
    for made in (session, host):
        made.observe(picture, turn(0))
    for i in range(30):
        frame = session.step(turn(9 * i))
        with torch.cuda.stream(stream):
            tensor = torch.from_dlpack(frame)
            kept.append(tensor.clone())
        assert tensor.is_cuda and tensor.shape == SHAPE
        assert torch.as_tensor(frame, device="cuda").data_ptr() == tensor.data_ptr()
        assert np.array_equal(frame, tensor.cpu())
        wanted.append(np.array(host.step(turn(9 * i))))
        del frame, tensor
    stream.synchronize()
    assert all(np.array_equal(k.cpu(), w) for k, w in zip(kept, wanted, strict=True))


# ---- What is refused.


def test_a_stream_that_is_none(model, picture, emulation):
    with pytest.raises(rtfm_rt.DeviceError, match="stream: expected one of this device") as error:
        open_session(model[0], picture, stream=100)
    assert "lost" not in str(error.value)
    for stream in (object(), 7, "stream"):
        with pytest.raises(rtfm_rt.ArgumentError, match="__cuda_stream__, such as"):
            rtfm_rt.Session(model[0], stream=stream)


class Stream:
    """What __cuda_stream__ is to return."""

    def __init__(self, said: Any) -> None:
        self.said = said

    def __cuda_stream__(self) -> Any:
        return self.said


@pytest.mark.parametrize("said", [(1, 7), (0,), (0, "seven"), 7, (0, -1), None], ids=repr)
def test_a_stream_of_another_protocol(model, said):
    with pytest.raises(rtfm_rt.ArgumentError, match="stream: expected"):
        rtfm_rt.Session(model[0], stream=Stream(said))


def test_no_stream_on_a_cpu(model):
    with pytest.raises(rtfm_rt.ArgumentError, match=r"stream: expected none .* on cpu:"):
        rtfm_rt.Session(model[0], device="cpu", stream=Stream((0, 7)))


def test_a_copy_from_a_lost_device(session, emulation):
    frame = session.step_frame(turn(1))
    emulation.launches_left = 0
    with pytest.raises(rtfm_rt.DeviceError, match="an emulated failure"):
        np.array(frame.images)


def test_out_of_memory_for_frames(model, picture, emulation):
    session = open_session(model[0], picture, stream=7)
    frames = [session.step_frame(turn(i)) for i in range(8)]
    emulation.memory = 0
    ids = session.memory.ids
    with pytest.raises(rtfm_rt.DeviceError, match="out of memory") as error:
        session.step_frame(turn(9))
    assert "lost" not in str(error.value) and session.memory.ids == ids
    del frames[0]
    assert session.step_frame(turn(9)).id == frames[-1].id + 1
