# SPDX-License-Identifier: Apache-2.0
"""The checked-in cubins: made of the checked-in sources, and within csrc/cuda/kernels/limits.json.

Without Triton, whose wheel brings the disassembler, only the hashes are compared. That a rebuild
gives the same bytes is checked by `compile.py --check`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import subprocess
from pathlib import Path

import pytest

KERNELS = Path(__file__).parents[1] / "csrc" / "cuda" / "kernels"
MANIFEST = json.loads((KERNELS / "cubins/manifest.json").read_text())
LIMITS = json.loads((KERNELS / "limits.json").read_text())
FOUND = importlib.util.find_spec("triton")
TOOLS = Path(FOUND.submodule_search_locations[0], "backends/nvidia/bin") if FOUND else None


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run(tool: str, *arguments: str | Path) -> str:
    return subprocess.run(
        [TOOLS / tool, *arguments], capture_output=True, text=True, check=True
    ).stdout


def hidden(sass: str) -> int:
    """Exponentials between the first HGMMA of a run and the wait for it."""
    count, running = 0, False
    for instruction in re.findall(r"HGMMA|MUFU\.EX2|WARPGROUP\.DEPBAR", sass):
        if instruction == "MUFU.EX2":
            count += running
        else:
            running = instruction == "HGMMA"
    return count


def test_cubins_are_of_these_sources():
    stale = [name for name, hash in MANIFEST["sources"].items() if digest(KERNELS / name) != hash]
    assert not stale, "run csrc/cuda/kernels/compile.py"
    files = {path.stem: path for path in (KERNELS / "cubins").glob("*.cubin")}
    assert {name: digest(path) for name, path in files.items()} == MANIFEST["cubins"]
    assert sum(path.stat().st_size for path in files.values()) <= 3_000_000


def test_shared_memory_is_there():
    """A block may ask for 99 KiB, on 9.0 and 10.0 for 227 KiB (8.6 runs the code for 8.0)."""
    table = re.findall(r"CUBIN\((.*)\)", (KERNELS / "cubins/cubins.inc").read_text())
    rows = [row.split(", ") for row in table]
    assert [row[0] for row in rows] == list(MANIFEST["cubins"])
    for row in rows:
        assert int(row[-1]) <= (227 if row[3] in ("90", "100") else 99) * 1024, row[0]


@pytest.mark.skipif(not TOOLS, reason="Triton, which brings nvdisasm, is not installed")
@pytest.mark.parametrize("name", MANIFEST["cubins"])
def test_limits(name):
    """Registers at most, instructions at least; no stack, no spills."""
    (limits,) = (limit for pattern, limit in LIMITS.items() if re.fullmatch(pattern, name))
    path = KERNELS / "cubins" / f"{name}.cubin"
    usage = run("cuobjdump", "-res-usage", path)
    registers, stack = map(int, re.search(r"REG:(\d+) STACK:(\d+)", usage).groups())
    assert registers <= limits["registers"] and stack == 0

    sass = run("nvdisasm", "-c", path)
    assert not re.search(r"\b(LDL|STL)\b", sass)
    for instruction, least in limits.items():
        if instruction == "EX2 under HGMMA":
            assert hidden(sass) >= least
        elif instruction != "registers":
            assert len(re.findall(rf"\b{instruction}\b", sass)) >= least, instruction

    if name.startswith("matmul"):  # the epilogue's masks leave stores 16 bytes wide
        stores = re.findall(r"\bSTG\.E\S*", sass)
        assert sum(".128" in store for store in stores) >= len(stores) / 2
