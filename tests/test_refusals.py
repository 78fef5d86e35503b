# SPDX-License-Identifier: Apache-2.0
"""What a session refuses: with a typed error that says expected and got, and nothing changed."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rtfm_rt
from models import TINY, turn
from rtfm_rt.session import model_path

HEIGHT, WIDTH = TINY.height, TINY.image_width


def pixels(frame: rtfm_rt.Frame) -> np.ndarray:
    return np.array(frame)


BAD_POSES = {
    "nan": np.full((4, 4), np.nan),
    "zero": np.zeros((4, 4)),
    "scaled": np.diag([2.0, 2.0, 2.0, 1.0]),
    "mirrored": np.diag([-1.0, 1.0, 1.0, 1.0]),
    "far": np.block([[np.eye(3), np.full((3, 1), 1e7)], [np.zeros((1, 3)), np.ones((1, 1))]]),
    "row": np.eye(4)[0],
    "3x4": np.eye(4)[:3],
    "stack": np.eye(4)[None],
    "text": "forward",
    "none": None,
    "complex": np.eye(4) * 1j,
    "ragged": [[1, 0], [0]],
}
BAD_IMAGES = {
    "float": np.zeros((HEIGHT, WIDTH, 3)),
    "int64": np.zeros((HEIGHT, WIDTH, 3), np.int64),
    "grey": np.zeros((HEIGHT, WIDTH), np.uint8),
    "rgba": np.zeros((HEIGHT, WIDTH, 4), np.uint8),
    "turned": np.zeros((WIDTH, HEIGHT, 3), np.uint8),
    "text": "image.png",
    "none": None,
}
READ_ONLY = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
READ_ONLY.flags.writeable = False
BAD_OUTS = {
    "shape": np.zeros((HEIGHT, WIDTH, 4), np.uint8),
    "dtype": np.zeros((HEIGHT, WIDTH, 3), np.int8),
    "read-only": READ_ONLY,
    "strided": np.zeros((HEIGHT, WIDTH * 2, 3), np.uint8)[:, ::2],
    "fortran": np.zeros((HEIGHT, WIDTH, 3), np.uint8, order="F"),
    "list": [0],
}
BAD_INTRINSICS = {
    "zero": (0.0, 1.0),
    "negative": (0.6, -0.6),
    "nan": (np.nan, 1),
    "infinite": (np.inf, 1),
    "one": (0.6,),
    "text": "wide",
    "number": 0.6,
}


def bad_calls() -> dict[str, tuple[type, object]]:
    """name -> (error, call): everything that an application may get wrong on a live session."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    calls: dict[str, tuple[type, object]] = {}
    for name, bad in BAD_POSES.items():
        calls[f"step pose {name}"] = (rtfm_rt.PoseError, lambda s, b=bad: s.step(b))
        calls[f"observe pose {name}"] = (rtfm_rt.PoseError, lambda s, b=bad: s.observe(image, b))
        calls[f"imagine pose {name}"] = (
            rtfm_rt.PoseError,
            lambda s, b=bad: s.imagine([np.eye(4), b]),
        )
    for name, bad in BAD_IMAGES.items():
        calls[f"image {name}"] = (
            rtfm_rt.ArgumentError,
            lambda s, b=bad: s.observe(b, np.eye(4)),
        )
    for name, bad in BAD_OUTS.items():
        calls[f"out {name}"] = (
            rtfm_rt.ArgumentError,
            lambda s, b=bad: s.step(np.eye(4), out=b),
        )
    for name, bad in BAD_INTRINSICS.items():
        calls[f"step intrinsics {name}"] = (
            rtfm_rt.ArgumentError,
            lambda s, b=bad: s.step(np.eye(4), intrinsics=b),
        )
        calls[f"observe intrinsics {name}"] = (
            rtfm_rt.ArgumentError,
            lambda s, b=bad: s.observe(image, np.eye(4), intrinsics=b),
        )
    calls["step action"] = (rtfm_rt.ArgumentError, lambda s: s.step(action={"forward": 1}))
    calls["observe action"] = (
        rtfm_rt.ArgumentError,
        lambda s: s.observe(image, np.eye(4), action={"forward": 1}),
    )
    calls["imagine actions"] = (rtfm_rt.ArgumentError, lambda s: s.imagine(actions=[{}]))
    calls["imagine nothing"] = (rtfm_rt.ArgumentError, lambda s: s.imagine())
    for bad in (0, -1.0, np.nan, np.inf, "soon"):
        calls[f"deadline {bad}"] = (
            rtfm_rt.ArgumentError,
            lambda s, b=bad: s.step(np.eye(4), deadline=b),
        )
    return calls


BAD_CALLS = bad_calls()


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.sampled_from(sorted(BAD_CALLS)), min_size=1, max_size=6))
def test_a_refused_call_leaves_the_session_as_it_was(model, picture, names):
    """Any sequence of bad calls, then a walk: bit-identical to the twin that never saw them."""

    def walk(mistakes: list[str]) -> tuple[list[bytes], list[int]]:
        session = rtfm_rt.Session(model[0], seed=2, threads=1, commit_below=0.97)
        session.observe(picture, np.eye(4))
        frames = []
        for i in range(3):
            for name in mistakes:
                error, call = BAD_CALLS[name]
                with pytest.raises(error):
                    call(session)
            frames.append(pixels(session.step(turn(20 * i))).tobytes())
        return frames, session.memory.ids

    assert walk(names) == walk([])


@pytest.mark.parametrize("name", sorted(BAD_CALLS))
def test_errors_say_expected_and_got(session, name):
    error, call = BAD_CALLS[name]
    with pytest.raises(error) as caught:
        call(session)
    assert isinstance(caught.value, rtfm_rt.Error) and isinstance(caught.value, ValueError)
    message = str(caught.value)
    assert "expected" in message and "got" in message and len(message) < 300


def test_a_step_before_any_observe(model):
    session = rtfm_rt.Session(model[0])
    for call in (lambda: session.step(np.eye(4)), lambda: session.imagine([np.eye(4)])):
        with pytest.raises(rtfm_rt.WorldError, match="observe"):
            call()
    assert session.stats()["frames"] == 0 and len(session.memory) == 0


@pytest.mark.parametrize(
    "options, error, words",
    [
        ({"device": "tpu"}, rtfm_rt.DeviceError, "tpu"),
        ({"device": "cpu:"}, rtfm_rt.DeviceError, "cpu:"),
        ({"device": "cpu:mmx"}, rtfm_rt.DeviceError, "mmx"),
        ({"device": "cuda"}, rtfm_rt.DeviceError, "CUDA"),
        ({"device": "cuda:1"}, rtfm_rt.DeviceError, "cuda:1"),
        ({"device": ""}, rtfm_rt.DeviceError, "expected"),
        ({"device": "cpu:avx2", "precision": "bfloat16"}, rtfm_rt.DeviceError, "bfloat16"),
        ({"precision": "half"}, rtfm_rt.DeviceError, "half"),
        ({"device": None}, rtfm_rt.ArgumentError, "device: expected .*, got None"),
        ({"device": 0}, rtfm_rt.ArgumentError, "device: expected .*, got 0"),
        ({"precision": None}, rtfm_rt.ArgumentError, "precision: expected .*, got None"),
        ({"precision": np.float32}, rtfm_rt.ArgumentError, "precision: expected .*, got <class"),
        ({"threads": 0}, rtfm_rt.ArgumentError, "threads"),
        ({"threads": 10_000}, rtfm_rt.ArgumentError, "threads"),
        ({"threads": "all"}, rtfm_rt.ArgumentError, "threads"),
        ({"seed": -1}, rtfm_rt.ArgumentError, "seed"),
        ({"seed": 2**64}, rtfm_rt.ArgumentError, "seed"),
        ({"context": 0}, rtfm_rt.ArgumentError, "context"),
        ({"context": 33}, rtfm_rt.ArgumentError, "context"),
        ({"sinks": 3, "recent": 2}, rtfm_rt.ArgumentError, "sinks"),
        ({"sinks": 9}, rtfm_rt.ArgumentError, "got 9 and 0"),
        ({"steps": 3}, rtfm_rt.ArgumentError, "1, 2, 4"),
        ({"memory_budget": 1000}, rtfm_rt.ArgumentError, "memory_budget"),
        ({"memory_budget": -5}, rtfm_rt.ArgumentError, "memory_budget"),
        ({"deadline": 0}, rtfm_rt.ArgumentError, "deadline"),
        ({"deadline": np.inf}, rtfm_rt.ArgumentError, "finite .*None.*, got inf"),
        ({"commit_below": -1}, rtfm_rt.ArgumentError, "commit_below"),
    ],
)
def test_bad_options(model, options, error, words):
    with pytest.raises(error, match=words) as caught:
        rtfm_rt.Session(model[0], **options)
    assert isinstance(caught.value, rtfm_rt.Error)


@pytest.mark.parametrize("option", ["device", "precision"])
def test_a_model_of_no_device(option):
    with pytest.raises(rtfm_rt.ArgumentError, match=f"{option}: expected .*, got None"):
        rtfm_rt.Model("rooms", **{option: None})


def test_bad_models(tmp_path):
    with pytest.raises(rtfm_rt.ModelError, match="nowhere"):
        rtfm_rt.Session(str(tmp_path / "nowhere.safetensors"))
    for call in (rtfm_rt.Session, rtfm_rt.Model, rtfm_rt.read_info):
        with pytest.raises(rtfm_rt.ModelError, match=r"model: expected .* got NoneType"):
            call(None)
    with pytest.raises(rtfm_rt.ModelError):
        rtfm_rt.Session(str(tmp_path))
    for name in ("b\0.safetensors", b"b\0.safetensors", Path("b\0"), "b\ud800"):  # no bytes at all
        shown = r"path: expected the name of a file, got '.*b\\(x00|ud800).*':"
        for call in (rtfm_rt.Session, rtfm_rt.Model, rtfm_rt.read_info):
            with pytest.raises(rtfm_rt.ModelError, match=shown):
                call(name)
    with pytest.raises(rtfm_rt.ArgumentError, match="cublas: expected the name of a file"):
        rtfm_rt.Model("rooms", cublas="b\0")


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are any bytes")
def test_names_of_files_that_are_not_utf_8(tmp_path):
    name = os.fsencode(tmp_path) + b"/b\xff\xfe.safetensors"
    for call in (rtfm_rt.Session, rtfm_rt.Model, rtfm_rt.read_info):
        with pytest.raises(rtfm_rt.ModelError, match=r"/b\\xff\\xfe\.safetensors: .*No such file"):
            call(name)
    shutil.copy(model_path("rooms"), name)
    for path in (name, os.fsdecode(name), Path(os.fsdecode(name))):
        assert rtfm_rt.read_info(path) == rtfm_rt.read_info("rooms")
        model = rtfm_rt.Model(path, "cpu", cublas=path)
        assert os.fsencode(model.path) == name
        assert model.sha256 == rtfm_rt.Model("rooms", "cpu").sha256
