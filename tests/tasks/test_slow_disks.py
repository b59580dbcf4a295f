"""Whatever goes through whole files gives signs of life, however slow the disk is.

The disk is slow by a clock of its own (tests/kits/disks/slow.py): 1 MiB a second, so the files of
some megabytes here take as long as those of gigabytes take on a usual one.
"""

import errno
import importlib
import itertools
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun, State, StateType

from benchmarks import stitch as benchmark
from seedvr2_core.child.protocol import Join, Joined, Probe, Request
from seedvr2_core.errors import SourceUnavailableError, StalledError
from seedvr2_core.files import place as placing
from seedvr2_core.job import JobDir, pending_segments
from seedvr2_core.job.output_file import OutputFile
from seedvr2_core.job.plan_file import write_plan
from seedvr2_core.job.sidecar import Making, commit_segment
from seedvr2_core.planning.build import build_plan
from seedvr2_core.planning.outline import PlanOutline
from seedvr2_core.video.output import file as output_file
from seedvr2_core.video.probe import probe_video
from tasks.child import operation, run_operation
from tasks.child.session import SegmentWatch
from tasks.fetch import fetch
from tasks.job import find_finished, finish
from tasks.job.in_store import bring_from_store
from tasks.net.bucket import Bucket
from tasks.recovery.report import report_on
from tasks.request.shared import KeptWork
from tasks.run.artifacts import SavedProgress
from tasks.run.record import JobProgress, shown_to
from tasks.schemas import JoinedVideo, PlannedJob, StoredVideo, UpscaleRequest
from tasks.settings import Settings, get_settings
from tasks.stitch import stitch
from tasks.storage.bunny import BunnyStorage
from tasks.storage.open import stored_as
from tasks.store import JobCopy
from tasks.upload import upload
from tasks.verify import verify
from tests.kits.disks.slow import SlowDisk
from tests.kits.factories import make_info, make_options, planned_job
from tests.kits.faults import Fault, carrying
from tests.kits.http.edge import Edge, made_video
from tests.kits.http.s3 import S3
from tests.kits.http.video_server import VideoServer

MEGABYTES = 12
MOST_SECONDS = 5.0  # longest silence; a child may be silent for 60 s, a run's record for longer


class Beats:
    """Hands the beats of a run's record to a disk, and keeps the last."""

    def __init__(self, disk: SlowDisk) -> None:
        self._disk = disk
        self.last: JobProgress | None = None

    def planned(self, job: PlannedJob) -> None:
        pass

    def progressed(self, progress: JobProgress) -> None:
        self._disk.beat()
        self.last = progress


@pytest.fixture
def video(tmp_path: Path) -> JoinedVideo:
    return made_video(tmp_path, MEGABYTES * 2**20)


@pytest.fixture
def linkless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are on different file systems: none can be linked, all are copied."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(placing.os, "link", refuse)


def check(disk: SlowDisk) -> None:
    disk.beat()
    assert disk.seconds > 2 * MOST_SECONDS, "nothing was slow, so this shows nothing"
    assert disk.silence <= MOST_SECONDS


# --- in the child ---------------------------------------------------------------------------------


@pytest.mark.parametrize("slow", ["reads", "writes"])
@pytest.mark.parametrize("moved", [True, False], ids=["faststart", "reserved"])
def test_joining(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, slow: str, moved: bool) -> None:
    """The look at the segments, the join, the media's move or the index's room, and the check."""
    monkeypatch.setattr(benchmark, "FRAMES", 6)
    parts, info, source = benchmark.make_job(tmp_path, 0.02)
    monkeypatch.setattr(output_file, "_MOVED_BYTES", 2**40 if moved else 0)
    disk = SlowDisk(monkeypatch, reads=slow == "reads", writes=slow == "writes")
    output = tmp_path / "out.mp4"
    benchmark.join_segments(
        parts, source, info, benchmark.SETTINGS, output, metadata={}, on_bytes=disk.beat
    )
    benchmark.sync_file(output)
    check(disk)


def test_the_scan_of_a_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(benchmark, "FRAMES", 12)
    path = benchmark.make_segment(tmp_path)
    disk = SlowDisk(monkeypatch, reads=True, writes=False)
    assert probe_video(path, beat=disk.beat).num_frames == 12
    check(disk)


@pytest.fixture
def job(tmp_path: Path) -> tuple[JobDir, PlanOutline]:
    """A job of three segments, whose part files are there."""
    plan = build_plan(make_info(), "a", make_options(segment_seconds=4))
    job_dir = JobDir(tmp_path / "jobs" / plan.job_key)
    job_dir.segments_path.mkdir(parents=True)
    outline = write_plan(job_dir.plan_path, plan)
    for segment in outline.segments:
        job_dir.video_part_path(segment.index).write_bytes(bytes(MEGABYTES * 2**20))
    return job_dir, outline


def test_the_commit_of_a_segment_and_the_look_at_those_that_are_kept(
    monkeypatch: pytest.MonkeyPatch, job: tuple[JobDir, PlanOutline]
) -> None:
    job_dir, outline = job
    made = Making(device="cpu", precision="float32", seconds=1.0)
    for segment in outline.segments:
        with monkeypatch.context() as patch:
            disk = SlowDisk(patch, reads=True, writes=False)
            commit_segment(job_dir, outline, segment, made, on_bytes=disk.beat)
            check(disk)
    disk = SlowDisk(monkeypatch, reads=True, writes=False)
    assert pending_segments(job_dir, outline, on_bytes=disk.beat) == []
    check(disk)


@pytest.mark.parametrize(
    ("at", "doing"),
    [
        pytest.param("reading:FileReader._read", "probing", marks=pytest.mark.long),
        pytest.param("reading:FileReader._read", "joining"),
        pytest.param("writing:FileWriter.write", "joining", marks=pytest.mark.long),
    ],
)
def test_what_hangs_in_a_child_is_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, demo_clip: Path, at: str, doing: str
) -> None:
    fault = Fault(at=f"seedvr2_core.files.{at}", call=1, do="hold", mark=str(tmp_path / "mark"))
    for name, value in carrying(fault).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(operation, "STALL_SECONDS", 4.0)
    out = tmp_path / "out"
    request = _probe(demo_clip, out) if doing == "probing" else _join(demo_clip, tmp_path, out)
    with pytest.raises(StalledError, match=f"no sign of life for 4 s while {doing}"):
        run_operation(request, doing=doing)
    assert (tmp_path / "mark").exists()
    assert not out.exists() or at.endswith("write")


def _probe(clip: Path, out: Path) -> Request[Any]:
    return Probe(path=clip, out=out)


def _join(clip: Path, folder: Path, out: Path) -> Request[Any]:
    """What a child is asked for a job of one segment, whose packets are those of the clip."""
    info = probe_video(clip)
    plan = build_plan(info, "a", make_options())
    job_dir = JobDir(folder / "job")
    job_dir.segments_path.mkdir(parents=True)
    write_plan(job_dir.plan_path, plan)
    job_dir.video_path(0).write_bytes(clip.read_bytes())
    return Join(job_dir=job_dir.path, source=clip, out=out, metadata={})


# --- in the flow process --------------------------------------------------------------------------


def fetched(request: UpscaleRequest) -> None:
    assert fetch.fn(request) is not None


def stored(video: JoinedVideo) -> StoredVideo:
    return upload.fn(video, "a.mp4")


Work = Callable[[], object]
"""What a test does once its disk is slow."""
Prepare = Callable[[JoinedVideo, Settings], Work]


def _sent(video: JoinedVideo, settings: Settings) -> UpscaleRequest:
    """The request for a video that was sent to the gateway."""
    settings.intake_dir.mkdir(parents=True)
    (settings.intake_dir / video.sha256).write_bytes(video.path.read_bytes())
    return UpscaleRequest(video_url=f"upload:{video.sha256}/a.mp4")


def _into_a_file(video: JoinedVideo, settings: Settings) -> Work:
    def work() -> None:
        with stored_as(OutputFile(path=settings.work_dir.parent / "mine.mp4")):
            upload.fn(video, "a.mp4")

    return work


def _verified(video: JoinedVideo, settings: Settings) -> Work:
    return partial(verify.fn, stored(video), video)


WORKS: dict[str, Prepare] = {
    "a local source": lambda video, _: partial(fetched, UpscaleRequest(video_path=str(video.path))),
    "a source that was sent": lambda video, settings: partial(fetched, _sent(video, settings)),
    "the storage": lambda video, _: partial(stored, video),
    "the callers file": _into_a_file,
    "verify": _verified,
}
COPIES = ("the storage", "the callers file")


@pytest.fixture
def beats_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[Work, str], JobProgress]:
    """Do some work on a slow disk; returns the last beat of the run's record."""

    def work_on(work: Work, slow: str) -> JobProgress:
        disk = SlowDisk(monkeypatch, reads=slow == "reads", writes=slow == "writes")
        beats = Beats(disk)
        with shown_to(beats):
            work()
        check(disk)
        assert beats.last is not None
        return beats.last

    return work_on


def _is_ended_if_it_hangs(last: JobProgress) -> bool:
    """Whether `recover` calls a run lost that gives no other sign of life after this one."""
    now = datetime.now(UTC)
    margin = timedelta(seconds=last.stall_seconds + get_settings().recover_margin_seconds)
    run = FlowRun.model_validate({"id": uuid4(), "flow_id": uuid4(), "deployment_id": uuid4()})
    run.state = State(type=StateType.RUNNING, timestamp=last.beat_at)
    saved = SavedProgress(
        phase=last.phase,
        beat_at=last.beat_at,
        stall_seconds=last.stall_seconds,
        alive_seconds=10.0,
        began_at=last.beat_at,
        renewed_at=now + margin + timedelta(seconds=1),
    )
    verdicts = [
        report_on(run, [run.state], saved, asked_for=run.id, now=now + after).verdict
        for after in (margin / 2, margin + timedelta(seconds=1))
    ]
    return verdicts == ["alive", "silent"]


@pytest.mark.parametrize("what", WORKS)
def test_reading_in_the_flow_process(
    what: str,
    video: JoinedVideo,
    settings_with: Callable[..., Settings],
    beats_of: Callable[[Work, str], JobProgress],
) -> None:
    settings = settings_with(allow_local_files=True)
    assert _is_ended_if_it_hangs(beats_of(WORKS[what](video, settings), "reads"))


@pytest.mark.parametrize("slow", ["reads", "writes"])
@pytest.mark.parametrize("what", COPIES)
@pytest.mark.usefixtures("linkless")
def test_copying_to_another_file_system(
    what: str,
    slow: str,
    video: JoinedVideo,
    settings_with: Callable[..., Settings],
    beats_of: Callable[[Work, str], JobProgress],
) -> None:
    assert _is_ended_if_it_hangs(beats_of(WORKS[what](video, settings_with()), slow))


def test_a_job_that_goes_on_reads_what_is_kept(
    job: tuple[JobDir, PlanOutline],
    tmp_path: Path,
    settings_with: Callable[..., Settings],
    beats_of: Callable[[Work, str], JobProgress],
) -> None:
    settings_with()
    (job_dir, outline), made = job, Making(device="cpu", precision="float32", seconds=1.0)
    for segment in outline.segments:
        commit_segment(job_dir, outline, segment, made)
    kept = planned_job(tmp_path / "other").model_copy(update={"job_dir": job_dir.path})

    def begin() -> None:
        assert SegmentWatch(kept).kept.frames == 300

    assert _is_ended_if_it_hangs(beats_of(begin, "reads"))


def test_a_job_that_the_store_has_too_reads_what_is_here(
    job: tuple[JobDir, PlanOutline],
    tmp_path: Path,
    s3: S3,
    settings_with: Callable[..., Settings],
    beats_of: Callable[[Work, str], JobProgress],
) -> None:
    settings = settings_with(work_dir=tmp_path, store=s3.address, **s3.settings())
    (job_dir, outline), made = job, Making(device="cpu", precision="float32", seconds=1.0)
    for one in outline.segments:
        commit_segment(job_dir, outline, one, made)
    JobCopy(Bucket(s3.address, settings), outline.job_key).keep_segments(job_dir, outline)
    assert _is_ended_if_it_hangs(beats_of(partial(bring_from_store.fn, outline.job_key), "reads"))


def test_the_digest_of_the_joined_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beats_of: Callable[[Work, str], JobProgress]
) -> None:
    job = planned_job(tmp_path)
    part = JobDir(job.job_dir).output_part_path

    def joined(request: object, *, doing: str) -> Joined:
        part.write_bytes(bytes(MEGABYTES * 2**20))
        return Joined(notes=())

    monkeypatch.setattr(importlib.import_module("tasks.stitch"), "run_operation", joined)
    assert _is_ended_if_it_hangs(beats_of(partial(stitch.fn, job), "reads"))


@pytest.mark.parametrize("slow", ["reads", "writes"])
def test_an_output_that_an_earlier_run_has_stored_elsewhere(
    slow: str,
    video: JoinedVideo,
    tmp_path: Path,
    settings_with: Callable[..., Settings],
    monkeypatch: pytest.MonkeyPatch,
    beats_of: Callable[[Work, str], JobProgress],
) -> None:
    """It lies in a file that a caller has named, and is copied into the storage."""
    job = planned_job(settings_with().work_dir)
    module = importlib.import_module("tasks.job.finish")
    monkeypatch.setattr(module, "publish_result", lambda result: None)
    monkeypatch.setattr(module, "_note_output", lambda job, result: None)
    with stored_as(OutputFile(path=tmp_path / "mine.mp4")):
        put = stored(video)
        finish.fn(job, video, put, seconds=1.0, kept=KeptWork())
    assert _is_ended_if_it_hangs(beats_of(partial(find_finished.fn, job, seconds=0.1), slow))


def test_the_part_of_a_download_that_goes_on(
    server: VideoServer,
    settings: Settings,
    video: JoinedVideo,
    beats_of: Callable[[Work, str], JobProgress],
) -> None:
    """It is hashed before the rest is asked for."""
    content = video.path.read_bytes()
    server.offer("/a.mp4", content=content, cut=len(content) - 1000)
    request = UpscaleRequest(video_url=server.url("/a.mp4"))
    with pytest.raises(SourceUnavailableError):
        fetch.fn(request)
    server.offer("/a.mp4", content=content)
    assert _is_ended_if_it_hangs(beats_of(partial(fetched, request), "reads"))
    assert "range" in server.headers_of("/a.mp4")[-1]


def test_a_slow_storage(edge: Edge, video: JoinedVideo, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a piece every tenth of a second: there is a sign of life for each."""
    times: list[float] = []
    real = BunnyStorage._pieces

    def slow(storage: BunnyStorage, stream: BinaryIO, num_bytes: int) -> Iterator[bytes]:
        for piece in real(storage, stream, num_bytes):
            time.sleep(0.1)
            yield piece

    class Told(Beats):
        def progressed(self, progress: JobProgress) -> None:
            times.append(time.monotonic())

    monkeypatch.setattr(BunnyStorage, "_pieces", slow)
    with shown_to(Told(SlowDisk(monkeypatch, reads=False, writes=False))):
        put = stored(video)
    assert (put.num_bytes, len(times)) == (video.num_bytes, MEGABYTES + 1)
    assert max(after - before for before, after in itertools.pairwise(times)) < MOST_SECONDS
