# SPDX-License-Identifier: Apache-2.0
"""The public face: typed, documented, light to import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import rtfm_rt

HERE = Path(__file__).parent

EMBEDDING = """
from pathlib import Path

import numpy as np
import rtfm_rt

session = rtfm_rt.Session("rooms", seed=1, threads=2)
image = np.zeros((64, 64, 3), np.uint8)
start = rtfm_rt.Pose(np.eye(4))
number: int = session.observe(image, start)
frame: rtfm_rt.Frame = session.step(start, deadline=0.02, out=image)
support: float = frame.support
ticket: rtfm_rt.Ticket = session.submit(np.eye(4), deadline=0.02)
cancelled: bool = ticket.cancel()
slot = rtfm_rt.PoseSlot(start)
slot.write(np.eye(4))
session.step(slot)
session.observe(frame, start)
keys: dict[str, int] = {"forward": 1}
session.step(action=keys)
session.memory.update_pose(np.array([0, 1]), [start, np.eye(4)])
session.memory.update_pose(np.int64(0), start)
name: str = rtfm_rt.read_info(Path("rooms.safetensors"))["manifest"]["name"]
ticket.result(timeout=1.0).reproject(start)
nearest: list[int] = session.memory.nearest(start, k=2)
futures: list[rtfm_rt.Frame] = session.imagine([start, np.eye(4)])
shared: rtfm_rt.Model = session.model
"""


def run(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_stubs_match_the_native_module():
    run(
        *("-m", "mypy.stubtest", "rtfm_rt._core"),
        *("--allowlist", str(HERE / "stubtest_allowlist.txt"), "--ignore-unused-allowlist"),
    )


def test_an_application_type_checks(tmp_path):
    program = tmp_path / "embedding.py"
    program.write_text(EMBEDDING)
    run("-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(program))


def test_every_public_name_is_documented():
    for name in rtfm_rt.__all__:
        thing = getattr(rtfm_rt, name)
        assert name == "__version__" or thing.__doc__, name
    for cls in (rtfm_rt.Session, rtfm_rt.Frame, rtfm_rt.Memory, rtfm_rt.Pose):
        for name in dir(cls):
            if not name.startswith("_") and callable(getattr(cls, name)):
                assert getattr(cls, name).__doc__, f"{cls.__name__}.{name}"


def test_import_needs_numpy_only():
    program = "import sys, rtfm_rt; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    loaded = set(run("-c", program).split())
    assert "numpy" in loaded
    assert not loaded & {"torch", "PIL", "av", "rich", "safetensors", "asyncio"}
