"""The names of a job's files: the same as ever, all different, all found again."""

import inspect
import itertools
from pathlib import Path

import pytest

from seedvr2_core.job import JobDir

NAMES = {
    "plan_path": "plan.json",
    "outline_path": "plan.outline.json",
    "fresh_plan_path": "plan.fresh.json",
    "fresh_outline_path": "plan.fresh.outline.json",
    "plan_lock_path": "plan.lock",
    "lock_path": "job.lock",
    "child_lock_path": "child.lock",
    "claims_path": "claims.lock",
    "sharing_path": "sharing.json",
    "masters_path": "masters.json",
    "waiting_path": "waiting",
    "fresh_run_path": "fresh.run",
    "early_path": "early.json",
    "result_path": "result.json",
    "output_path": "output.mp4",
    "output_part_path": "output.mp4.part",
    "preview_path": "preview.jpg",
    "before_path": "before.mp4",
    "before_part_path": "before.mp4.part",
    "report_path": "report.html",
    "report_json_path": "report.json",
    "kernels_path": "kernels.json",
    "segments_path": "segments",
    "lost_children_path": "segments/lost-children.json",
    "spent_path": "segments/spent.json",
    "previewed_path": "segments/previewed.json",
}
NAMES_OF_SEGMENTS = {
    "video_path": "segments/00007.mp4",
    "video_part_path": "segments/00007.mp4.part",
    "latents_path": "segments/00007.safetensors",
    "latents_part_path": "segments/00007.safetensors.part",
    "sidecar_path": "segments/00007.json",
}


def paths(job_dir: JobDir, indices: range) -> list[Path]:
    """Every path that the job's directory can name."""
    return [getattr(job_dir, name) for name in NAMES] + [
        getattr(job_dir, name)(index) for name in NAMES_OF_SEGMENTS for index in indices
    ]


def test_jobs_of_earlier_versions_are_found() -> None:
    """A name that changes here loses what is finished on every machine."""
    job_dir = JobDir(Path("/work/jobs/key"))
    for name, expected in NAMES.items():
        assert getattr(job_dir, name) == job_dir.path / expected
    for name, expected in NAMES_OF_SEGMENTS.items():
        assert getattr(job_dir, name)(7) == job_dir.path / expected


def test_every_name_is_known_here() -> None:
    shown = {name for name, _ in inspect.getmembers(JobDir) if name.endswith("_path")}
    assert shown == NAMES.keys() | NAMES_OF_SEGMENTS.keys()


def test_no_two_files_have_one_name() -> None:
    named = paths(JobDir(Path("job")), range(0, 200_000, 1999))
    assert len(set(named)) == len(named)


def test_segments_sort_by_index() -> None:
    videos = [JobDir(Path("job")).video_path(index) for index in (0, 1, 9, 10, 99, 100, 99_999)]
    assert videos == sorted(videos)


@pytest.mark.parametrize("count", range(4))
def test_part_files_are_what_is_half_written(tmp_path: Path, count: int) -> None:
    job_dir = JobDir(tmp_path)
    assert job_dir.part_files() == []
    job_dir.segments_path.mkdir()
    parts = [job_dir.output_part_path, job_dir.before_part_path]
    for index in range(count):
        parts += [job_dir.video_part_path(index), job_dir.latents_part_path(index)]
    whole = [path for path in paths(job_dir, range(count)) if path not in parts]
    for path in itertools.chain(parts, whole):
        if path != job_dir.segments_path:
            path.write_bytes(b"")
    assert set(job_dir.part_files()) == set(parts)
