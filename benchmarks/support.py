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
import itertools
from pathlib import Path
from typing import Any, NamedTuple

import chart
import heldout
import numpy as np
import persistence

import rtfm_rt

BINS, FINE = 5, 8  # of equal width, the last one with 1: fine ones hold as few as 20 frames
MOST_VIEWS = 4
_LONG = ("change", "bins", "fine")
SWEEP: tuple[dict[str, float], ...] = (
    {"far": 5.0}, {"far": 4.0}, {"far": 4.0, "commit_below": 0.8}, {"far": 3.0},
    {"commit_below": 0.8}, {"commit_below": 0.95}, {"near": 1.0},
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


def remembering(model: rtfm_rt.Model, room: int, seen: list[int]) -> rtfm_rt.Session:
    data = heldout.load_rooms()
    session = rtfm_rt.Session(model, threads=1, seed=room)
    for view in seen:
        session.observe(data.images[room, view], data.poses[room, view])
    return session


def scores(model: rtfm_rt.Model, chosen: list[Case]) -> np.ndarray:
    """PSNR to the truth of every wanted view of every case, in order."""
    data, result = heldout.load_rooms(), []
    for room, seen, wanted in chosen:
        frames = remembering(model, room, seen).imagine(list(data.poses[room, wanted]))
        truths = data.images[room, wanted]
        result += [heldout.psnr(f, t) for f, t in zip(frames, truths, strict=True)]
    return np.array(result)


def supports(model: rtfm_rt.Model, chosen: list[Case]) -> np.ndarray:
    """Support of the same frames: all that is seen fits the context, so support is coverage."""
    data, result = heldout.load_rooms(), []
    for room, seen, wanted in chosen:
        memory = remembering(model, room, seen).memory
        result += [memory.coverage(pose) for pose in data.poses[room, wanted]]
    return np.array(result)


def ranks(values: np.ndarray) -> np.ndarray:
    """1..n, equal values sharing the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation; 0 when one of the two does not vary."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def room_means(score: np.ndarray, room: np.ndarray) -> np.ndarray:
    """For each frame the mean PSNR of its room."""
    return np.array([score[room == r].mean() for r in range(room.max() + 1)])[room]


def in_room(support: np.ndarray, score: np.ndarray, room: np.ndarray) -> np.ndarray:
    """The rank correlation inside each room."""
    return np.array([spearman(support[room == r], score[room == r]) for r in np.unique(room)])


def binned(
    support: np.ndarray, score: np.ndarray, room: np.ndarray, count: int
) -> list[dict[str, float]]:
    """Means and standard errors of the frames in each of `count` bins of support. `relative` is
    the PSNR less the mean of the frame's room: a plain room scores high whatever is remembered."""
    relative = score - room_means(score, room)
    place = np.minimum((support * count).astype(int), count - 1)
    bins = []
    for i in range(count):
        inside = place == i
        frames = int(inside.sum())
        if frames < 2:
            continue
        figures = {
            "from": i / count,
            "to": (i + 1) / count,
            "support": support[inside].mean(),
            "psnr": score[inside].mean(),
            "error": score[inside].std(ddof=1) / frames**0.5,
            "relative": relative[inside].mean(),
            "relative_error": relative[inside].std(ddof=1) / frames**0.5,
        }
        rounded = {key: round(float(value), 3) for key, value in figures.items()}
        bins.append({"frames": frames, **rounded})
    return bins


def calibration(support: np.ndarray, score: np.ndarray, room: np.ndarray) -> dict[str, Any]:
    """Bins, whether their means rise, and rank correlations."""
    bins, fine = (binned(support, score, room, count) for count in (BINS, FINE))
    return {
        "bins": bins,
        "fine": fine,
        "monotone": rising(bins, "psnr"),
        "monotone_relative": rising(bins, "relative"),
        "monotone_fine": rising(fine, "psnr"),
        "spearman": round(spearman(support, score), 3),
        "spearman_in_room": round(float(in_room(support, score, room).mean()), 3),
        "saturated": round(float((support == 1).mean()), 3),
        "explained_by_room": round(float(room_means(score, room).var() / score.var()), 3),
    }


def rising(bins: list[dict[str, float]], key: str) -> bool:
    return all(a[key] < b[key] for a, b in itertools.pairwise(bins))


def effects(model: rtfm_rt.Model, rooms: int) -> dict[str, float]:
    """What the retrieval numbers of a model do to its frames."""
    one_out = [
        Case(room, [v for v in range(8) if v != wanted], [wanted])
        for room in range(rooms)
        for wanted in range(1, 8, 2)
    ]
    walks = persistence.measure_walks(model, "pose-keyed", 6)
    turn, walk = (
        persistence.measure_detour(model, "pose-keyed", detour, 60, 4)
        for detour in ("turn 90°", "walk 1 m")
    )
    return {
        "one_out": round(float(scores(model, one_out).mean()), 2),
        "walks": round((walks["out"] + walks["back"]) / 2, 2),
        "walks_last": round(walks["last"], 2),
        **{f"turn_{key}": round(turn[key], 2) for key in ("return", "revisit", "kept")},
        **{f"walk_{key}": round(walk[key], 2) for key in ("return", "revisit", "kept")},
    }


def sweep(path: str, chosen: list[Case], score: np.ndarray, rooms: int) -> list[dict[str, Any]]:
    """The manifest's own numbers first, then SWEEP: calibration and effects of each. `gain` is
    what a change adds to the rank correlation inside a room."""
    room, rows, own = by_frame(chosen), [], np.zeros(0)
    for change in ({}, *SWEEP):
        with heldout.variant(path, **change) as file:
            model = rtfm_rt.Model(file)
        support = supports(model, chosen)
        row = {"change": change, **calibration(support, score, room), **effects(model, rooms)}
        inside = in_room(support, score, room)
        own = own if len(own) else inside
        row["gain"] = round(float((inside - own).mean()), 3)
        row["gain_error"] = round(float((inside - own).std(ddof=1) / len(own) ** 0.5), 3)
        rows.append(row)
        name = ", ".join(f"{key} {value:g}" for key, value in change.items()) or "as it is"
        print(f"\n{name}: " + ", ".join(f"{k} {row[k]}" for k in row if k not in _LONG), flush=True)
    return rows


def by_frame(chosen: list[Case]) -> np.ndarray:
    """The room of every wanted view."""
    return np.concatenate([[case.room] * len(case.wanted) for case in chosen])


def show(row: dict[str, Any]) -> None:
    for bins in (row["bins"], row["fine"]):
        print("support          frames   PSNR, dB     less the room's mean")
        for b in bins:
            print(
                f"{b['from']:.3f} .. {b['to']:.3f}   {b['frames']:6d}   {b['psnr']:.1f} ± "
                f"{b['error']:.1f}   {b['relative']:+.1f} ± {b['relative_error']:.1f}"
            )
    print(", ".join(f"{key} {value}" for key, value in row.items() if key not in _LONG))


def draw(
    row: dict[str, Any],
    support: np.ndarray,
    relative: np.ndarray,
    far: float,
    rows: list[dict[str, Any]],
) -> str:
    """Frames and bin means; beside them the bin means of other values of far, if swept."""
    ticks = [0.0, 0.25, 0.5, 0.75, 1.0]
    y_label = "PSNR less the room's mean, dB"
    left = chart.Panel("Frames, and means of bins", "support", y_label, ticks)
    left.dots = list(zip(support.tolist(), relative.tolist(), strict=True))
    left.curves = {"": _curve(row)}
    title = "The same frames, graded by other frusta"
    right = chart.Panel(title, "support", y_label, ticks)
    for other in rows:
        if other["change"] in ({}, {"far": 5.0}, {"far": 3.0}):
            right.curves[f"far {other['change'].get('far', far):g} m"] = _curve(other)
    panels = [left, right] if rows else [left]
    return chart.svg(panels, "Support of a frame against its PSNR to the truth")


def _curve(row: dict[str, Any]) -> list[tuple[float, float, float]]:
    return [(b["support"], b["relative"], b["relative_error"]) for b in row["bins"]]


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
    model = rtfm_rt.Model(args.model)
    score, support = scores(model, chosen), supports(model, chosen)
    row = calibration(support, score, by_frame(chosen))
    show(row)
    rows = sweep(args.model, chosen, score, rooms) if args.sweep else []
    about = heldout.about(rtfm_rt.Session(model, threads=1))
    if args.json:
        heldout.write_json(args.json, about, rooms=rooms, calibration=row, sweep=rows)
    if args.svg:
        relative = score - room_means(score, by_frame(chosen))
        args.svg.write_text(draw(row, support, relative, about["retrieval"]["far"], rows))


if __name__ == "__main__":
    main()
