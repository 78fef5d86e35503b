# SPDX-License-Identifier: Apache-2.0
"""The frame cache against the plain oracle: which frames it chooses, keeps and forgets."""

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import oracle
import rtfm_rt
from oracle import Retrieval
from rtfm_rt import _testing

FOCAL = (0.65, 0.61)
few = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def look(position, yaw, pitch=0.0, roll=0.0):
    """A camera at position (x right, y down, z forward) turned by three angles in radians."""
    c, s = np.cos([yaw, pitch, roll]), np.sin([yaw, pitch, roll])
    pose = np.eye(4)
    pose[:3, :3] = (
        np.array([[c[0], 0, s[0]], [0, 1, 0], [-s[0], 0, c[0]]])
        @ np.array([[1, 0, 0], [0, c[1], -s[1]], [0, s[1], c[1]]])
        @ np.array([[c[2], -s[2], 0], [s[2], c[2], 0], [0, 0, 1]])
    )
    pose[:3, 3] = position
    return pose


def walk(g, n):
    """A path with turns that comes back to where it was."""
    yaw = np.cumsum(g.normal(0, 0.15, n))
    steps = np.stack([np.sin(yaw), np.zeros(n), np.cos(yaw)], axis=1) * 0.4
    return [(look(p, a), FOCAL) for p, a in zip(np.cumsum(steps, axis=0), yaw, strict=True)]


def room(g, n):
    return [
        (look(g.uniform(0, 12, 3) * [1, 0.2, 1], g.uniform(-3, 3), g.normal(0, 0.2)), FOCAL)
        for _ in range(n)
    ]


def drone(g, n):
    return [(look(g.uniform(-8, 8, 3), *g.uniform(-3, 3, 3)), FOCAL) for _ in range(n)]


def identical(g, n):
    return [(look([1.0, 2.0, 3.0], 0.3), FOCAL)] * n


def facing(g, n):
    """Pairs that look at each other across six metres."""
    spots = [(look([8 * (i // 2), 0, 6 * (i % 2)], np.pi * (i % 2)), FOCAL) for i in range(n)]
    return [spots[i] for i in g.permutation(n)]


def far_away(g, n):
    return [(shifted(pose, [7e5, -4e5, 5e5]), focal) for pose, focal in room(g, n)]


def mixed_lenses(g, n):
    return [(pose, tuple(g.uniform(0.3, 2.5, 2))) for pose, _ in room(g, n)]


def shifted(pose, by):
    moved = pose.copy()
    moved[:3, 3] += by
    return moved


WORLDS = [walk, room, drone, identical, facing, far_away, mixed_lenses]


def nearby(g, view):
    """A view close to a remembered one."""
    pose, focal = view
    move = look(g.normal(0, 0.4, 3), *g.normal(0, 0.3, 3))
    return pose @ move, focal


def fill(views, r=None, capacity=None, ids=None):
    """(cache, world) that hold these views."""
    r = r or Retrieval()
    cache = _testing.FrameCache(
        capacity or max(len(views), r.sinks + r.recent + 1),
        r.context,
        r.sinks,
        r.recent,
        r.near,
        r.far,
    )
    world = list(zip(ids or range(len(views)), views, strict=True))
    for id, view in world:
        cache.insert(id, *view)
    return cache, world


@pytest.mark.parametrize("make", WORLDS)
@pytest.mark.parametrize(
    "r",
    [Retrieval(), Retrieval(9, 2, 3), Retrieval(6, 0, 0, 0.5, 6.0), Retrieval(32, 1, 1)],
    ids=["default", "nine", "greedy", "widest"],
)
def test_plan_agrees_with_the_oracle(make, r):
    g = np.random.default_rng(len(make.__name__) + r.context)
    views = make(g, 120)
    cache, world = fill(views, r)
    checked = 0
    for i in range(40):
        query = nearby(g, views[g.integers(len(views))]) if i else views[0]
        if not oracle.masks(world, query, r)[1]:
            continue  # a point on a border: float32 may decide it either way
        checked += 1
        plan = cache.plan(*query)
        assert plan["support"] == oracle.audit(world, query, r, plan["ids"])
        assert cache.coverage(*query) == oracle.masks(world, query, r)[0].any(axis=0).mean()
    assert checked >= 30


@pytest.mark.parametrize("make", [walk, room, mixed_lenses])
def test_plan_is_the_oracles_plan_where_no_two_frames_are_alike(make):
    g = np.random.default_rng(7)
    views = make(g, 60)
    r = Retrieval(6, 1, 1)
    cache, world = fill(views, r)
    for view in views[::3]:
        query = nearby(g, view)
        assert oracle.masks(world, query, r)[1]
        plan = cache.plan(*query)
        assert (plan["ids"], plan["support"]) == oracle.plan(world, query, r)


def test_identical_frames_are_taken_by_id():
    cache, _ = fill(identical(None, 9), Retrieval(5, 0, 0), ids=[8, 3, 5, 1, 7, 2, 6, 0, 4])
    plan = cache.plan(look([1.0, 2.0, 3.0], 0.3), FOCAL)
    assert plan == {"ids": [0, 1, 2, 3, 4], "slots": [7, 3, 5, 1, 8], "support": 1.0}


def test_a_filled_view_takes_what_sees_it_before_what_does_not():
    here = look([0, 0, 0], 0)
    behind = look([0, 0, -0.1], np.pi)  # much nearer than `ahead`, sees nothing of the view
    ahead = look([0, 0, 7.0], 0)
    views = [(pose, FOCAL) for pose in (here, behind, ahead)]
    cache, _ = fill(views, Retrieval(2, 0, 0))
    assert cache.plan(here, FOCAL)["ids"] == [0, 2]
    cache, _ = fill(views, Retrieval(3, 0, 0))
    assert cache.plan(here, FOCAL)["ids"] == [0, 2, 1]


@pytest.mark.parametrize("n", range(1, 8))
def test_a_frame_is_never_taken_twice(n):
    r = Retrieval(6, 2, 3)
    cache, world = fill(room(np.random.default_rng(n), n), r, capacity=8)
    assert oracle.masks(world, world[0][1], r)[1]
    plan = cache.plan(*world[0][1])
    assert (plan["ids"], plan["support"]) == oracle.plan(world, world[0][1], r)
    assert len(set(plan["ids"])) == len(plan["ids"]) == min(n, 6)


def test_empty_memory_plans_nothing():
    cache, _ = fill([])
    assert cache.plan(np.eye(4), FOCAL) == {"ids": [], "slots": [], "support": 0.0}
    assert cache.nearest(np.eye(4), 3) == []
    assert cache.coverage(np.eye(4), FOCAL) == 0.0


def test_distance_from_the_origin_changes_nothing():
    g = np.random.default_rng(3)
    grid = [(look(np.round(p[:3, 3] * 1024) / 1024, g.uniform(-3, 3)), f) for p, f in room(g, 200)]
    by = np.array([2.0**19, -(2.0**18), 2.0**19])  # exact in float64 together with the grid
    here, _ = fill(grid)
    there, _ = fill([(shifted(p, by), f) for p, f in grid])
    for pose, focal in grid:
        assert here.plan(pose, focal) == there.plan(shifted(pose, by), focal)
        assert here.nearest(pose, 9) == there.nearest(shifted(pose, by), 9)


def test_order_of_insertion_does_not_matter_to_coverage():
    g = np.random.default_rng(4)
    views = room(g, 100)
    order = g.permutation(100)
    r = Retrieval(8, 0, 0)
    one, _ = fill(views, r)
    other, _ = fill([views[i] for i in order], r, ids=order.tolist())
    for view in views:
        a, b = one.plan(*view), other.plan(*view)
        assert (a["ids"], a["support"]) == (b["ids"], b["support"])


def test_the_same_calls_give_the_same_answers():
    def run():
        g = np.random.default_rng(5)
        cache, _ = fill(room(g, 30), capacity=30)
        said = []
        for i in range(100):
            view = room(g, 1)[0]
            said.append((cache.plan(*view), cache.insert(30 + i, *view), cache.ids()))
        return said

    assert run() == run()


def test_nearest():
    g = np.random.default_rng(6)
    views = drone(g, 50)
    cache, world = fill(views)
    for view in views[::5]:
        query = nearby(g, view)
        order = sorted(world, key=lambda f: oracle.proxy(f[1], query, Retrieval()))
        assert cache.nearest(query[0], 7) == [id for id, _ in order[:7]]
    assert len(cache.nearest(views[0][0], 99)) == 50
    with pytest.raises(rtfm_rt.ArgumentError, match="k >= 0, got -1"):
        cache.nearest(views[0][0], -1)


def test_update_view_is_as_if_it_had_always_been_there():
    g = np.random.default_rng(8)
    before, after = room(g, 60), room(g, 60)
    cache, _ = fill(before)
    for id in g.permutation(60).tolist():
        cache.update_view(id, *after[id])
    fresh, _ = fill(after)
    assert cache.ids() == fresh.ids()
    for query in room(g, 30):
        assert cache.plan(*query) == fresh.plan(*query)
        assert cache.coverage(*query) == fresh.coverage(*query)
        assert cache.nearest(query[0], 60) == fresh.nearest(query[0], 60)


# ---- what stays


@pytest.mark.parametrize("make", [walk, room, drone, identical, mixed_lenses])
@pytest.mark.parametrize("r", [Retrieval(), Retrieval(5, 0, 2), Retrieval(4, 3, 0)])
def test_eviction_agrees_with_the_oracle(make, r):
    g = np.random.default_rng(9)
    cache = _testing.FrameCache(24, r.context, r.sinks, r.recent)
    memory = oracle.Memory(r, 24)
    for id, view in enumerate(make(g, 150)):
        if id % 3 == 2:
            memory.use(cache.plan(*nearby(g, view))["ids"])
        slot = cache.insert(id, *view)
        memory.insert(id, view)
        assert cache.ids() == [name for name, _ in memory.world]
        assert np.array_equal(cache.pose_in(slot), cache.pose_of(id))
    assert cache.evicted == 126


def test_standing_still_does_not_forget_the_world():
    places = far_places(8)
    cache, _ = fill(places, capacity=16)
    for id in range(8, 200):
        cache.insert(id, look([350.0, 0, 0.001 * id], 1.0), FOCAL)
    assert set(range(7)) < set(cache.ids())


def far_places(n):
    return [(look([50.0 * i, 0, 0], 1.0), FOCAL) for i in range(n)]


def test_a_copy_among_the_latest_stays():
    copies = [(look([-50.0, 0, 0], 0), FOCAL)] * 5
    cache, _ = fill(far_places(4) + copies, Retrieval(7, 1, 5))
    cache.insert(9, look([-100.0, 0, 0], 0), FOCAL)
    assert cache.ids() == [0, 2, 3, 4, 5, 6, 7, 8, 9]


def test_a_frame_outlives_the_copies_that_left():
    copies = [(look([-50.0, 0, 0], 0), FOCAL)] * 5
    cache, _ = fill(copies + far_places(3), Retrieval(2, 0, 1))
    assert cache.plan(*copies[0])["ids"] == [7, 0]
    cache.insert(8, look([-100.0, 0, 0], 0), FOCAL)
    assert cache.ids() == [0, 2, 3, 4, 5, 6, 7, 8]  # 0 and 1 had three newer copies
    cache.insert(9, look([-150.0, 0, 0], 0), FOCAL)
    assert cache.ids() == [0, 3, 4, 5, 6, 7, 8, 9]  # with 1 gone, age decides


def test_a_moved_frame_is_no_copy_and_has_none():
    here, there = look([-50.0, 0, 0], 0), look([-100.0, 0, 0], 0)
    cache, _ = fill([(here, FOCAL)] * 4 + far_places(4), Retrieval(3, 0, 1))
    cache.update_view(2, there, FOCAL)  # 0 has two newer copies left
    cache.plan(here, FOCAL)
    cache.insert(8, there, FOCAL)
    assert 0 in cache.ids()
    cache, _ = fill(far_places(4) + [(here, FOCAL)] * 3, Retrieval(3, 0, 1))
    cache.update_view(2, here, FOCAL)  # three newer copies
    cache.insert(7, there, FOCAL)
    assert cache.ids() == [0, 1, 3, 4, 5, 6, 7]
    cache, _ = fill([*far_places(2), *[(here, FOCAL)] * 3, *far_places(3)], Retrieval(3, 0, 1))
    cache.update_view(6, here, FOCAL)  # the third newer copy of 2
    cache.insert(8, there, FOCAL)
    assert cache.ids() == [0, 1, 3, 4, 5, 6, 7, 8]


def test_without_copies_the_least_recently_planned_goes():
    places = far_places(6)
    cache, _ = fill(places, Retrieval(3, 1, 1), capacity=6)
    cache.plan(*places[1])
    cache.plan(*places[3])
    cache.peek(*places[2])  # looking ahead is no use
    cache.insert(6, look([400.0, 0, 0], 0), FOCAL)
    assert cache.ids() == [0, 1, 3, 4, 5, 6]
    cache.insert(7, look([450.0, 0, 0], 0), FOCAL)
    assert cache.ids() == [0, 1, 3, 5, 6, 7]


operations = st.lists(
    st.tuples(
        st.sampled_from(["insert", "insert", "insert", "plan", "update", "bad", "again"]),
        st.integers(0, 7),
        st.integers(0, 5),
        st.floats(-3, 3),
    ),
    min_size=1,
    max_size=60,
)


@few
@given(
    operations=operations,
    context=st.integers(1, 9),
    sinks=st.integers(0, 3),
    recent=st.integers(0, 5),
    room_for=st.integers(1, 8),
)
def test_any_sequence_of_calls(operations, context, sinks, recent, room_for):
    context = max(context, sinks + recent)
    r = Retrieval(context, sinks, recent)
    capacity = sinks + recent + room_for
    cache = _testing.FrameCache(capacity, context, sinks, recent)
    views, order, evicted = {}, [], 0  # what a plain reader of the rules knows
    for what, x, z, yaw in operations:
        view = (look([1.7 * x, 0.1, 1.3 * z], yaw), FOCAL)
        if what == "insert":
            id = len(views)
            keep = set(order[:sinks]) | set(order[len(order) - recent :])
            cache.insert(id, *view)
            views[id] = view
            gone = set(order) - set(cache.ids())
            assert len(gone) == (len(order) == capacity) and not gone & keep
            order = [i for i in order if i not in gone] + [id]
            evicted += len(gone)
        elif what == "update" and order:
            id = order[x % len(order)]
            cache.update_view(id, *view)
            views[id] = view
        elif what == "plan":
            plan = cache.plan(*view)
            world = [(i, views[i]) for i in order]
            assume(oracle.masks(world, view, r)[1])
            assert plan["support"] == (oracle.audit(world, view, r, plan["ids"]) if order else 0)
            for slot, id in zip(plan["slots"], plan["ids"], strict=True):
                assert np.array_equal(cache.pose_in(slot), cache.pose_of(id))
        elif what == "bad":
            bad = [(view[0] * 2, FOCAL), (view[0], (0.0, 1.0)), (view[0] * np.nan, FOCAL)]
            for pose, focal in bad:
                with pytest.raises(rtfm_rt.ArgumentError):
                    cache.insert(len(views), pose, focal)
                if order:
                    with pytest.raises(rtfm_rt.ArgumentError):
                        cache.update_view(order[0], pose, focal)
        elif what == "again" and order:
            with pytest.raises(rtfm_rt.WorldError, match="new id"):
                cache.insert(order[-1], *view)
        assert cache.ids() == order and cache.size == len(order) <= capacity == cache.capacity
        assert cache.evicted == evicted
        for id in order:
            assert np.allclose(cache.pose_of(id), views[id][0], rtol=0, atol=1e-12)


def test_unknown_id():
    cache, _ = fill(walk(np.random.default_rng(0), 3))
    for call in (lambda: cache.update_view(7, np.eye(4), FOCAL), lambda: cache.pose_of(7)):
        with pytest.raises(rtfm_rt.WorldError, match="frame 7: expected an id in memory"):
            call()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"context": 0}, "1 .. 32 frames, got 0"),
        ({"context": 33}, "1 .. 32 frames, got 33"),
        ({"context": 2, "sinks": 2}, "sinks . recent <= context = 2, got 2 . 1"),
        ({"sinks": -1}, "got -1"),
        ({"near": 10.0}, "near 10 and far 10"),
        ({"far": float("inf")}, "far inf"),
        ({"near": float("nan")}, "near nan"),
        ({"capacity": 2}, "at least 3 frames, got 2; raise the memory budget"),
        ({"capacity": -5}, "got -5"),
    ],
)
def test_a_senseless_retrieval_is_refused(arguments, message):
    with pytest.raises(rtfm_rt.ArgumentError, match=message):
        _testing.FrameCache(**({"capacity": 8} | arguments))
