# SPDX-License-Identifier: Apache-2.0
"""Which file a world is saved to, by whatever name, and what is left when that fails."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import rtfm_rt


def load(path: object, session: rtfm_rt.Session) -> rtfm_rt.Session:
    return rtfm_rt.Session.load(path, session.model, threads=1)


@pytest.mark.parametrize(
    "name",
    [
        ":memory:",
        "file::memory:",
        "a?mode=memory&b#c%20d",
        "wörld ☃",
        "\udce9 is no text",
        b"bytes",
        Path("path"),
    ],
    ids=ascii,
)
def test_any_name_is_the_name_of_a_file(session, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    session.save(name)
    assert os.listdir(os.fsencode(tmp_path)) == [os.fsencode(name)]
    assert load(name, session).memory.ids == session.memory.ids


def test_two_slashes_are_one(session, tmp_path):
    session.save(f"/{tmp_path}/world")
    assert load(tmp_path / "world", session).memory.ids == session.memory.ids


def test_a_way_through_a_link(session, tmp_path):
    """`..` leads to where the link leads from, not back to where it lies."""
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    session.save(tmp_path / "link" / ".." / "world")
    assert (tmp_path / "far" / "world").exists()


@pytest.mark.parametrize("name", ["", b"", "a\0b", "folder/", ".", "..", 5, None], ids=repr)
def test_what_is_no_name_is_refused(session, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for call in (session.save, lambda path: load(path, session)):
        with pytest.raises(rtfm_rt.WorldError, match="expected") as refused:
            call(name)
        assert "got" in str(refused.value)
    assert os.listdir() == []
