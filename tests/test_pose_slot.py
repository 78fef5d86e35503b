# SPDX-License-Identifier: Apache-2.0
"""The pose that is written late: never torn, the newest one, and the one that the frame names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import emulated
import rtfm_rt
from models import turn, write_model
from rtfm_rt import _testing
from rtfm_rt.reference import Config


@pytest.mark.parametrize("writers", [1, 2])
def test_a_pose_is_never_torn(writers):
    """While threads write as fast as they can: every pose whole, none older than the one before."""
    seen = _testing.hammer_pose_slot(writers, 20_000)
    assert seen == {"torn": 0, "backwards": 0, "changes": 20_000}


def test_a_slot_holds_the_pose_written_last():
    slot = rtfm_rt.PoseSlot(turn(3))
    assert np.array_equal(slot.read(), turn(3))
    slot.write(rtfm_rt.Pose(turn(8, 0.5)))
    assert np.array_equal(slot.read(), turn(8, 0.5)) and slot.read().dtype == np.float64
    assert np.array_equal(np.asarray(slot), turn(8, 0.5))
    assert np.asarray(slot, np.float32).dtype == np.float32
    slot.write(rtfm_rt.PoseSlot(turn(1)))
    assert rtfm_rt.Pose(slot) == rtfm_rt.Pose(turn(1))


@pytest.mark.parametrize(
    "bad", [np.full((4, 4), np.nan), np.zeros((4, 4)), np.eye(3), "here", None], ids=repr
)
def test_a_pose_is_refused_when_it_is_written(bad):
    slot = rtfm_rt.PoseSlot(turn(3))
    with pytest.raises(rtfm_rt.PoseError, match="pose: expected"):
        slot.write(bad)
    assert np.array_equal(slot.read(), turn(3))
    with pytest.raises(rtfm_rt.PoseError, match="pose: expected"):
        rtfm_rt.PoseSlot(bad)


def test_a_frame_is_that_of_the_pose_it_names(session, model, picture):
    twin = rtfm_rt.Session(model[0], device="cpu", threads=2, seed=11)
    twin.observe(picture, np.eye(4))
    slot = rtfm_rt.PoseSlot(np.eye(4))
    for i in range(8):
        slot.write(turn(15 * i, 0.1 * i))
        frame = session.step(slot, intrinsics=(0.6, 0.7))
        assert np.array_equal(frame.pose, turn(15 * i, 0.1 * i)) and frame.intrinsics == (0.6, 0.7)
        assert np.array_equal(frame, twin.step(frame.pose, intrinsics=(0.6, 0.7)))
    assert session.memory.ids == twin.memory.ids and len(session.memory) > 2
    assert np.array_equal(session.memory.poses, twin.memory.poses)


def test_a_slot_is_a_pose_wherever_one_is_taken(session, picture):
    slot = rtfm_rt.PoseSlot(turn(40))
    assert session.observe(picture, slot) == 1
    slot.write(turn(41))
    assert np.array_equal(session.memory.poses[1], turn(40))
    assert session.memory.nearest(slot) == [1] and session.memory.coverage(slot) > 0.9
    assert np.array_equal(session.imagine([slot])[0], session.imagine([turn(41)])[0])
    assert np.array_equal(session.step(turn(0)).reproject(slot).pose[:3, :3], turn(41)[:3, :3])


def test_a_queued_step_takes_the_pose_of_its_turn():
    session = rtfm_rt.Session("rooms", threads=1)
    session.observe(np.zeros((64, 64, 3), np.uint8), np.eye(4))
    slot = rtfm_rt.PoseSlot(turn(1))
    with session:
        before = [session.submit(turn(0)) for _ in range(10)]
        late, fixed = session.submit(slot), session.submit(slot.read())
        slot.write(turn(7))
        assert not before[-1].done()
        assert np.array_equal(late.result(60).pose, turn(7))
        assert np.array_equal(fixed.result(60).pose, turn(1))


# ---- On a device that computes beside its caller: the poses that arrive while it is still at work.


@pytest.fixture
def emulation() -> Iterator[Any]:
    """What emulated devices do; nobody waits for them any more when the test is over."""
    state = _testing.cuda_emulation()
    yield state
    state.on_wait = None


def busy_session(path: str, picture: np.ndarray, **options: Any) -> emulated.Session:
    """One that has just committed a frame: its page is still being encoded."""
    session = emulated.Session(path, device="cuda:emulated", seed=5, commit_below=2.0, **options)
    session.observe(picture, turn(0))
    session.step(turn(5))
    return session


def test_a_pose_written_while_the_device_is_at_work(model, picture, emulation):
    session, twin = (busy_session(model[0], picture) for _ in range(2))
    slot = rtfm_rt.PoseSlot(turn(10))
    written = iter([turn(11), turn(12)])  # while the page is encoded, while the frame is made
    emulation.on_wait = lambda: slot.write(next(written))
    frame = session.step(slot)
    emulation.on_wait = None
    assert np.array_equal(frame.pose, turn(11)) and np.array_equal(slot.read(), turn(12))
    assert np.array_equal(frame, twin.step(turn(11)))


def test_a_pose_written_while_a_missing_page_is_encoded(tmp_path, picture, emulation):
    """The context, the frame and what is remembered of it all belong to the newer pose."""
    path = tmp_path / "deep.safetensors"
    write_model(path, Config(16, 16, patch=8, width=64, layers=8, heads=2, mlp=64))
    session = busy_session(str(path), picture[:, :16], memory_budget=120_000)
    for i in range(30):
        session.step(turn(12 * i))
    slot = rtfm_rt.PoseSlot(np.eye(4))
    encoded = 0
    for i in range(30):
        first, second = turn(12 * i + 1.01), turn(12 * i + 1.02)
        slot.write(turn(12 * i + 1))
        written = iter([first, *[second] * 4])
        before = session.fork()
        emulation.on_wait = lambda written=written: slot.write(next(written))
        frame = session.step(slot)
        emulation.on_wait = None
        late = np.array_equal(frame.pose, second)  # a page was missed: there was time for two
        assert late or np.array_equal(frame.pose, first)
        encoded += late
        dream = before.imagine([frame.pose])[0]
        assert frame.context == dream.context and np.array_equal(frame, dream)
        assert frame.committed and frame.id == session.memory.ids[-1]
        assert np.array_equal(session.memory.poses[-1], frame.pose)
    assert 3 < encoded < 30
