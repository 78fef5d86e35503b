# SPDX-License-Identifier: Apache-2.0
"""Files that appear when they are whole: their permissions, and what is left when they are not."""

from __future__ import annotations

import contextlib
import os
import resource
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from rtfm_rt import ArgumentError, cli
from rtfm_rt.convert.common import write_model
from rtfm_rt.files import check_outputs, whole_file, writable
from rtfm_rt.media import Row, VideoWriter, write_sheet

NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)  # does not compress


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextlib.contextmanager
def full_disk(most: int) -> Iterator[None]:
    """Writing behind so many bytes of any file fails, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write_as_safetensors_does(part: str) -> None:
    handle, private = tempfile.mkstemp(dir=os.path.dirname(part))
    os.write(handle, b"whole")
    os.close(handle)
    os.replace(private, part)


def test_a_new_file_has_the_permissions_of_new_files(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with whole_file(tmp_path / "new") as part:
            write_as_safetensors_does(part)
            assert not (tmp_path / "new").exists()
        assert mode(tmp_path / "new") == 0o640
        (tmp_path / "new").chmod(0o604)
        with whole_file(tmp_path / "new") as part:
            write_as_safetensors_does(part)
        assert mode(tmp_path / "new") == 0o604
    finally:
        os.umask(before)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_what_is_not_whole_goes(tmp_path: Path, error: type[BaseException]) -> None:
    (tmp_path / "old").write_text("old")
    for name in ("old", "new"):
        with pytest.raises(error), whole_file(tmp_path / name) as part:
            Path(part).write_text("half")
            raise error
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_text() == "old"


def test_outputs_are_files_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("in")
    files = {name: tmp_path / name for name in ("in", "link", "a", "b")}
    check_outputs([files["a"], files["b"]], [files["in"]])
    for outputs, text in (
        (["a", "link"], "link: expected a file to write, got one that is read"),
        (["a", "./a"], "got one twice"),
        (["a", "none/b"], "b: expected a folder that exists"),
        (["."], "got a folder"),
    ):
        with pytest.raises(ArgumentError, match=text):
            check_outputs([tmp_path / name for name in outputs], [files["in"]])


def test_memory_is_no_matter_of_the_file(tmp_path: Path) -> None:
    class Both(MemoryError, OSError):
        """As PyAV's."""

    with pytest.raises(MemoryError), writable(tmp_path / "file"):
        raise Both


@pytest.mark.parametrize("most", [0, 1000, 40_000])
def test_a_video_on_a_full_disk_leaves_nothing(tmp_path: Path, most: int) -> None:
    writer = VideoWriter(tmp_path / "video.mp4", 64, 64)
    refused = pytest.raises(ArgumentError, match=r"video.mp4: .* got: File too large")
    with full_disk(most), refused, writer as video:
        for i in range(5):
            video.write(np.roll(NOISE, i))
    assert list(tmp_path.iterdir()) == []


def test_a_sheet_on_a_full_disk_is_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "sheet.png").write_text("old")
    with full_disk(1000), pytest.raises(ArgumentError, match=r"sheet.png: .* got: File too large"):
        write_sheet(tmp_path / "sheet.png", [Row("row", [NOISE])], ["noise"])
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("sheet.png", "old")]


def test_a_model_on_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    with full_disk(1000), pytest.raises(ArgumentError, match=r"model: .* can be written"):
        write_model(tmp_path / "model", {}, {"w": torch.zeros(9000)}, lambda _: None)
    assert list(tmp_path.iterdir()) == []


def test_figures_on_a_full_disk_leave_nothing(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.json").write_text("old")
    with full_disk(1000):
        assert cli.main(["bench", "--frames", "8", "--steps", "1", "--json", "old.json"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("rtfm-rt: old.json: expected a file that can be written")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("old.json", "old")]
