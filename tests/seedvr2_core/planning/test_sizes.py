"""How large the output picture is: by its area, its shorter side, a factor or a box."""

import itertools
import re
from fractions import Fraction

import pytest

from seedvr2_core.errors import PlanError
from seedvr2_core.planning.sizes import (
    BUDGETS_PX,
    MAX_OUTPUT_PX,
    MAX_SIDE_PX,
    NAMED,
    OWN_SIZE_PATTERN,
    SHORT_SIDES_PX,
    budget_for,
    meant_resolution,
    output_name,
    parse_resolution,
    size_for,
    size_note,
)


@pytest.mark.parametrize(
    ("width", "height", "resolution", "size"),
    [
        (640, 480, "720p", (1108, 832)),
        (640, 480, "short:720", (960, 720)),
        (480, 640, "short:720", (720, 960)),
        (320, 180, "short:720", (1280, 720)),
        (2560, 1080, "short:1080", (2560, 1080)),
        (1920, 800, "short:2160", (5184, 2160)),
        (1000, 1000, "short:1440", (1440, 1440)),
        (Fraction(1024), Fraction(3, 4) * 768, "short:1080", (1920, 1080)),
        (720, 480, "2x", (1440, 960)),
        (Fraction(720 * 64, 45), 576, "1.5x", (1536, 864)),
        (1919, 1079, "1x", (1920, 1080)),
        (1919, 1079, "0.5x", (960, 540)),
        (640, 360, "4x", (2560, 1440)),
        (640, 480, "1920x1080", (1440, 1080)),
        (480, 640, "1920x1080", (810, 1080)),
        (3840, 1608, "1920x1080", (1920, 804)),
        (640, 360, "1921x1081", (1920, 1080)),
        (16, 9, "1920x1080", (1920, 1080)),
    ],
)
def test_the_size_of_the_output(
    width: int, height: int, resolution: str, size: tuple[int, int]
) -> None:
    assert size_for(width, height, resolution) == size


@pytest.mark.parametrize(("short", "side"), SHORT_SIDES_PX.items())
def test_a_shorter_side_has_a_budget_of_its_own(short: str, side: int) -> None:
    """The pools of a budget make it, and a 16:9 picture has the same size by both names."""
    budget = budget_for(short)
    assert side * side * 16 // 9 == BUDGETS_PX[budget]
    assert size_for(16, 9, short) == size_for(16, 9, budget)
    assert budget_for(budget) == budget


def test_a_ribbon_is_refused_by_its_shorter_side() -> None:
    with pytest.raises(PlanError, match=r"36000x720, more than 4 times the pixels of 720p"):
        size_for(5000, 100, "short:720")
    assert size_for(5000, 100, "720p") == (6788, 136)


def test_a_picture_that_is_not_16_to_9_gets_a_note() -> None:
    note = size_note(640, 480, "720p")
    assert note == (
        "720p sets the number of pixels: this picture becomes 1108x832; "
        "resolution short:720 makes it 960x720"
    )
    for width, height, resolution in (
        (320, 180, "720p"),
        (1080, 1920, "4k"),
        (640, 480, "short:720"),
        (5000, 100, "720p"),
    ):
        assert size_note(width, height, resolution) == ""


SOURCES = [
    *itertools.product((1, 2, 15, 160, 639, 720, 1080, 1920, 2160, 4096, 8000), repeat=2),
    (Fraction(1024), Fraction(576)),
    (Fraction(720 * 32, 27), Fraction(480)),
    (Fraction(719 * 10, 11), Fraction(575)),
]
TARGETS = [
    *NAMED,
    *("0.25x", "0.333x", "0.5x", "1x", "1.5x", "2x", "3x", "4x", "7.001x", "16x"),
    *("16x16", "1920x1080", "1080x1920", "1001x501", "7680x7680", "16384x17", "4096x2160"),
]


@pytest.mark.parametrize("resolution", TARGETS)
def test_every_source_gets_an_even_size_of_its_shape_or_a_refusal(resolution: str) -> None:
    """Each side lies within a pixel of what the resolution means; a thin ribbon keeps two."""
    box = re.fullmatch(r"(\d+)x(\d+)", resolution)
    made = 0
    for width, height in SOURCES:
        try:
            size = size_for(width, height, resolution)
        except PlanError as error:
            assert re.search(r"would make this picture \d+x\d+", str(error))  # noqa: PT017
            continue
        made += 1
        assert not any(side % 2 for side in size)
        assert 2 <= min(size) <= max(size) <= MAX_SIDE_PX
        if resolution not in NAMED:
            assert size[0] * size[1] <= MAX_OUTPUT_PX
        if box:
            bounds = (int(box[1]), int(box[2]))
            assert size[0] <= bounds[0]
            assert size[1] <= bounds[1]
            scale = min(bounds[0] / width, bounds[1] / height)
        elif resolution.endswith("x"):
            scale = Fraction(resolution[:-1])
        elif resolution in BUDGETS_PX:
            scale = (BUDGETS_PX[resolution] / float(width * height)) ** 0.5
        else:
            scale = SHORT_SIDES_PX[resolution] / min(width, height)
        for side, given in zip(size, (width, height), strict=True):
            assert side == 2 or abs(side - float(given * scale)) <= 1.0001, (width, height, size)
    assert made > 10


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        *(("4K", "4k"), (" 1080p ", "1080p"), ("SHORT:720", "short:720")),
        *(("2X", "2x"), ("2.0x", "2x"), ("02x", "2x"), ("1.50x", "1.5x"), ("0.25x", "0.25x")),
        *(("16x", "16x"), ("1920X1080", "1920x1080"), ("0640x0480", "640x480"), ("16x16", "16x16")),
    ],
)
def test_one_size_is_written_in_one_way(given: str, kept: str) -> None:
    assert parse_resolution(given) == kept
    assert parse_resolution(kept) == kept
    if kept not in NAMED:
        assert re.fullmatch(OWN_SIZE_PATTERN, given.strip())


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        *((text, "0.25x and 16x") for text in ("0.2x", "17x", "99.999x")),
        *((text, "16 to 16384 pixels") for text in ("10x10", "1920x15", "16385x1080")),
        *((text, "expected one of 720p") for text in ("", "8k", "x2", "-2x", "2", "1e3x", "2 x")),
        *((text, "expected one of 720p") for text in ("1920x", "1920*1080", "1920x1080x3", "nanx")),
    ],
)
def test_what_is_no_resolution_is_refused_with_what_there_is(given: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        parse_resolution(given)


def test_more_pixels_than_are_made_are_refused_with_their_number() -> None:
    assert size_for(1920, 1080, "4x") == (7680, 4320)
    with pytest.raises(PlanError, match=r"makes? this picture 9600x5400, 51840000 pixels; at most"):
        size_for(1920, 1080, "5x")
    with pytest.raises(PlanError, match="16384"):
        size_for(1920, 10, "9x")


@pytest.mark.parametrize(
    ("resolution", "source", "budget"),
    [
        *(("720p", None, "720p"), ("4k", (16, 9), "4k"), ("short:1440", None, "2k")),
        *(("2x", None, "4k"), ("0.5x", None, "4k")),  # not known: the most that can come out
        *(("1280x720", None, "720p"), ("1921x1080", None, "1080p"), ("4096x4096", None, "4k")),
        *(("2x", (640, 360), "720p"), ("2x", (960, 544), "1080p"), ("2x", (1280, 720), "2k")),
        *(("2x", (1920, 1080), "4k"), ("4x", (1920, 1080), "4k"), ("0.5x", (3840, 2160), "1080p")),
        *(
            ("1920x1080", (1, 1), "1080p"),
            ("3840x2160", (1, 1), "4k"),
            ("1280x1280", (9, 4), "720p"),
        ),
        *(("short:1440", (1, 1), "1080p"), ("short:1080", (4, 1), "4k")),
    ],
)
def test_the_pixels_that_come_out_say_which_budget_it_is(
    resolution: str, source: tuple[int, int] | None, budget: str
) -> None:
    assert budget_for(resolution, source) == budget


def test_a_box_is_the_most_that_comes_out_of_it() -> None:
    order = list(BUDGETS_PX)
    for source, box in itertools.product(SOURCES, ("1280x720", "1920x1080", "640x2000")):
        assert order.index(budget_for(box, source)) <= order.index(budget_for(box))


def test_names_of_files_have_no_colon() -> None:
    assert (
        output_name("a b.mp4", "short:720", "0123456789abcdef") == "a_b_short720_0123456789ab.mp4"
    )


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        *(("1080", "1080p"), (" UHD ", "4k"), ("1440p", "2k"), ("short:700", "short:720")),
        *(("8k", None), ("", None), ("large", None), ("x2", "2x"), ("2 x", "2x")),
    ],
)
def test_what_was_meant(given: str, meant: str | None) -> None:
    assert meant_resolution(given) == meant


@pytest.mark.parametrize("size", [(8001, 2), (2, 1080), (65_000, 16)])
def test_a_side_that_no_encoder_takes_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(PlanError, match=r"would make this picture \d+x\d+; .*16384"):
        size_for(*size, "720p")
