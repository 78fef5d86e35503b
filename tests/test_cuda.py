# SPDX-License-Identifier: Apache-2.0
"""What CUDA needs beyond the tests of every device: loading, barriers, recorded work, failures.

Nothing here wants a GPU. The device is the emulated one of cuda_emulator.cc, the driver a stub.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cases
import rtfm_rt
from cuda_package import DRIVER, LIBRARY, build, environment, link_package
from emulated import CPU_NAMES, Session
from models import turn
from rtfm_rt import _testing


@pytest.fixture
def emulation() -> Iterator[Any]:
    """What emulated devices do; as before when the test is over."""
    state = _testing.cuda_emulation()
    before = {
        key: getattr(state, key) for key in ("blocks", "found", "fp8", "memory", "launches_left")
    }
    yield state
    for key, value in before.items():
        setattr(state, key, value)


# ---- Loading: no driver, an old one, no device, a library that is none.

ASK = """
import rtfm_rt
try:
    print(rtfm_rt.Model("rooms", device="cuda:0").device)
except rtfm_rt.DeviceError as error:
    print(error)
print(rtfm_rt.Model("rooms").device)
"""
OTHER_BUILD = """extern "C" void* rtfm_cuda_api(unsigned) { return nullptr; }"""


def ask(folder: Path, driver: str | None, library: str | None) -> list[str]:
    """What device cuda:0 says, and what auto takes, in a process that finds these two.

    folder: empty. driver, library: sources of a libcuda.so.1 and of a librtfm_cuda.so.
    """
    package = link_package(folder)
    if driver is not None:
        build(driver, folder / "libcuda.so.1")
    if library == "garbage":
        (package / LIBRARY.name).write_bytes(b"not a library")
    elif library is not None:
        build(library, package / LIBRARY.name)
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        env=environment(folder),
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("driver", "library", "said"),
    [
        ("", None, "does not say its version"),
        (DRIVER.format(version=12040, status=0), None, "CUDA 13.0 or newer, got one for 12.4"),
        (DRIVER.format(version=13000, status=100), None, r"\(CUDA 13.0\) sees no GPU"),
        (DRIVER.format(version=13010, status=999), None, "could not start: error 999"),
        (DRIVER.format(version=13000, status=0), None, "this build has no CUDA backend"),
        (DRIVER.format(version=13000, status=0), "garbage", "does not load"),
        (DRIVER.format(version=13000, status=0), OTHER_BUILD, "from another build"),
    ],
    ids=["empty", "old", "no_device", "broken", "no_library", "garbage", "other_build"],
)
def test_loading_says_what_is_missing(tmp_path, driver, library, said):
    explicit, automatic = ask(tmp_path, driver, library)
    assert explicit.startswith("device 'cuda:0': "), explicit
    assert re.search(said, explicit), explicit
    assert explicit.endswith("or use 'cpu' or 'auto'")
    assert automatic.startswith("cpu:")


def test_the_shipped_module_cannot_emulate():
    with pytest.raises(rtfm_rt.DeviceError, match="cuda:N with a number, got 'cuda:emulated'"):
        rtfm_rt.Model("rooms", device="cuda:emulated")


@pytest.mark.skipif(not LIBRARY.exists(), reason="built without nvcc")
def test_the_library_exports_one_symbol():
    command = ["nm", "-D", "--defined-only", str(LIBRARY)]
    symbols = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert [line.split()[-1] for line in symbols.splitlines()] == ["rtfm_cuda_api"]


@pytest.mark.skipif("auto" not in CPU_NAMES, reason="auto finds a GPU")
def test_auto_takes_cuda_and_falls_back(model, emulation):
    assert _testing.Device("auto").name.startswith("cpu:")
    emulation.found = True
    assert _testing.Device("auto").name == "cuda:emulated"
    assert _testing.Device("cuda").name == "cuda:emulated"
    assert _testing.Device("auto", "float32").name.startswith("cpu:")
    assert _testing.Session(model[0], device="auto").device == "cuda:emulated"
    emulation.memory = 10_000  # too little for the weights
    assert _testing.Session(model[0], device="auto").device.startswith("cpu:")
    with pytest.raises(rtfm_rt.DeviceError, match="cuda:emulated: out of memory"):
        _testing.Session(model[0], device="cuda")


def test_cuda_refuses_float32(emulation):
    with pytest.raises(rtfm_rt.DeviceError, match=r"auto, bfloat16 or float8 .* got float32"):
        _testing.Device("cuda:emulated", "float32")


# ---- Bodies in blocks of fibers: a barrier too few gives another result in another order.


def test_bodies_have_their_barriers(emulation, rng):
    norm = cases.norm_modulate((6, 5000), rng)
    attend = cases.attend(cases.Attend(6, 2, 40, 1), rng)
    qkv = rng.normal(size=(3, 3 * 2 * 40)).astype(np.float32)
    angles = rng.uniform(-3, 3, (2, 20)).astype(np.float32)
    page = np.zeros(2 * 3 * 80 * 2, np.uint8)

    def results(blocks: Any) -> list[np.ndarray]:
        emulation.blocks = blocks
        device = _testing.Device("cuda:emulated")
        time = _testing.LatentOps("cuda:emulated").time_attention(
            qkv, np.cos(angles), np.sin(angles), [page + 60], page, 0, 2
        )
        time = [(x.view(np.uint16).astype(np.uint32) << 16).view(np.float32) for x in time]
        return [device.norm_modulate(**norm), *device.attend(**attend), *time]

    serial = results(_testing.Blocks.serial)
    ascending = results(_testing.Blocks.ascending)
    for got, want in zip(ascending, serial, strict=True):  # sums in another order
        cases.assert_close(got, want, "bfloat16")
    for blocks in _testing.Blocks.descending, _testing.Blocks.random:
        for got, want in zip(results(blocks), ascending, strict=True):
            assert np.array_equal(got, want)
    unsynced = results(_testing.Blocks.unsynced)
    assert not np.array_equal(unsynced[0], ascending[0])


# ---- The benchmarks and the check on a GPU, as far as they go without one.

ROOT = Path(__file__).parents[1]


def test_benchmarks_run(tmp_path):
    found = []
    scripts = (
        ("cuda_memory.py", "cuda:emulated"),
        ("cuda_steps.py", "cpu"),
        ("cuda_torch.py", "cpu"),
        ("precision.py", "cuda:emulated"),
    )
    for script, device in scripts:
        out = tmp_path / "out.json"
        command = [sys.executable, ROOT / "benchmarks" / script, "--quick", "--device", device]
        if device == "cpu":
            command += ["--frames", "10"]
        command += ["--json", str(out)]
        said = subprocess.run(command, check=True, timeout=120, capture_output=True)
        for missing in (b"float8 is not measured: device 'cpu'", b"cuBLASLt is not measured"):
            assert (missing in said.stdout) == (script == "cuda_steps.py")
        found.append(json.loads(out.read_text()))
    assert found[3]["layers"][0]["float8"] > found[3]["layers"][0]["bfloat16"] > 0
    assert 60 > found[3]["frames"]["float8_to_bfloat16"] > found[3]["frames"]["least"] > 30
    assert all(row["us"] > 0 for op in ("norm_modulate", "gather") for row in found[0][op])
    for result in found[1:3]:
        figures = result["models"]["tiny"]
        assert figures["steps_per_second"] > 0 and figures["step"]["calls"] == result["frames"]


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="a GPU is at hand")
def test_gpu_check_without_a_gpu(tmp_path):
    command = ["bash", str(ROOT / "tools" / "gpu_check.sh"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 and not list(tmp_path.iterdir())
    assert "no GPU answers" in done.stdout and "skipped: build, tests" in done.stdout


def test_gpu_check_goes_step_by_step(tmp_path):
    """With a driver, a compiler and a Python that only note what they are asked."""
    commands = {
        "nvidia-smi": "case $* in *compute_cap*) echo 9.0;; *) echo Some GPU;; esac",
        "nvcc": "echo release 13.0",
        "python": f"""case $* in
  tools/gpu_report*) exec {sys.executable} "$@";;
  *benchmarks.families*) echo '{{}}' > build/gpu_check/families.json;;
  *cuda_memory*) exit 3;;
esac
echo "$@" >> asked""",
    }
    for folder in "bin", "tools":
        (tmp_path / folder).mkdir()
    for name, body in commands.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    for name in "gpu_check.sh", "gpu_report.py":
        shutil.copy(ROOT / "tools" / name, tmp_path / "tools")
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    command = ["bash", "tools/gpu_check.sh", "out"]
    env = {**os.environ, "PATH": path, "PYTHON": str(tmp_path / "bin" / "python")}
    env["CUBLAS"] = "lib/libcublasLt.so.13"
    done = subprocess.run(command, cwd=tmp_path, env=env, timeout=60, capture_output=True)
    assert done.returncode == 1  # one step failed
    (report,) = (json.loads(file.read_text()) for file in (tmp_path / "out").iterdir())
    assert report["gpu"] == "Some GPU" and report["families"] == {}
    assert report["steps"]["memory"]["result"] == "failed (3)"
    assert report["steps"]["families-waypoint"]["result"] == "passed"
    asked = (tmp_path / "asked").read_text()
    assert "CUDA_ARCHS=90a-real" in asked and "tests/test_oasis.py" in asked
    for family in "efficient_lvsm", "oasis", "waypoint":
        assert re.search(rf"-m benchmarks.families {family} .*--device cuda", asked)
    given = "--cublas lib/libcublasLt.so.13"
    for what in (
        f"--device cuda {given} tests/test_ops",
        f"cuda_ops.py {given}",
        f"_steps.py {given}",
    ):
        assert what in asked


# ---- Recorded work.


def test_replay_is_identical_20_times(model, picture):
    """The same launches between others: for other poses, other contexts, and committed frames."""
    session = Session(model[0], device="cuda:emulated", seed=5, commit_below=2.0)
    session.observe(picture, turn(0))
    twin = Session(model[0], device="cuda:emulated", seed=5, commit_below=2.0)
    twin.observe(picture, turn(0))
    want = np.array(session.imagine([turn(9)])[0])
    for i in range(20):
        session.imagine([turn(20 * i, 0.1 * i)])
        assert np.array_equal(session.imagine([turn(9)])[0], want)
    for i in range(20):
        frame, other = session.step(turn(11 * i)), twin.step(turn(11 * i))
        assert frame.context == other.context and np.array_equal(frame, other)


def test_branches_share_pages_between_streams(model, picture):
    """Each branch has a stream of its own and reads pages that another one wrote."""
    session = Session(model[0], device="cuda:emulated", seed=5, commit_below=2.0)
    session.observe(picture, turn(0))
    for i in range(5):
        session.step(turn(13 * i))
    branches = [session.fork() for _ in range(3)]  # while the last commit is still under way
    walks = [[np.array(b.step(turn(50 + i))) for i in range(4)] for b in (*branches, session)]
    for walk in walks[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(walk, walks[0], strict=True))


# ---- Failures.


def test_a_lost_device_is_an_error_ever_after(model, picture, emulation):
    session = Session(model[0], device="cuda:emulated", commit_below=2.0)
    session.observe(picture, turn(0))
    session.step(turn(5))
    ids = session.memory.ids
    emulation.launches_left = 0
    for _ in range(3):
        with pytest.raises(rtfm_rt.DeviceError, match="an emulated failure; the device is lost"):
            session.step(turn(6))
    assert session.memory.ids == ids
    emulation.launches_left = -1
    with pytest.raises(rtfm_rt.DeviceError, match="lost"):
        session.observe(picture, turn(6))
    again = Session(model[0], device="cuda:emulated")
    assert again.observe(picture, turn(0)) == 0 and again.step(turn(5)).id == 1


@pytest.mark.parametrize("launches", [0, 1, 7, 30])
def test_a_device_lost_while_recording(model, emulation, launches):
    emulation.launches_left = launches
    with pytest.raises(rtfm_rt.DeviceError, match="an emulated failure"):
        _testing.Session(model[0], device="cuda:emulated")


def test_out_of_memory_for_pages(model, emulation):
    emulation.memory = 10 << 20
    with pytest.raises(rtfm_rt.DeviceError, match="out of memory"):
        _testing.Session(model[0], device="cuda:emulated", memory_budget=200 << 20)
    emulation.memory = 1 << 40
    _testing.Session(model[0], device="cuda:emulated", memory_budget=200 << 20)
