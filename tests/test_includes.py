# SPDX-License-Identifier: Apache-2.0
"""The shape of the source: includes go down only, files stay small, the library stays quiet."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = [
    "csrc/os",
    "csrc/backend",
    "csrc/cpu",
    "csrc/cuda",
    "src/check",
    "src/json",
    "src/pose",
    "src/pose_slot",
    "src/recent_costs",
    "src/safetensors",
    "src/section",
    "src/manifest",
    "src/sequence",
    "src/tensor",
    "src/pixels",
    "src/device",
    "src/layers",
    "src/convolution",
    "src/network",
    "src/sampler",
    "src/models",
    "src/families",
    "src/model",
    "src/engine",
    "src/blocks",
    "src/slot_lists",
    "src/slot_map",
    "src/frustum",
    "src/pose_index",
    "src/frame_cache",
    "src/page_pool",
    "src/memory",
    "src/frame",
    "src/session",
    "src/session_context",
    "src/session_world",
    "src/digest",
    "src/sqlite",
    "src/world_format",
    "src/world_file",
    "src/world_load",
    "cpp/rtfm_rt",
    "cpp/rtfm_rt_c",
    "cpp/c_api",
    "cpp/convert",
    "cpp/model",
    "cpp/pose",
    "cpp/session",
    "python/bindings",
    "python/convert",
    "python/dlpack",
    "python/binding",
    "python/binding_session",
]
SEALED = {"csrc/cpu", "csrc/cuda"}  # reached through csrc/backend.h only

SOURCES = sorted(
    path.relative_to(ROOT)
    for folder in ("csrc", "src", "cpp", "python", "tests", "benchmarks", "examples", "tools")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".cc", ".cu", ".h", ".py", ".pyi")
)
NATIVE = [path for path in SOURCES if path.suffix in (".cc", ".cu", ".h")]
LIBRARY = [path for path in SOURCES if path.parts[0] in ("csrc", "src", "cpp", "python")]


def text(path: Path) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def module(path: str) -> str:
    found = [m for m in ORDER if path.startswith((m + ".", m + "/"))]
    assert found, f"{path} has no rank; give it one in {Path(__file__).name}"
    return found[0]


@pytest.mark.parametrize("path", [p for p in NATIVE if p in LIBRARY], ids=str)
def test_includes_go_down(path):
    mine = module(path.as_posix())
    for include in re.findall(r'^\s*#\s*include\s*"(.*)"', text(path), re.MULTILINE):
        assert (ROOT / include).exists(), f"{include} is not relative to the root"
        theirs = module(include)
        if theirs == mine:
            continue
        assert ORDER.index(theirs) < ORDER.index(mine), f"{path} may not see {include}"
        assert theirs not in SEALED, f"{path} must reach {theirs} through csrc/backend.h"
        if path.parts[0] == "python":
            assert include.startswith(("python/", "src/")), f"{path} may not see {include}"


OWNED = {"csrc", "src", "cpp"}


@pytest.mark.parametrize("path", [p for p in NATIVE if p.parts[0] in OWNED], ids=str)
def test_library_is_quiet(path):
    """No environment, no output, no exit: the caller owns the process."""
    loud = r"getenv|\benviron\b|std::c(out|err|log)\b|\b(printf|fprintf|puts|abort|exit|_exit)\s*\("
    assert not re.search(loud, text(path))


@pytest.mark.parametrize("path", LIBRARY, ids=str)
def test_files_are_small(path):
    assert text(path).count("\n") <= 400


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_licence(path):
    assert text(path).count("SPDX-License-" + "Identifier") == 1
    comment = "#" if path.suffix in (".py", ".pyi") else "//"
    assert text(path).startswith(f"{comment} SPDX-License-" + "Identifier: Apache-2.0\n")


def test_torch_is_for_the_reference():
    importing = r"^\s*(import|from)\s+(torch|safetensors)\b"
    package = [path for path in LIBRARY if path.suffix == ".py"]
    found = {path.parent.name for path in package if re.search(importing, text(path), re.MULTILINE)}
    assert found == {"reference", "convert"}
