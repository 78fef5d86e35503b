# SPDX-License-Identifier: Apache-2.0
"""A world larger than its pages: nothing is forgotten, nothing stalls, dreams leave no trace."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import rtfm_rt
from models import turn, write_model
from rtfm_rt.reference import Config

DEEP = Config(height=16, image_width=16, patch=8, width=64, layers=8, heads=2, mlp=64)
PAGE = 8 * 2 * 4 * 64 * 4  # layers, K and V, tokens, width, bytes
IMAGE = 16 * 16 * 3
SMALL = 12 * PAGE  # room for 71 frames and 8 pages
FRAMES = 60  # one every 6 degrees

GIVEN_BACK = """
import resource, rtfm_rt

model = rtfm_rt.Model()

def resident():
    with open("/proc/self/statm") as numbers:
        return int(numbers.read().split()[1]) * resource.getpagesize() >> 20

before = resident()
for _ in range(4):
    sessions = [rtfm_rt.Session(model, threads=1, memory_budget=100 << 20) for _ in range(20)]
    most = resident()
    del sessions
    print(most - before, resident() - before)
"""


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("memory") / "deep.safetensors"
    write_model(path, DEEP, 9)
    return str(path)


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (FRAMES, 16, 16, 3), np.uint8)


def observed(deep: str, pictures: np.ndarray, budget: int | None) -> rtfm_rt.Session:
    """A world of pictures all around, to which steps add nothing."""
    session = rtfm_rt.Session(
        deep, device="cpu:portable", memory_budget=budget, commit_below=0, threads=1
    )
    for i, picture in enumerate(pictures):
        session.observe(picture, turn(6 * i))
    return session


def test_all_frames_are_kept_though_few_pages_fit(deep, pictures):
    memory = observed(deep, pictures, SMALL).memory
    assert len(memory) == FRAMES and memory.evicted == 0
    assert 5 <= memory.resident < 12
    assert memory.bytes == memory.resident * PAGE + FRAMES * IMAGE <= SMALL
    assert all(np.array_equal(memory.image(i), pictures[i]) for i in range(FRAMES))


def test_a_place_left_long_ago_is_the_same_place(deep, pictures):
    """What was dropped is encoded again from its pixels, to the bit."""
    small, large = observed(deep, pictures, SMALL), observed(deep, pictures, None)
    assert large.memory.resident == FRAMES
    for angle in (100, 280, 10, 190):
        for _ in range(small.context):  # one page a step comes back
            one, other = small.step(turn(angle)), large.step(turn(angle))
        assert one.context == other.context and one.support == other.support
        assert np.array_equal(one, other)


def test_a_miss_costs_one_page_a_step_the_most_useful_first(deep, pictures):
    session, large = (observed(deep, pictures, budget) for budget in (SMALL, None))
    best = large.step(turn(180))
    supports = [session.step(turn(180)).support for _ in range(session.context)]
    assert supports[0] > 0.5 and supports == sorted(supports) and supports[-1] == best.support


def test_walking_on_finds_its_pages_ready(deep, pictures):
    """At a steady pace the page wanted next is encoded one step ahead."""
    small, large = observed(deep, pictures, SMALL), observed(deep, pictures, None)
    ready = 0
    for i in range(2 * FRAMES):
        pose = turn(6 * i + 3)
        ready += small.step(pose).context == large.step(pose).context
    assert ready >= 0.9 * 2 * FRAMES


def test_dreams_leave_no_trace_when_pages_are_missing(deep, pictures):
    dreamer, twin = observed(deep, pictures, SMALL), observed(deep, pictures, SMALL)
    for angle in (90, 200, 95, 300):
        dreams = dreamer.imagine([turn(angle), turn(angle + 120), turn(angle)])
        assert np.array_equal(dreams[0], dreams[2])
        real = dreamer.step(turn(angle))
        assert np.array_equal(real, dreams[0]) and real.context == dreams[0].context
        assert np.array_equal(real, twin.step(turn(angle)))
        assert dreamer.memory.resident == twin.memory.resident


def test_views_are_not_committed_again_because_their_pages_are_missing(deep, pictures):
    session = rtfm_rt.Session(
        deep, device="cpu:portable", memory_budget=SMALL, commit_below=0.9, threads=1
    )
    for i, picture in enumerate(pictures):
        session.observe(picture, turn(6 * i))
    for angle in range(0, 720, 37):
        session.step(turn(angle))
    assert len(session.memory) == FRAMES


def test_a_loop_closure_moves_frames_together_or_not_at_all(deep, pictures):
    moved, direct = observed(deep, pictures[:10], None), observed(deep, pictures[:5], None)
    for i in range(5, 10):
        direct.observe(pictures[i], turn(6 * i, 0.5))
    poses = [turn(6 * i, 0.5) for i in range(5, 10)]
    before = moved.memory.poses
    for ids, bad, error in (
        ([5, 6, 7, 8, 99], poses, rtfm_rt.WorldError),
        ([5, 6, 7, 8, 9], poses[:4], rtfm_rt.ArgumentError),
        ([5, 6], [poses[0], np.zeros((4, 4))], rtfm_rt.PoseError),
        ("all", poses, rtfm_rt.ArgumentError),
    ):
        with pytest.raises(error):
            moved.memory.update_pose(ids, bad)
        assert np.array_equal(moved.memory.poses, before)
    moved.memory.update_pose([5, 6, 7, 8, 9], poses)
    assert np.array_equal(moved.memory.poses, direct.memory.poses)
    for angle in (30, 50, 45):
        assert np.array_equal(moved.step(turn(angle)), direct.step(turn(angle)))


def test_the_image_of_a_committed_frame(session):
    frame = session.step(turn(70))
    assert frame.committed
    assert np.array_equal(session.memory.image(frame.id), frame)
    with pytest.raises(rtfm_rt.WorldError, match="99"):
        session.memory.image(99)


def test_a_full_memory_forgets_and_goes_on(deep, pictures):
    session = rtfm_rt.Session(deep, device="cpu:portable", memory_budget=SMALL, threads=1)
    for round_ in range(3):
        for i, picture in enumerate(pictures):
            session.observe(picture, turn(6 * i + round_))
            assert session.memory.bytes <= SMALL
    memory = session.memory
    assert memory.evicted == 3 * FRAMES - len(memory) and memory.ids[0] == 0
    for i in memory.ids:
        assert np.array_equal(memory.image(i), pictures[i % FRAMES])
    contexts = [session.step(turn(33)).context for _ in range(session.context)]
    assert len(contexts[-1]) == session.context


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_a_session_gives_its_memory_back() -> None:
    """And the next one touches as little as the first."""
    done = subprocess.run([sys.executable, "-c", GIVEN_BACK], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    most, left = zip(*(map(int, line.split()) for line in done.stdout.splitlines()), strict=True)
    assert max(most) < most[0] + 20 and max(left) < 60, done.stdout  # a heap keeps small blocks
