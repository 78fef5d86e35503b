# SPDX-License-Identifier: Apache-2.0
"""The C API, called as other languages call it, does what the Python API does."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import action_models
import rtfm_rt
from conftest import INSTALL
from models import turn

PREFIX = Path(rtfm_rt.__file__).parent / "_cpp"  # the installed package, in builds for tests
ARGUMENT, POSE, MODEL, WORLD, DEVICE = range(2, 7)

pytestmark = pytest.mark.skipif(
    not PREFIX.exists(), reason=f"no C++ package in this build: {INSTALL}"
)

C_TYPES = {
    "int32_t": ctypes.c_int32,
    "int64_t": ctypes.c_int64,
    "uint64_t": ctypes.c_uint64,
    "double": ctypes.c_double,
    "char": ctypes.c_char,
    "const char*": ctypes.c_char_p,
    "rtfm_status": ctypes.c_int,
}


def structs(header: str) -> dict[str, type[ctypes.Structure]]:
    """The structs of the header as a foreign language writes them down: field by field."""
    found = {}
    plain = re.sub(r"/\*.*?\*/", "", header, flags=re.S)
    for body, name in re.findall(r"typedef struct \{(.*?)\} (\w+);", plain, re.S):
        fields = []
        for kind, names in re.findall(r"(const char\*|\w+) ([^;]+);", body):
            for field in names.split(","):
                word, count = re.fullmatch(r"\s*(\w+)(?:\[(\d+)\])?", field).groups()
                fields.append((word, C_TYPES[kind] * int(count) if count else C_TYPES[kind]))
        found[name] = type(name, (ctypes.Structure,), {"_fields_": fields})
    return found


class Library:
    """librtfm_rt.so by its C names; a call that fails raises what Python would."""

    def __init__(self) -> None:
        (path,) = {path.resolve() for path in PREFIX.glob("lib*/librtfm_rt.so")}
        self.native = ctypes.CDLL(str(path))
        self.types = structs((PREFIX / "include/rtfm_rt_c.h").read_text())
        for name in ("model_open", "session_new", "session_fork", "session_load", "slot_new"):
            getattr(self.native, f"rtfm_{name}").restype = ctypes.c_void_p
        self.native.rtfm_session_coverage.restype = ctypes.c_double
        self.native.rtfm_version.restype = ctypes.c_char_p
        for name, kind in (
            ("model_describe", "model_info"),
            ("model_action", "action_range"),
            ("default_options", "options"),
            ("session_stats", "stats"),
        ):
            getattr(self.native, f"rtfm_{name}").restype = self.types[f"rtfm_{kind}"]

    def call(self, name: str, *arguments: Any) -> Any:
        error = self.types["rtfm_error"]()
        error.status = 77
        value = getattr(self.native, f"rtfm_{name}")(*arguments, ctypes.byref(error))
        if error.status:
            raise Refused(error.status, error.message.decode())
        assert error.message == b""
        return value


class Refused(Exception):
    pass


@pytest.fixture(scope="module")
def library() -> Library:
    return Library()


def pointer(array: np.ndarray) -> Any:
    return array.ctypes.data_as(ctypes.c_void_p)


class Walk:
    """A session in C: numpy in, numpy out."""

    def __init__(self, library: Library, model: Any, session: Any):
        self.library, self.session = library, ctypes.c_void_p(session)
        info = library.native.rtfm_model_describe(model)
        self.shape = info.images, info.height, info.width, 3

    def observe(self, image: np.ndarray, pose: np.ndarray) -> None:
        self.library.call(
            "session_observe", self.session, pointer(image), pointer(pose * 1.0), None
        )

    def frame(self, name: str, *arguments: Any) -> tuple[np.ndarray, Any]:
        images = np.zeros(self.shape, np.uint8)
        receipt = self.library.types["rtfm_receipt"]()
        self.library.call(
            f"session_{name}", self.session, *arguments, pointer(images), ctypes.byref(receipt)
        )
        return images, receipt


@pytest.fixture
def opened(library, model) -> Any:
    handle = library.call("model_open", model[0].encode(), b"cpu", b"auto")
    yield ctypes.c_void_p(handle)
    library.native.rtfm_model_close(ctypes.c_void_p(handle))


@pytest.fixture
def start(library, opened) -> Callable[..., Walk]:
    def start(**changes: Any) -> Walk:
        options = library.native.rtfm_default_options()
        for name, value in changes.items():
            setattr(options, name, value)
        return Walk(library, opened, library.call("session_new", opened, ctypes.byref(options)))

    return start


def same(images: np.ndarray, receipt: Any, frame: rtfm_rt.Frame) -> None:
    np.testing.assert_array_equal(images, frame.images)
    np.testing.assert_array_equal(np.reshape(receipt.pose, (4, 4)), frame.pose)
    assert tuple(receipt.intrinsics) == frame.intrinsics
    assert receipt.context[: receipt.context_count] == frame.context
    for name in ("id", "support", "steps", "late", "committed"):
        assert getattr(receipt, name) == getattr(frame, name), name
    assert 0 < receipt.latency < 10


def test_a_walk(library, model, opened, start, picture, tmp_path):
    twin = rtfm_rt.Session(model[0], device="cpu", threads=2, seed=5, sinks=0, steps=2)
    walk = start(seed=5, threads=2, sinks=0, steps=2)
    twin.observe(picture, np.eye(4))
    walk.observe(picture, np.eye(4))
    for i in range(4):
        pose = turn(20 * i, 0.3 * i)
        same(*walk.frame("step", pointer(pose), None), twin.step(pose))
    pose = turn(100)
    same(*walk.frame("imagine", pointer(pose), None), twin.imagine([pose])[0])

    slot = ctypes.c_void_p(library.call("slot_new", pointer(np.eye(4))))
    library.call("slot_write", slot, pointer(pose))
    options = library.types["rtfm_step_options"](1e-9, (0.9, 0.7))
    frame = twin.step(pose, intrinsics=(0.9, 0.7), deadline=1e-9)
    same(*walk.frame("step_slot", slot, ctypes.byref(options)), frame)
    assert frame.late and frame.steps == 1
    library.native.rtfm_slot_free(slot)

    ids = np.zeros(3, np.int64)
    near = turn(33)
    count = library.call("session_nearest", walk.session, pointer(near), pointer(ids), 3)
    assert ids[:count].tolist() == twin.memory.nearest(near, 3)
    covered = library.call("session_coverage", walk.session, pointer(near))
    assert covered == twin.memory.coverage(near)
    moved = np.stack([turn(1), turn(2)])
    library.call("session_update_poses", walk.session, pointer(ids), pointer(moved), 2)
    twin.memory.update_pose(ids[:2], moved)
    memory, stats = library.types["rtfm_memory"](), twin.stats()
    library.call("session_memory", walk.session, ctypes.byref(memory))
    assert memory.frames == len(twin.memory) and memory.bytes == twin.memory.bytes
    told = library.native.rtfm_session_stats(walk.session)
    assert (told.frames, told.late) == (stats["frames"], stats["late"]) and told.p99 > 0

    path = f"{tmp_path}/c.world".encode()
    library.call("session_save", walk.session, path)
    branch = Walk(library, opened, library.call("session_fork", walk.session))
    again = Walk(library, opened, library.call("session_load", path, opened, None))
    wanted = twin.step(near)
    for one in (walk, branch, again):
        same(*one.frame("step", pointer(near), None), wanted)
        library.native.rtfm_session_free(one.session)


def test_a_walk_by_actions(library, tmp_path, rng):
    path = action_models.write(tmp_path / "model.safetensors", "causal")
    twin = rtfm_rt.Session(path, device="cpu:portable", threads=1)
    opened = ctypes.c_void_p(library.call("model_open", path.encode(), b"cpu:portable", b"auto"))
    walk = Walk(library, opened, library.call("session_new", opened, None))
    image = rng.integers(0, 256, (*twin.image_size, 3), np.uint8)
    twin.observe(image)
    library.call("session_observe_act", walk.session, pointer(image), None)
    ranges = [
        library.native.rtfm_model_action(opened, i)
        for i in range(library.native.rtfm_model_describe(opened).actions)
    ]
    assert {r.name.decode(): (r.min, r.max) for r in ranges} == twin.actions
    assert library.native.rtfm_model_action(opened, len(ranges)).name is None
    values = np.array([rng.uniform(r.min, r.max) for r in ranges])
    wanted = twin.imagine(actions=[values])[0]
    same(*walk.frame("imagine_act", pointer(values)), wanted)
    same(*walk.frame("act", pointer(values), None), twin.step(action=values))
    library.native.rtfm_model_close(opened)  # the session keeps what it needs
    same(*walk.frame("act", None, None), twin.step(action={}))
    library.native.rtfm_session_free(walk.session)


CONVENTIONS = ("opencv", "opengl", "openxr", "ros_optical", "ros_body", "unity")


def test_poses_of_other_conventions(library, rng):
    position, xyzw = rng.normal(size=3), rng.normal(size=4)
    xyzw /= np.linalg.norm(xyzw)
    plain = rtfm_rt.Pose.from_quaternion(position, xyzw).matrix
    pose, back = np.zeros((4, 4)), np.zeros((4, 4))
    for number, convention in enumerate(CONVENTIONS):
        wanted = rtfm_rt.Pose.from_matrix(plain, convention=convention)
        library.call("pose_from_matrix", pointer(plain), number, pointer(pose))
        np.testing.assert_allclose(pose, wanted.matrix, atol=1e-15)
        library.call(
            "pose_from_quaternion", pointer(position), pointer(xyzw), number, pointer(back)
        )
        np.testing.assert_array_equal(back, pose)
        library.call("pose_to_matrix", pointer(pose), number, pointer(back))
        np.testing.assert_allclose(back, wanted.to_matrix(convention=convention), atol=1e-15)
    eye, target, up = np.array([1.0, 2, 3]), np.array([0.0, 1, 7]), np.array([0.0, -1, 0])
    library.call("pose_look_at", pointer(eye), pointer(target), pointer(up), pointer(pose))
    wanted = rtfm_rt.Pose.look_at(eye, target, up)
    np.testing.assert_allclose(pose, wanted.matrix, atol=1e-15)
    focal = np.zeros(2)
    degrees, aspect = ctypes.c_double(70), ctypes.c_double(1.5)
    library.call("intrinsics_from_fov", degrees, aspect, pointer(focal))
    assert tuple(focal) == pytest.approx(rtfm_rt.Intrinsics.from_fov(70, aspect=1.5))

    before = pose.copy()
    for status, name, *arguments in (
        (POSE, "pose_from_matrix", pointer(np.diag([1.0, 1, -1, 1])), 0, pointer(pose)),
        (POSE, "pose_from_matrix", pointer(plain), 6, pointer(pose)),
        (POSE, "pose_from_quaternion", pointer(position), pointer(2 * xyzw), 0, pointer(pose)),
        (POSE, "pose_look_at", pointer(eye), pointer(eye), pointer(up), pointer(pose)),
        (ARGUMENT, "pose_from_matrix", None, 0, pointer(pose)),
        (ARGUMENT, "pose_to_matrix", pointer(plain), 0, None),
        (ARGUMENT, "intrinsics_from_fov", ctypes.c_double(180), aspect, pointer(focal)),
    ):
        with pytest.raises(Refused, match="expected") as refused:
            library.call(name, *arguments)
        assert refused.value.args[0] == status, (name, refused.value)
    np.testing.assert_array_equal(pose, before)


def test_what_is_refused(library, opened, start, picture):
    mirror = np.diag([1.0, 1, -1, 1])
    eye = np.eye(4)
    walk = start(seed=1)
    missing = (ctypes.c_void_p(), None)
    for status, name, *arguments in (
        (MODEL, "model_open", b"/none.safetensors", b"cpu", b"auto"),
        (DEVICE, "model_open", rtfm_rt.session.model_path("rooms").encode(), b"tpu", b"auto"),
        (ARGUMENT, "model_open", None, b"cpu", b"auto"),
        (ARGUMENT, "session_new", *missing),
        (WORLD, "session_step", walk.session, pointer(eye), None, None, None),
        (ARGUMENT, "session_observe", walk.session, None, pointer(eye), None),
        (ARGUMENT, "session_observe", walk.session, pointer(picture), None, None),
        (POSE, "session_observe", walk.session, pointer(picture), pointer(mirror), None),
        (ARGUMENT, "session_observe_act", walk.session, pointer(picture), None),
        (ARGUMENT, "session_act", walk.session, None, None, None, None),
        (WORLD, "session_load", b"/none.world", opened, None),
        (ARGUMENT, "session_nearest", walk.session, pointer(eye), None, 1),
        (POSE, "session_coverage", walk.session, pointer(mirror)),
        (POSE, "slot_new", pointer(mirror)),
    ):
        with pytest.raises(Refused) as refused:
            library.call(name, *arguments)
        assert refused.value.args[0] == status, (name, refused.value)
        assert "expected" in refused.value.args[1]
    for name in ("steps", "context", "memory_budget", "deadline", "threads"):
        with pytest.raises(Refused, match=name):
            start(**{name: 7 if name == "steps" else 1000 if name != "deadline" else -1.0})
    walk.observe(picture, eye)  # and the session is as it was
    assert library.native.rtfm_session_act(walk.session, None, None, None, None, None) == ARGUMENT
    images, receipt = walk.frame("step", pointer(eye), None)
    assert images.any() and receipt.id == 1
    library.native.rtfm_session_free(walk.session)
    library.native.rtfm_session_free(None)
    assert library.native.rtfm_version().decode() == rtfm_rt.__version__


@pytest.mark.skipif(not shutil.which("gcc"), reason="not installed: gcc")
def test_the_header_is_c99(tmp_path):
    header = PREFIX / "include/rtfm_rt_c.h"
    source = tmp_path / "alone.c"
    source.write_text(
        "#include <rtfm_rt_c.h>\nint main(void) { return rtfm_default_options().steps; }\n"
    )
    command = ["gcc", "-std=c99", "-Wall", "-Wextra", "-pedantic", "-Werror", "-fsyntax-only"]
    done = subprocess.run([*command, f"-I{header.parent}", source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
