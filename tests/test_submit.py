# SPDX-License-Identifier: Apache-2.0
"""Tickets: frames that a thread of the session's own makes, one after the other."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

import rtfm_rt
from models import turn

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.fixture
def gate(session) -> Iterator[threading.Event]:
    """Steps wait until it is set."""
    opened, step = threading.Event(), session.step

    def waiting(*arguments: object, **options: object) -> rtfm_rt.Frame:
        opened.wait()
        return step(*arguments, **options)

    session.step = waiting
    yield opened
    opened.set()
    session.close()


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
        return all(ticket.done() for ticket in tickets)

    assert in_a_fork(check)
    assert not any(ticket.done() for ticket in tickets)
    gate.set()
    assert [ticket.result(60).id for ticket in tickets] == [1, 2]


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
