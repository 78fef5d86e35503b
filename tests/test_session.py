# SPDX-License-Identifier: Apache-2.0
"""The session as an application uses it: frames, receipts, memory, threads."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import rtfm_rt
from models import TINY, random_pose, turn, view
from rtfm_rt import _testing
from rtfm_rt.convert import flow_table

HEIGHT, WIDTH = TINY.height, TINY.image_width
TOKENS, TOKEN = 6, 192


def pixels(frame: rtfm_rt.Frame) -> np.ndarray:
    return np.array(frame)


def test_frames_are_the_reference_s(model, picture, device, open_session):
    """A walk of observed, generated and committed frames, recomputed by the PyTorch module."""
    path, reference = model
    session = open_session(path, seed=7, commit_below=0.95)
    poses = [np.eye(4), turn(25), turn(60, 0.5), turn(10)]
    session.observe(picture, poses[0])
    page = reference.read(reference.tokens(torch.from_numpy(picture)))
    book = {0: (page, view(poses[0]))}
    noise = _testing.Device(device)
    zeros = np.zeros((TOKENS, TOKEN), np.float32)
    for pose in poses[1:]:
        frame = session.step(pose)
        drawn, _ = noise.sampler(zeros, zeros, 0.0, 0.0, 1.0, 7, frame.id, 0)
        pages, views = zip(*(book[i] for i in frame.context), strict=True)
        tokens = reference.sample(
            torch.from_numpy(drawn).double(), flow_table(2), pages, views, view(pose)
        )
        want = reference.image(tokens).numpy()
        tolerance = 1 if session.precision == "float32" else 12
        assert np.abs(pixels(frame).astype(int) - want).max() <= tolerance
        if frame.committed:
            shown = torch.from_numpy(pixels(frame))
            book[frame.id] = (reference.read(reference.tokens(shown)), view(pose))
    assert session.memory.ids == sorted(book)
    assert len(book) > 1


def test_receipt(session):
    frame = session.step(turn(5))
    assert frame.id == 1 and frame.context == [0] and frame.steps == 2
    assert 0.5 < frame.support <= 1 and not frame.late
    assert frame.latency > 0 and frame.shape == (HEIGHT, WIDTH, 3)
    assert np.array_equal(frame.pose, turn(5)) and frame.intrinsics == (0.65, 0.8)
    assert str(frame.id) in repr(frame)


def test_pixels_without_copies(session):
    frame = session.step(turn(5))
    one, other = np.asarray(frame), np.asarray(frame)
    tensor = torch.from_dlpack(frame)
    assert one.dtype == np.uint8 and one.shape == (HEIGHT, WIDTH, 3)
    assert np.shares_memory(one, other)
    assert tensor.data_ptr() == one.ctypes.data and tensor.shape == one.shape


def test_a_kept_frame_never_changes(session):
    frames = [session.step(turn(i)) for i in range(30)]
    copies = [pixels(f) for f in frames]
    array = np.asarray(session.step(turn(3)))  # the frame itself is gone, its array is not
    before = array.copy()
    for i in range(30):
        session.step(turn(-i))
    assert all(np.array_equal(f, c) for f, c in zip(frames, copies, strict=True))
    assert np.array_equal(array, before)


def test_equal_seeds_give_equal_frames_on_any_number_of_threads(model, picture, open_session):
    def walk(seed: int, threads: int) -> list[bytes]:
        session = open_session(model[0], seed=seed, threads=threads)
        session.observe(picture, np.eye(4))
        return [pixels(session.step(turn(7 * i))).tobytes() for i in range(6)]

    first = walk(1, 1)
    assert all(walk(1, threads) == first for threads in (1, 2, 5))
    assert walk(2, 1) != first


def test_out_receives_the_frame(session):
    out = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    frame = session.step(turn(4), out=out)
    assert np.array_equal(out, np.asarray(frame)) and out.any()


def test_imagine_is_the_step_that_would_follow(session):
    poses = [turn(3), turn(50), turn(-20, 1)]
    before = session.memory.ids
    dreams = session.imagine(poses)
    again = session.imagine(poses)
    assert session.memory.ids == before and not any(d.committed for d in dreams)
    assert all(np.array_equal(a, b) for a, b in zip(dreams, again, strict=True))
    real = session.step(poses[1])
    assert np.array_equal(real, dreams[1]) and real.id == dreams[1].id
    assert session.stats()["frames"] == 1


def test_commit_policy(model, picture):
    def memory_after(commit_below: float) -> int:
        session = rtfm_rt.Session(model[0], commit_below=commit_below)
        session.observe(picture, np.eye(4))
        frames = [session.step(turn(angle)) for angle in (1, 2, 40, 41, 90, 1)]
        assert len(session.memory) == 1 + sum(f.committed for f in frames)
        assert all(f.committed == (f.support < commit_below) for f in frames)
        return len(session.memory)

    assert memory_after(0) == 1
    assert memory_after(2) == 7
    assert 1 < memory_after(0.9) < 7


def test_memory(session, picture):
    session.observe(picture, turn(90))
    session.observe(picture, turn(180))
    memory = session.memory
    assert len(memory) == 3 and memory.ids == [0, 1, 2]
    assert np.allclose(memory.poses[1], turn(90)) and memory.poses.shape == (3, 4, 4)
    assert memory.nearest(turn(85)) == [1] and memory.nearest(turn(170), k=2) == [2, 1]
    assert memory.coverage(turn(90)) == 1 and memory.coverage(turn(-90)) < 0.2
    assert 0 < memory.bytes <= memory.budget and memory.evicted == 0


def test_update_pose_is_a_world_observed_at_the_corrected_pose(model, picture):
    def world(pose: np.ndarray) -> rtfm_rt.Session:
        session = rtfm_rt.Session(model[0])
        session.observe(picture, np.eye(4))
        session.observe(picture[::-1], pose)
        return session

    moved, direct = world(turn(30)), world(turn(45, 0.3))
    moved.memory.update_pose(1, turn(45, 0.3))
    assert np.array_equal(moved.step(turn(40)), direct.step(turn(40)))
    with pytest.raises(rtfm_rt.WorldError, match="99"):
        moved.memory.update_pose(99, turn(1))


def test_memory_budget_is_never_exceeded(model, picture):
    page = rtfm_rt.Session(model[0]).memory
    session = rtfm_rt.Session(model[0], memory_budget=100_000, commit_below=2)
    assert page.budget > session.memory.budget == 100_000
    session.observe(picture, np.eye(4))
    for i in range(60):
        session.step(turn(6 * i))
        assert session.memory.bytes <= 100_000
    assert session.memory.evicted > 0 and session.memory.ids[0] == 0


def test_recent_frames_only(model, picture):
    session = rtfm_rt.Session(model[0], context=3, sinks=0, recent=3, commit_below=2)
    session.observe(picture, np.eye(4))
    for i in range(8):
        frame = session.step(turn(40 * i))
    assert frame.context == [7, 6, 5]


def test_deadline(session):
    assert session.step(turn(1), deadline=100.0).late is False
    for _ in range(3):
        frame = session.step(turn(1), deadline=1e-9)
    assert frame.late and frame.steps == 1
    assert session.step(turn(1)).steps == 2
    assert session.stats()["late"] == 3


def test_what_a_step_should_be_expected_to_cost():
    costs = _testing.RecentCosts()
    assert costs.expected() == 0
    costs.add(5.0)  # threads start
    assert costs.expected() == 5
    for _ in range(63):
        costs.add(1.0)
    assert costs.expected() == 1
    costs.add(30.0)
    costs.add(30.0)
    assert costs.expected() == 1  # a hiccup
    costs.add(2.0)
    assert costs.expected() == 2  # more than a hiccup
    for _ in range(64):
        costs.add(1.0)
    assert costs.expected() == 1


def test_stats(session):
    for i in range(5):
        session.step(turn(i))
    stats = session.stats()
    assert stats["frames"] == 5
    assert 0 < stats["p50"] <= stats["p95"] <= stats["p99"] <= stats["max"]


def test_submit(session, model, picture):
    twin = rtfm_rt.Session(model[0], device="cpu", threads=2, seed=11)
    twin.observe(picture, np.eye(4))
    with session:
        tickets = [session.submit(turn(i)) for i in range(4)]
        frames = [ticket.result(timeout=60) for ticket in tickets]
        assert all(ticket.done() for ticket in tickets)
        assert all(np.array_equal(f, twin.step(turn(i))) for i, f in enumerate(frames))
        with pytest.raises(rtfm_rt.PoseError):
            session.submit(np.zeros((4, 4))).result()


def test_reproject(session):
    frame = session.step(turn(0))
    same = frame.reproject(frame.pose)
    assert np.array_equal(same, frame) and same.id == frame.id
    assert not np.shares_memory(np.asarray(same), np.asarray(frame))
    # turning right by the angle of a whole pixel column near the centre shifts the picture left
    angle = np.rad2deg(np.arctan(1 / (0.65 * WIDTH)))
    turned = np.asarray(frame.reproject(turn(angle)), dtype=int)
    shifted = np.asarray(frame, dtype=int)[:, 1:]
    middle = slice(WIDTH // 2 - 2, WIDTH // 2 + 1)
    rows = slice(HEIGHT // 2 - 2, HEIGHT // 2 + 2)
    assert np.abs(turned[rows, middle] - shifted[rows, middle]).max() <= 30
    assert np.asarray(frame.reproject(turn(180))).shape == frame.shape
    with pytest.raises(rtfm_rt.PoseError):
        frame.reproject(np.ones((4, 4)))


def test_reproject_is_a_homography(session):
    frame = session.step(turn(0))
    image = np.asarray(frame).astype(float)
    focal = np.array(frame.intrinsics) * (WIDTH, HEIGHT)
    centre = (np.array((WIDTH, HEIGHT)) - 1) / 2
    columns, rows = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    rays = (np.stack([columns, rows], -1) - centre) / focal
    rays = np.concatenate([rays, np.ones((HEIGHT, WIDTH, 1))], -1)
    for angle in (1.0, -7.0, 40.0, 100.0):
        pose = turn(angle)
        seen = rays @ (frame.pose[:3, :3].T @ pose[:3, :3]).T
        seen = seen[..., :2] / np.maximum(seen[..., 2:], 1e-6) * focal + centre
        x, y = np.moveaxis(np.clip(seen, 0, 2 * centre), -1, 0)
        left, top = (np.minimum(v.astype(int), n - 2) for v, n in ((x, WIDTH), (y, HEIGHT)))
        u, v = (x - left)[..., None], (y - top)[..., None]
        above = image[top, left] * (1 - u) + image[top, left + 1] * u
        below = image[top + 1, left] * (1 - u) + image[top + 1, left + 1] * u
        want = above * (1 - v) + below * v
        assert np.abs(np.asarray(frame.reproject(pose)) - want).max() < 0.51


def test_a_model_shared_by_sessions(model, picture):
    shared = rtfm_rt.Model(model[0], device="cpu")
    one, two = rtfm_rt.Session(shared, seed=1), rtfm_rt.Session(shared, seed=1)
    for session in (one, two):
        session.observe(picture, np.eye(4))
    assert np.array_equal(one.step(turn(3)), two.step(turn(3)))
    assert one.model.manifest["name"] == "random" and one.image_size == (HEIGHT, WIDTH)
    with pytest.raises(rtfm_rt.ArgumentError, match="device"):
        rtfm_rt.Session(shared, device="cpu")


def test_sessions_on_threads_of_their_own(model, picture):
    shared = rtfm_rt.Model(model[0])
    want = [f"{i}" for i in range(4)]
    got: dict[str, bytes] = {}

    def walk(name: str) -> None:
        session = rtfm_rt.Session(shared, seed=3, threads=2)
        session.observe(picture, np.eye(4))
        got[name] = b"".join(pixels(session.step(turn(i))).tobytes() for i in range(20))

    threads = [threading.Thread(target=walk, args=(name,)) for name in want]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == want and len(set(got.values())) == 1


def processor_asleep(thread: int) -> int:
    """The CPU that a thread ran on last, once it sleeps."""
    deadline = time.monotonic() + 2
    while True:
        time.sleep(0.01)  # CPUs go to sleep as well, as between the steps of a loop
        stat = Path(f"/proc/self/task/{thread}/stat").read_text().rpartition(")")[2].split()
        if stat[0] == "S" or time.monotonic() > deadline:
            return int(stat[36])


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="wants two CPUs")
def test_a_worker_wakes_beside_the_caller():
    """Also where both were on one CPU; what it may run on is as it was, before and after."""
    every = os.sched_getaffinity(0)
    here = min(every)
    before = set(os.listdir("/proc/self/task"))
    session = rtfm_rt.Session("rooms", device="cpu", threads=2, steps=1)
    session.observe(np.zeros((64, 64, 3), np.uint8), np.eye(4))  # starts the worker
    (worker,) = (int(thread) for thread in set(os.listdir("/proc/self/task")) - before)
    beside = 0
    try:
        os.sched_setaffinity(0, {here})  # the caller alone
        for _ in range(20):
            os.sched_setaffinity(worker, {here})
            session.step(np.eye(4))
            assert processor_asleep(worker) == here and os.sched_getaffinity(worker) == {here}
            os.sched_setaffinity(worker, every)
            session.step(np.eye(4))
            beside += processor_asleep(worker) != here
            assert os.sched_getaffinity(worker) == every
    finally:
        os.sched_setaffinity(0, every)
    assert beside >= 10  # of 20, others may be in the way; none where workers wake as they like


def test_two_threads_on_one_session(picture):
    """The second one is refused; that they can meet at all shows that `step` drops the GIL."""
    session = rtfm_rt.Session("rooms", threads=1)
    session.observe(np.zeros((64, 64, 3), np.uint8), np.eye(4))
    errors: list[Exception] = []
    stop = threading.Event()

    def intrude() -> None:
        while not stop.is_set():
            with contextlib.suppress(rtfm_rt.ArgumentError):
                session.observe(picture, np.eye(4))  # does not fit: refused before all else
            try:
                session.memory.coverage(np.eye(4))
            except rtfm_rt.WorldError as error:
                errors.append(error)

    intruder = threading.Thread(target=intrude)
    intruder.start()
    done = 0
    for _ in range(200):
        try:
            session.step(turn(1))
            done += 1
        except rtfm_rt.WorldError:
            pass  # the intruder was inside
        if errors and done > 3:
            break
    stop.set()
    intruder.join()
    assert errors and "one thread" in str(errors[0]) and done > 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_session_survives_fork(session):
    want = pixels(session.imagine([turn(5)])[0]).tobytes()
    child = os.fork()
    if child == 0:  # the pool's threads did not come along
        same = pixels(session.step(turn(5))).tobytes() == want
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert pixels(session.step(turn(5))).tobytes() == want


def test_a_step_allocates_nothing(model, picture, device):
    """Observed, committed, late and evicting steps, with and without `out`."""
    poses = np.stack([turn(15 * i) for i in range(24)])
    before = _testing.allocations()
    _testing.Device(device)
    assert _testing.allocations() > before  # the counter counts
    assert _testing.allocations_of_walk(model[0], device, picture, poses, 60_000) == 0


def test_positions_do_not_cost_precision(model, picture):
    """The same walk 1000 m away: the same frames."""

    def walk(origin: np.ndarray) -> list[np.ndarray]:
        session = rtfm_rt.Session(model[0], device="cpu:portable", seed=1)
        rng = np.random.default_rng(4)
        start = random_pose(rng)
        frames = []
        for i in range(4):
            pose = random_pose(rng) if i else start
            pose[:3, 3] += origin
            if i == 0:
                session.observe(picture, pose)
            frames.append(pixels(session.step(pose)).astype(int))
        return frames

    for here, there in zip(walk(np.zeros(3)), walk(np.array([1000.0, -1000, 1000])), strict=True):
        assert np.abs(here - there).max() <= 1
