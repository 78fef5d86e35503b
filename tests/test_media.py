# SPDX-License-Identifier: Apache-2.0
"""Pictures in, videos and sheets out."""

import math
import os
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from rtfm_rt import ArgumentError, Error
from rtfm_rt.media import Row, VideoWriter, enlarge, load_image, psnr, write_mp4, write_sheet
from rtfm_rt.session import bundled_file


def blocks(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A coarse random picture, (height, width, 3) uint8, that a video codec can keep."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    y, x = np.mgrid[:height, :width]
    return coarse[4 * y // height, 4 * x // width]


def decode(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as file:
        return [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]


def test_psnr() -> None:
    a = np.zeros((4, 4, 3), np.uint8)
    assert psnr(a, a) == math.inf
    assert psnr(a, a + 255) == pytest.approx(0)
    assert psnr(a, a + 1) == pytest.approx(48.13, abs=0.01)
    assert psnr(a + 1, a) == psnr(a, a + 1)
    with pytest.raises(ArgumentError, match="one shape"):
        psnr(a, a[:2])


@pytest.mark.parametrize("name", ["rooms.png", "rooms-2.png", "rooms-3.png", "rooms-4.png"])
def test_bundled_pictures_load_as_they_are(name: str) -> None:
    image = load_image(bundled_file(name), 64, 64)
    assert image.shape == (64, 64, 3) and image.dtype == np.uint8
    np.testing.assert_array_equal(image, np.asarray(Image.open(bundled_file(name))))


def test_load_cuts_the_centre(tmp_path: Path) -> None:
    wide = np.zeros((40, 120, 3), np.uint8)
    wide[:, 40:80] = (200, 100, 50)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    square = load_image(tmp_path / "wide.png", 40, 40)
    np.testing.assert_array_equal(square, np.full((40, 40, 3), (200, 100, 50)))
    assert load_image(tmp_path / "wide.png", 16, 48).shape == (16, 48, 3)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "I;16", "CMYK"])
def test_load_any_mode_is_rgb(tmp_path: Path, mode: str) -> None:
    file = tmp_path / ("picture.jpg" if mode == "CMYK" else "picture.png")
    Image.new(mode, (20, 30)).save(file)
    assert load_image(str(file), 8, 8).shape == (8, 8, 3)


def test_load_turns_phone_pictures_upright(tmp_path: Path) -> None:
    picture = Image.fromarray(blocks(32, 32))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn clockwise to show
    picture.save(tmp_path / "phone.png", exif=exif)
    upright = load_image(tmp_path / "phone.png", 32, 32)
    np.testing.assert_array_equal(upright, np.rot90(blocks(32, 32), -1))


def test_load_refuses_what_is_not_a_picture(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    cut = Path(bundled_file("rooms.png")).read_bytes()
    (tmp_path / "cut.png").write_bytes(cut[: len(cut) // 2])
    for name, reason in (
        ("nowhere.png", "No such file"),
        ("text.png", "another kind of file"),
        ("cut.png", "expected a picture"),
    ):
        with pytest.raises(ArgumentError, match=reason):
            load_image(tmp_path / name, 64, 64)


@pytest.mark.parametrize(
    ("height", "width", "shown"),
    [(64, 64, (512, 512)), (48, 80, (288, 480)), (33, 65, (264, 520)), (513, 301, (514, 302))],
)
def test_mp4_shows_every_frame(tmp_path: Path, height, width, shown) -> None:
    images = [blocks(height, width, seed) for seed in range(5)]
    write_mp4(tmp_path / "video.mp4", images, fps=24)
    frames = decode(tmp_path / "video.mp4")
    assert [frame.shape for frame in frames] == [(*shown, 3)] * 5
    factor = shown[1] // width
    for frame, image in zip(frames, images, strict=True):
        large = enlarge(image, factor)
        assert psnr(frame[: height * factor, : width * factor], large) > 25
    with av.open(str(tmp_path / "video.mp4")) as file:
        stream = file.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.pix_fmt == "yuv420p"
        assert stream.average_rate == 24


def test_mp4_is_all_or_nothing(tmp_path: Path) -> None:
    file = tmp_path / "video.mp4"
    with pytest.raises(KeyboardInterrupt), VideoWriter(file, 64, 64) as video:
        video.write(blocks(64, 64))
        raise KeyboardInterrupt
    with pytest.raises(ArgumentError, match=r"uint8 \(64, 64, 3\)"):
        write_mp4(file, [blocks(64, 64), blocks(64, 32)])
    with pytest.raises(ArgumentError, match="at least one frame"):
        write_mp4(file, [])
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ArgumentError, match="No such file"):
        write_mp4(tmp_path / "nowhere" / "video.mp4", [blocks(64, 64)])


def test_mp4_takes_the_place_of_a_file_only(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / "link.mp4"
    link.symlink_to(tmp_path / "disk" / "video.mp4")
    for _ in range(2):  # the second time there is a file
        write_mp4(link, [blocks(64, 64)])
    assert link.is_symlink() and (tmp_path / "disk" / "video.mp4").stat().st_size > 0
    os.mkfifo(tmp_path / "pipe")
    for name, kind in (("pipe", "a device or a pipe"), ("disk", "a folder")):
        with pytest.raises(ArgumentError, match=f"{name}: expected a file .* got {kind}"):
            write_mp4(tmp_path / name, [blocks(64, 64)])
    assert (tmp_path / "pipe").is_fifo()
    assert {path.name for path in tmp_path.iterdir()} == {"disk", "link.mp4", "pipe"}


def test_sheet(tmp_path: Path) -> None:
    file = tmp_path / "sheet.png"
    rows = [Row(title, [blocks(64, 64, i) for i in range(3)]) for title in ("one", "two")]
    write_sheet(file, rows, ["picture", "frame 1", "frame 2"])
    sheet = np.asarray(Image.open(file))
    tile = enlarge(blocks(64, 64, 0), 3)
    windows = np.lib.stride_tricks.sliding_window_view(sheet[:, 14:206], tile.shape)[:, 0, 0]
    assert sum(bool((window == tile).all()) for window in windows) == 2  # once in each row
    with pytest.raises(ArgumentError, match="one per caption"):
        write_sheet(file, rows, ["picture"])
    with pytest.raises(ArgumentError, match="No such file"):
        write_sheet(tmp_path / "nowhere" / "sheet.png", rows, ["a", "b", "c"])


def test_a_missing_extra_says_what_to_install(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(Error, match=r"PyAV: .* 'rtfm_rt\[demo\]', or '.\[demo\]'"):
        write_mp4(tmp_path / "video.mp4", [blocks(8, 8)])
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(Error, match=r"Pillow: .* the extra `demo`: pip install"):
        load_image(bundled_file("rooms.png"), 64, 64)
