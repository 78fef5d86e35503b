# SPDX-License-Identifier: Apache-2.0
"""Saving and loading in FRAMEBOY, by those who mean well and by others."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rtfm_rt
from arcade import FORWARD, LOOK_RIGHT, Page, Site, at_rest, saved_world, still_walks
from models import TINY, write_model
from rtfm_rt import world as world_files
from rtfm_rt.play import ground, worlds
from rtfm_rt.play.wire import Place

# saving and loading


def test_a_loaded_world_begins_with_the_frame_of_its_save(site: Site, page: Page) -> None:
    page.look()
    page.walk(FORWARD, 8)
    there = at_rest(page, page.walk([0, 0, 1, 0.5], 8)[-1])
    page.say(save=True)
    kept = page.look()  # made from right here
    news = page.wait_for("saved")
    assert news == {"saved": "world-1", "frames": there.remembered}
    assert kept.place == there.place and kept.number == there.number + 1
    assert [file.name for file in site.folder.iterdir()] == ["world-1.world"]

    page.walk([-1, 0.5, -1, 0], 15)
    page.rest()
    page.say(load="world-1")
    back = page.look()
    assert page.wait_for("loaded") == {"loaded": "world-1", "frames": there.remembered}
    assert back.pixels == kept.pixels
    assert back.place == pytest.approx(kept.place, abs=1e-6)
    assert (back.context, back.support) == (kept.context, kept.support)
    assert page.rest() is None  # one frame, and nothing moves
    page.walk(FORWARD, 3)


def test_saving_does_not_stop_the_walk(site: Site, page: Page) -> None:
    page.look()
    page.say(save=True)
    places = [shown.place for shown in page.walk(FORWARD, 20)]
    assert places[-1][1] > places[2][1] > 0
    assert page.wait_for("saved")["saved"] == "world-1"


def test_every_save_has_its_own_name(site: Site, page: Page) -> None:
    page.look()
    site.folder.mkdir(exist_ok=True)
    (site.folder / "world-2.world").write_text("of somebody else")
    for expected in ("world-1", "world-3"):
        page.say(save=True)
        assert page.wait_for("saved")["saved"] == expected
    assert (site.folder / "world-2.world").read_text() == "of somebody else"
    assert not list(site.folder.glob("*.part"))


def test_the_list_names_worlds_only(site: Site, page: Page) -> None:
    page.look()
    page.say(save=True)
    page.wait_for("saved")
    for name in ("note.txt", ".hidden.world", "-.world", "a b.world", "being-saved.world"):
        (site.folder / name).write_bytes(b"")
    (site.folder / "note.txt").write_text("mine")
    (site.folder / "folder.world").mkdir()
    try:
        status, text, _ = site.ask("GET", f"/worlds?{site.query}")
        (world,) = json.loads(text)["worlds"]
        assert status == 200 and world["name"] == "world-1"
        assert world["bytes"] == (site.folder / "world-1.world").stat().st_size
        assert abs(world["saved"] - time.time()) < 60
    finally:
        (site.folder / "folder.world").rmdir()


def test_download_and_upload(site: Site, page: Page, door: Any) -> None:
    content = saved_world(site, page)
    status, text, headers = site.ask("GET", f"/worlds/world-1?{site.query}")
    assert status == 200 and text.encode("latin-1") == content
    assert headers["content-disposition"] == 'attachment; filename="world-1.world"'
    assert headers["x-content-type-options"] == "nosniff"
    there = page.walk(FORWARD, 1)[0]
    other = door()
    other.look()
    status, answer = site.upload(other, content, "worlds")
    shown = other.look()
    assert (status, answer) == (200, {"frames": shown.remembered})
    assert 0 < shown.place[1] <= there.place[1]
    assert [file.name for file in site.folder.iterdir()] == ["world-1.world"]


def test_routes_of_worlds_want_the_token_and_our_page(site: Site) -> None:
    own = f"http://{site.host}"
    assert site.ask("GET", "/worlds")[0] == site.ask("GET", "/worlds/world-1?token=x")[0] == 403
    assert site.ask("POST", "/worlds", b"", Origin=own)[0] == 403
    assert site.ask("POST", f"/worlds?{site.query}", b"", Origin="http://evil.example")[0] == 403
    assert site.ask("POST", f"/worlds?{site.query}", b"", Origin=own)[0] == 404  # no visitor


PATHS = ("", ".", "..", "../secret", "/etc/passwd", "world-1.world", "a/b", "a\\b", "%2e%2e", "\0")


@pytest.mark.parametrize("name", [*PATHS, "nowhere", "w" * 1000, "wörld", "world-1\n"])
def test_names_that_are_no_worlds(site: Site, page: Page, name: str) -> None:
    page.look()
    page.say(save=True)
    page.wait_for("saved")
    page.rest()
    (site.folder.parent / "secret.world").write_bytes((site.folder / "world-1.world").read_bytes())
    page.say(load=name)
    assert page.wait_for("notice", "loaded") == {"notice": "There is no such world."}
    still_walks(page)


@pytest.mark.parametrize("name", ["..%2fsecret", "%2e%2e%2fsecret", "nowhere", "%00", "world-1%0a"])
def test_downloads_of_what_is_no_world(site: Site, name: str) -> None:
    status, text, _ = site.ask("GET", f"/worlds/{name}?{site.query}")
    assert status == 404 and str(site.folder) not in text


def broken(content: bytes, tmp_path: Path) -> dict[str, bytes]:
    """Files that are no worlds of this model, by what their errors say."""
    options = content.index(b'"commit_below"')
    paths = {name: tmp_path / name for name in ("foreign", "model", "trigger", "option")}
    for path in paths.values():
        path.write_bytes(content)
    paths["foreign"].unlink()
    other = tmp_path / "other.safetensors"
    write_model(other, TINY, 4)
    stranger = rtfm_rt.Session(other, device="cpu", threads=1)
    stranger.observe(np.zeros((TINY.height, TINY.image_width, 3), np.uint8), np.eye(4))
    paths["model"].unlink()
    stranger.save(paths["model"])
    for name, statement in {
        "foreign": "CREATE TABLE recipes (name TEXT)",
        "trigger": "CREATE TRIGGER t AFTER UPDATE ON world BEGIN DELETE FROM frames; END",
    }.items():
        with sqlite3.connect(paths[name]) as db:
            db.execute(statement)
    with sqlite3.connect(paths["option"]) as db:
        change_world(db, options=json.dumps({"seed": 1, "context": 10**9}))
    return {
        "description is damaged": content[:options] + b"'" + content[options + 1 :],
        "file is not a database": b"my favourite places\n" * 100,
        "something else": paths["foreign"].read_bytes(),
        "expected the model": paths["model"].read_bytes(),
        "the tables of": paths["trigger"].read_bytes(),
        "expected a world file": paths["option"].read_bytes(),
        "expected": content[: len(content) // 2],
        "got": b"",
    }


def change_world(db: sqlite3.Connection, **values: Any) -> None:
    """As somebody would who knows the format."""
    db.executemany("UPDATE world SET value = ? WHERE key = ?", [(v, k) for k, v in values.items()])
    rows = dict(db.execute("SELECT key, value FROM world WHERE key != 'digest'"))
    db.execute("UPDATE world SET value = ? WHERE key = 'digest'", (world_files._digest(rows),))


def test_files_that_do_not_load_are_explained(site: Site, page: Page, tmp_path: Path) -> None:
    content = saved_world(site, page)
    for text, file in broken(content, tmp_path).items():
        status, answer = site.upload(page, file, "worlds")
        assert status == 400 and text in answer["error"], (text, answer)
        (site.folder / "broken.world").write_bytes(file or b"\n")
        page.say(load="broken")
        notice = page.wait_for("notice", "loaded")["notice"]
        for shown in (notice, answer["error"]):
            assert str(tmp_path) not in shown and str(site.folder) not in shown
            assert "safetensors" not in shown
    still_walks(page)


def test_large_worlds_are_refused(site: Site, page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    page.look()
    monkeypatch.setattr(site.arcade, "most", 1 << 20)
    status, answer = site.upload(page, b"x" * (1 << 20) + b"x", "worlds")
    assert status == 400 and "larger than 1 MB" in answer["error"]
    still_walks(page)


def test_a_world_that_another_program_has_open(
    site: Site, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved_world(site, page)
    monkeypatch.setattr(world_files, "PATIENCE", 0.05)
    holder = sqlite3.connect(site.folder / "world-1.world", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    page.say(load="world-1")
    notice = page.wait_for("notice", "loaded")["notice"]
    assert notice.startswith("world-1: ") and "locked" in notice
    holder.close()
    still_walks(page)


def test_a_folder_that_cannot_be_made(
    site: Site, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    page.look()
    monkeypatch.setattr(site.arcade.worlds, "_folder", "/proc/self/worlds")
    page.say(save=True)
    notice = page.wait_for("notice", "saved")["notice"]
    assert notice.startswith("The folder of worlds: ") and "/proc" not in notice
    page.rest()
    still_walks(page)


def test_a_save_that_fails_leaves_nothing(
    site: Site, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    page.look()
    monkeypatch.setattr(world_files, "_write", full)
    page.say(save=True)
    notice = page.wait_for("notice", "saved")["notice"]
    assert notice.startswith("world-1: ") and "No space left" in notice
    assert list(site.folder.iterdir()) == []
    page.rest()
    still_walks(page)


def test_a_folder_holds_so_many_worlds(
    site: Site, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    page.look()
    monkeypatch.setattr(worlds, "MOST", 1)
    page.say(save=True)
    page.wait_for("saved")
    page.say(save=True)
    assert "the most" in page.wait_for("notice", "saved")["notice"]


def test_a_file_is_no_folder(model: tuple[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(rtfm_rt.WorldError, match="expected a folder"):
        worlds.Worlds(str(tmp_path / "file"), rtfm_rt.Model(model[0], device="cpu"))


def test_a_file_does_not_choose_how_much_memory_it_takes(model, picture, tmp_path) -> None:
    shared = rtfm_rt.Model(model[0], device="cpu")
    session = rtfm_rt.Session(shared, threads=1, memory_budget=100_000)
    session.observe(picture, np.eye(4))
    session.save(tmp_path / "small.world")
    loaded = worlds.Worlds(str(tmp_path), shared, threads=1).load("small")
    assert loaded.memory.budget == rtfm_rt.Session(shared, threads=1).memory.budget > 100_000


def test_a_world_from_anywhere_is_stood_in(site: Site, page: Page) -> None:
    """A world of another program: rolled, high up, far away."""
    model = site.arcade.model
    session = rtfm_rt.Session(model, threads=1)
    pose = np.diag([-1.0, -1.0, 1.0, 1.0])
    pose[:3, 3] = 3e5, 5.0, -3e5
    session.observe(np.zeros((TINY.height, TINY.image_width, 3), np.uint8), pose)
    session.step(pose)
    session.save(site.folder.parent / "far")
    page.look()
    content = (site.folder.parent / "far").read_bytes()
    assert site.upload(page, content, "worlds")[0] == 200
    shown = page.look()
    assert np.hypot(*shown.place[:2]) == pytest.approx(ground.EDGE)
    assert all(np.isfinite(shown.entries[0]))
    page.walk(FORWARD, 3)


def test_an_empty_world_is_refused(site: Site, page: Page) -> None:
    empty = site.folder.parent / "empty"
    rtfm_rt.Session(site.arcade.model, threads=1).save(empty)
    page.look()
    status, answer = site.upload(page, empty.read_bytes(), "worlds")
    assert status == 400 and "empty" in answer["error"]
    with sqlite3.connect(empty) as db:
        change_world(db, next_id=1 << 40)
    session = rtfm_rt.Session(site.arcade.model, threads=1)
    session.observe(np.zeros((TINY.height, TINY.image_width, 3), np.uint8), np.eye(4))
    session.save(site.folder.parent / "late")
    with sqlite3.connect(site.folder.parent / "late") as db:
        change_world(db, next_id=1 << 40)
    late = (site.folder.parent / "late").read_bytes()
    status, answer = site.upload(page, late, "worlds")
    assert status == 400 and "fewer" in answer["error"]
    still_walks(page)


def test_loading_with_the_memory_off(site: Site, page: Page) -> None:
    saved_world(site, page)
    page.say(remember=False)
    page.look()
    page.say(load="world-1")
    assert not page.look().flags & 4
    assert all(not shown.flags & 4 for shown in page.walk(LOOK_RIGHT, 5))


@pytest.mark.parametrize(
    "text",
    ['{"save": 1}', '{"load": true}', '{"load": ["a"]}', '{"branch": "A"}', '{"switch": 0}'],
)
def test_nonsense_about_worlds_is_shown_the_door(page: Page, text: str) -> None:
    page.unread()
    page.socket.send(text)
    assert "expected" in page.wait_for("error")["error"]


def begin_slow_save(page: Page, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Asks for a save and returns when it writes; it goes on when the event is set."""
    begun, go_on = threading.Event(), threading.Event()
    write = world_files._write

    def slow(*values: Any) -> None:
        begun.set()
        assert go_on.wait(10)
        write(*values)

    monkeypatch.setattr(world_files, "_write", slow)
    page.look()
    page.say(save=True)
    assert begun.wait(10)
    return go_on


def test_who_leaves_while_saving_has_saved(
    site: Site, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = begin_slow_save(page, monkeypatch)
    page.socket.close()
    gone.set()
    until = time.monotonic() + 10
    while site.arcade.visitors and time.monotonic() < until:
        time.sleep(0.01)
    world = rtfm_rt.Session.load(site.folder / "world-1.world", site.arcade.model, threads=1)
    assert len(world.memory) == 1


def test_one_errand_at_a_time(site: Site, page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    done = begin_slow_save(page, monkeypatch)
    page.say(save=True)  # once more is no other save
    assert "One thing at a time" in site.upload(page, b"", "worlds")[1]["error"]
    assert page.walk(FORWARD, 5)[-1].place[1] > 0  # and the walk goes on
    done.set()
    page.wait_for("saved")
    page.rest()
    assert len(list(site.folder.iterdir())) == 1


# poses of loaded worlds


def test_the_pose_of_a_place_leads_back_to_it() -> None:
    for place in (Place(), Place(1, 2, 3, 0.2), Place(-1, 0, -3, -0.2)):
        pose = ground.matrix(place)
        stood, kept = ground.standing(pose)
        assert stood == pytest.approx(place) and kept is pose
    tilted = ground.matrix(Place(pitch=1.0))
    stood, upright = ground.standing(tilted)
    assert stood.pitch == ground.TILT and upright[1, 3] == 0
    assert np.allclose(upright, ground.matrix(stood))


def test_default_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert worlds.default_folder() == str(tmp_path / "rtfm_rt" / "worlds")
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert worlds.default_folder() == str(tmp_path / ".local/share/rtfm_rt/worlds")
    assert not list(tmp_path.iterdir())
