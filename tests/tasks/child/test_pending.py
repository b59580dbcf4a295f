"""What is still to be made: what lies on disk counts, and what a child of ours has taken is its."""

from pathlib import Path

import pytest

from seedvr2_core.files import read_record
from seedvr2_core.job import JobDir
from seedvr2_core.job.sidecar import Making, commit_segment
from seedvr2_core.planning.outline import PlanOutline
from tasks.child import pending
from tasks.child.pending import PendingSegments
from tests.kits.factories import planned_job


@pytest.fixture
def job(tmp_path: Path) -> "Job":
    return Job(tmp_path)


class Job:
    """Three segments of 125, 125 and 50 frames, none of them made."""

    def __init__(self, folder: Path) -> None:
        self.planned = planned_job(folder)
        self._dir = JobDir(self.planned.job_dir)
        self._outline = read_record(self._dir.outline_path, PlanOutline)
        self.pending = PendingSegments(self.planned, self._outline)

    def another_makes(self, index: int) -> None:
        """Another run commits a segment."""
        self._dir.video_part_path(index).write_bytes(b"packets %d" % index)
        made = Making(device="cpu", precision="float32", seconds=1.0)
        commit_segment(self._dir, self._outline, self._outline.segments[index], made)


def test_frames_are_those_of_the_segments(job: Job) -> None:
    assert job.pending.indices == [0, 1, 2]
    assert (job.pending.num_frames, job.pending.kept_frames) == (300, 0)
    job.pending.child_has_made(1)
    assert job.pending.indices == [0, 2]
    assert (job.pending.num_frames, job.pending.kept_frames) == (175, 125)


def test_what_others_have_made_is_found_once_a_second(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(pending, "awake_seconds", lambda: now[0])
    assert job.pending.look_at_others() == 0
    job.another_makes(2)
    assert job.pending.look_at_others() == 0, "it has just looked"
    now[0] += 1.0
    assert job.pending.look_at_others() == 50
    assert (job.pending.indices, job.pending.by_others) == ([0, 1], {2})


def test_what_our_child_has_taken_is_not_the_work_of_others(job: Job) -> None:
    job.pending.child_takes([0])
    job.another_makes(0)
    assert job.pending.look_at_others() == 0
    assert (job.pending.indices[0], job.pending.by_others) == (0, set())


def test_a_fresh_child_has_taken_nothing(job: Job) -> None:
    job.pending.child_takes([0])
    job.pending.child_begins()
    job.another_makes(0)
    assert job.pending.look_at_others() == 125
    assert job.pending.by_others == {0}


def test_a_damaged_segment_is_still_to_be_made(job: Job) -> None:
    job.another_makes(0)
    path = JobDir(job.planned.job_dir).video_path(0)
    path.write_bytes(b"PACKETS 0")
    job.pending.look_again()
    assert 0 in job.pending.indices
    assert bool(job.pending)
