# SPDX-License-Identifier: Apache-2.0
"""The command `rtfm-rt walk`: a path through the world of one picture, to a video and a sheet."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rtfm_rt import acting, options, paths
from rtfm_rt._core import Error, Frame
from rtfm_rt.files import check_outputs
from rtfm_rt.pose import Pose
from rtfm_rt.session import Session, bundled_file, model_path
from rtfm_rt.terminal import progress, show

if TYPE_CHECKING:
    from rtfm_rt import media

PATHS: dict[str, Callable[[int], list[Pose]]] = {
    "there-and-back": paths.there_and_back,
    "orbit": paths.orbit,
    "look-around": paths.look_around,
}
_EVERY_FRAME = 2.0  # commit_below: above any support


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--image", metavar="FILE", help="the picture to start from (a room)")
    parser.add_argument(
        "--path",
        metavar="PATH",
        help=f"{', '.join(PATHS)} or a trajectory FILE, JSON or TUM (there-and-back)",
    )
    parser.add_argument(
        "--actions", metavar="FILE", help="JSON, for models that go by actions (straight ahead)"
    )
    parser.add_argument(
        "--frames", type=options.positive, metavar="N", help="length (120, or the FILE's)"
    )
    parser.add_argument("--out", default="walk.mp4", metavar="FILE", help="the video (walk.mp4)")
    parser.add_argument("--sheet", default="walk.png", metavar="FILE", help="the sheet (walk.png)")
    parser.add_argument("--rerun", metavar="FILE", help="a Rerun recording too, such as walk.rrd")


class _Walked(NamedTuple):
    seconds: list[float]  # of each step
    supports: list[float]
    kept: list[np.ndarray]  # the frames of the contact sheet, the first and the last among them


def run(args: argparse.Namespace) -> None:
    from rtfm_rt import media

    with contextlib.suppress(ImportError):  # an interrupt may get lost in an import: none while ...
        importlib.import_module("rich.progress")  # ... half a video lies there
    trajectory = None if args.path in PATHS else args.path
    read = (model_path(args.model), args.image, trajectory, args.actions)
    check_outputs(filter(None, (args.out, args.sheet, args.rerun)), filter(None, read))
    session = options.session(args)
    if session.actions:
        if args.path:
            raise Error("path: expected none for a model that goes by actions; use --actions")
        acting.run(args, session)
        return
    if args.actions:
        raise Error("actions: expected none for a model that goes by poses; use --path")
    poses = _poses(args)
    height, width = session.image_size
    image = media.load_image(args.image or bundled_file("rooms.png"), height, width)
    shown = sorted({round(i) for i in np.linspace(0, len(poses) - 1, 6)})
    session.observe(image, poses[0])
    recordings = []
    if args.rerun:
        from rtfm_rt.viz import Recording

        recordings.append(Recording(args.rerun, session))
    writing = media.VideoWriter(args.out, height, width)
    with writing as video, contextlib.ExitStack() as files:
        writers: list[Callable[[Frame], None]] = [video.write]
        writers += [files.enter_context(recording).write for recording in recordings]
        walked = _take(session, poses, shown, "with memory", writers)

    returned = len(poses) > 2 and poses[0] == poses[-1]
    rows = [media.Row("with memory", [image, *walked.kept])]
    persistence: list[str] = []
    if returned:
        rows, persistence = _compare(session, args.seed, image, poses, shown, walked)
    captions = ["picture", *(f"frame {i + 1}" for i in shown)]
    media.write_sheet(args.sheet, rows, captions)

    p50, p99 = np.percentile(walked.seconds, (50, 99)) * 1e3
    rate = len(poses) / sum(walked.seconds)
    show(
        options.headline(session),
        {
            "speed": [f"{rate:.1f} frames/s, p50 {p50:.1f} ms, p99 {p99:.1f} ms"],
            "support": [
                f"{np.mean(walked.supports):.0%} of a view remembered on average, "
                f"{min(walked.supports):.0%} at least"
            ],
            "memory": [
                f"{len(session.memory)} of {len(poses) + 1} frames kept, "
                f"{session.memory.bytes / 1e6:.1f} MB"
            ],
            "persistence": persistence,
            "wrote": [
                f"{args.out}  {len(poses)} frames of {video.width}x{video.height}",
                f"{args.sheet}  contact sheet",
                *([f"{args.rerun}  Rerun recording"] if args.rerun else []),
            ],
        },
    )


def _poses(args: argparse.Namespace) -> list[Pose]:
    if not args.path or args.path in PATHS:
        return PATHS[args.path or "there-and-back"](args.frames or 120)
    if not os.path.exists(args.path):
        raise Error(
            f"path: expected {', '.join(PATHS)} or a trajectory file, got {args.path!r}, which "
            "is not there"
        )
    return paths.load_trajectory(args.path)[: args.frames]


def _compare(
    session: Session,
    seed: int,
    image: media.Image,
    poses: Sequence[Pose],
    shown: Sequence[int],
    walked: _Walked,
) -> tuple[list[media.Row], list[str]]:
    """The rows of a sheet and lines of text on a walk that came back, beside the same walk of a
    session that attends to its latest frames only."""
    from rtfm_rt import media

    plain = _recent_only(session, seed)
    plain.observe(image, poses[0])
    forgetful = _take(plain, poses, shown, "recent frames only")
    with_memory = media.psnr(image, walked.kept[-1])
    without = media.psnr(image, forgetful.kept[-1])
    rows = [
        media.Row(f"with memory: back at {with_memory:.1f} dB", [image, *walked.kept]),
        media.Row(f"recent frames only: back at {without:.1f} dB", [image, *forgetful.kept]),
    ]
    lines = [
        f"{with_memory:4.1f} dB  on return, with memory, against the picture",
        f"{without:4.1f} dB  on return, with the {plain.context} latest frames only",
        f"{media.psnr(image, walked.kept[0]):4.1f} dB  at the start, before any step away",
        f"{media.psnr(walked.kept[0], walked.kept[-1]):4.1f} dB  on return, with memory, "
        "against the frame at the start",
    ]
    return rows, lines


def _recent_only(session: Session, seed: int) -> Session:
    """A twin that attends to its latest frames only, as a model without a spatial memory does."""
    return Session(
        session.model,
        threads=session.threads,
        seed=seed,
        context=session.context,
        steps=session.steps,
        commit_below=_EVERY_FRAME,
        sinks=0,
        recent=session.context,
    )


def _take(
    session: Session,
    poses: Sequence[Pose],
    shown: Sequence[int],
    text: str,
    writers: Sequence[Callable[[Frame], None]] = (),
) -> _Walked:
    walked = _Walked([], [], [])
    with progress(len(poses), text) as advance:
        for i, pose in enumerate(poses):
            began = time.perf_counter()
            frame = session.step(pose)
            walked.seconds.append(time.perf_counter() - began)
            walked.supports.append(frame.support)
            for write in writers:
                write(frame)
            if i in shown:
                walked.kept.append(np.array(frame))
            advance()
    return walked
