"""Sizes and times of a probed video follow from its coded form."""

import dataclasses
import itertools
import json
from fractions import Fraction
from pathlib import Path

import pytest

from seedvr2_core.files import read_record, write_record
from seedvr2_core.video.info import Shift, Timeline, VideoInfo
from tests.kits.factories import make_info

SIZES = [(320, 180), (719, 577), (1, 2)]
ROTATIONS = [0, 90, 180, 270]
ASPECTS = [(1, 1), (12, 11), (64, 45), (1, 2)]
EACH_CASE = pytest.mark.parametrize(
    ("size", "rotation", "sar"), list(itertools.product(SIZES, ROTATIONS, ASPECTS)), ids=str
)


@EACH_CASE
def test_turning_swaps_the_sides_and_keeps_the_pixels(
    size: tuple[int, int], rotation: int, sar: tuple[int, int]
) -> None:
    info = make_info(*size, rotation=rotation, sar=sar)
    assert sorted(info.upright_size) == sorted(size)
    assert (info.upright_size == size) == (rotation % 180 == 0)


@EACH_CASE
def test_square_pixels_stretch_the_coded_width(
    size: tuple[int, int], rotation: int, sar: tuple[int, int]
) -> None:
    """The sample aspect ratio belongs to the coded picture, so it is resolved before the turn."""
    width, height = make_info(*size, rotation=rotation, sar=sar).display_size
    assert width * height == size[0] * size[1] * Fraction(*sar)
    coded = (width, height) if rotation % 180 == 0 else (height, width)
    assert coded == (size[0] * Fraction(*sar), size[1])


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("rotation", ROTATIONS)
def test_square_pixels_are_displayed_as_they_are(size: tuple[int, int], rotation: int) -> None:
    info = make_info(*size, rotation=rotation)
    assert info.display_size == info.upright_size


@pytest.mark.parametrize("first", [0, 7, -3])
def test_the_duration_counts_from_the_first_frame(first: int) -> None:
    pts = (first, first + 1, first + 5)
    info = make_info(pts=pts, time_base=(1, 10))
    assert info.num_frames == 3
    assert info.duration_seconds == pytest.approx(0.6)


def test_a_timeline_moves_each_stream_from_its_own_packets_on() -> None:
    timeline = Timeline(
        shifts=(
            Shift(stream=0, packet=3, seconds=(1, 2)),
            Shift(stream=1, packet=1, seconds=(1, 2)),
            Shift(stream=0, packet=4, seconds=(-7, 1)),
        )
    )
    halves = Fraction(1, 2)
    assert list(itertools.islice(timeline.seconds(0), 6)) == [0, 0, 0, halves, -7, -7]
    assert list(itertools.islice(timeline.seconds(1), 3)) == [0, halves, halves]
    assert list(itertools.islice(timeline.seconds(2), 2)) == [0, 0]


def test_a_record_of_the_version_before_can_be_read(tmp_path: Path) -> None:
    """It knew neither mirrors nor edges that are hidden."""
    path = tmp_path / "info.json"
    write_record(path, make_info())
    record = json.loads(path.read_text())
    for name in ("mirrored", "crop", "codec_sar", "timeline"):
        del record[name]
    path.write_text(json.dumps(record))
    info = read_record(path, VideoInfo)
    assert info == make_info()
    assert info.decoded_size == (info.width, info.height)


def test_what_the_decoder_gives_has_the_edges_that_are_hidden() -> None:
    info = dataclasses.replace(make_info(100, 50), crop=(1, 2, 3, 4))
    assert info.decoded_size == (104, 56)
    assert info.upright_size == (100, 50)
