# SPDX-License-Identifier: Apache-2.0
"""Tickets: frames that a thread of the session's own makes, one after the other."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

import rtfm_rt
from models import turn

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


class Gate:
    """Holds up a session's steps until it is opened."""

    def __init__(self, session: rtfm_rt.Session) -> None:
        self._opened, self._reached, self._step = threading.Event(), threading.Event(), session.step
        session.step = self._wait

    def _wait(self, *arguments: object, **options: object) -> rtfm_rt.Frame:
        self._reached.set()
        self._opened.wait()
        return self._step(*arguments, **options)

    def reached(self) -> bool:
        return self._reached.wait(60)

    def open(self) -> None:
        self._opened.set()


@pytest.fixture
def gate(session) -> Iterator[Gate]:
    made = Gate(session)
    yield made
    made.open()
    session.close()


def test_a_deadline_counts_from_submit(session, gate):
    """What waits in line has less of it: as few denoising steps as a step that is late."""
    first = session.submit(turn(0), deadline=100.0)
    late, soon = (session.submit(turn(1), deadline=seconds) for seconds in (0.05, 100.0))
    whenever = session.submit(turn(2))
    time.sleep(0.06)
    gate.open()
    assert (late.result(60).late, late.result().steps) == (True, 1)
    for ticket in (first, soon, whenever):
        assert (ticket.result(60).late, ticket.result().steps) == (False, 2)
    assert session.stats()["late"] == 1


def test_a_session_s_own_deadline_counts_from_submit(model, picture):
    session = rtfm_rt.Session(model[0], device="cpu", threads=1, deadline=0.05)
    session.observe(picture, np.eye(4))
    for each in (session, session.fork()):
        gate = Gate(each)
        with each:
            each.submit(turn(0))
            late, soon = each.submit(turn(1)), each.submit(turn(1), deadline=100.0)
            time.sleep(0.06)
            gate.open()
            assert (late.result(60).late, late.result().steps) == (True, 1)
            assert (soon.result(60).late, soon.result().steps) == (False, 2)


@pytest.mark.parametrize("bad", [0, -1.0, np.nan, np.inf, "soon", "0.5", 10**400], ids=ascii)
def test_what_is_no_deadline(session, bad):
    with session, pytest.raises(rtfm_rt.ArgumentError, match="deadline: expected"):
        session.submit(turn(0), deadline=bad).result(60)


def test_cancel(session, model, picture, gate):
    """A ticket that waits goes, as if it had never been submitted; one that is made stays."""
    twin = rtfm_rt.Session(model[0], device="cpu", threads=2, seed=11)
    twin.observe(picture, np.eye(4))
    first, stale, last = (session.submit(turn(30 * i)) for i in range(3))
    assert gate.reached()
    assert not first.cancel() and not stale.done()
    assert stale.cancel() and stale.cancel() and stale.done()
    with pytest.raises(rtfm_rt.WorldError, match="cancelled"):
        stale.result()
    gate.open()
    for ticket, pose in ((first, turn(0)), (last, turn(60))):
        want = twin.step(pose)
        assert ticket.result(60).id == want.id and np.array_equal(ticket.result(), want)
    assert not last.cancel() and last.done()


def in_a_fork(check: Callable[[], bool]) -> bool:
    """Whether that is so in a fork of this process, within 60 s."""
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            os._exit(0 if check() else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_fork_submits_to_a_thread_of_its_own(session):
    session.submit(turn(1)).result(60)
    want = session.imagine([turn(5)])[0]
    assert in_a_fork(lambda: np.array_equal(session.submit(turn(5)).result(30), want))
    assert np.array_equal(session.submit(turn(5)).result(60), want)
    session.close()


def test_close_waits_for_the_tickets_of_a_fork(session):
    session.submit(turn(1)).result(60)

    def check() -> bool:
        ticket = session.submit(turn(2))
        session.close()
        return ticket.done() and ticket.result().id == 2

    assert in_a_fork(check)
    assert in_a_fork(lambda: session.close() is None)
    session.close()


def test_a_ticket_is_of_one_process(session, gate):
    tickets = [session.submit(turn(i)) for i in range(2)]

    def check() -> bool:
        for ticket in tickets:
            with pytest.raises(rtfm_rt.WorldError, match="process that submitted it, got"):
                ticket.result()
        return all(ticket.done() and not ticket.cancel() for ticket in tickets)

    assert in_a_fork(check)
    assert not any(ticket.done() for ticket in tickets)
    gate.open()
    assert [ticket.result(60).id for ticket in tickets] == [1, 2]


@torch.enable_grad()
def test_a_pose_in_a_tensor(session):
    tensor = torch.from_numpy(turn(3)).requires_grad_()
    for call in (session.submit, session.step):
        with pytest.raises(rtfm_rt.PoseError, match=r"expected a \(4, 4\) .*matrix"):
            call(tensor)
    want = session.imagine([turn(3)])[0]
    ticket = session.submit(tensor.detach())
    tensor.detach().zero_()
    assert np.array_equal(ticket.result(60), want)
    session.close()


def test_a_fork_in_the_middle_of_a_call():
    session = rtfm_rt.Session("rooms", threads=1)  # whose frames take a while
    session.observe(np.zeros((64, 64, 3), np.uint8), turn(0))
    dreams = threading.Thread(target=lambda: session.imagine([turn(1)] * 200))

    def check() -> bool:
        with pytest.raises(rtfm_rt.WorldError, match="at rest when its process was forked"):
            session.step(turn(0))
        return True

    def forked_in_a_frame() -> bool:
        with pytest.raises(rtfm_rt.WorldError, match="while another is running"):
            while dreams.is_alive():
                len(session.memory)
        return in_a_fork(check)

    dreams.start()
    assert any(forked_in_a_frame() for _ in range(20))  # else all were between two frames
    dreams.join()
    assert session.step(turn(0)).id == 1
