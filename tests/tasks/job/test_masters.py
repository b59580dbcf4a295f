"""Masters of jobs: found by what decides pixels, shared, counted, and removed with the last job."""

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from seedvr2_core.files import hold_lock, write_record
from seedvr2_core.job import JobDir
from seedvr2_core.job.masters import Masters, MasterSidecar, wanted_masters
from seedvr2_core.planning.build import build_plan
from seedvr2_core.planning.outline import PlanOutline, outline_of
from tasks.job.finish import prepare_masters, store_masters
from tasks.job.masters import (
    drop_copy,
    kept_masters,
    look_at_masters,
    master_room,
    masters_of,
    release_masters,
)
from tasks.job.removal import remove_output
from tasks.job.sweep import bound_copies, sweep
from tasks.schemas import PlannedJob, UpscaleRequest
from tasks.settings import Settings
from tests.kits.factories import make_info, make_options, planned_job
from tests.kits.http.s3 import S3

DAY = 86_400.0


@pytest.fixture
def settings(settings_with: Callable[..., Settings]) -> Settings:
    return settings_with(keep_days=2, store=None)


@pytest.fixture
def job(settings: Settings) -> PlannedJob:
    return planned_job(settings.work_dir)


def outline(codec: str = "h264") -> PlanOutline:
    """Of `planned_job`, or of the same pixels in another codec."""
    options = make_options(segment_seconds=5, codec=codec)
    return outline_of(build_plan(make_info(), "a", options))


def put(
    masters: Masters, plan: PlanOutline, *indices: int, days: float = 0.0, sha256: str = ""
) -> None:
    """Put masters there, written so many days ago."""
    masters.path.mkdir(parents=True, exist_ok=True)
    then = time.time() - days * DAY
    for index in indices:
        segment, path = plan.segments[index], masters.video_path(index)
        path.write_bytes(b"pictures")
        sidecar = MasterSidecar(
            pixels_key=plan.pixels_key,
            index=index,
            start=segment.start,
            stop=segment.stop,
            num_bytes=8,
            sha256=sha256,
            device="cpu",
            precision="",
        )
        write_record(masters.sidecar_path(index), sidecar)
        os.utime(path, (then, then))


def asked(**options: object) -> UpscaleRequest:
    return UpscaleRequest(video_path="/a.mp4", **options)


def test_a_plan_says_what_is_coded_from_masters_and_what_one_takes(settings: Settings) -> None:
    plan = outline("hevc")
    assert len(plan.segments) == 3
    none = look_at_masters(plan, asked(), settings)
    assert (none.notes, none.lasting_notes, none.eta_seconds) == ((), (), plan.eta_seconds)
    (told,) = look_at_masters(plan, asked(keep_master=True), settings).notes
    assert told.startswith("a lossless master is kept for other codecs: about 0.2 GB of the work")
    assert told.endswith("until nobody has used it for 2 days")

    put(masters_of(outline(), settings), plan, 0, 2)
    some = look_at_masters(plan, asked(), settings)
    assert some.notes == (
        "2 of 3 segments are coded again from the master that an earlier job has kept; the engine "
        "makes the others",
    )
    put(masters_of(plan, settings), plan, 1)
    every = look_at_masters(plan, asked(), settings)
    assert every.notes == (
        "the video is coded again from the master that an earlier job has kept: no engine",
    )
    assert every.eta_seconds < some.eta_seconds < plan.eta_seconds
    assert look_at_masters(plan, asked(fresh=True), settings) == none


def test_a_master_of_another_depth_is_named(settings: Settings) -> None:
    put(masters_of(outline(), settings), outline(), 0, 1, 2)
    found = look_at_masters(outline("prores"), asked(), settings)
    assert found.notes == ()
    assert found.lasting_notes == (
        "there is a master of frames of 8 bits, and codec prores is made of frames of 16 bits "
        "here: the engine restores them anew",
    )


def test_children_are_told_what_is_wanted(settings: Settings, job: PlannedJob) -> None:
    job_dir, masters = JobDir(job.job_dir), masters_of(outline(), settings)
    prepare_masters.fn(job, fresh=False)
    assert wanted_masters(job_dir) is None
    assert not masters.path.exists(), "who wants nothing leaves nothing"

    put(masters, outline(), 0, 2)
    prepare_masters.fn(job, fresh=False)
    wanted = wanted_masters(job_dir)
    assert wanted is not None
    assert (wanted.folder, wanted.keep, wanted.ready) == (masters.path, False, (0, 2))
    assert [path.name for path in masters.jobs_path.iterdir()] == [job.job_key]
    told = kept_masters(job, outline(), settings)
    assert (told, master_room(job, outline())) == ([], 0)

    prepare_masters.fn(job, fresh=True)
    assert wanted_masters(job_dir) is None
    keeping = job.model_copy(update={"keep_master": True})
    prepare_masters.fn(keeping, fresh=True)
    wanted = wanted_masters(job_dir)
    assert wanted is not None
    assert (wanted.keep, wanted.ready) == (True, ())


def test_room_is_counted_and_the_result_says_what_is_kept(
    settings: Settings, job: PlannedJob
) -> None:
    plan, masters = outline(), masters_of(outline(), settings)
    job = job.model_copy(update={"keep_master": True})
    prepare_masters.fn(job, fresh=False)
    per_frame = 1280 * 720 * 13 // 16
    assert master_room(job, plan) == 300 * per_frame
    put(masters, plan, 1, 2)
    prepare_masters.fn(job, fresh=False)
    assert master_room(job, plan) == plan.segments[0].num_frames * per_frame
    assert kept_masters(job, plan, settings) == [
        f"lossless masters of 2 of 3 segments are kept, 0.0 MB in {masters.path}: the others "
        "were finished before keep_master was asked for"
    ]
    put(masters, plan, 0)
    assert kept_masters(job, plan, settings) == [
        f"the lossless master of the video is kept: 0.0 MB in {masters.path}"
    ]


def test_masters_go_with_the_last_job_that_has_used_them(
    settings: Settings, job: PlannedJob
) -> None:
    masters = masters_of(outline(), settings)
    put(masters, outline(), 0, 1)
    prepare_masters.fn(job, fresh=False)
    (masters.jobs_path / "another").touch()
    removed = remove_output(settings, job_key=job.job_key, result={}, shared=False)
    assert removed.removed == ("work files",)
    assert masters.video_path(0).exists()
    assert release_masters(settings, job.job_key) == (0, False), "asked again"
    assert masters.video_path(0).exists()
    removed = remove_output(settings, job_key="another", result={}, shared=False)
    assert (removed.removed, removed.num_bytes) == (("master",), 16)
    assert list(settings.masters_dir.iterdir()) == []


def test_masters_that_nobody_uses_go_by_age(settings: Settings, job: PlannedJob) -> None:
    masters = masters_of(outline(), settings)
    put(masters, outline(), 0, days=3)
    prepare_masters.fn(job, fresh=False)
    assert not [told for told in sweep(settings) if told.startswith("master")]
    mark, then = masters.jobs_path / job.job_key, time.time() - 3 * DAY
    os.utime(mark, (then, then))
    assert f"master {masters.path.name}" in sweep(settings)
    assert not masters.path.exists()


def test_a_master_of_other_frames_is_none(settings: Settings) -> None:
    plan = outline()
    other = replace(plan.segments[1], stop=plan.segments[1].stop - 1)
    put(masters_of(plan, settings), plan, 0, 1)
    changed = replace(plan, segments=(plan.segments[0], other, *plan.segments[2:]))
    (told,) = look_at_masters(changed, asked(), settings).notes
    assert told.startswith("1 of 3 segments")


@pytest.mark.long
def test_masters_in_the_store_are_found_brought_and_removed(
    settings_with: Callable[..., Settings], s3: S3, tmp_path: Path
) -> None:
    """Two workers that have a directory each and nothing else in common."""

    def worker(name: str) -> tuple[Settings, PlannedJob]:
        settings = settings_with(store=s3.address, work_dir=tmp_path / name, **s3.settings())
        return settings, planned_job(settings.work_dir).model_copy(update={"keep_master": True})

    plan = outline()
    first, job = worker("first")
    assert (
        look_at_masters(plan, asked(keep_master=True), first)
        .notes[0]
        .endswith("for 14 days, and in the object store")
    )
    prepare_masters.fn(job, fresh=False)
    put(masters_of(plan, first), plan, 0, 1, 2, sha256=hashlib.sha256(b"pictures").hexdigest())
    s3.line.fail("away", "^PUT", times=99)
    store_masters.fn(job)
    (here, told) = kept_masters(job, plan, first)
    assert here.startswith("the lossless master of the video is kept: ")
    assert told == (
        "the object store has 0 of the 3 masters: it did not take the others, which only this "
        "worker can use"
    )
    s3.line.mend()
    store_masters.fn(job)
    assert kept_masters(job, plan, first)[1] == (
        "the object store has the master too, for workers with a directory of their own"
    )

    second, again = worker("second")
    assert look_at_masters(plan, asked(), second).notes == (
        "the video is coded again from the master that an earlier job has kept: no engine",
    )
    (segment,) = (0,)
    JobDir(again.job_dir).sidecar_path(segment).write_bytes(b"{}")
    prepare_masters.fn(again.model_copy(update={"keep_master": False}), fresh=False)
    wanted = wanted_masters(JobDir(again.job_dir))
    assert wanted is not None
    assert (wanted.keep, wanted.ready) == (False, (1, 2)), "what is finished needs no master"

    prepare_masters.fn(again.model_copy(update={"keep_master": False}), fresh=True)
    assert wanted_masters(JobDir(again.job_dir)) is None
    s3.line.fail("away", ".", times=99)
    assert look_at_masters(outline("hevc"), asked(), worker("third")[0]).notes == ()
    s3.line.mend()

    removed = remove_output(second, job_key=again.job_key, result={}, shared=False)
    assert removed.removed == ("work files", "master")
    assert look_at_masters(plan, asked(), worker("fourth")[0]).notes == ()


def test_masters_here_are_a_copy_where_the_store_has_them(
    settings_with: Callable[..., Settings], s3: S3
) -> None:
    settings = settings_with(store=s3.address, store_cache_bytes=1, **s3.settings())
    job, plan = planned_job(settings.work_dir), outline()
    folder = masters_of(plan, settings).path

    keeping = job.model_copy(update={"keep_master": True})
    prepare_masters.fn(keeping, fresh=False)
    put(masters_of(plan, settings), plan, 0, 1, sha256=hashlib.sha256(b"pictures").hexdigest())
    assert not drop_copy(settings, folder), "the store has none of them"
    store_masters.fn(keeping)
    with hold_lock(JobDir(job.job_dir).lock_path, timeout=0, on_wait=lambda: None):
        assert not drop_copy(settings, folder), "a run is at work that may read them"
    s3.line.fail("away", ".", times=99)
    assert f"master {folder.name}" not in bound_copies(settings, job_key="x", source_sha256="")
    s3.line.mend()
    assert f"master {folder.name}" not in bound_copies(
        settings, job_key=job.job_key, source_sha256=""
    ), "the job at work uses them"
    assert f"master {folder.name}" in bound_copies(settings, job_key="x", source_sha256="")
    assert not folder.exists()
