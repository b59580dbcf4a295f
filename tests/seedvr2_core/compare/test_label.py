"""Labels in pictures."""

import numpy as np
import pytest

from seedvr2_core.compare.label import drawn_label


@pytest.mark.parametrize("letters", [12, 30, 90])
@pytest.mark.parametrize("text", ["before", "after", "Clip"])
def test_letters_stand_whole_on_black_with_as_much_of_it_on_each_side(
    text: str, letters: int
) -> None:
    label = drawn_label(text, letters)
    assert (label.dtype, label.ndim, len(label)) == (np.uint8, 3, letters * 3 // 2)
    rows, columns = ((label.max(-1) > 128).any(axis) for axis in (1, 0))
    above, below = rows.argmax(), rows[::-1].argmax()
    left, right = columns.argmax(), columns[::-1].argmax()
    assert min(above, below) >= letters // 8
    assert abs(int(above) - int(below)) <= letters // 2, "some letters have parts below the line"
    assert abs(int(left) - int(right)) <= 2 + letters // 12
