# SPDX-License-Identifier: Apache-2.0
"""`rtfm-rt walk` of a model that goes from frame to frame by actions."""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from rtfm_rt import options
from rtfm_rt._core import ArgumentError, Error, Frame
from rtfm_rt.session import Session, bundled_file
from rtfm_rt.terminal import progress, show

FRAMES = 24  # of a walk without a length


def run(args: argparse.Namespace, session: Session) -> None:
    """Steps through the actions from one picture, to a video with all images and a sheet."""
    from rtfm_rt import media

    actions = load_actions(args.actions, session, args.frames)
    height, width = session.image_size
    image = media.load_image(args.image or bundled_file("rooms.png"), height, width)
    session.observe(image)
    shown = sorted({round(i) for i in np.linspace(0, len(actions) - 1, 6)})
    kept, seconds, images = [], [], 0
    recordings = []
    if args.rerun:
        from rtfm_rt.viz import Recording

        recordings.append(Recording(args.rerun, session))
    writing = media.VideoWriter(args.out, height, width)
    with writing as video, contextlib.ExitStack() as files:
        writers: list[Callable[[Frame], None]] = [video.write]
        writers += [files.enter_context(recording).write for recording in recordings]
        advance = files.enter_context(progress(len(actions), "by actions"))
        for i, action in enumerate(actions):
            began = time.perf_counter()
            frame = session.step(action=action)
            seconds.append(time.perf_counter() - began)
            for picture in frame.images[:-1]:
                video.write(picture)
            for write in writers:  # the latest, with its receipt
                write(frame)
            images += len(frame.images)
            if i in shown:
                kept.append(np.array(frame))
            advance()
    captions = ["picture", *(f"frame {i + 1}" for i in shown)]
    media.write_sheet(args.sheet, [media.Row("by actions", [image, *kept])], captions)
    p50, worst = np.median(seconds), max(seconds)
    show(
        options.headline(session),
        {
            "speed": [
                f"{images / sum(seconds):.2f} images/s; a step of {images // len(actions)}: "
                f"p50 {p50:.2f} s, max {worst:.2f} s"
            ],
            "memory": [f"{len(session.memory)} frames, {session.memory.bytes / 1e6:.1f} MB"],
            "wrote": [
                f"{args.out}  {images} images of {video.width}x{video.height}",
                f"{args.sheet}  contact sheet",
            ],
        },
    )


def load_actions(path: str | None, session: Session, frames: int | None) -> list[dict[str, Any]]:
    """A JSON file with a list of objects, one for each step; without one, straight ahead."""
    if path is None:
        space = session.model.manifest["actions"]
        ahead = [a["name"] for a in space if a["move"][2] > 0][:1]
        return [{name: session.actions[name][1] for name in ahead}] * (frames or FRAMES)
    try:
        with open(path, encoding="utf-8") as file:
            actions = json.load(file)
    except (OSError, ValueError) as error:
        raise Error(f"{path}: expected a JSON list of actions, got: {error}") from None
    if not isinstance(actions, list) or not actions:
        raise ArgumentError(
            f"{path}: expected a JSON list of objects, got {type(actions).__name__}"
        )
    return actions[:frames]
