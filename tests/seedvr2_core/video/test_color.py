"""Colour tags of any kind: refused with a reason, or resolved to what swscale and players know."""

import itertools

import pytest
from av.video.format import VideoFormat, names
from av.video.reformatter import ColorRange

from seedvr2_core.errors import UnsupportedFormatError
from seedvr2_core.video.output.formats import is_rgb_format
from seedvr2_core.video.picture.color import (
    ColorTags,
    bit_depth,
    has_alpha,
    refuse_unsupported,
    resolve_color,
    sws_colorspace,
    sws_range,
)

CODES = range(0, 19)
"""All matrices, primaries and transfers of H.273 that FFmpeg knows."""


def is_refused(tags: ColorTags) -> bool:
    try:
        refuse_unsupported("clip.mp4", tags)
    except UnsupportedFormatError:
        return True
    return False


def test_every_tag_is_refused_or_resolved_to_what_swscale_knows() -> None:
    """Nothing falls between the two: what is not refused can be converted, there and back."""
    for matrix, primaries, transfer in itertools.product(CODES, CODES, CODES):
        tags = ColorTags(range=1, matrix=matrix, primaries=primaries, transfer=transfer)
        if not is_refused(tags):
            color = resolve_color(tags, pix_fmt="yuv420p", width=640, height=480)
            assert sws_colorspace(color.matrix) > 0
            assert 2 not in (color.matrix, color.primaries, color.transfer)
            again = ColorTags(
                range=1,
                matrix=color.matrix,
                primaries=color.primaries,
                transfer=color.transfer,
            )
            assert not is_refused(again)
            assert resolve_color(again, pix_fmt="yuv420p", width=1920, height=1080) == color


@pytest.mark.parametrize("matrix", [8, 10, 14], ids=["YCgCo", "BT.2020 CL", "ICtCp"])
def test_a_matrix_that_cannot_be_undone_is_refused(matrix: int) -> None:
    tags = ColorTags(range=1, matrix=matrix, primaries=9, transfer=16)
    with pytest.raises(UnsupportedFormatError, match=r"clip\.mp4: .*convert it"):
        refuse_unsupported("clip.mp4", tags)


@pytest.mark.parametrize("transfer", [16, 18], ids=["PQ", "HLG"])
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((9, 9), (9, 9)),
        ((2, 9), (9, 9)),
        ((2, 2), (9, 9)),
        ((9, 2), (9, 9)),
        ((1, 1), (1, 1)),
        ((1, 2), (1, 9)),
    ],
)
def test_hdr_without_all_of_its_tags_is_that_of_bt2020(
    given: tuple[int, int], expected: tuple[int, int], transfer: int
) -> None:
    tags = ColorTags(range=1, matrix=given[0], primaries=given[1], transfer=transfer)
    refuse_unsupported("clip.mp4", tags)
    color = resolve_color(tags, pix_fmt="yuv420p10le", width=320, height=180)
    assert (color.matrix, color.primaries, color.transfer) == (*expected, transfer)
    assert (color.hdr, color.is_wide) == ({16: "PQ", 18: "HLG"}[transfer], True)


@pytest.mark.parametrize(
    ("pix_fmt", "rgb", "alpha", "bits"),
    [
        ("yuv420p", False, False, 8),
        ("yuv422p10le", False, False, 10),
        ("yuva420p", False, True, 8),
        ("gray", False, False, 8),
        ("gbrp", True, False, 8),
        ("rgba64le", True, True, 16),
        ("pal8", True, True, 8),
    ],
)
def test_what_a_pixel_format_holds(pix_fmt: str, rgb: bool, alpha: bool, bits: int) -> None:
    assert (is_rgb_format(pix_fmt), has_alpha(pix_fmt), bit_depth(pix_fmt)) == (rgb, alpha, bits)


def test_the_name_of_a_pixel_format_says_whether_it_is_rgb_as_libav_does() -> None:
    """All that this build of libav knows; palettes are the one kind that it counts otherwise."""
    assert len(names) > 200
    wrong = [name for name in names if is_rgb_format(name) != VideoFormat(name).is_rgb]
    assert wrong == ["pal8"]
    assert is_rgb_format("pal8")


def test_a_picture_of_rgb_is_never_full_range_video() -> None:
    """The range is that of the Y'CbCr that is made of it."""
    for range_, pix_fmt in itertools.product((0, 1, 2), ("gbrp", "pal8", "rgb24")):
        tags = ColorTags(range=range_, matrix=0, primaries=2, transfer=2)
        assert not resolve_color(tags, pix_fmt=pix_fmt, width=640, height=480).full_range


def test_ranges_are_swscales() -> None:
    assert (sws_range(True), sws_range(False)) == (ColorRange.JPEG, ColorRange.MPEG)
