# SPDX-License-Identifier: Apache-2.0
"""The same model with the same weights and inputs in rtfm_rt and in its peers on the CPU.

    python -m benchmarks.peers [--json FILE] [--svg FILE] [--wheel FILE] [--quick]

From the root of the repository. Needs the extra `bench` and a build with
`--config-settings=cmake.define.RTFM_TESTING=ON`. `--wheel`: a wheel of rtfm_rt, for its size.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import rtfm_rt
from benchmarks import chart
from benchmarks.peers import contestants, interleave, problem, process
from rtfm_rt.bench import machine
from rtfm_rt.reference import Config

OURS = "rtfm_rt float32"
QUICK = Config(16, 16, 8, 64, 2, 1, 128)
Rows = dict[str, dict[str, Any]]


def about(args: argparse.Namespace, began: tuple[float, ...]) -> dict[str, Any]:
    """Machine, versions, command, and how busy others kept the machine."""
    versions = {}
    for name in ("torch", "onnxruntime", "openvino", "onnx", "onnxscript"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        **machine(),
        "date": time.strftime("%Y-%m-%d"),
        "rtfm_rt": rtfm_rt.__version__,
        "device": rtfm_rt.Model("rooms", "cpu").device,
        **versions,
        "threads": args.threads,
        "pages": args.pages,
        "load_average": [round(value, 2) for value in (*began, *os.getloadavg())],
        "command": shlex.join(["python", "-m", "benchmarks.peers", *sys.argv[1:]]),
    }


def best(rows: Rows, precisions: tuple[str, ...]) -> str | None:
    """The fastest peer at one of those precisions."""
    peers = [
        name
        for name, row in rows.items()
        if "p50_ms" in row and name.endswith(precisions) and not name.startswith("rtfm_rt")
    ]
    return min(peers, key=lambda name: rows[name]["p50_ms"], default=None)


def show(shape: str, config: Config, rows: Rows, pages: int) -> None:
    print(f"\nD/N {shape}, {pages} pages, {config.layers} blocks: microseconds per block")
    print(f"  {'':26}{'p50':>9}{'p99':>9}{'GFLOP/s':>9}{'error':>9}{'to ours':>9}  undisturbed")
    ours = rows.get(OURS, {}).get("p50_ms")
    for name, row in rows.items():
        if "failed" in row:
            print(f"  {name:26}  {row['failed']}")
            continue
        us = 1e3 / config.layers
        rate = problem.gflop(config, pages) / row["p50_ms"] * 1e3
        ratio = f"{row['p50_ms'] / ours:.2f}" if ours else ""
        print(
            f"  {name:26}{row['p50_ms'] * us:9.0f}{row['p99_ms'] * us:9.0f}{rate:9.0f}"
            f"{row['error']:9.1e}{ratio:>9}  {row['undisturbed']}/{row['passes']}",
            flush=True,
        )


def summary(rows: Rows) -> dict[str, Any]:
    """The best peer over rtfm_rt: both float32; reduced precision over our fastest, whatever it
    computes in here."""
    result: dict[str, Any] = {}
    ours = [name for name, row in rows.items() if name.startswith("rtfm_rt") and "p50_ms" in row]
    for kind, precisions, mine in (
        ("float32", ("float32",), [OURS] if OURS in ours else []),
        ("reduced", ("bfloat16", "float16", "int8"), ours),
    ):
        peer = best(rows, precisions)
        if peer and mine:
            fastest = min(mine, key=lambda name: rows[name]["p50_ms"])
            ratio = rows[peer]["p50_ms"] / rows[fastest]["p50_ms"]
            result[kind] = {"peer": peer, "ours": fastest, "ratio": round(ratio, 2)}
    return result


def beside(config: Config, names: list[str], args: argparse.Namespace, quiet: Rows) -> Rows:
    """The same again beside one process that computes all the time; `ratio` to the quiet p50."""
    names = [name for name in names if "p50_ms" in quiet[name]]
    with tempfile.TemporaryDirectory() as folder:
        problem.write_problem(Path(folder), config, args.pages)
        rows = interleave.race(Path(folder), names, max(1, args.rounds // 3), args.threads, busy=1)
    print("\nbeside one busy process: p50 to the quiet p50")
    for name, row in rows.items():
        if "p50_ms" in row:
            row["ratio"] = round(row["p50_ms"] / quiet[name]["p50_ms"], 2)
        print(f"  {name:26}{row.get('ratio', row.get('failed'))}", flush=True)
    return rows


def draw(blocks: dict[str, Rows], threads: int) -> str:
    """How long peers take for what rtfm_rt does in 1, in each precision that both have here."""
    panels = []
    for precision in ("float32", "bfloat16", "int8"):
        ours = f"rtfm_rt {precision}"
        shapes = [shape for shape, rows in blocks.items() if "p50_ms" in rows.get(ours, {})]
        panel = chart.Panel(
            title=f"{precision}, threads: {threads}, rtfm_rt = 1",
            x_label="width, tokens",
            y_label="times as long",
            ticks=[float(i) for i in range(len(shapes))],
            names=[shape.replace("/", " ") for shape in shapes],
            joined=False,
        )
        for peer in ("torch.compile", "ONNX Runtime", "OpenVINO"):
            curve = []
            for i, shape in enumerate(shapes):
                row = blocks[shape].get(f"{peer} {precision}", {})
                if "p50_ms" in row:
                    curve.append((float(i), row["p50_ms"] / blocks[shape][ours]["p50_ms"], 0.0))
            panel.curves[peer] = curve
        if any(panel.curves.values()):
            panels.append(panel)
    return chart.svg(panels, "Times of a write pass in three peers relative to rtfm_rt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--pages", type=int, default=4)
    parser.add_argument("--shapes", default=",".join(problem.SHAPES), help="D/N,D/N,...")
    parser.add_argument("--only", default="", help="contestants whose names start so, with commas")
    parser.add_argument("--skip-process", action="store_true", help="no whole-process figures")
    parser.add_argument("--wheel", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--svg", type=Path)
    parser.add_argument("--quick", action="store_true", help="a tiny model: does everything run?")
    args = parser.parse_args()

    shapes = {shape: problem.SHAPES[shape] for shape in args.shapes.split(",")}
    if args.quick:
        shapes = {"64/4": QUICK}
    wanted = tuple(args.only.split(","))
    names = [name for name in contestants.NAMES if name.startswith(wanted)]
    began = os.getloadavg()
    blocks: dict[str, Rows] = {}
    result: dict[str, Any] = {"summary": {}, "blocks": blocks}
    for shape, config in shapes.items():
        with tempfile.TemporaryDirectory() as folder:
            problem.write_problem(Path(folder), config, args.pages)
            rows = interleave.race(Path(folder), names, args.rounds, args.threads)
        blocks[shape] = rows
        show(shape, config, rows, args.pages)
        result["summary"][shape] = summary(rows)
        for kind, row in summary(rows).items():
            print(f"  {kind}: {row['peer']} / {row['ours']} = {row['ratio']}", flush=True)
        save(args, began, result)
    if not args.skip_process:
        shape, config = next(iter(shapes.items()))
        result["beside one busy process"] = {shape: beside(config, names, args, blocks[shape])}
        result["process"] = process.measure(args.threads, args.wheel, names, args.quick)
        save(args, began, result)


def save(args: argparse.Namespace, began: tuple[float, ...], result: dict[str, Any]) -> None:
    """After every shape: an interrupted run leaves what it has measured."""
    if args.json:
        text = json.dumps({"about": about(args, began), **result}, indent=1)
        args.json.write_text(text + "\n")
    if args.svg and any("p50_ms" in rows.get(OURS, {}) for rows in result["blocks"].values()):
        args.svg.write_text(draw(result["blocks"], args.threads))


if __name__ == "__main__":
    main()
