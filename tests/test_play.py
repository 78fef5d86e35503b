# SPDX-License-Identifier: Apache-2.0
"""The server behind FRAMEBOY, asked as a browser, a bug and a foreign page would ask it."""

from __future__ import annotations

import io
import json
import socket
import time
from typing import Any

import pytest
from PIL import Image
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from arcade import CONTEXT, FORWARD, LOOK_RIGHT, REST, Page, Site, dial
from rtfm_rt.play import pictures, server

# who may come in


@pytest.mark.parametrize(
    ("origin", "host", "query"),
    [
        (None, None, None),
        ("http://evil.example", None, None),
        ("https://{host}", None, None),
        ("null", None, None),
        ("http://{host}", None, ""),
        ("http://{host}", None, "token=guess"),
        ("http://rebound.example:{port}", "rebound.example:{port}", None),
        ("http://{host}", "rebound.example:{port}", None),
    ],
)
def test_foreign_pages_get_no_session(
    site: Site, origin: str | None, host: str | None, query: str | None
) -> None:
    port = site.host.rpartition(":")[2]
    name = (host or site.host).format(port=port)
    query = site.query if query is None else query
    origin = origin and origin.format(host=site.host, port=port)
    with (
        socket.create_connection(("127.0.0.1", int(port))) as plain,
        pytest.raises(InvalidStatus) as refused,
        connect(f"ws://{name}/walk?{query}", sock=plain, origin=origin),
    ):
        pass
    assert refused.value.response.status_code == 403
    assert not site.arcade.visitors


def test_every_route_that_does_something_wants_the_token(site: Site) -> None:
    for path in ("/", "/pictures/rooms", "/nowhere", "/?token=", "/?token=guess"):
        assert site.ask("GET", path)[0] == 403
    for path in (f"/?{site.query}", f"/pictures/rooms?{site.query}", "/frameboy.js", "/icon.svg"):
        status, _, headers = site.ask("GET", path)
        assert status == 200
        assert headers["content-security-policy"].startswith("default-src 'self'")
        assert headers["x-content-type-options"] == "nosniff"
    own = f"http://{site.host}"
    assert site.ask("POST", "/pictures", b"", Origin=own)[0] == 403
    assert site.ask("POST", f"/pictures?{site.query}", b"")[0] == 403
    assert site.ask("POST", f"/pictures?{site.query}", b"", Origin="http://evil.example")[0] == 403
    assert site.ask("POST", f"/pictures?{site.query}", b"", Origin=own)[0] == 404  # no visitor


def test_the_host_must_be_ours(site: Site) -> None:
    path, port = f"/?{site.query}", site.host.rpartition(":")[2]
    for host in ("rebound.example", f"127.0.0.1.rebound.example:{port}", "[::1", "192.0.2.1"):
        assert site.ask("GET", path, Host=host)[0] == 403
    for host in (f"localhost:{port}", f"[::1]:{port}", "127.0.0.1:1"):  # forwarded ports are ours
        assert site.ask("GET", path, Host=host)[0] == 200


def test_errors_tell_no_paths(site: Site) -> None:
    for path in ("/static/../cli.py", "/%2e%2e/cli.py", "/pictures/..%2frooms", "/pictures/x"):
        status, text, _ = site.ask("GET", f"{path}?{site.query}")
        assert status == 404 and "rtfm_rt" not in text and "Traceback" not in text


def test_places_are_limited_and_given_back(site: Site, door: Any) -> None:
    pages = [door() for _ in range(server.VISITORS)]
    with dial(site) as one_more:
        assert "places are taken" in json.loads(one_more.recv(10))["error"]
        with pytest.raises(ConnectionClosed):
            one_more.recv(10)
    assert len(site.arcade.visitors) == server.VISITORS
    pages[0].socket.close()
    until = time.monotonic() + 10
    while len(site.arcade.visitors) == server.VISITORS and time.monotonic() < until:
        time.sleep(0.01)
    assert door().look().number == 1


# what a walk does


def test_hello_then_one_frame_then_silence(page: Page) -> None:
    assert page.hello["pictures"] == ["rooms", "rooms-2", "rooms-3", "rooms-4"]
    assert page.hello["context"] == CONTEXT and page.hello["device"].startswith("cpu")
    first = page.look()
    assert first.number == 1 and first.place == (0, 0, 0, 0)
    assert first.entries[0] == (0, 0, 0, 0)  # the picture, at home
    with pytest.raises(TimeoutError):
        page.unread(0.4)


def test_sticks_move_and_frames_change(page: Page) -> None:
    first = page.look()
    seen = page.walk(FORWARD, 12)
    assert len({shown.pixels for shown in [first, *seen]}) > 10
    assert 0.1 < seen[-1].place[1] < 1.0 and seen[-1].place[0] == pytest.approx(0)
    still = page.rest() or seen[-1]
    turned = page.walk(LOOK_RIGHT, 12)[-1]
    assert turned.place[2] > 0.1 and turned.place[3] == 0
    assert turned.place[:2] == pytest.approx(still.place[:2], abs=0.05)


def test_a_sleeping_page_stops_walking(page: Page) -> None:
    page.look()
    page.say(stick=FORWARD)  # and never again
    assert page.rest().place[1] < 0.75


def test_home_is_where_it_began(page: Page) -> None:
    page.look()
    page.walk(FORWARD, 15)
    away = page.walk([0, 0, -1, 1], 15)[-1]
    assert away.place[1] > 0.1 and away.place[2] < -0.1 and away.place[3] > 0.05
    page.say(home=True)
    back = page.rest()
    assert back.place == (0, 0, 0, 0) and not back.flags & 8


def test_memory_can_be_switched_off_and_on(page: Page) -> None:
    page.look()
    page.walk(LOOK_RIGHT, 25)
    with_memory = page.rest()
    assert with_memory.flags & 4
    page.say(remember=False)
    off = page.look()
    assert not off.flags & 4 and off.place == with_memory.place
    assert len(off.entries) == off.remembered <= CONTEXT
    seen = page.walk(LOOK_RIGHT, 12)
    assert all(shown.flags & 1 and shown.remembered <= CONTEXT for shown in seen)
    newest = [max(entry[0] for entry in shown.entries) for shown in seen]
    assert all(min(s.context) >= n - CONTEXT for s, n in zip(seen, newest, strict=True))
    page.rest()
    page.say(remember=True)
    on = page.look()
    assert on.flags & 4 and on.remembered >= with_memory.remembered and 0 in on.context


def test_the_map_is_the_memory(page: Page) -> None:
    known = page.look().entries
    for shown in page.walk([0.5, 0.5, 1, 0], 40):
        assert set(shown.context) <= {entry[0] for entry in known}  # lit before it is drawn
        known = shown.entries or known
        assert len(known) == shown.remembered
        if shown.flags & 1:  # remembered for good: here
            assert known[-1][1:] == pytest.approx(shown.place[:3], abs=1e-5)
    assert len(known) > 1


def test_a_page_that_draws_nothing_gets_two_frames(page: Page) -> None:
    for _ in range(10):
        page.say(stick=FORWARD)
        time.sleep(0.03)
    assert [page.unread().number, page.unread().number] == [1, 2]
    with pytest.raises(TimeoutError):
        page.unread(0.3)
    page.say(stick=FORWARD)
    page.say(ack=10**9)  # as far as was sent, no further
    assert [page.unread().number, page.unread().number] == [3, 4]
    with pytest.raises(TimeoutError):
        page.unread(0.3)


def test_one_slow_page_holds_up_nobody(door: Any) -> None:
    slow, quick = door(), door()
    slow.say(stick=FORWARD)
    quick.look()
    assert quick.walk(FORWARD, 20)[-1].number == 21


@pytest.mark.parametrize(
    "text",
    ["", "[", "[]", "{}", '{"fly": 1}', '{"ack": true}', '{"ack": 1, "home": true}']
    + [f'{{"stick": {v}}}' for v in ("1", "[1, 2, 3]", "[0, 0, 0, NaN]", '[0, 0, 0, "1"]', "[]")]
    + ['{"stick": [0, 0, 0, 1e999]}', '{"remember": 1}', '{"picture": 7}', "[" * 3000]
    + [f'{{"{order}": false}}' for order in ("home", "save", "branch")]
    + [b'{"home": true}'],
)
def test_nonsense_is_shown_the_door(page: Page, text: str | bytes) -> None:
    page.unread()
    page.socket.send(text)
    assert "expected" in json.loads(page.socket.recv(10))["error"]
    with pytest.raises(ConnectionClosed) as closed:
        page.socket.recv(10)
    assert closed.value.rcvd.code == 1008


def test_large_and_many_messages_are_refused(door: Any) -> None:
    page = door()
    page.unread()
    page.socket.send(json.dumps({"picture": "x" * 4096}))
    with pytest.raises(ConnectionClosed) as closed:
        page.socket.recv(10)
    assert closed.value.rcvd.code == 1009
    page = door()
    with pytest.raises(ConnectionClosed):
        for _ in range(20_000):
            page.say(stick=REST)
        page.socket.recv(10)


# pictures


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def test_another_picture_begins_another_world(page: Page) -> None:
    first = page.look()
    page.walk(FORWARD, 5)
    page.rest()
    page.say(picture="rooms-2")
    other = page.look()
    assert other.place == (0, 0, 0, 0) and other.pixels != first.pixels
    page.say(picture="../rooms")  # no such thing: nothing happens
    with pytest.raises(TimeoutError):
        page.unread(0.3)
    page.say(picture="rooms")
    assert page.look().pixels == first.pixels


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_upload(site: Site, page: Page, kind: str) -> None:
    page.look()
    page.say(remember=False)
    page.look()
    image = Image.new("RGB", (240, 160), (200, 40, 40))
    assert site.upload(page, encoded(image, kind)) == (200, {"cut": False})
    shown = page.look()
    assert shown.place == (0, 0, 0, 0) and not shown.flags & 4
    assert site.upload(page, encoded(image.resize((300, 100)), kind)) == (200, {"cut": True})


def test_bad_uploads_are_explained(site: Site, page: Page) -> None:
    page.look()
    png = encoded(Image.effect_noise((64, 64), 50))
    vast = encoded(Image.new("1", (10_000, 5_000)))
    other_kind = encoded(Image.new("L", (64, 64)), "TIFF")
    for data in (b"", b"hello", png[: len(png) // 2], png[:20], other_kind):
        status, answer = site.upload(page, data)
        assert status == 400 and answer["error"].startswith("That is not a picture")
    assert "50 megapixels" in site.upload(page, vast)[1]["error"]
    assert "larger than 8 MB" in site.upload(page, b"x" * (pictures.UPLOAD_BYTES + 1))[1]["error"]
    with pytest.raises(TimeoutError):
        page.unread(0.2)  # the walk is where it was
    page.say(home=True)
    assert page.look().number == 2
