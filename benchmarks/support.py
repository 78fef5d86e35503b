# SPDX-License-Identifier: Apache-2.0
"""Does `frame.support` predict how good a frame is? Support against PSNR to the truth, in bins.

    python benchmarks/support.py [--sweep] [--quick] [--json FILE] [--svg FILE]

In rooms that training never saw, 1 to 4 of 8 rendered views are observed and the others are wanted.
Support is geometry, so other frusta (near and far of the manifest) grade the same frames
differently. `--sweep` tries them, with commit_below, and measures what they do to frames:
`one out` is the PSNR of a view when the 7 others are remembered (more than the context holds, so
that choosing matters), `walks` that of rendered walks, `return` and `revisit` are those of
persistence.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

import chart
import numpy as np
import persistence
import worlds

import rtfm_rt

BINS = 8  # of equal width; the last one holds 1
MOST_VIEWS = 4
SWEEP: tuple[dict[str, float], ...] = (
    {"far": 3.0}, {"far": 4.0}, {"far": 5.0}, {"far": 6.0}, {"far": 8.0}, {"far": 20.0},
    {"near": 0.1}, {"near": 1.0}, {"commit_below": 0.8}, {"commit_below": 0.95},
    {"far": 5.0, "commit_below": 0.8}, {"far": 5.0, "commit_below": 0.7},
)  # fmt: skip


class Case(NamedTuple):
    """Which views of a room are remembered and which are wanted."""

    room: int
    seen: list[int]
    wanted: list[int]


def cases(rooms: int) -> list[Case]:
    """Of every room: the first 1..4 views in their own order, and again in a shuffled one."""
    result = []
    for room in range(rooms):
        shuffled = np.random.default_rng(room).permutation(8)
        for order in (np.arange(8), shuffled):
            for count in range(1, MOST_VIEWS + 1):
                result.append(Case(room, order[:count].tolist(), order[count:].tolist()))
    return result


def remembering(model: str, room: int, seen: list[int]) -> rtfm_rt.Session:
    data = worlds.load_rooms()
    session = rtfm_rt.Session(model, threads=1, seed=room)
    for view in seen:
        session.observe(data.images[room, view], data.poses[room, view])
    return session


def scores(model: str, chosen: list[Case]) -> np.ndarray:
    """PSNR to the truth of every wanted view of every case, in order."""
    data, result = worlds.load_rooms(), []
    for room, seen, wanted in chosen:
        frames = remembering(model, room, seen).imagine(list(data.poses[room, wanted]))
        truths = data.images[room, wanted]
        result += [worlds.psnr(f, t) for f, t in zip(frames, truths, strict=True)]
    return np.array(result)


def supports(model: str, chosen: list[Case]) -> np.ndarray:
    """Support of the same frames: all that is seen fits the context, so support is coverage."""
    data, result = worlds.load_rooms(), []
    for room, seen, wanted in chosen:
        memory = remembering(model, room, seen).memory
        result += [memory.coverage(pose) for pose in data.poses[room, wanted]]
    return np.array(result)


def ranks(values: np.ndarray) -> np.ndarray:
    """1..n, equal values sharing the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def calibration(support: np.ndarray, score: np.ndarray, room: np.ndarray) -> dict[str, Any]:
    """Bin means and rank correlations, over all frames and inside the rooms (their mean)."""
    place = np.minimum((support * BINS).astype(int), BINS - 1)
    bins = []
    for i in range(BINS):
        inside = score[place == i]
        if len(inside):
            error = inside.std(ddof=1) / len(inside) ** 0.5 if len(inside) > 1 else 0.0
            bins.append(
                {
                    "from": i / BINS,
                    "to": (i + 1) / BINS,
                    "frames": len(inside),
                    "support": round(float(support[place == i].mean()), 3),
                    "psnr": round(float(inside.mean()), 2),
                    "error": round(float(error), 2),
                }
            )
    own = [room == r for r in np.unique(room)]
    inner = [spearman(support[r], score[r]) for r in own if np.ptp(support[r]) > 0]
    means = np.array([b["psnr"] for b in bins])
    return {
        "bins": bins,
        "monotone": bool((np.diff(means) > 0).all()),
        "spearman": round(spearman(support, score), 3),
        "spearman_in_room": round(float(np.mean(inner)), 3),
        "saturated": round(float((support == 1).mean()), 3),
    }


def effects(model: str, rooms: int) -> dict[str, float]:
    """What the retrieval numbers of a model do to its frames."""
    one_out = [
        Case(room, [v for v in range(8) if v != wanted], [wanted])
        for room in range(rooms)
        for wanted in range(1, 8, 2)
    ]
    walks = persistence.measure_walks(model, "pose-keyed", 6)
    turn, walk = (
        persistence.measure_detour(model, "pose-keyed", detour, 60, 6)
        for detour in ("turn 90°", "walk 1 m")
    )
    return {
        "one_out": round(float(scores(model, one_out).mean()), 2),
        "walks": round((walks["out"] + walks["back"]) / 2, 2),
        "walks_last": round(walks["last"], 2),
        **{f"turn_{key}": round(turn[key], 2) for key in ("return", "revisit", "kept")},
        **{f"walk_{key}": round(walk[key], 2) for key in ("return", "revisit", "kept")},
    }


def sweep(model: str, chosen: list[Case], score: np.ndarray, rooms: int) -> list[dict[str, Any]]:
    """The manifest's own numbers first, then SWEEP: calibration and effects of each."""
    room, rows = by_frame(chosen), []
    print(f"\n{'':30}{'rho':>6}{'in room':>8}{'sat.':>6} mono", end="")
    for change in ({}, *SWEEP):
        with worlds.variant(model, **change) as path:
            row = calibration(supports(path, chosen), score, room)
            effect = effects(path, rooms)
        if not rows:
            print("".join(f"{key:>13}" for key in effect))
        rows.append({"change": change, **row, **effect})
        name = ", ".join(f"{key} {value:g}" for key, value in change.items()) or "as it is"
        print(
            f"{name:30}{row['spearman']:6.3f}{row['spearman_in_room']:8.3f}"
            f"{row['saturated']:6.0%}{'yes' if row['monotone'] else 'no':>5}"
            + "".join(f"{value:13.2f}" for value in effect.values()),
            flush=True,
        )
    return rows


def by_frame(chosen: list[Case]) -> np.ndarray:
    """The room of every wanted view."""
    return np.concatenate([[case.room] * len(case.wanted) for case in chosen])


def show(row: dict[str, Any]) -> None:
    print("support          frames   PSNR, dB")
    for b in row["bins"]:
        span = f"{b['from']:.3f} .. {b['to']:.3f}"
        print(f"{span:16} {b['frames']:6d}   {b['psnr']:.1f} ± {b['error']:.1f}")
    print(
        f"rank correlation {row['spearman']:.3f}, inside a room {row['spearman_in_room']:.3f}; "
        f"monotone: {'yes' if row['monotone'] else 'no'}; support is 1 in {row['saturated']:.0%}"
    )


def draw(
    row: dict[str, Any],
    support: np.ndarray,
    score: np.ndarray,
    far: float,
    rows: list[dict[str, Any]],
) -> str:
    """Frames and bin means; beside them the bin means of other values of far, if swept."""
    ticks = [0.0, 0.25, 0.5, 0.75, 1.0]
    left = chart.Panel("Frames, and means of bins", "support", "PSNR to the truth, dB", ticks)
    left.dots = list(zip(support.tolist(), score.tolist(), strict=True))
    left.curves = {"": _curve(row)}
    title = "The same frames, graded by other frusta"
    right = chart.Panel(title, "support", "mean PSNR to the truth, dB", ticks)
    for other in rows:
        if other["change"] in ({}, {"far": 5.0}, {"far": 3.0}):
            right.curves[f"far {other['change'].get('far', far):g} m"] = _curve(other)
    panels = [left, right] if rows else [left]
    return chart.svg(panels, "Support of a frame against its PSNR to the truth")


def _curve(row: dict[str, Any]) -> list[tuple[float, float, float]]:
    return [(b["support"], b["psnr"], b["error"]) for b in row["bins"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="rooms", help="bundled name or model file")
    parser.add_argument("--quick", action="store_true", help="three rooms: a smoke test")
    parser.add_argument("--sweep", action="store_true", help="try other near, far, commit_below")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--svg", type=Path)
    args = parser.parse_args()
    rooms = 3 if args.quick else 24
    chosen = cases(rooms)
    score, support = scores(args.model, chosen), supports(args.model, chosen)
    row = calibration(support, score, by_frame(chosen))
    show(row)
    rows = sweep(args.model, chosen, score, rooms) if args.sweep else []
    about = worlds.about(rtfm_rt.Session(args.model, threads=1))
    if args.json:
        worlds.write_json(args.json, about, rooms=rooms, calibration=row, sweep=rows)
    if args.svg:
        args.svg.write_text(draw(row, support, score, about["retrieval"]["far"], rows))


if __name__ == "__main__":
    main()
