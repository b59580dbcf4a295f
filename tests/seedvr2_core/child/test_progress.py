"""How far the work is: a count that fits the frames, moves with every phase and ends complete."""

import itertools
import random

import pytest

from seedvr2_core.child import progress
from seedvr2_core.child.progress import ProgressCount
from seedvr2_core.child.protocol import Event, Progressed


class Heard:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.told: list[Progressed] = []
        self.beats: list[str] = []

    def emit(self, event: Event) -> None:
        assert isinstance(event, Progressed)
        self.told.append(event)

    def beat(self, phase: str, done: int, total: int) -> None:
        self.beats.append(phase)


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Heard:
    """Nothing is thinned."""
    monkeypatch.setattr(progress, "PROGRESS_SECONDS", 0.0)
    return Heard()


def restore(count: ProgressCount, num_frames: int, rng: random.Random, *, windows: bool) -> None:
    """What an engine reports for a piece."""
    count.begin_piece(num_frames)
    if windows:
        for phase in ("restore encode", "restore dit"):
            total = rng.randrange(1, 5)
            for done in range(1, total + 1):
                count.beat(phase, done, total)
    for _ in range(num_frames):
        count.frame_restored()


@pytest.mark.parametrize("windows", [False, True], ids=["per frame", "windows"])
@pytest.mark.parametrize("seed", range(10))
def test_work_rises_with_every_report_and_ends_complete(
    seed: int, windows: bool, heard: Heard
) -> None:
    rng = random.Random(seed)
    pieces = [rng.randrange(1, 60) for _ in range(rng.randrange(1, 6))]
    count = ProgressCount(heard, num_frames=sum(pieces))
    count.begin_pass(pending=sum(pieces))
    for num_frames in pieces:
        restore(count, num_frames, rng, windows=windows)
        for _ in range(num_frames):
            count.frame_encoded()
    for before, after in itertools.pairwise(heard.told):
        assert before.work <= after.work
        assert before.restored <= after.restored
        assert before.encoded <= after.encoded
    for told in heard.told:
        assert told.encoded <= told.restored <= told.work + 1e-3 <= sum(pieces) + 1e-3
    last = heard.told[-1]
    assert (last.restored, last.work, last.encoded) == (sum(pieces),) * 3
    assert len({told.work for told in heard.told}) >= sum(pieces), "no frame is left out"


def test_a_pass_after_a_step_down_counts_what_is_kept(heard: Heard) -> None:
    count = ProgressCount(heard, num_frames=30)
    count.begin_pass(pending=30)
    restore(count, 10, random.Random(1), windows=True)
    count.begin_piece(20)
    count.beat("restore encode", 1, 1)
    assert heard.told[-1].restored == 10
    count.begin_pass(pending=20)
    restore(count, 20, random.Random(1), windows=True)
    assert (heard.told[-1].restored, heard.told[-1].work) == (30, 30)


def test_beats_go_on_whether_they_count_or_not(heard: Heard) -> None:
    count = ProgressCount(heard, num_frames=9)
    count.begin_pass(pending=9)
    count.begin_piece(9)
    for phase in ("warm-up encode", "restore encode", "restore decode", "load"):
        count.beat(phase, 1, 2)
    assert heard.beats == ["warm-up encode", "restore encode", "restore decode", "load"]
    assert len(heard.told) == 1


def test_reports_are_thinned_but_the_last_frame_is_always_told() -> None:
    heard = Heard()
    count = ProgressCount(heard, num_frames=500)
    count.begin_pass(pending=500)
    restore(count, 500, random.Random(1), windows=False)
    for _ in range(500):
        count.frame_encoded()
    assert len(heard.told) < 100
    assert (heard.told[-1].restored, heard.told[-1].encoded) == (500, 500)
