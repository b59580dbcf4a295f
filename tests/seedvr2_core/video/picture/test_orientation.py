"""Turned and mirrored pictures come out as ffmpeg shows them."""

import itertools
import struct
from pathlib import Path

import numpy as np
import pytest

from seedvr2_core.video.picture.orientation import Orientation, orientation_of
from seedvr2_core.video.probe import probe_video
from seedvr2_core.video.reader import read_frames
from tests.kits.media import ffmpeg
from tests.kits.videos.members import PICTURE, X264, as_ffmpeg_shows, exif_orientation, with_matrix

RIGHT_ANGLES = [
    (a, b, c, d)
    for a, b, c, d in itertools.product((-1, 0, 1), repeat=4)
    if abs(a) == abs(d) != abs(b) == abs(c)
]
"""The eight ways to lay a picture down."""


def packed(a: float, b: float, c: float, d: float) -> bytes:
    one = 1 << 16
    return struct.pack("=9i", *(round(v * one) for v in (a, b, 0, c, d, 0, 0, 0)), 1 << 30)


def test_there_are_eight() -> None:
    kinds = {(o.rotation, o.mirrored) for o in (orientation_of(packed(*m)) for m in RIGHT_ANGLES)}
    assert len(RIGHT_ANGLES) == len(kinds) == 8


@pytest.mark.parametrize("matrix", RIGHT_ANGLES)
def test_turn_and_mirror_do_to_pixels_what_the_matrix_does_to_points(
    matrix: tuple[int, int, int, int],
) -> None:
    a, b, c, d = matrix
    orientation = orientation_of(packed(*matrix))
    picture = np.arange(12).reshape(3, 4)
    turned = np.rot90(picture, -orientation.rotation // 90 % 4)
    turned = np.fliplr(turned) if orientation.mirrored else turned
    points = {(a * x + c * y, b * x + d * y): picture[y, x] for y in range(3) for x in range(4)}
    left, top = min(x for x, _ in points), min(y for _, y in points)
    for (x, y), value in points.items():
        assert turned[y - top, x - left] == value


@pytest.mark.parametrize(
    "matrix", [None, b"", packed(0, 0, 0, 0), packed(1, 1, 1, 1), packed(1, 0, 0, 0)]
)
def test_a_matrix_that_makes_no_picture_asks_for_nothing(matrix: bytes | None) -> None:
    assert orientation_of(matrix) == Orientation()


def test_a_crooked_turn_is_told() -> None:
    assert orientation_of(packed(0.7, 0.71, -0.71, 0.7)).warnings
    assert not orientation_of(packed(2, 0, 0, 3)).warnings


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "plain.mp4"
    ffmpeg(*PICTURE, "-frames:v", "4", *X264, "-pix_fmt", "yuv444p", path)
    return path


def as_we_show(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Our first three frames and ffmpeg's."""
    info = probe_video(path)
    ours = np.stack([frame.rgb for frame in read_frames(path, info, 0, 3)])
    return ours, as_ffmpeg_shows(path, *info.upright_size)


@pytest.mark.parametrize("matrix", [*RIGHT_ANGLES, (0, 0, 0, 0)])
def test_an_mp4_is_shown_as_its_matrix_says(
    clip: Path, tmp_path: Path, matrix: tuple[int, int, int, int]
) -> None:
    ours, theirs = as_we_show(with_matrix(clip, tmp_path / "a.mp4", matrix))
    assert np.abs(ours.astype(int) - theirs).mean() < 1


@pytest.mark.parametrize("flip", ["horizontal", "vertical"])
def test_a_flip_that_the_codec_asks_for(clip: Path, tmp_path: Path, flip: str) -> None:
    path = tmp_path / "a.mkv"
    told = f"h264_metadata=display_orientation=insert:flip={flip}"
    ffmpeg("-i", clip, "-c", "copy", "-bsf:v", told, path)
    assert probe_video(path).mirrored
    ours, theirs = as_we_show(path)
    assert np.abs(ours.astype(int) - theirs).mean() < 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["avi", "mov"])
def test_exif_turns_and_mirrors(tmp_path: Path, orientation: int, suffix: str) -> None:
    source = tmp_path / "source.avi"
    jpeg = ["-c:v", "mjpeg", "-q:v", "2", "-pix_fmt", "yuvj444p"]
    ffmpeg(*PICTURE, "-frames:v", "4", *jpeg, source)
    path = exif_orientation(source, tmp_path / f"a.{suffix}", orientation)
    info = probe_video(path)
    assert info.mirrored == (orientation in (2, 4, 5, 7))
    assert (info.rotation in (90, 270)) == (orientation >= 5)
    ours, theirs = as_we_show(path)
    assert np.abs(ours.astype(int) - theirs).mean() < 1.5
