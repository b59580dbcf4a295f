"""The common scale in each encoder's own numbers: one direction, inside what it takes."""

from collections.abc import Callable

import pytest

from seedvr2_core.planning import build_plan
from seedvr2_core.video.output.scales import (
    av1_crf,
    jpeg_quantiser,
    vp9_crf,
    webp_quality,
    x264_crf,
)
from tests.kits.factories import make_info, make_options

SCALES: dict[str, tuple[Callable[[int], int], int, int]] = {
    "h264": (x264_crf, 1, 51),
    "av1": (av1_crf, 4, 63),
    "vp9": (vp9_crf, 0, 63),
    "jpeg": (jpeg_quantiser, 1, 31),
    "webp": (webp_quality, 100, 0),
}
"""Codec -> its scale, and what it has for the best and for the worst."""


@pytest.mark.parametrize("codec", SCALES)
def test_it_begins_and_ends_with_the_encoders_own_and_never_turns(codec: str) -> None:
    scale, best, worst = SCALES[codec]
    numbers = [scale(crf) for crf in range(52)]
    assert (numbers[0], numbers[-1]) == (best, worst)
    assert numbers == sorted(numbers, reverse=best > worst)


@pytest.mark.parametrize(("crf", "own"), [(4, 4), (18, 26), (28, 45), (34, 56), (37, 60), (40, 63)])
def test_libvpx_is_as_good_as_was_measured(crf: int, own: int) -> None:
    assert abs(vp9_crf(crf) - own) <= 1


def test_segments_of_the_scale_before_are_not_mixed_with_new_ones() -> None:
    """Where a number has changed the job has another key, and nowhere else."""

    def key(codec: str, crf: int) -> str:
        options = make_options(codec=codec, container="auto", crf=crf)
        return build_plan(make_info(), "a", options).job_key[:8]

    assert (key("vp9", 34), key("h264", 35)) == ("c9e8f12e", "f2489f13"), "as they were"
    assert key("vp9", 35) != "e6c517d6", "what it was"
