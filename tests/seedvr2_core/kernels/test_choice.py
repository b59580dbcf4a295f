"""What is measured once is obeyed from then on."""

from collections.abc import Callable
from pathlib import Path

import pytest

from seedvr2_core.kernels.choice import Choices, choices, chosen_in, kept_choices


def _takes(seconds: float) -> Callable[[], float]:
    return lambda: seconds


def _must_not_run() -> float:
    raise AssertionError("it was chosen before")


def test_the_fastest_is_chosen_and_written_down(tmp_path: Path) -> None:
    path = tmp_path / "kernels.json"
    with kept_choices(path) as kept:
        assert choices() is kept
        assert kept.choose("a", {"plain": _takes(3.0), "own": _takes(1.0)}) == "own"
        assert kept.choose("b", {"plain": _takes(1.0), "own": _takes(3.0)}) == "plain"
        # A second question measures nothing.
        assert kept.choose("a", {"plain": _must_not_run, "own": _must_not_run}) == "own"
    assert choices() is not kept
    # Nor does another process, where the other way would now be the faster one.
    assert Choices(path).choose("a", {"plain": _takes(0.1), "own": _takes(9.0)}) == "own"
    assert chosen_in(path) == [
        "a: own was fastest (plain 3000.0 ms, own 1000.0 ms)",
        "b: plain was fastest (plain 1000.0 ms, own 3000.0 ms)",
    ]
    assert chosen_in(tmp_path / "missing.json") == []


def test_a_way_that_does_not_run_is_left_out() -> None:
    def fail() -> float:
        raise RuntimeError("out of resource: shared memory")

    assert Choices().choose("a", {"plain": _takes(1.0), "own": fail}) == "plain"
    with pytest.raises(RuntimeError, match="shared memory"):
        Choices().choose("a", {"plain": fail, "own": _takes(1.0)})


@pytest.mark.parametrize("content", ["{", "[]", '{"a": {"way": "own", "seconds": {}}}', '{"a": 1}'])
def test_a_damaged_file_is_made_anew(tmp_path: Path, content: str) -> None:
    path = tmp_path / "kernels.json"
    path.write_text(content)
    assert chosen_in(path) == []
    assert Choices(path).choose("a", {"plain": _takes(1.0)}) == "plain"
    assert chosen_in(path) == ["a: plain was fastest (plain 1000.0 ms)"]


def test_a_way_that_is_gone_is_chosen_anew(tmp_path: Path) -> None:
    path = tmp_path / "kernels.json"
    Choices(path).choose("a", {"own": _takes(1.0)})
    assert Choices(path).choose("a", {"plain": _takes(1.0)}) == "plain"


def test_processes_that_begin_together_obey_the_first_choice(tmp_path: Path) -> None:
    path = tmp_path / "kernels.json"
    first, second = Choices(path), Choices(path)
    assert first.choose("a", {"plain": _takes(3.0), "own": _takes(1.0)}) == "own"
    assert second.choose("a", {"plain": _must_not_run, "own": _must_not_run}) == "own"
    assert second.choose("b", {"plain": _takes(1.0), "own": _takes(2.0)}) == "plain"
    assert first.choose("b", {"plain": _must_not_run, "own": _must_not_run}) == "plain"
    assert len(chosen_in(path)) == 2
