# SPDX-License-Identifier: Apache-2.0
"""FRAMEBOY without its page: the command, the port, and where sticks lead."""

from __future__ import annotations

import math
import re
import signal
import subprocess
import sys
import urllib.request

import pytest

import rtfm_rt
from rtfm_rt.play import ground, server
from rtfm_rt.play.wire import Place


def test_the_command_says_where_and_stops_quietly() -> None:
    command = [sys.executable, "-m", "rtfm_rt", "play", "--port", "0", "--no-browser"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )
    assert process.stdout is not None
    shown = "".join(iter(process.stdout.readline, "  stop         Ctrl-C\n"))
    address = re.search(r"play +(http://127.0.0.1:\d+/\?token=[\w-]{20,})\n", shown)
    assert address, shown
    with urllib.request.urlopen(address[1], timeout=10) as answer:
        assert b"FRAMEBOY" in answer.read()
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=20)
    assert (process.returncode, error) == (0, "")


def test_a_port_in_use_is_one_line() -> None:
    with server.bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(rtfm_rt.Error, match=f"port {port}: .*--port"):
            server.bind("127.0.0.1", port)
    with pytest.raises(rtfm_rt.Error, match="--host"):
        server.bind("192.0.2.1", 0)
    with pytest.raises(rtfm_rt.Error, match="99999"):
        server.bind("127.0.0.1", 99_999)


# where a walk leads


def test_places_are_poses() -> None:
    for place in (Place(), Place(1, 2, 3, 0.2), Place(-1, 0, -3, -0.2)):
        rtfm_rt.Pose(ground.matrix(place))
    ahead = ground.matrix(Place(yaw=0.5, pitch=0.2)) @ [0, 0, 1, 0]
    assert ahead[0] > 0 > ahead[1]  # to the right and up: y is down


def test_walking_follows_the_eyes() -> None:
    east = Place(yaw=math.pi / 2)
    assert ground.moved(east, (1, 0, 0, 0), 1) == pytest.approx((ground.WALK, 0, east.yaw, 0))
    assert ground.moved(east, (0, 1, 0, 0), 1) == pytest.approx((0, -ground.WALK, east.yaw, 0))
    askew = ground.moved(Place(), (1, 1, 0, 0), 1)  # no faster than straight ahead
    assert math.hypot(askew.x, askew.z) == pytest.approx(ground.WALK)
    far = Place()
    for _ in range(400):
        far = ground.moved(far, (1, 0.3, 0.01, 1), 0.1)
        assert math.hypot(far.x, far.z) <= ground.EDGE + 1e-9
        assert far.pitch <= ground.TILT and abs(far.yaw) <= math.pi
