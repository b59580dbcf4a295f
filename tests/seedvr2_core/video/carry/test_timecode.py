"""Time code counts frames; of drop-frame some numbers are left out."""

import itertools
import re
from collections.abc import Iterator

import pytest

from seedvr2_core.video.carry import timecode


def labels(count: int) -> Iterator[str]:
    """All numbers of the first 25 minutes, by the rule itself: which are left out."""
    for minute, second, frame in itertools.product(range(25), range(60), range(count)):
        if second == 0 and minute % 10 and frame < count // 15:
            continue
        yield f"00:{minute:02}:{second:02};{frame:02}"


@pytest.mark.parametrize("count", [30, 60])
def test_drop_frame_numbers_are_those_of_the_rule(count: int) -> None:
    for number, label in enumerate(labels(count)):
        found = re.fullmatch(r"(\d\d):(\d\d):(\d\d)([:;.])(\d\d)", label)
        assert found is not None
        assert timecode._number(found, count, drops=True) == number
        assert timecode._shown(number, count, drops=True) == label


@pytest.mark.parametrize("count", [24, 25, 30, 50])
def test_other_numbers_have_no_gaps(count: int) -> None:
    for number in (0, count - 1, count, 60 * count, 3600 * count - 1, 86_399 * count + 7):
        shown = timecode._shown(number, count, drops=False)
        found = re.fullmatch(r"(\d\d):(\d\d):(\d\d)([:;.])(\d\d)", shown)
        assert found is not None
        assert timecode._number(found, count, drops=False) == number
