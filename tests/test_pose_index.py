# SPDX-License-Identifier: Apache-2.0
"""The frame cache in large worlds: against the exact scan, by what is seen and not by which."""

import numpy as np
import pytest

import rtfm_rt
from rtfm_rt import _testing
from worlds import FOCAL, WORLDS, cameras, drone, identical, queries, room, walk


def fill(views, capacity=None, **retrieval):
    cache = _testing.FrameCache(capacity or len(views), **retrieval)
    cache.insert_all(0, views, FOCAL)
    return cache


def shares(cache, views, **retrieval):
    """What a plan sees of what the exact scan sees, for each view."""
    seen = np.array(cache.supports(views, FOCAL))
    exact = np.array(cache.exact_supports(views, FOCAL, **retrieval))
    assert (seen[exact == 0] == 0).all()
    return np.where(exact > 0, seen / np.maximum(exact, 1e-9), 1)


def good(share):
    return share.mean() >= 0.99 and np.percentile(share, 1) >= 0.90


@pytest.mark.parametrize("make", WORLDS)
@pytest.mark.parametrize("context", [4, 8])
def test_coverage_of_ten_thousand_frames(make, context):
    g = np.random.default_rng(1)
    views = make(g, 10_000)
    share = shares(fill(views, context=context), queries(g, views, 1000), context=context)
    assert good(share), (share.mean(), np.percentile(share, 1))


@pytest.mark.parametrize("make", [walk, room])
def test_coverage_of_a_hundred_thousand_frames(make):
    g = np.random.default_rng(2)
    views = make(g, 100_000)
    share = shares(fill(views, context=8), queries(g, views, 400), context=8)
    assert good(share), (share.mean(), np.percentile(share, 1))


def test_the_index_takes_over_without_a_jump():
    g = np.random.default_rng(3)
    views = room(g, 600)
    cache = fill(views[:512], capacity=600)
    around = queries(g, views, 200)
    assert abs(shares(cache, around).mean() - 1) < 0.005  # of equal gains each takes another
    cache.insert_all(512, views[512:], FOCAL)
    assert shares(cache, around).mean() >= 0.97


def test_a_context_is_full_and_starts_with_sinks_and_the_newest():
    g = np.random.default_rng(4)
    for make in (walk, identical):
        views = make(g, 2000)
        cache = fill(views, context=9, sinks=2, recent=3)
        far_away = np.eye(4)
        far_away[0, 3] = 9e5
        for query in [*queries(g, views, 20), far_away]:
            plan = cache.plan(query, FOCAL)
            assert plan["ids"][:5] == [0, 1, 1999, 1998, 1997]
            assert len(set(plan["ids"])) == 9
            for slot, id in zip(plan["slots"], plan["ids"], strict=True):
                assert np.array_equal(cache.pose_in(slot), views[id])


def test_the_same_calls_give_the_same_plans():
    """Though every index has its own salt."""

    def run():
        g = np.random.default_rng(5)
        views = drone(g, 3000)
        cache = fill(views, capacity=2000)
        said = [cache.ids()]
        for i, query in enumerate(queries(g, views[1000:], 300)):
            cache.update_view(said[0][i + 1], query, FOCAL)
            said.append(cache.plan(query, FOCAL))
        return said

    assert run() == run()


def test_a_moved_frame_is_found_where_it_went():
    g = np.random.default_rng(6)
    cache = fill(walk(g, 1000))
    there = cameras(np.array([[5000.0, 0, 0]]), np.zeros(1), np.zeros(1))[0]
    here = cache.pose_of(500)
    assert cache.peek(there, FOCAL)["support"] == 0
    cache.update_view(500, there, FOCAL)
    assert 500 in cache.peek(there, FOCAL)["ids"]
    assert cache.peek(there, FOCAL)["support"] == 1
    cache.update_view(500, here, FOCAL)
    assert cache.peek(there, FOCAL)["support"] == 0


def test_a_world_that_moved_is_as_good_as_new():
    g = np.random.default_rng(7)
    before, after = walk(g, 3000), room(g, 3000)
    cache = fill(before, context=8)
    for id in g.permutation(3000):
        cache.update_view(id, after[id], FOCAL)
    assert good(shares(cache, queries(g, after, 300), context=8))


# ---- what stays


def test_what_hid_a_frame_gives_it_back():
    """Copies are evicted first; the frames behind them are found again once they left."""
    elsewhere = cameras(np.arange(700)[:, None] * [40.0, 0, 0], np.zeros(700), np.zeros(700))
    cache = fill(elsewhere[:600], capacity=601, context=2, sinks=0, recent=1)
    cache.insert(600, elsewhere[300], FOCAL)
    assert 600 in cache.peek(elsewhere[300], FOCAL)["ids"]
    cache.update_view(600, elsewhere[650], FOCAL)
    assert 300 in cache.peek(elsewhere[300], FOCAL)["ids"]


def test_standing_still_does_not_forget_the_world():
    places = cameras(np.arange(600)[:, None] * [40.0, 0, 0], np.zeros(600), np.zeros(600))
    cache = fill(places, capacity=620)
    still = np.tile(places[599], (5000, 1, 1))
    still[:, 0, 3] += np.linspace(0, 0.02, 5000)
    cache.insert_all(600, still, FOCAL)
    assert set(range(599)) <= set(cache.ids())
    assert cache.evicted == 5600 - 620


def test_without_copies_the_least_recently_planned_goes():
    places = cameras(np.arange(700)[:, None] * [40.0, 0, 0], np.zeros(700), np.zeros(700))
    cache = fill(places[:600], capacity=600, context=3)
    cache.plan(places[1], FOCAL)
    cache.peek(places[2], FOCAL)  # looking ahead is no use
    cache.insert(600, places[600], FOCAL)
    assert cache.ids() == [0, 1, *range(3, 601)]


def test_any_sequence_of_calls():
    """A long one, against what a plain reader of the rules knows."""
    g = np.random.default_rng(8)
    sinks, recent, capacity = 2, 3, 530
    cache = _testing.FrameCache(capacity, 6, sinks, recent)
    poses, order = {}, []
    views = np.concatenate([room(g, 1500), identical(g, 200), walk(g, 1300)])[g.permutation(3000)]
    for id, view in enumerate(views):
        keep = set(order[:sinks]) | set(order[len(order) - recent :])
        cache.insert(id, view, FOCAL)
        poses[id] = view
        ids = cache.ids()
        gone = set(order) - set(ids)
        assert len(gone) == (len(order) == capacity) and not gone & keep
        order = [i for i in order if i not in gone] + [id]
        assert ids == order
        if id % 3 == 0:
            moved = order[g.integers(len(order))]
            poses[moved] = views[g.integers(3000)]
            cache.update_view(moved, poses[moved], FOCAL)
        plan = cache.plan(poses[order[g.integers(len(order))]], FOCAL)
        assert len(set(plan["ids"])) == min(6, len(order)) and set(plan["ids"]) <= set(order)
        for slot, name in zip(plan["slots"], plan["ids"], strict=True):
            assert np.array_equal(cache.pose_in(slot), poses[name])
        with pytest.raises(rtfm_rt.WorldError):
            cache.insert(order[g.integers(len(order))], view, FOCAL)
    around = queries(g, np.array([poses[i] for i in order]), 300)
    assert shares(cache, around, context=6, sinks=sinks, recent=recent).mean() >= 0.98


def test_coverage_survives_eviction():
    """Half of a walk fits, and the rest is redundant: nothing that was seen is lost."""
    g = np.random.default_rng(9)
    views = room(g, 40_000)
    cache = fill(views, capacity=20_000, context=8)
    whole = fill(views, context=8)
    around = queries(g, views, 300)
    kept, all_of_it = (np.array(c.supports(around, FOCAL)) for c in (cache, whole))
    assert kept.mean() >= 0.99 * all_of_it.mean()


def test_planning_and_inserting_allocate_nothing():
    g = np.random.default_rng(10)
    views = walk(g, 4000)
    cache = fill(views[:1000], capacity=2000)

    def allocations(call, *arguments):
        before = _testing.allocations()
        call(*arguments, FOCAL)
        return _testing.allocations() - before

    one = allocations(cache.insert_all, 1000, views[1000:1001])
    assert allocations(cache.insert_all, 1001, views[1001:]) == one > 0
    one = allocations(cache.time_plan, views[:1])
    assert allocations(cache.time_plan, views[:3000]) == one > 0
