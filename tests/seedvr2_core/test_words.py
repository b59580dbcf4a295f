"""Numbers as messages show them."""

from seedvr2_core.words import counted


def test_one_is_singular_and_every_other_number_is_plural() -> None:
    assert [counted(number, "frame") for number in (0, 1, 2, 75)] == [
        "0 frames",
        "1 frame",
        "2 frames",
        "75 frames",
    ]
