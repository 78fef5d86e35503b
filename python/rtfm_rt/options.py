# SPDX-License-Identifier: Apache-2.0
"""What all commands that run a model share: its options, the session they make, one line on it."""

from __future__ import annotations

import argparse
from typing import Any

from rtfm_rt.session import Session

MOST = 1_000_000  # of anything that is counted


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="rooms", help="bundled name or model file (rooms)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (auto)")
    parser.add_argument(
        "--precision", default="auto", help="float32, bfloat16, float8, int8 (auto)"
    )
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads")
    parser.add_argument("--steps", type=positive, metavar="N", help="denoising steps")
    parser.add_argument("--context", type=positive, metavar="N", help="frames attended to")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the noise (0)")


def session(args: argparse.Namespace, **options: Any) -> Session:
    return Session(
        args.model,
        device=args.device,
        precision=args.precision,
        threads=args.threads,
        seed=args.seed,
        context=args.context,
        steps=args.steps,
        **options,
    )


def headline(session: Session) -> str:
    height, width = session.image_size
    manifest, steps = session.model.manifest, session.steps
    cublas = session.model.cublas and f" · {session.model.cublas}"
    return (
        f"{manifest['name']} ({manifest['licence']}) · {session.device} · {session.precision} · "
        f"{width}x{height} · {steps} {'step' if steps == 1 else 'steps'} · "
        f"context of {session.context}{cublas}"
    )


def positive(text: str) -> int:
    """A count. What is made for each of them, such as a pose, must fit into memory."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if not 1 <= value <= MOST:
        shown = text if len(text) <= 24 else f"{text[:24]}..."
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to {MOST}, got {shown!r}")
    return value
