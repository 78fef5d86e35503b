# SPDX-License-Identifier: Apache-2.0
"""The benchmark against peers: all compute the same thing, and whoever does not is told apart."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers import contestants, fresh, interleave, problem
from rtfm_rt.reference import Config

TINY = Config(16, 24, 8, 32, 2, 2, 64)
QUICK_ONES = [name for name in contestants.NAMES if not name.startswith("torch.compile")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("problem")
    problem.write_problem(path, TINY, 3)
    return path


def missing(name: str) -> str | None:
    """The module that a contestant lacks here."""
    modules = [fresh.MODULES[name.rsplit(" ", 1)[0]]]
    if name.startswith("ONNX Runtime"):
        modules += ["onnx", "onnxscript"]
    return next((m for m in modules if importlib.util.find_spec(m) is None), None)


@pytest.mark.filterwarnings("ignore")  # of the exporters
@pytest.mark.parametrize("name", QUICK_ONES)
def test_contestants_agree_with_the_reference(name: str, folder: Path) -> None:
    if module := missing(name):
        pytest.skip(f"{module} is not installed")
    try:
        run, output = contestants.build(name, folder, 1)
    except Exception as error:
        if name.endswith("float32"):
            raise
        pytest.skip(f"not on this CPU: {error}")
    expected = contestants.arrays(folder)["x0"]
    error = interleave.relative_error(output(run()), expected)
    assert error <= interleave.LIMITS[name.rsplit(" ", 1)[1]]
    assert error == interleave.relative_error(output(run()), expected)  # and again


def test_the_answer_depends_on_every_input(folder: Path) -> None:
    """So that a contestant who ignores one is wrong."""
    import torch

    network, inputs = contestants.module(folder, "float32")
    expected = contestants.arrays(folder)["x0"]
    with torch.inference_mode():
        for i in range(len(inputs)):
            changed = [x.flip(-1) if i == j else x for j, x in enumerate(inputs)]
            error = interleave.relative_error(network(*changed).numpy(), expected)
            assert error > max(interleave.LIMITS.values()), contestants.INPUTS[i]


def test_a_failure_is_a_row(folder: Path, tmp_path: Path) -> None:
    wrong = dict(contestants.arrays(folder))
    wrong["x0"] = wrong["x0"] * 1.001
    np.savez(tmp_path / "arrays.npz", **wrong)
    (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
    rows = interleave.race(tmp_path, ["rtfm_rt float32", "rtfm_rt float16"], 1, 1)
    assert rows["rtfm_rt float32"]["failed"].startswith("wrong: error 1.0e-03")
    assert "float16" in rows["rtfm_rt float16"]["failed"]


def test_one_command(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", "benchmarks.peers", "--quick", "--rounds", "1"]
    command += [
        "--threads",
        "1",
        "--only",
        "rtfm_rt float32,PyTorch eager float32",
        "--json",
        str(out),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, cwd=Path(__file__).parent.parent
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert {"processor", "torch", "command", "load_average"} <= set(result["about"])
    rows = result["blocks"]["64/4"]
    for name in ("rtfm_rt float32", "PyTorch eager float32"):
        assert 0 < rows[name]["min_ms"] <= rows[name]["p50_ms"] <= rows[name]["p99_ms"]
        assert result["process"]["start"][name]["total_s"] > 0
    ratio = rows["PyTorch eager float32"]["p50_ms"] / rows["rtfm_rt float32"]["p50_ms"]
    assert result["summary"]["64/4"]["float32"]["ratio"] == pytest.approx(ratio, abs=0.01)
    ours = result["process"]["ours"]
    assert ours["frame_ms"]["p50"] > 0 and ours["idle_cpu_percent"] < 5
    assert result["process"]["installed_mb"]["PyTorch eager"] > 100
