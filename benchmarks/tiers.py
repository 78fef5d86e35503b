# SPDX-License-Identifier: Apache-2.0
"""A whole step in several devices or CPU tiers, interleaved, on one thread.

    python benchmarks/tiers.py [cpu:avx2 cpu:avx_vnni ...] [--rounds 8] [--json FILE]

Each remembers four pictures and steps along the same poses, of which none is kept. Needs the `test`
extra for the models with random weights.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

import timing
from heldout import about, write_json
from random_model import poses, remembering, shapes

import rtfm_rt


def race(model: str, devices: list[str], pages: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of a step, device by device."""
    sessions = {d: remembering(model, pages, device=d, threads=1) for d in devices}
    ahead = {device: itertools.cycle(poses(pages + 4)) for device in devices}
    calls = {d: (lambda d=d: sessions[d].step(next(ahead[d]))) for d in devices}
    return {d: timing.summary(s) for d, s in timing.interleave(calls, rounds, 4, 1).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("devices", nargs="*", default=["cpu:avx2", "cpu:avx_vnni"])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    results = {}
    for name, path, pages in shapes():
        row = race(path, args.devices, pages, args.rounds)
        print(name, {device: figures["p50_ms"] for device, figures in row.items()}, flush=True)
        results[name] = row
    if args.json:
        session = rtfm_rt.Session("rooms", device=args.devices[-1], threads=1)
        write_json(args.json, about(session), steps=results)


if __name__ == "__main__":
    main()
