"""How large the output picture is: by its area, or by its shorter side."""

from fractions import Fraction

import pytest

from seedvr2_core.errors import PlanError
from seedvr2_core.planning.sizes import (
    BUDGETS_PX,
    SHORT_SIDES_PX,
    budget_name,
    meant_resolution,
    output_name,
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
    ],
)
def test_the_size_of_the_output(
    width: int, height: int, resolution: str, size: tuple[int, int]
) -> None:
    assert size_for(width, height, resolution) == size


@pytest.mark.parametrize(("short", "side"), SHORT_SIDES_PX.items())
def test_a_shorter_side_has_a_budget_of_its_own(short: str, side: int) -> None:
    """The pools of a budget make it, and a 16:9 picture has the same size by both names."""
    budget = budget_name(short)
    assert side * side * 16 // 9 == BUDGETS_PX[budget]
    assert size_for(16, 9, short) == size_for(16, 9, budget)
    assert budget_name(budget) == budget


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


def test_names_of_files_have_no_colon() -> None:
    assert (
        output_name("a b.mp4", "short:720", "0123456789abcdef") == "a_b_short720_0123456789ab.mp4"
    )


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        *(("1080", "1080p"), (" UHD ", "4k"), ("1440p", "2k"), ("short:700", "short:720")),
        *(("8k", None), ("", None), ("large", None)),
    ],
)
def test_what_was_meant(given: str, meant: str | None) -> None:
    assert meant_resolution(given) == meant


@pytest.mark.parametrize("size", [(8001, 2), (2, 1080), (65_000, 16)])
def test_a_side_that_no_encoder_takes_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(PlanError, match=r"would make this picture \d+x\d+; .*16384"):
        size_for(*size, "720p")
