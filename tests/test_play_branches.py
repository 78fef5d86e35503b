# SPDX-License-Identifier: Apache-2.0
"""Branches of a walk in FRAMEBOY: left, come back to, dropped."""

from __future__ import annotations

from arcade import FORWARD, REST, Page, Site, at_rest, saved_world, still_walks
from rtfm_rt.play.walk import BRANCHES


def tree(page: Page) -> tuple[str, dict[str, str | None]]:
    message = page.wait_for("branches")
    return message["here"], dict(message["branches"])


def test_branches_go_their_own_ways(page: Page) -> None:
    page.look()
    assert tree(page) == ("A", {"A": None})
    first = at_rest(page, page.walk(FORWARD, 10)[-1])
    page.say(branch=True)
    again = page.look()
    assert tree(page) == ("B", {"A": None, "B": "A"})
    assert (again.pixels, again.place) == (first.pixels, first.place)
    second = at_rest(page, page.walk([0, 0, 1, 0], 15)[-1])
    assert second.pixels != first.pixels and second.remembered > first.remembered

    page.say(switch="A")
    back = page.look()
    assert tree(page) == ("A", {"A": None, "B": "A"})
    assert (back.pixels, back.place) == (first.pixels, first.place)
    assert back.remembered == first.remembered and len(back.entries) == first.remembered
    assert page.rest() is None
    page.walk([-1, 0, 0, 0], 10)
    page.rest()
    page.say(switch="B")
    there = page.look()
    assert (there.pixels, there.remembered) == (second.pixels, second.remembered)


def test_dropping_rolls_back(page: Page) -> None:
    first = page.look()
    for _ in range(2):
        page.say(branch=True)
        page.walk(FORWARD, 4)
    page.say(drop="B")  # in the middle: C now comes from A
    page.walk(FORWARD, 1)
    while (told := tree(page))[1].keys() != {"A", "C"}:
        pass
    assert told == ("C", {"A": None, "C": "A"})
    page.rest()
    page.say(drop="C")
    back = page.look()
    assert tree(page) == ("A", {"A": None})
    assert (back.pixels, back.place) == (first.pixels, first.place)
    page.say(branch=True)
    page.look()
    assert tree(page)[0] == "B"
    page.say(drop="A")  # the trunk too
    page.look()
    assert tree(page) == ("B", {"B": None})


def test_branches_are_limited(page: Page) -> None:
    page.look()
    for _ in BRANCHES:
        page.say(branch=True)
    assert "the most" in page.wait_for("notice")["notice"]
    page.look()
    for wish in ({"switch": "Z"}, {"switch": "../A"}, {"drop": ""}, {"drop": "A" * 4000}):
        page.say(**wish)
        assert page.wait_for("notice")["notice"].startswith("There is no ")
    still_walks(page)


def test_the_only_branch_stays(page: Page) -> None:
    page.look()
    page.say(drop="A")
    assert "only one" in page.wait_for("notice")["notice"]
    still_walks(page)


def test_another_picture_or_world_is_one_branch_again(site: Site, page: Page) -> None:
    saved_world(site, page)
    for wish in ({"picture": "rooms-2"}, {"load": "world-1"}):
        page.say(branch=True)
        page.look()
        page.say(**wish)
        page.look()
        while tree(page) != ("A", {"A": None}):
            page.rest()
    still_walks(page)


def test_branches_without_memory(page: Page) -> None:
    page.look()
    page.say(remember=False)
    page.look()
    page.say(branch=True)
    page.say(stick=REST)
    assert all(not shown.flags & 4 for shown in page.walk(FORWARD, 5))
    page.say(switch="A")
    page.say(remember=True)
    page.rest()
    assert page.walk(FORWARD, 2)[-1].flags & 4
