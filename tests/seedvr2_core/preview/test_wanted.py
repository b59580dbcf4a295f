"""What LENGTH@PLACE means, and which frames of a plan it names."""

import pytest

from seedvr2_core.errors import InvalidRequestError
from seedvr2_core.planning.build import build_plan
from seedvr2_core.planning.plan import Plan
from seedvr2_core.preview.wanted import find_excerpt, wanted_excerpt
from seedvr2_core.video.wanted import excerpt
from tests.kits.factories import make_info, make_options


def planned(cuts: tuple[int, ...] = ()) -> Plan:
    """300 frames at 25 a second; segments of about 2 s, which end at cuts."""
    return build_plan(make_info(), "ab" * 32, make_options(segment_seconds=2.0), cuts=cuts)


@pytest.mark.parametrize(
    ("asked", "frames"),
    [
        ("3s@0:02", range(50, 125)),
        ("0.4s@2.02", range(51, 61)),
        ("1s@frame:60", range(60, 85)),
        ("9f@120", range(120, 129)),
        ("9f@0:01", range(25, 34)),
        ("0.001s@0", range(0, 1)),
        ("60s@0:10", range(250, 300)),
        ("1s@0:11.99", range(299, 300)),
    ],
)
def test_a_length_and_a_place(asked: str, frames: range) -> None:
    assert find_excerpt(planned(), wanted_excerpt(asked)) == frames


@pytest.mark.parametrize("asked", ["", "3", "s@1", "0s@1", "-1s@2", "1.5f@2", "3s@", "3s@x", "@2"])
def test_what_is_no_preview(asked: str) -> None:
    with pytest.raises(InvalidRequestError, match="write"):
        wanted_excerpt(asked)


def test_a_place_behind_the_end() -> None:
    for asked in ("1s@12", "1s@frame:300"):
        with pytest.raises(InvalidRequestError, match=r"300 frames and ends at 12\.000 s"):
            find_excerpt(planned(), wanted_excerpt(asked))


@pytest.mark.parametrize("asked", ["1s", "25f"])
def test_the_plan_chooses_a_place_inside_one_segment_near_the_middle(asked: str) -> None:
    plan = planned(cuts=(100, 140, 190))
    frames = find_excerpt(plan, wanted_excerpt(asked))
    assert len(frames) == 25
    inside = [s for s in plan.segments if s.start <= frames.start and frames.stop <= s.stop]
    assert len(inside) == 1


def test_a_length_that_no_segment_has_is_taken_from_the_middle() -> None:
    assert find_excerpt(planned(), wanted_excerpt("200f")) == range(50, 250)


def test_a_part_of_a_part_is_the_same_part_of_the_whole() -> None:
    video = make_info(pts=tuple(range(7, 307)))
    assert excerpt(excerpt(video, 40, 200), 10, 60) == excerpt(video, 50, 100)
