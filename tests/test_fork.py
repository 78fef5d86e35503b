# SPDX-License-Identifier: Apache-2.0
"""Branches of a world: equal from the start, independent ever after, and cheap."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rtfm_rt
import worlds
from models import turn, write_model
from rtfm_rt import _testing
from rtfm_rt.reference import Config

SMALL = Config(height=16, image_width=16, patch=8, width=64, layers=8, heads=2, mlp=64)
BUDGET = 200_000  # 65 frames, 9 pages: worlds here forget frames and encode pages again


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> rtfm_rt.Model:
    path = tmp_path_factory.mktemp("fork") / "small.safetensors"
    write_model(path, SMALL, 9)
    return rtfm_rt.Model(path, device="cpu:portable")


def picture(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (16, 16, 3), np.uint8)


def begin(small: rtfm_rt.Model, **options) -> rtfm_rt.Session:
    given = {"memory_budget": BUDGET, "commit_below": 2.0, "seed": 5, "threads": 1, **options}
    session = rtfm_rt.Session(small, **given)
    session.observe(picture(0), np.eye(4))
    return session


def walk(session: rtfm_rt.Session, start: int, count: int) -> list[bytes]:
    rng = np.random.default_rng(start)
    poses = [turn(rng.uniform(0, 360), rng.uniform(-3, 3)) for _ in range(count)]
    return [np.array(session.step(pose)).tobytes() for pose in poses]


def state(session: rtfm_rt.Session) -> tuple:
    memory = session.memory
    images = [memory.image(id_).tobytes() for id_ in memory.ids]
    return memory.ids, memory.poses.tobytes(), images, memory.resident, memory.bytes


@pytest.mark.parametrize("length", [0, 12, 120])
def test_a_branch_goes_on_as_the_session_would(small, length):
    session, twin = begin(small), begin(small)
    walk(session, 0, length), walk(twin, 0, length)
    branch = session.fork()
    expected = walk(twin, 7, 40)
    assert walk(branch, 7, 40) == expected
    assert walk(session, 7, 40) == expected
    assert state(branch) == state(session) == state(twin)


def test_neither_sees_what_the_other_does(small):
    session, twin = begin(small), begin(small)
    walk(session, 0, 30), walk(twin, 0, 30)
    before = state(session)
    branch = session.fork()
    walk(branch, 1, 80)  # forgets frames that the session keeps
    branch.memory.update_pose(branch.memory.ids[0], turn(90))
    branch.observe(picture(1), turn(10))
    assert state(session) == before
    middle = state(branch)
    assert walk(session, 2, 80) == walk(twin, 2, 80)
    assert state(branch) == middle


def test_a_branch_outlives_the_session(small):
    session, twin = begin(small), begin(small)
    walk(session, 0, 20), walk(twin, 0, 20)
    branch = session.fork()
    del session
    gc.collect()
    assert walk(branch, 3, 20) == walk(twin, 3, 20)


def test_imagining_on_a_branch_that_has_gone_on(small):
    """What a planner does: look at what comes after a step that is never taken."""
    session, twin = begin(small), begin(small)
    walk(session, 0, 10), walk(twin, 0, 10)
    for yaw in range(0, 360, 45):
        branch = session.fork()
        branch.step(turn(yaw))
        branch.imagine([turn(yaw + 10)])
    assert walk(session, 4, 10) == walk(twin, 4, 10)


def test_a_world_asked_through_the_index(small):
    """More frames than an exact scan looks at, some moved, some forgotten on either side."""
    budget = 700 * 16 * 16 * 3 * 4
    sessions = [begin(small, memory_budget=budget) for _ in range(2)]
    for session in sessions:
        rng = np.random.default_rng(6)
        for i in range(680):
            session.observe(picture(i % 9), turn(rng.uniform(0, 360), rng.uniform(-30, 30)))
    session, twin = sessions
    branch = session.fork()
    for each in (session, twin):
        walk(each, 2, 50)
    for id_ in branch.memory.ids[5:300:7]:
        branch.memory.update_pose(id_, turn(id_))
    walk(branch, 1, 50)
    assert walk(session, 3, 30) == walk(twin, 3, 30)
    assert state(session) == state(twin)


# Each session of a family is its own history: replayed by a session without family, it must give
# the same frame and memory.
calls = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from(["step", "observe", "move", "fork", "drop"])),
    min_size=10,
    max_size=40,
)


def play(session: rtfm_rt.Session, history: list[tuple[str, int]]) -> None:
    for call, number in history:
        if call == "step":
            session.step(turn(37 * number, number % 5 - 2))
        elif call == "observe":
            session.observe(picture(number), turn(53 * number))
        else:
            session.memory.update_pose(
                session.memory.ids[number % len(session.memory)], turn(number)
            )


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(calls=calls)
def test_any_family(small, calls):
    options = {"memory_budget": 90_000}  # 10 frames, 5 pages
    family = [(begin(small, **options), [])]
    for number, (who, call) in enumerate(calls):
        session, history = family[who % len(family)]
        if call == "fork":
            family.append((session.fork(), list(history)))
        elif call == "drop":
            if len(family) > 1:
                family.pop(who % len(family))
        else:
            play(session, [(call, number)])
            history.append((call, number))
    for session, history in family:
        alone = begin(small, **options)
        play(alone, history)
        assert state(session) == state(alone)
        assert walk(session, 1, 3) == walk(alone, 1, 3)


def test_branches_on_threads(small):
    session, twin = begin(small), begin(small)
    walk(session, 0, 30), walk(twin, 0, 30)
    branches = [session.fork() for _ in range(4)]
    frames: dict[int, list[bytes]] = {}
    threads = [
        threading.Thread(target=lambda i=i, b=b: frames.update({i: walk(b, i, 40)}))
        for i, b in enumerate([session, *branches])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(5):
        assert frames[i] == walk(twin.fork(), i, 40), i


def test_a_branch_is_saved_to_a_file_of_its_own(small, tmp_path):
    session = begin(small)
    walk(session, 0, 12)
    session.save(tmp_path / "world")
    branch = session.fork()
    walk(branch, 1, 3)
    with pytest.raises(rtfm_rt.WorldError, match="another world"):
        branch.save(tmp_path / "world")
    branch.save(tmp_path / "branch")
    loaded = rtfm_rt.Session.load(tmp_path / "branch", small, memory_budget=BUDGET, threads=1)
    assert walk(loaded, 2, 10) == walk(branch, 2, 10)
    walk(session, 3, 2)
    session.save(tmp_path / "world")  # still its own


def test_a_branch_has_the_session_s_options_and_no_history_of_speed(small):
    session = begin(small, steps=1, context=3, deadline=10.0)
    walk(session, 0, 3)
    branch = session.fork()
    assert type(branch) is rtfm_rt.Session
    assert (branch.steps, branch.context, branch.threads) == (1, 3, 1)
    assert (branch.model, branch.device) == (session.model, session.device)
    assert branch.stats()["frames"] == 0 and session.stats()["frames"] == 3
    with branch as opened:
        opened.submit(np.eye(4)).result()


def test_a_session_that_is_busy_has_no_branch(small):
    """As every call while another runs: refused, and the running one goes on."""
    session = begin(small)
    walk(session, 0, 5)
    refused, done = [], threading.Event()

    def fork() -> None:
        while not done.is_set():
            try:
                session.fork()
            except rtfm_rt.WorldError as error:
                refused.append(str(error))

    thread = threading.Thread(target=fork)
    thread.start()
    stepped = 0
    while not refused or stepped < 20:
        try:
            session.step(np.eye(4))
            stepped += 1
        except rtfm_rt.WorldError:
            pass  # the other thread was first
    done.set()
    thread.join()
    assert "one thread at a time" in refused[0]


def test_no_page_is_copied(small):
    """A branch takes a few kilobytes, of a world with megabytes of pages."""
    remembered, allocated = _testing.fork_of(small.path, 300)
    assert remembered > 5_000_000
    assert 0 < allocated < 40_000


def test_a_copied_cache_is_a_cache_of_its_own():
    """Plans and evictions of two copies that part, against caches that were never copied."""
    g = np.random.default_rng(3)
    views = worlds.room(g, 3000)
    capacity = 1000
    ours, alone = (_testing.FrameCache(capacity, 4) for _ in range(2))
    for cache in (ours, alone):
        cache.insert_all(0, views[:1500], worlds.FOCAL)
    copy = ours.copy()
    copy.insert_all(1500, views[1500:2200], worlds.FOCAL)
    ours.insert_all(5000, views[2200:], worlds.FOCAL)
    alone.insert_all(5000, views[2200:], worlds.FOCAL)
    for query in views[::50]:
        assert ours.plan(query, worlds.FOCAL) == alone.plan(query, worlds.FOCAL)
    assert ours.ids() == alone.ids()
    replayed = _testing.FrameCache(capacity, 4)
    replayed.insert_all(0, views[:2200], worlds.FOCAL)
    assert copy.ids() == replayed.ids()
    for query in views[::50]:
        assert copy.plan(query, worlds.FOCAL) == replayed.plan(query, worlds.FOCAL)
