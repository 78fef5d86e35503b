# SPDX-License-Identifier: Apache-2.0
"""Memory that gives out in the middle of a call: the session is as it was, or says it is lost."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import native_worlds
import rtfm_rt
from models import turn
from native_worlds import Maker


def imagine(maker: Maker, session: Any, _: str) -> bytes:
    where = maker.moves(3, 1)[0]
    return session.imagine(where) if maker.kind == "poses" else session.imagine_act(where)


# A call of each kind, of a session and a file that is not there yet.
CALLS: dict[str, Callable[[Maker, Any, str], Any]] = {
    "step": lambda maker, session, path: maker.walk(session, 3, 1),
    "observe": lambda maker, session, path: maker.observe(session, 7),
    "imagine": imagine,
    "move": lambda maker, session, path: session.move(session.ids[-1], turn(40)),
    "save": lambda maker, session, path: session.save(path),
    "fork": lambda maker, session, path: session.fork(),
    "ids": lambda maker, session, path: session.ids,
}
CHANGING = ("step", "observe", "imagine", "move", "save")

BRANCH = """
import resource, numpy as np, rtfm_rt
from rtfm_rt import paths

poses = paths.orbit(24)

def begin():
    session = rtfm_rt.Session(threads=1, memory_budget=32 << 20, commit_below=2.0)
    session.observe(np.zeros((64, 64, 3), np.uint8), poses[0])
    for pose in poses:
        session.step(pose)
    return session

def walk(session):
    return [np.array(session.step(pose)).tobytes() for pose in poses[::3]]

session, expected = begin(), walk(begin())
branch = session.fork()
branch.step(poses[1])
with open("/proc/self/statm") as pages:
    most = int(pages.read().split()[0]) * resource.getpagesize() + 2**20
before = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
try:
    for pose in 9 * list(poses):
        branch.step(pose)
except MemoryError as error:
    print("MemoryError")
resource.setrlimit(resource.RLIMIT_AS, before)
try:
    branch.step(poses[1])
except rtfm_rt.WorldError as error:
    print(error)
print(branch.stats()["frames"] > 0, walk(session) == expected)
"""


def is_lost(maker: Maker, session: Any, path: str) -> bool:
    """One that is says so at every call."""
    try:
        session.ids  # noqa: B018
    except rtfm_rt.WorldError:
        for call in CALLS.values():
            with pytest.raises(rtfm_rt.WorldError, match="middle of a change; go on from a branch"):
                call(maker, session, path)
        return True
    return False


@pytest.mark.parametrize("fails", ["session", "branch"])
@pytest.mark.parametrize("name", CHANGING)
@pytest.mark.parametrize("kind", native_worlds.KINDS)
def test_an_allocation_fails(
    world_models: dict[str, str],
    testing: ModuleType,
    kind: str,
    name: str,
    fails: str,
    tmp_path: Path,
) -> None:
    """The first, the second and so on: the session is as it was, or lost, which never spreads."""
    maker = Maker(kind, world_models[kind], testing.WorldSession)
    parent = maker.start(True, 60)  # by poses more than the budget has room for
    expected = maker.walk(maker.start(True, 60), 9, 3)
    engines = [parent.fork(), parent.fork(), parent.fork()]
    for branch in engines:  # which they leave behind
        maker.walk(branch, 1, 1)
    del engines, branch
    lost, nth = [], 1
    while True:
        session = parent.fork()
        branch = session.fork()
        one, other = (session, branch) if fails == "session" else (branch, session)
        one.fails = nth
        try:
            CALLS[name](maker, one, str(tmp_path / f"{nth}"))
            break
        except MemoryError:
            lost.append(is_lost(maker, one, str(tmp_path / f"{nth}.later")))
        if not lost[-1]:
            assert maker.walk(one, 9, 3) == expected, nth
        assert maker.walk(other, 9, 3) == expected, nth
        nth += 1 + nth // 16  # a save allocates a thousand times
    assert maker.walk(parent, 9, 3) == expected
    assert not lost[0]  # what a frame needs beside the world comes first
    assert any(lost) == (name != "imagine" or kind == "recompute")  # dreams change no world


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_a_branch_runs_out_of_memory() -> None:
    """As the system says it: the branch is lost, and what it is a branch of goes on to the bit."""
    done = subprocess.run([sys.executable, "-c", BRANCH], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    error, lost, rest = done.stdout.splitlines()
    assert error == "MemoryError" and "middle of a change" in lost and rest == "True True"
