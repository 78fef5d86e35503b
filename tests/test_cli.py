# SPDX-License-Identifier: Apache-2.0
"""The command line as its users run it: `python -m rtfm_rt` in a process of its own."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import action_models
from rtfm_rt import cli, options
from rtfm_rt.session import model_path

FEW = ("--frames", "6", "--steps", "1")


def run(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rtfm_rt", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
    )


def succeed(*arguments: object, cwd: Path, **environment: str) -> str:
    done = run(*arguments, cwd=cwd, **environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no bar, no warning where nobody watches
    assert "\033" not in done.stdout
    return done.stdout


def refuse(*arguments: object, cwd: Path) -> str:
    done = run(*arguments, cwd=cwd)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("rtfm-rt") and done.stderr.count("\n") == 1
    return done.stderr


def frames_of(path: Path) -> int:
    with av.open(str(path)) as file:
        return sum(1 for _ in file.decode(video=0))


def test_version_and_help(tmp_path: Path) -> None:
    assert succeed("--version", cwd=tmp_path) == f"rtfm-rt {version('rtfm_rt')}\n"
    for command in ((), ("walk",), ("play",), ("info",), ("bench",), ("convert",)):
        assert "usage: rtfm-rt" in succeed(*command, *(["--help"] if command else []), cwd=tmp_path)


def test_info(tmp_path: Path) -> None:
    done = run("info", "rooms", cwd=tmp_path)
    assert done.returncode == 0
    assert "rooms · frame_dit" in done.stdout and "64x64 pixels, 75° across" in done.stdout
    info = json.loads(succeed("info", "rooms", "--json", cwd=tmp_path))
    assert info["manifest"]["family"] == "frame_dit" and info["parameters"] > 1e6


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are any bytes")
def test_info_on_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    name = os.fsdecode(b"b\xff\xfe.safetensors")
    assert r"b\xff\xfe.safetensors: " in refuse("info", name, cwd=tmp_path)
    shutil.copy(model_path("rooms"), tmp_path / name)
    assert "64x64 pixels" in succeed("info", name, cwd=tmp_path)


def test_info_speaks_to_any_terminal(tmp_path: Path) -> None:
    done = run("info", "rooms", cwd=tmp_path, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 0 and "64x64 pixels" in done.stdout


def test_walk_there_and_back(tmp_path: Path) -> None:
    out = succeed("walk", *FEW, cwd=tmp_path)
    assert frames_of(tmp_path / "walk.mp4") == 6
    with Image.open(tmp_path / "walk.png") as sheet:
        assert sheet.format == "PNG" and sheet.width > sheet.height > 300  # two rows
    assert re.search(r"[\d.]+ frames/s, p50 [\d.]+ ms, p99 [\d.]+ ms", out)
    assert re.search(r"persistence +[\d.]+ dB +on return, with memory", out)
    assert "frames only" in out and "64x64 · 1 step " in out
    assert max(map(len, out.splitlines())) <= 80


def test_memory_persists_and_recent_frames_do_not(tmp_path: Path) -> None:
    out = succeed("walk", "--frames", 60, cwd=tmp_path)
    with_memory, recent, *_ = map(float, re.findall(r"([\d.]+) dB", out))
    assert with_memory > recent + 3


def test_walk_a_trajectory_from_a_picture(tmp_path: Path) -> None:
    Image.fromarray(np.full((90, 120, 3), 128, np.uint8)).save(tmp_path / "grey.jpg")
    (tmp_path / "path.txt").write_text("".join(f"{i} {i / 10} 0 0 0 0 0 1\n" for i in range(9)))
    arguments = ("--image", "grey.jpg", "--path", "path.txt", "--out", "a.mp4", "--sheet", "a.png")
    out = succeed("walk", *arguments, "--steps", 1, cwd=tmp_path)
    assert frames_of(tmp_path / "a.mp4") == 9 and (tmp_path / "a.png").exists()
    assert "persistence" not in out  # it does not come back
    succeed("walk", *arguments, *FEW, cwd=tmp_path)
    assert frames_of(tmp_path / "a.mp4") == 6


@pytest.mark.parametrize("path", ["orbit", "look-around"])
def test_walk_other_paths(tmp_path: Path, path: str) -> None:
    succeed("walk", "--path", path, *FEW, "--context", 2, "--seed", 3, cwd=tmp_path)
    assert frames_of(tmp_path / "walk.mp4") == 6


def test_walk_by_actions(tmp_path: Path) -> None:
    model = action_models.write(tmp_path / "model.safetensors", "causal")
    (tmp_path / "keys.json").write_text('[{"button.87": 1}, {}, {"mouse_x": 0.5}]')
    (tmp_path / "numbers.json").write_text("[1, 2]")
    succeed("walk", "--model", model, "--actions", "keys.json", cwd=tmp_path)
    images = frames_of(tmp_path / "walk.mp4")
    assert images > 3 and images % 3 == 0
    succeed("walk", "--model", model, "--frames", 2, cwd=tmp_path)
    assert frames_of(tmp_path / "walk.mp4") * 3 == images * 2
    assert "use --actions" in refuse("walk", "--model", model, "--path", "orbit", cwd=tmp_path)
    assert "action" in refuse("walk", "--model", model, "--actions", "numbers.json", cwd=tmp_path)


def test_walk_is_repeatable(tmp_path: Path) -> None:
    for name in ("a", "b"):
        succeed("walk", *FEW, "--out", f"{name}.mp4", "--sheet", f"{name}.png", cwd=tmp_path)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_bench(tmp_path: Path) -> None:
    out = succeed("bench", "--frames", 8, "--steps", 1, "--json", "b.json", cwd=tmp_path)
    assert "p50" in out and "not counted" in out
    figures = json.loads((tmp_path / "b.json").read_text())
    latency = figures["latency_ms"]
    assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"] <= latency["max"]
    assert figures["frames_per_second"] > 0 and figures["threads"] >= 1
    assert len(figures["receipts"]) == len(figures["seconds"]) == figures["frames"] == 8
    assert {len(receipt["context"]) for receipt in figures["receipts"]} == {figures["context"]}


def test_bad_arguments_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_text("0 0 0 0 0 0 0 1\n1 2 three\n")
    (tmp_path / "note.png").write_text("not a picture")
    assert "nowhere.safetensors" in refuse("info", "nowhere.safetensors", cwd=tmp_path)
    assert "nowhere.png" in refuse("walk", "--image", "nowhere.png", cwd=tmp_path)
    assert "note.png" in refuse("walk", "--image", "note.png", cwd=tmp_path)
    assert "bad.txt:2" in refuse("walk", "--path", "bad.txt", cwd=tmp_path)
    assert "there-and-back" in refuse("walk", "--path", "sideways", cwd=tmp_path)
    assert "nowhere/a.mp4" in refuse("walk", *FEW, "--out", "nowhere/a.mp4", cwd=tmp_path)
    assert "one twice" in refuse("walk", *FEW, "--out", "a", "--sheet", "./a", cwd=tmp_path)
    assert "that is read" in refuse(
        "walk", "--image", "note.png", "--sheet", "./note.png", cwd=tmp_path
    )
    assert "a folder" in refuse("walk", *FEW, "--out", ".", cwd=tmp_path)
    assert "warp" in refuse("walk", "--device", "warp", cwd=tmp_path)
    assert "nowhere/b.json" in refuse(
        "bench", "--frames", 1, "--json", "nowhere/b.json", cwd=tmp_path
    )
    for frames in (0, 10**20, "9" * 5000):
        assert "number from 1 to 1000000" in refuse("walk", "--frames", frames, cwd=tmp_path)
    assert "COMMAND" in refuse("fly", cwd=tmp_path)
    assert "nowhere.pt" in refuse(
        "convert", "nowhere.pt", "out", "--name", "n", "--licence", "MIT", cwd=tmp_path
    )
    assert not list(tmp_path.glob("walk*"))


@pytest.mark.parametrize(
    ("number", "said"),
    [(signal.SIGINT, "rtfm-rt: interrupted\n"), (signal.SIGTERM, ""), (signal.SIGHUP, "")],
)
def test_a_signal_is_quiet_and_leaves_no_video(
    tmp_path: Path, number: signal.Signals, said: str
) -> None:
    ours = signal.signal(number, signal.SIG_DFL)  # one ignored, as after nohup, is inherited
    process = subprocess.Popen(
        [sys.executable, "-m", "rtfm_rt", "walk", "--frames", "20000"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(number, ours)
    with process:
        try:
            until = time.monotonic() + 60
            while not list(tmp_path.glob("walk.mp4.*.part")) and time.monotonic() < until:
                time.sleep(0.05)
            process.send_signal(number)
            out, error = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, out, error) == (-number, "", said)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("arguments", [(), ("info", "rooms"), ("walk", *FEW)])
def test_closed_streams_are_as_good_as_any(
    tmp_path: Path, arguments: tuple[str, ...], closed: str
) -> None:
    command = ["sh", "-c", f'exec "$0" -m rtfm_rt "$@" {closed}', sys.executable, *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "walk" not in arguments or frames_of(tmp_path / "walk.mp4") == 6


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (MemoryError(), "the system gives no more; take a smaller"),
        (MemoryError("Unable to allocate 3 GiB"), "Unable to allocate 3 GiB; take a smaller"),
        (RuntimeError("DefaultCPUAllocator:\ncan't allocate memory"), "DefaultCPUAllocator: can't"),
    ],
)
def test_out_of_memory_is_one_line(monkeypatch, capsys, error: Exception, text: str) -> None:
    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(options, "Session", full)
    assert cli.main(["bench", "--frames", "1"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"rtfm-rt: out of memory: {text}") and said.count("\n") == 1


def test_a_closed_pipe_is_quiet(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "rtfm_rt", "info", "rooms", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(timeout=30) == 0
