# SPDX-License-Identifier: Apache-2.0
"""Walks through rooms that training never saw: the rendered truth, and what the model makes of it.

    python benchmarks/rooms_gif.py docs/images/rooms.gif [--model rooms] [--walks 0 3 4]

The model sees the first picture of each walk, and from then on only poses, there and back.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import heldout
import numpy as np
from PIL import Image, ImageDraw, ImageFont

import rtfm_rt
from rtfm_rt.media import enlarge

TILE = 128  # pixels: the side of a picture, about
GAP, LINE = 6, 22
PAPER, INK = (250, 250, 248), (60, 60, 60)
MILLISECONDS = 80  # a frame
MOST_BYTES = 2_000_000
ROWS = ("rendered: rooms never seen in training", "generated: from the first picture and poses")


def fitted(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """A rendered picture at the model's size."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def generate(model: rtfm_rt.Model, walk: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The truth of a walk and the frames of the model, uint8 (height, width, 3) each."""
    rooms = heldout.load_rooms()
    session = rtfm_rt.Session(model, seed=walk)
    truth = [fitted(image, *session.image_size) for image in rooms.walk_images[walk]]
    poses = rooms.walk_poses[walk]
    session.observe(truth[0], poses[0])
    return truth, [np.array(session.step(pose)) for pose in poses]


def sheet(rows: list[list[np.ndarray]]) -> Image.Image:
    """One picture of the film: a line of tiles under each caption."""
    height, width = rows[0][0].shape[:2]
    factor = max(1, round(TILE / width))
    tall, wide, columns = height * factor, width * factor, len(rows[0])
    size = (columns * wide + (columns + 1) * GAP, len(rows) * (tall + LINE) + GAP)
    made = Image.new("RGB", size, PAPER)
    pen, font = ImageDraw.Draw(made), ImageFont.load_default(13)
    for j, (caption, images) in enumerate(zip(ROWS, rows, strict=True)):
        y = j * (tall + LINE)
        pen.text((GAP, y + 4), caption, INK, font)
        for i, image in enumerate(images):
            place = (GAP + i * (wide + GAP), y + LINE)
            made.paste(Image.fromarray(enlarge(image, factor)), place)
    return made


def write_gif(path: Path, film: list[Image.Image], colours: int) -> int:
    """Writes with one palette for all frames, undithered, and returns the size in bytes."""
    together = np.concatenate([np.asarray(image)[::2, ::2] for image in film[::6]])
    palette = Image.fromarray(together).quantize(colours, kmeans=3)
    frames = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in film]
    frames[0].save(
        path, save_all=True, append_images=frames[1:], duration=MILLISECONDS, loop=0, optimize=True
    )
    return path.stat().st_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="rooms", help="bundled name or model file")
    parser.add_argument("--walks", type=int, nargs="+", default=[0, 3, 4], choices=range(6))
    args = parser.parse_args()
    model = rtfm_rt.Model(args.model)
    walks = [generate(model, walk) for walk in args.walks]
    film = []
    for i in range(len(walks[0][0])):
        film.append(sheet([[truth[i] for truth, _ in walks], [made[i] for _, made in walks]]))
    for colours in (256, 192, 128, 96, 64):  # the most that fit
        size = write_gif(args.out, film, colours)
        if size <= MOST_BYTES:
            break
    else:
        raise SystemExit(f"{args.out}: {size} bytes at {colours} colours; choose fewer --walks")
    for walk, (truth, made) in zip(args.walks, walks, strict=True):
        scores = [heldout.psnr(a, b) for a, b in zip(truth, made, strict=True)]
        print(f"walk {walk}: {np.mean(scores):.1f} dB on average, {scores[-1]:.1f} dB on return")
    width, height = film[0].size
    print(f"{args.out}: {width}x{height}, {len(film)} frames, {colours} colours, {size} bytes")


if __name__ == "__main__":
    main()
