# SPDX-License-Identifier: Apache-2.0
"""Pictures in, videos and contact sheets out (extra `demo`: Pillow, PyAV; imported when used)."""

from __future__ import annotations

import contextlib
import importlib
import math
import os
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rtfm_rt._core import ArgumentError
from rtfm_rt.extras import missing
from rtfm_rt.files import Path, whole_file, writable

Image = NDArray[np.uint8]

_VISIBLE = 512  # pixels: a video's longer side is at least about this


class Row(NamedTuple):
    """One line of a contact sheet: a title and its images, all of one size."""

    title: str
    images: Sequence[ArrayLike]


def psnr(a: ArrayLike, b: ArrayLike) -> float:
    """Peak signal-to-noise ratio of two uint8 images of one shape, in dB; inf when equal."""
    first, second = np.asarray(a), np.asarray(b)
    if first.shape != second.shape:
        raise ArgumentError(
            f"psnr: expected two images of one shape, got {first.shape} and {second.shape}"
        )
    error = float(np.mean((first.astype(np.float64) - second) ** 2))
    return 10.0 * math.log10(255.0**2 / error) if error else math.inf


def load_image(path: Path, height: int, width: int) -> Image:
    """The picture as uint8 (height, width, 3) RGB: turned upright, cut to the shape from its
    centre, and resized. Raises ArgumentError for a file that is not a picture."""
    pil = _extra("PIL.Image")
    ops = _extra("PIL.ImageOps")
    name = os.fspath(path)
    try:
        with pil.open(name) as file:
            picture = ops.exif_transpose(file).convert("RGB")
    except pil.UnidentifiedImageError:
        raise ArgumentError(
            f"{name}: expected a picture (PNG, JPEG, ...), got another kind of file"
        ) from None
    except (OSError, ValueError, SyntaxError, pil.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ArgumentError(f"{name}: expected a picture, got: {reason}") from None
    return np.array(ops.fit(picture, (width, height), pil.Resampling.LANCZOS), dtype=np.uint8)


def enlarge(image: ArrayLike, factor: int) -> Image:
    """Each pixel becomes a square of `factor` x `factor`."""
    return np.asarray(image, np.uint8).repeat(factor, axis=0).repeat(factor, axis=1)


class VideoWriter:
    """An MP4 (H.264, yuv420p) in the making; the file appears when the `with` block succeeds.

    Frames are uint8 (height, width, 3); small ones are enlarged by a whole number, pixel by pixel,
    and odd sides get one more row or column, as the format wants even ones.
    """

    def __init__(self, path: Path, height: int, width: int, fps: int = 30) -> None:
        self._av = _extra("av")
        self._path = path
        self._fps = fps
        self._shape = (height, width, 3)
        self._factor = max(1, round(_VISIBLE / max(height, width)))
        self.height, self.width = (s * self._factor + s * self._factor % 2 for s in (height, width))

    def write(self, frame: ArrayLike) -> None:
        image = np.asarray(frame)
        if image.shape != self._shape or image.dtype != np.uint8:
            raise ArgumentError(
                f"video: expected uint8 {self._shape}, got {image.dtype} {image.shape}"
            )
        large = enlarge(image, self._factor)
        rows, columns = self.height - large.shape[0], self.width - large.shape[1]
        large = np.pad(large, ((0, rows), (0, columns), (0, 0)), mode="edge")
        with self._writing():
            frame = self._av.VideoFrame.from_ndarray(large, format="rgb24")
            self._file.mux(self._stream.encode(frame))

    def __enter__(self) -> VideoWriter:
        with contextlib.ExitStack() as entered:
            part = entered.enter_context(whole_file(self._path))
            with self._writing():
                options = {"movflags": "+faststart"}
                self._file = self._av.open(part, "w", format="mp4", options=options)
                entered.push(self._close)
                self._stream = self._file.add_stream("h264", rate=self._fps)
                self._stream.width, self._stream.height = self.width, self.height
                self._stream.pix_fmt = "yuv420p"
                self._stream.options = {"crf": "16"}
            self._entered = entered.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._entered.__exit__(*error)

    def _close(self, kind: Any, *_: object) -> None:
        if kind is not None:
            with contextlib.suppress(self._av.FFmpegError):  # a full disk has no room for its end
                self._file.close()
            return
        with self._writing(), self._file:
            self._file.mux(self._stream.encode(None))

    def _writing(self) -> contextlib.AbstractContextManager[None]:
        return writable(self._path, self._av.FFmpegError)


def write_mp4(path: Path, frames: Iterable[ArrayLike], fps: int = 30) -> None:
    """Writes frames (uint8, all of one shape (height, width, 3)) as an MP4; see `VideoWriter`."""
    images = iter(frames)
    first = next(images, None)
    if first is None:
        raise ArgumentError(f"{os.fspath(path)}: expected at least one frame, got none")
    height, width = np.asarray(first).shape[:2]
    with VideoWriter(path, height, width, fps) as video:
        video.write(first)
        for image in images:
            video.write(image)


def write_sheet(path: Path, rows: Sequence[Row], captions: Sequence[str]) -> None:
    """Writes a contact sheet as PNG: one line of images per row, captions above the columns."""
    pil, draw, font = _extra("PIL.Image"), _extra("PIL.ImageDraw"), _extra("PIL.ImageFont")
    if not rows or any(len(row.images) != len(captions) for row in rows):
        raise ArgumentError(f"sheet: expected rows of {len(captions)} images, one per caption")
    height, width = np.asarray(rows[0].images[0]).shape[:2]
    factor = max(1, round(192 / width))
    tall, wide, gap, line, margin = height * factor, width * factor, 6, 24, 14
    columns = len(captions)
    size = (
        2 * margin + columns * wide + (columns - 1) * gap,
        2 * margin + line + len(rows) * (line + tall) + (len(rows) - 1) * gap,
    )
    sheet = pil.new("RGB", size, (250, 250, 248))
    pen, small = draw.Draw(sheet), font.load_default(13)
    for i, caption in enumerate(captions):
        x = margin + i * (wide + gap)
        pen.text((x, margin), caption, (120, 120, 120), small)
    for j, row in enumerate(rows):
        y = margin + line + j * (line + tall + gap)
        pen.text((margin, y + 4), row.title, (20, 20, 20), small)
        for i, image in enumerate(row.images):
            place = (margin + i * (wide + gap), y + line)
            sheet.paste(pil.fromarray(enlarge(image, factor)), place)
    with whole_file(path) as part, writable(path):
        sheet.save(part, format="PNG", optimize=True)


def _extra(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = {"PIL": "Pillow", "av": "PyAV"}[module.partition(".")[0]]
        raise missing(f"{package}: expected for pictures and videos", "demo", error) from None
