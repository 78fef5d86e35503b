# SPDX-License-Identifier: Apache-2.0
"""The C++ API on Windows: cross-compiled by MinGW, and run by Wine, which is not Windows."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import embedded
import rtfm_rt
from conftest import BUILT
from models import turn

ROOT = Path(__file__).parents[1]
COMPILER, WINE = "x86_64-w64-mingw32-g++-posix", "wine"
MISSING = [tool for tool in (COMPILER, WINE, "cmake", "ninja") if not shutil.which(tool)]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")

Play = Callable[[list[str]], list[list[str]]]


def run(*command: object, **options: object) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, timeout=600, **options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout.decode()


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Play:
    """tests/embedded.cc against the installed package, with nothing else beside it."""
    folder = tmp_path_factory.mktemp("windows")
    options = {
        "CMAKE_SYSTEM_NAME": "Windows",
        "CMAKE_SYSTEM_PROCESSOR": "AMD64",
        "CMAKE_CXX_COMPILER": COMPILER,
        "CMAKE_CXX_FLAGS_RELEASE": "-O1",  # to save time; the kernels have -O3 of their own
        "CMAKE_UNITY_BUILD": "ON",
        "CMAKE_INSTALL_PREFIX": folder / "prefix",
        "RTFM_PYTHON": "OFF",
        "RTFM_CUDA": "OFF",
    }
    defined = [f"-D{name}={value}" for name, value in options.items()]
    run("cmake", "-S", ROOT, "-B", folder / "build", "-G", "Ninja", *defined)
    run("cmake", "--build", folder / "build", "--target", "install")
    program = folder / "prefix/bin/embedded.exe"
    libraries = [f"-I{folder}/prefix/include", f"{folder}/prefix/lib/rtfm_rt.dll.a", "-static"]
    run(COMPILER, "-std=c++20", "-Wall", ROOT / "tests/embedded.cc", *libraries, "-o", program)
    own = {"WINEPREFIX": f"{folder}/wine", "WINEDEBUG": "-all", "DISPLAY": ""}

    def play(lines: list[str]) -> list[list[str]]:
        given = "".join(f"{line}\n" for line in lines).encode()
        printed = run(WINE, program, input=given, env=os.environ | own).replace("\r", "")
        blocks = printed.split("done\n")
        assert len(blocks) == len(lines) + 1, printed[-1000:]
        return [block.splitlines() for block in blocks[:-1]]

    return play


def tiers() -> list[str]:
    if not BUILT:
        return ["portable"]
    from rtfm_rt import _testing

    return [tier for tier in _testing.tiers() if not tier.startswith("amx")]


def pixels(frame: list[str]) -> np.ndarray:
    return np.frombuffer(bytes.fromhex(frame[2]), np.uint8).astype(int)


EYE = embedded.text(np.eye(4))
STEPS = [f"step {embedded.text(turn(9 * i, 0.2 * i))}" for i in range(4)]


@pytest.mark.parametrize("name", tiers())
def test_a_walk(play, model, picture, tmp_path, name):
    """As on Linux, but for the last bits of its mathematical functions; in files whose names are
    in no code page."""
    file, raw = tmp_path / "räume-部屋.safetensors", tmp_path / "picture"
    file.write_bytes(Path(model[0]).read_bytes())
    raw.write_bytes(picture.tobytes())
    precision = "int8" if name in ("vnni", "avx_vnni") else "auto"
    walk = [
        f"model {file} cpu:{name} {precision}",
        "sum",
        "session seed 7 threads 2",
        f"observe {raw} {EYE}",
        *STEPS,
        f"imagine {EYE}",
        "fork",
        STEPS[0],
        "back",
        f"steady {EYE}",
        f"memory {EYE}",
    ]
    ours, theirs = play(walk), embedded.play(walk)
    frames = 0
    for line, a, b in zip(walk, ours, theirs, strict=True):
        if line.startswith(("step", "imagine")):
            assert a[0] == b[0]  # the receipt
            difference = np.abs(pixels(a) - pixels(b))
            assert difference.max() <= 1 and difference.mean() < 0.01
            frames += 1
        elif line.startswith("memory"):
            assert a[:3] == b[:3]
        else:
            assert a == b, line
    assert frames == 6


def test_what_is_refused(play, model, picture, tmp_path):
    """Each as on Linux, and the session goes on."""
    raw = tmp_path / "picture"
    raw.write_bytes(picture.tobytes())
    pickle, short = tmp_path / "pickle", tmp_path / "short"
    pickle.write_bytes(b"PK\3\4" + bytes(100))
    short.write_bytes(b"123")
    printed = play(
        [
            f"model {tmp_path}/none cpu auto",
            f"model {tmp_path} cpu auto",
            f"model {pickle} cpu auto",
            f"model {short} cpu auto",
            f"model {model[0]} cuda auto",
            f"model {model[0]} cpu auto",
            "session seed 1 memory_budget 1",
            "session seed 1",
            f"observe {short} {EYE}",
            f"step {embedded.text(2 * np.eye(4))}",
            f"save {tmp_path}/no/folder.world",
            f"observe {raw} {EYE}",
            STEPS[0],
        ]
    )
    kinds = [block[-1].split(":")[0] for block in printed]
    assert kinds[:5] == ["ModelError"] * 4 + ["DeviceError"]
    assert "No such file" in printed[0][0] and "pickle" in printed[2][0]
    assert kinds[6] == "ArgumentError" and printed[7] != []
    assert kinds[8:10] == ["ArgumentError", "PoseError"] and kinds[10] == "WorldError"
    assert len(printed[12]) == 3  # a frame


def test_worlds_go_from_one_to_the_other(play, model, picture, tmp_path):
    """What Windows saves Linux loads, and the other way."""
    raw = tmp_path / "picture"
    raw.write_bytes(picture.tobytes())
    begin = [
        f"model {model[0]} cpu:portable auto",
        "session seed 7",
        f"observe {raw} {EYE}",
        *STEPS,
    ]
    ours, theirs = tmp_path / "windows-世界.world", tmp_path / "linux.world"
    saved = play([*begin, f"save {ours}"])[-1]
    if saved and "winsqlite3.dll" in saved[0]:
        pytest.skip("this Wine has no winsqlite3.dll")
    assert saved == [] and embedded.play([*begin, f"save {theirs}"])[-1] == []
    want = embedded.play([*begin, f"step {EYE}"])[-1]
    for player, file in ((play, theirs), (embedded.play, ours)):
        *_, got = player([begin[0], f"load {file}", f"step {EYE}"])
        assert got[0] == want[0] and np.abs(pixels(got) - pixels(want)).max() <= 1
    assert rtfm_rt.Session.load(ours, model[0], device="cpu:portable").memory.ids
