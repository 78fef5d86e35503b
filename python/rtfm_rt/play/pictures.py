# SPDX-License-Identifier: Apache-2.0
"""Pictures to start from: the bundled ones, one from the command line, and uploads."""

from __future__ import annotations

import io
import os
import warnings

import numpy as np
from PIL import Image, ImageOps

from rtfm_rt._core import ArgumentError
from rtfm_rt.media import load_image
from rtfm_rt.play.walk import Picture
from rtfm_rt.session import bundled_file

UPLOAD_BYTES = 8 << 20
_MEGAPIXELS = 40
_FORMATS = ("PNG", "JPEG", "WEBP")  # no others are handed to a decoder
_OWN = "yours"


def collect(image: str | None, height: int, width: int) -> dict[str, Picture]:
    """Name to picture of the model's size; the one that a walk starts in comes first."""
    pictures = {} if image is None else {_OWN: load_image(image, height, width)}
    folder = bundled_file("")
    for file in sorted(os.listdir(folder), key=lambda name: os.path.splitext(name)[0]):
        name, kind = os.path.splitext(file)
        if kind == ".png":
            pictures[name] = load_image(os.path.join(folder, file), height, width)
    return pictures


def png(picture: Picture) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "PNG")
    return out.getvalue()


def decode(data: bytes, height: int, width: int) -> tuple[Picture, bool]:
    """An uploaded picture at the model's size, and whether something had to be cut off.

    Its size is read, and refused, before its pixels are. ArgumentError says what is wrong in words
    for the visitor.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            file = Image.open(io.BytesIO(data), formats=_FORMATS)
        wide, tall = file.size
        if wide * tall > _MEGAPIXELS * 1_000_000:
            raise ArgumentError(
                f"That picture has {wide * tall / 1e6:.0f} megapixels; "
                f"{_MEGAPIXELS} are the most. Make it smaller and try again."
            )
        file.draft("RGB", (2 * width, 2 * height))  # a large JPEG is decoded small
        upright = ImageOps.exif_transpose(file).convert("RGB")
        fitted = ImageOps.fit(upright, (width, height), Image.Resampling.LANCZOS)
    except ArgumentError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError):
        raise ArgumentError(
            "That is not a picture that can be read here: a whole PNG, JPEG or WebP is."
        ) from None
    kept = upright.width * height == upright.height * width
    return np.array(fitted, dtype=np.uint8), not kept
