# SPDX-License-Identifier: Apache-2.0
"""Every example runs as it stands."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import rtfm_rt
from models import turn
from rtfm_rt.media import load_image
from rtfm_rt.session import bundled_file

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip()
    assert list(tmp_path.iterdir()) == []


def test_there_are_examples() -> None:
    assert EXAMPLES


def test_the_readme_embeds_as_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lines, in their order."""
    monkeypatch.chdir(tmp_path)
    program = (ROOT / "README.md").read_text().split("## Embed")[1].split("```")[1]
    names = {"image": load_image(bundled_file("rooms.png"), 64, 64), "pose": np.eye(4)}
    names |= {"pose_a": turn(10), "pose_b": turn(20)}
    exec(compile(program.removeprefix("python"), "README.md", "exec"), names)
    assert np.asarray(names["frame"]).shape == (64, 64, 3)
    loaded = rtfm_rt.Session.load("walk.world")
    assert loaded.memory.ids == names["session"].memory.ids
    names["session"].close()
