"""Claims: one process a segment, however it ends; and how a job is divided into shares."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from seedvr2_core.errors import DeadlineError
from seedvr2_core.job import JobDir
from seedvr2_core.job.claims import Claims, begins_shot, nobody_else, share_of
from seedvr2_core.planning import Piece, Segment, Shot
from seedvr2_core.planning.outline import PlanOutline, outline_of
from tests.kits.processes import ROOT
from tests.kits.restorer import make_plan


@pytest.fixture
def job_dir(tmp_path: Path) -> JobDir:
    return JobDir(tmp_path / "job")


def test_a_segment_is_taken_once(job_dir: JobDir) -> None:
    with Claims(job_dir) as mine, Claims(job_dir) as theirs:
        assert mine.take(3)
        assert mine.take(3), "one's own"
        assert not theirs.take(3)
        assert theirs.take(4)
        assert mine.taken_by_others(range(8)) == {4}
        assert theirs.taken_by_others(range(8)) == {3}
        mine.release([3])
        assert theirs.take(3)


def test_who_dies_lets_go(job_dir: JobDir) -> None:
    code = (
        "import sys; from pathlib import Path; from seedvr2_core.job import JobDir;"
        "from seedvr2_core.job.claims import Claims;"
        "claims = Claims(JobDir(Path(sys.argv[1]))); assert claims.take(5);"
        "print('taken', flush=True); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(job_dir.path)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process, Claims(job_dir) as claims:
        assert process.stdout is not None
        assert process.stdout.readline() == "taken\n"
        assert claims.taken_by_others([4, 5, 6]) == {5}
        assert not claims.take(5)
        process.kill()
        process.wait()
        assert claims.take(5)


def test_the_whole_job_is_had_when_nobody_is_at_work(job_dir: JobDir) -> None:
    waited: list[int] = []
    with Claims(job_dir) as claims:
        assert claims.take(100_000)
        with (
            pytest.raises(DeadlineError, match="still makes segments"),
            nobody_else(job_dir, timeout=0.3, on_wait=lambda: waited.append(1)),
        ):
            pass
        assert waited
    with nobody_else(job_dir, timeout=0, on_wait=lambda: None), Claims(job_dir) as late:
        assert not late.take(0)


def divided(*lengths: int, per_frame: bool = False) -> PlanOutline:
    """A plan of shots with so many segments each."""
    plan = make_plan(*(10 * n for n in lengths))
    segments: list[Segment] = []
    for shot, count in zip(plan.shots, lengths, strict=True):
        assert isinstance(shot, Shot)
        for k in range(count):
            start = shot.start + 10 * k
            piece = Piece(shot=shot.index, start=start, stop=start + 10)
            segments.append(
                Segment(index=len(segments), start=start, stop=start + 10, pieces=(piece,))
            )
    memory = None if per_frame else plan.memory
    return outline_of(replace(plan, segments=tuple(segments), memory=memory))


def shares(plan: PlanOutline, workers: int) -> list[int]:
    """Sizes of the shares in which a job is taken."""
    free, sizes = list(range(len(plan.segments))), []
    while free:
        share = share_of(plan, free, workers=workers)
        assert share == free[: len(share)]
        sizes.append(len(share))
        free = free[len(share) :]
    return sizes


def test_one_worker_takes_everything_gaps_included() -> None:
    plan = divided(6, 6)
    assert share_of(plan, [0, 2, 9], workers=1) == [0, 2, 9]
    assert share_of(plan, [], workers=1) == []


def test_shares_become_smaller_towards_the_end() -> None:
    assert shares(divided(20, per_frame=True), 2) == [5, 4, 3, 2, 2, 1, 1, 1, 1]
    assert shares(divided(20, per_frame=True), 4) == [3, 3, 2, 2, 2, *[1] * 8]


def test_shares_end_at_cuts_where_one_is_near_and_never_just_behind_one() -> None:
    assert shares(divided(4, 4, 4, 4), 2) == [4, 4, 4, 4]
    assert shares(divided(1, 1, 30, 1), 2)[0] >= 8
    plan = divided(5, 3)
    assert shares(plan, 4) == [5, 3]
    assert [begins_shot(plan, k) for k in (0, 1, 5, 6, 8)] == [True, False, True, False, True]


def test_a_long_shot_is_divided_into_shares_that_are_worth_it() -> None:
    sizes = shares(divided(24), 2)
    assert sizes == [6, 5, 4, 3, 3, 3]
    assert shares(divided(6), 2) == [3, 3]
    assert shares(divided(5), 2) == [5]


def test_a_share_has_no_gap() -> None:
    assert share_of(divided(20, per_frame=True), [0, 1, 3, 4, 5, 6], workers=2) == [0, 1]
