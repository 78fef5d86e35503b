# SPDX-License-Identifier: Apache-2.0
"""Between Python and the runtime: objects half made, Ctrl-C, arrays from other processes."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch

import rtfm_rt
from action_models import write
from models import TINY, turn

SHAPE = (TINY.height, TINY.image_width, 3)

LITTLE_ROOM = """
import resource, rtfm_rt
rtfm_rt.Session("rooms", threads=1)
pages = int(open("/proc/self/statm").read().split()[0])
most = pages * resource.getpagesize() + 2**30
resource.setrlimit(resource.RLIMIT_AS, (most, most))
try:
    rtfm_rt.Session("rooms", threads=1, memory_budget=2**36)
except rtfm_rt.ArgumentError as error:
    print(error)
print(rtfm_rt.Session("rooms", threads=1).memory.budget)
"""

# A daemon is in the library at any moment of the exit. What it does is an expression of `session`
# and `frame`; a step through a hole is one that raises.
DAEMONS = """
import sys, threading, time
import numpy as np, rtfm_rt
session = rtfm_rt.Session("rooms", threads=1)
session.observe(np.zeros((64, 64, 3), np.uint8), np.eye(4))
frame = session.step(np.eye(4))
class Slow:
    def __array__(self, *_, **__):
        sum(0 for _ in range(10**5))
        return np.eye(4)
    def __iter__(self):
        for _ in range(20):
            yield Slow()
begun = threading.Semaphore(0)
def loop():
    while True:
        begun.release()
        try:
            {call}
        except rtfm_rt.Error:
            pass
for _ in range({threads}):
    threading.Thread(target=loop, daemon=True).start()
for _ in range(2 * {threads}):
    begun.acquire()
time.sleep({seconds})
"""


# ---- Objects whose __init__ has not run, or has failed


def unmade(cls: type) -> object:
    return cls.__new__(cls)


@pytest.mark.parametrize(
    "cls, use",
    [
        (rtfm_rt.Session, lambda s: s.step(np.eye(4))),
        (rtfm_rt.Session, lambda s: s.stats()),
        (rtfm_rt.Session, lambda s: s.image_size),
        (rtfm_rt.Session, lambda s: s.memory),
        (rtfm_rt.Session, lambda s: s.fork()),
        (rtfm_rt.Model, lambda m: m.device),
        (rtfm_rt.Model, lambda m: rtfm_rt.Session(m)),
        (rtfm_rt.PoseSlot, lambda p: p.read()),
        (rtfm_rt.PoseSlot, lambda p: p.write(np.eye(4))),
        (rtfm_rt.Memory, lambda m: m.ids),
        (rtfm_rt.Frame, lambda f: f.latency),
        (rtfm_rt.Frame, lambda f: f.images),
        (rtfm_rt.Frame, repr),
    ],
)
def test_an_object_that_was_never_made_is_refused(cls, use):
    with pytest.raises(rtfm_rt.WorldError, match=f"{cls.__name__}.*super"):
        use(unmade(cls))


def test_a_slot_that_was_never_made_is_no_pose(session):
    with pytest.raises(rtfm_rt.PoseError, match=r"super\(\).__init__"):
        session.step(unmade(rtfm_rt.PoseSlot))


def test_a_subclass_that_begins_too_early():
    class Robot(rtfm_rt.Session):
        def __init__(self) -> None:
            self.size = self.image_size
            super().__init__("rooms")

    with pytest.raises(rtfm_rt.WorldError, match=r"call super\(\).__init__"):
        Robot()


def test_a_subclass_that_could_not_be_made_ends(tmp_path):
    ends: list[object] = []

    class Robot(rtfm_rt.Session):
        def __del__(self) -> None:
            try:
                ends.append(self.stats())
            except rtfm_rt.WorldError as error:
                ends.append(type(error))

    with pytest.raises(rtfm_rt.ModelError):
        Robot(str(tmp_path / "nowhere.safetensors"))
    assert ends == [rtfm_rt.WorldError]


# ---- Ctrl-C


class Interrupted:
    """Something that Ctrl-C meets while NumPy makes an array of it."""

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        raise KeyboardInterrupt


@pytest.fixture(scope="module")
def by_actions(tmp_path_factory):
    return write(tmp_path_factory.mktemp("binding") / "keep.safetensors", "keep")


def test_ctrl_c_is_no_refusal(session, by_actions):
    moved = rtfm_rt.Session(by_actions, threads=1)
    for call in (
        lambda: session.step(Interrupted()),
        lambda: session.observe(Interrupted(), np.eye(4)),
        lambda: session.memory.nearest(Interrupted()),
        lambda: moved.step(action=Interrupted()),
    ):
        with pytest.raises(KeyboardInterrupt):
            call()


def test_ctrl_c_between_imagined_frames(session):
    """The handler runs while frames are made, not once after the last of them."""
    heard = []

    def fifth(*_: object) -> None:
        heard.append(None)
        if len(heard) == 5:
            raise KeyboardInterrupt

    def poses():
        yield from [np.eye(4)] * 2000
        signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)  # all are read

    before = signal.signal(signal.SIGALRM, fifth)
    try:
        with pytest.raises(KeyboardInterrupt):
            session.imagine(poses())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert np.array_equal(session.imagine([turn(5)])[0], session.step(turn(5)))


# ---- The end of the interpreter


@pytest.mark.parametrize(
    "call, threads",
    [
        ("session.step(np.eye(4))", 1),
        ("session.imagine([np.eye(4)] * 100)", 1),
        ("frame.reproject(np.eye(4))", 2),
        ("rtfm_rt.Model('rooms', 'cpu')", 1),
        ("session.imagine(Slow())", 3),  # Python within the library
        ("rtfm_rt.Session(session.model, steps=99)", 2),  # an exception passes as it ends
    ],
)
def test_an_exit_with_daemon_threads_in_the_library(call, threads):
    for run in range(3):
        program = DAEMONS.format(call=call, threads=threads, seconds=run * 0.005)
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


# ---- What NumPy says, and arrays that were elsewhere


def test_a_refused_array_says_what_numpy_said(session, by_actions):
    tensor = torch.eye(4, requires_grad=True)
    with pytest.raises(rtfm_rt.PoseError, match=r"got a Tensor.*detach"):
        session.step(tensor)
    with pytest.raises(rtfm_rt.ArgumentError, match=r"image: .*inhomogeneous"):
        session.observe([[1], [2, 3]], np.eye(4))
    moved = rtfm_rt.Session(by_actions, threads=1)
    with pytest.raises(rtfm_rt.ArgumentError, match=r"action: .*got a list \(.*to float"):
        moved.step(action=["left"])


def test_arrays_that_were_pickled(session, picture):
    """Their dtype is equal to NumPy's own, and another object."""
    sent = pickle.loads(pickle.dumps(picture))
    assert sent.dtype is not picture.dtype
    assert session.observe(sent, turn(3)) == 1
    assert np.array_equal(session.memory.image(1), picture)
    out = pickle.loads(pickle.dumps(np.zeros(SHAPE, np.uint8)))
    assert np.array_equal(session.step(turn(4), out=out), out)


class Names(dict[str, float]):
    pass


class Table(Mapping[str, float]):
    """A mapping that is no dict."""

    def __init__(self, **values: float) -> None:
        self.values_of = values

    def __getitem__(self, name: str) -> float:
        return self.values_of[name]

    def __iter__(self):
        return iter(self.values_of)

    def __len__(self) -> int:
        return len(self.values_of)


def test_actions_are_any_mapping(by_actions):
    def frame(make) -> bytes:
        session = rtfm_rt.Session(by_actions, threads=1, seed=4)
        session.observe(np.full((*session.image_size, 3), 90, np.uint8))
        name = next(iter(session.actions))
        return np.asarray(session.step(action=make(**{name: 1}))).tobytes()

    want = frame(dict)
    assert all(frame(kind) == want for kind in (Names, Table, lambda **v: MappingProxyType(v)))


# ---- Words for options


def test_ids_of_numpy(session, picture):
    session.observe(picture, turn(9))
    for ids, poses in (
        (np.int64(1), turn(10)),
        (np.uint8(1), turn(11)),
        (np.array([0, 1]), np.stack([turn(12), turn(13)])),
        ([np.int32(1)], [turn(14)]),
    ):
        session.memory.update_pose(ids, poses)
        moved = np.atleast_1d(ids)
        assert np.array_equal(session.memory.poses[moved], np.reshape(poses, (-1, 4, 4)))


@pytest.mark.parametrize(
    "ids, poses, words",
    [
        ([0], None, "poses: expected .*, got a NoneType"),
        ([0], 7, "poses: expected .*, got a int"),
        (None, [], "ids: expected .*, got None"),
        (2**70, np.eye(4), "ids: expected .*, got 1180591620717411303424"),
        (0.5, np.eye(4), r"ids: expected .*, got 0\.5"),
    ],
)
def test_re_posing_says_what_it_got(session, ids, poses, words):
    with pytest.raises(rtfm_rt.ArgumentError, match=words):
        session.memory.update_pose(ids, poses)
    assert np.array_equal(session.memory.poses, np.eye(4)[None])


def test_information_about_a_model(model, by_actions):
    assert rtfm_rt.read_info(Path(by_actions)) == rtfm_rt.read_info(by_actions)
    assert rtfm_rt.read_info("rooms")["manifest"]["name"] == "rooms"
    with pytest.raises(rtfm_rt.ModelError, match=r"\./rooms"):
        rtfm_rt.read_info("./rooms")


@pytest.mark.skipif(sys.platform != "linux", reason="limits an address space")
def test_a_budget_that_the_system_refuses():
    """As one above all memory is, or any where memory is counted when it is reserved."""
    done = subprocess.run([sys.executable, "-c", LITTLE_ROOM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    error, budget = done.stdout.splitlines()
    assert error.startswith("memory_budget: expected ") and "got 68719476736" in error
    assert budget == str(2**29)
