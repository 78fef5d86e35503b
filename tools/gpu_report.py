# SPDX-License-Identifier: Apache-2.0
"""What tools/gpu_check.sh found, as one JSON object on stdout: gpu_report.py FOLDER GPU.

Only what ran is in it: a benchmark that failed or was stopped has no figures.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def said(*command: str) -> str:
    """The first line that a command prints, or "" if it cannot run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout.splitlines() or [""])[0]


def last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else ""


def main() -> None:
    folder, gpu = Path(sys.argv[1]), sys.argv[2]
    nvcc = os.environ.get("CUDACXX", "nvcc")
    report: dict[str, Any] = {
        "gpu": gpu,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": os.environ.get("COMMIT") or said("git", "rev-parse", "HEAD") or "unknown",
        "changed": bool(said("git", "status", "--porcelain", "--untracked-files=no")),
        "driver": said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "nvcc": said("sh", "-c", f"{nvcc} --version | grep release"),
        "python": platform.python_version(),
        "steps": {},
    }
    for line in (folder / "steps").read_text().splitlines():
        name, code, seconds = line.split()
        log = folder / f"{name}.log"
        report["steps"][name] = {
            "result": {"0": "passed", "skipped": "skipped"}.get(code, f"failed ({code})"),
            "seconds": int(seconds),
            "last_line": last_line(log) if log.exists() else "",
        }
    for name in ("ops", "memory", "float8", "models", "families", "torch"):
        with contextlib.suppress(OSError, ValueError):  # not there, or cut off in the middle
            report[name] = json.loads((folder / f"{name}.json").read_text())
    json.dump(report, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
