# SPDX-License-Identifier: Apache-2.0
"""FRAMEBOY with models that go by actions: what sticks and buttons lead to, saving, branching."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed

import action_models
import rtfm_rt
from arcade import FORWARD, LOOK_RIGHT, REST, Page, Shown, Site, serve
from rtfm_rt.convert import oasis, waypoint
from rtfm_rt.play.actions import ActionWalk, Controls

SEED = 3
WAIT, SPACE = 0, 1  # buttons of every model here


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> rtfm_rt.Model:
    path = tmp_path_factory.mktemp("causal") / "causal.safetensors"
    return rtfm_rt.Model(action_models.write(path, "causal"), device="cpu")


@pytest.fixture(scope="module")
def site(causal: rtfm_rt.Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Instead of the one that goes by poses."""
    folder = tmp_path_factory.mktemp("play") / "worlds"
    yield from serve(causal, {"threads": 1, "seed": SEED}, folder)


@pytest.fixture
def twin(site: Site, causal: rtfm_rt.Model) -> rtfm_rt.Session:
    """A session that saw what the page's did when it connected."""
    session = rtfm_rt.Session(causal, threads=1, seed=SEED)
    session.observe(next(iter(site.arcade.choices.values())))
    return session


def taken(page: Page, steps: int = 1, **message: Any) -> list[Shown]:
    """What a tap makes, `steps` times."""
    seen = []
    for _ in range(steps):
        page.say(**message)
        page.say(**{key: REST if key == "stick" else [] for key in message})
        seen.append(page.look())
    return seen


def silent(page: Page) -> None:
    with pytest.raises(TimeoutError):
        page.unread(0.3)


def test_which_actions_sticks_and_buttons_stand_for() -> None:
    game = Controls(oasis.actions())
    labels = [button.label for button in game.buttons]
    assert labels[:4] == ["wait", "jump", "attack", "use"] and len(labels) == 20
    assert len({button.key for button in game.buttons[:10]}) == 10
    assert game.action((1, -1, 0, 0), [labels.index("jump")]) == {
        "jump": 1, "forward": 1, "left": 1,
    }  # fmt: skip
    assert game.action((0.2, -0.2, 0, 0), []) == {}  # no key is pressed by a touch
    assert game.action((-1, 1, 0.5, -1), []) == {
        "back": 1, "right": 1, "cameraY": 0.15, "cameraX": 0.15,
    }  # fmt: skip
    assert game.action(REST, [WAIT, 31]) == {}

    mouse = Controls(waypoint.actions(259))
    labels = [button.label for button in mouse.buttons]
    assert labels[:3] == ["wait", "space", "mouse 1"] and len(labels) == 9
    assert mouse.action((1, 0, -1, 1), [1, 2]) == {
        "button.32": 1, "button.1": 1, "button.87": 1, "mouse_x": -0.6, "mouse_y": -0.3,
    }  # fmt: skip


def test_graded_moves_and_limits() -> None:
    actions = [
        {"name": "gas", "min": -2, "max": 4, "move": [0, 0, -0.1], "turn": [0, 0]},
        {"name": "wheel", "min": -0.1, "max": 0.1, "move": [0, 0, 0], "turn": [1, 0]},
        {"name": "horn", "min": 0, "max": 5, "move": [0, 0, 0], "turn": [0, 0]},
        {"name": "choke", "min": -1, "max": 1, "move": [0, 0, 0], "turn": [0, 0]},
    ]
    car = Controls(actions)
    assert [button.label for button in car.buttons] == ["wait", "horn"]
    assert car.action((0.25, 0, 1, 0), [1]) == {"gas": -1, "wheel": 0.1, "horn": 5}
    assert car.action((1, 0, 0, 0), []) == {"gas": -2}


def test_hello_and_the_picture_at_once(page: Page, site: Site) -> None:
    assert page.hello["buttons"][0] == ["wait", "KeyZ"] and len(page.hello["buttons"]) == 9
    first = page.look()
    assert (first.number, first.steps, first.shape) == (1, 0, (1, 48, 64))
    assert first.pixels == next(iter(site.arcade.choices.values())).tobytes()
    silent(page)


def test_a_tap_is_one_step(page: Page, twin: rtfm_rt.Session) -> None:
    page.look()
    shown = [
        *taken(page, held=[WAIT]),
        *taken(page, 2, stick=FORWARD),
        *taken(page, stick=LOOK_RIGHT),
        *taken(page, held=[SPACE]),
    ]
    actions = [{}, {"button.87": 1}, {"button.87": 1}, {"mouse_x": 0.6}, {"button.32": 1}]
    for got, action in zip(shown, actions, strict=True):
        frame = twin.step(action=action)
        assert got.shape == (2, 48, 64) and got.pixels == frame.images.tobytes()
        assert list(got.context) == frame.context and got.remembered == len(twin.memory)
    assert shown[2].place[1] == pytest.approx(0.2) and shown[2].entries[1][2] == 0
    assert shown[3].place[2] == pytest.approx(np.deg2rad(6))
    assert [entry[0] for entry in shown[-1].entries] == twin.memory.ids
    silent(page)


def test_holding_goes_on_until_it_ends_or_the_page_sleeps(page: Page) -> None:
    page.look()
    page.say(held=[WAIT, SPACE])
    numbers = [page.look().number for _ in range(4)]
    assert numbers == [2, 3, 4, 5]
    last = page.rest()  # no news for half a second
    assert last is not None
    assert taken(page, stick=FORWARD)[0].number == last.number + 1
    silent(page)


def test_what_makes_no_sense_is_ignored(page: Page) -> None:
    page.look()
    page.say(remember=False)
    page.say(home=True)
    page.say(held=[31])  # no such button: time passes
    assert page.look().number == 2
    page.say(held=[])
    page.rest()
    assert taken(page, stick=FORWARD)


@pytest.mark.parametrize("held", [0, "wait", ["wait"], [32], [-1], [True], [0.5], [0] * 33, [[0]]])
def test_messages_that_break_the_rules(page: Page, held: Any) -> None:
    page.look()
    page.say(held=held)
    assert "held: expected" in page.wait_for("error")["error"]
    with pytest.raises(ConnectionClosed):
        page.socket.recv(10)


def test_a_saved_world_goes_on_to_the_bit(site: Site, page: Page, door: Any) -> None:
    page.look()
    before = taken(page, 7, stick=FORWARD)[-1]
    page.say(save=True)
    name = page.wait_for("saved")["saved"]
    silent(page)  # what the world begins with is on the screen
    ahead = taken(page, 6, held=[SPACE])

    other = door()
    other.look()
    taken(other, 2, stick=LOOK_RIGHT)
    other.say(load=name)
    back = other.look()
    assert other.wait_for("loaded") == {"loaded": name, "frames": 8}
    assert back.pixels == before.pixels[len(before.pixels) // 2 :]  # the latest image
    assert back.place == before.place and back.entries
    for one, same in zip(taken(other, 6, held=[SPACE]), ahead, strict=True):
        assert (one.pixels, one.place, one.context) == (same.pixels, same.place, same.context)

    world = (site.folder / f"{name}.world").read_bytes()
    assert site.upload(other, world, "worlds") == (200, {"frames": 8})
    assert other.look().pixels == back.pixels


def test_branches_are_left_and_found(page: Page) -> None:
    page.look()
    assert page.wait_for("branches")["here"] == "A"
    trunk = taken(page, 5, stick=FORWARD)[-1]
    page.say(branch=True)
    assert page.wait_for("branches")["here"] == "B"
    assert page.look().pixels == trunk.pixels
    away = taken(page, 3, stick=LOOK_RIGHT)[-1]
    page.say(switch="A")
    assert page.look().pixels == trunk.pixels
    home = taken(page, 3, stick=LOOK_RIGHT)[-1]
    assert (home.pixels, home.place) == (away.pixels, away.place)
    page.say(drop="A")
    assert page.look().pixels == away.pixels


def test_another_picture_is_another_world(page: Page, site: Site) -> None:
    page.look()
    taken(page, 3, stick=FORWARD)
    page.say(picture="rooms-2")
    shown = page.look()
    assert shown.pixels == site.arcade.choices["rooms-2"].tobytes()
    assert shown.place == (0, 0, 0, 0) and shown.remembered == 1


def test_a_push_that_grows_counts_as_far_as_it_went(causal: rtfm_rt.Model, site: Site) -> None:
    """A stick is at its full reach some messages after it is pushed, in the time of one step."""
    walk = ActionWalk(causal, next(iter(site.arcade.choices.values())), {"threads": 1})
    walk.step(0.1)
    assert not walk.wants_frame
    for push in (0.1, 0.6, 1.0, 0.0):
        walk.steer((push, 0, 0, 0))
    assert walk.wants_frame
    walk.step(0.1)
    assert not walk.wants_frame and walk._here.place.z == pytest.approx(0.1)
