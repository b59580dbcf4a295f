"""The end of a job: its result is found again, recorded, and kept when the disk takes no record."""

import contextlib
import hashlib
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from seedvr2_core.errors import ResourceError
from seedvr2_core.job import JobDir
from seedvr2_core.job.output_file import OutputFile
from tasks.job import find_finished, finish, make_room
from tasks.request.shared import KeptWork
from tasks.schemas import (
    JoinedVideo,
    PlannedJob,
    StoredVideo,
    UpscaleResult,
)
from tasks.settings import get_settings
from tasks.storage import open_storage
from tasks.storage.open import stored_as
from tests.kits.factories import VIDEO, planned_job
from tests.kits.processes import mounted

SHA256 = hashlib.sha256(VIDEO).hexdigest()


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[UpscaleResult]:
    """What the job has told Prefect."""
    told: list[UpscaleResult] = []
    module = importlib.import_module("tasks.job.finish")  # the package shows a task of this name
    monkeypatch.setattr(module, "publish_result", told.append)
    monkeypatch.setattr(module, "_note_output", lambda job, result: None)
    return told


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    with mounted(tmp_path / "small", size="1m") as folder:
        yield folder


def finished(job: PlannedJob) -> UpscaleResult:
    """What the job's last steps do."""
    video = JoinedVideo(
        path=JobDir(job.job_dir).output_path,
        sha256=SHA256,
        num_bytes=len(VIDEO),
        num_frames=300,
        preview=JobDir(job.job_dir).preview_path,
    )
    found = open_storage(get_settings()).put(video.path, job.output_name)
    stored = StoredVideo(
        name=found.name,
        url=found.url,
        path=found.path,
        sha256=found.sha256,
        num_bytes=found.num_bytes,
    )
    return finish.fn(
        job,
        video,
        stored,
        seconds=2.0,
        kept=KeptWork(segments=1, frames=125),
        reported=JobDir(job.job_dir).report_path,
    )


def fill(path: Path) -> None:
    """Write a file until its disk is full."""
    with path.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        while stream.write(b"x" * 4096):
            pass


def again(job: PlannedJob) -> UpscaleResult | None:
    """What a second run of the request finds."""
    return find_finished.fn(job, seconds=0.1)


def test_the_result_names_the_callers_file_its_source_and_engine(
    settings_with, tmp_path: Path, published: list[UpscaleResult]
) -> None:
    job = planned_job(settings_with().work_dir)
    mine = tmp_path / "mine.mp4"
    with stored_as(OutputFile(path=mine)):
        result = finished(job)
    assert (result.filename, result.output_path) == ("mine.mp4", str(mine))
    assert (result.source_name, result.engine, result.frames_reused) == ("a.mp4", "lanczos", 125)
    saved = UpscaleResult.model_validate_json(JobDir(job.job_dir).result_path.read_bytes())
    assert [saved] == published == [result]
    assert result.preview_path == str(tmp_path / "mine.preview.jpg")
    assert result.report_path == str(tmp_path / "mine.report.html")
    assert (tmp_path / "mine.report.json").read_bytes() == b"{}"
    assert mine.stat().st_nlink == 1, "one copy on disk"
    assert not (settings_with().work_dir / "output").exists()


def test_a_second_run_finds_it_wherever_it_was_put(
    settings_with, tmp_path: Path, published: list[UpscaleResult]
) -> None:
    """First in a named file, then in the storage, then in another file: nothing is made again."""
    work_dir = settings_with().work_dir
    job = planned_job(work_dir)
    mine, other = tmp_path / "mine.mp4", tmp_path / "other.mp4"
    with stored_as(OutputFile(path=mine)):
        finished(job)
        found = again(job)
    assert found is not None
    assert (found.already_done, found.output_path, found.frames_reused) == (True, str(mine), 300)
    in_storage = again(job)
    assert in_storage is not None
    assert in_storage.output_path == str(work_dir / "output" / job.output_name)
    with stored_as(OutputFile(path=other)):
        third = again(job)
    assert third is not None
    assert (third.output_path, other.read_bytes()) == (str(other), VIDEO)
    assert third.preview_path == str(tmp_path / "other.preview.jpg")
    assert third.report_path == str(tmp_path / "other.report.html")
    assert (tmp_path / "other.report.json").exists()
    inodes = {path.stat().st_ino for path in (mine, other, Path(str(in_storage.output_path)))}
    assert len(inodes) == 3, "who edits one of them does not change the others"
    assert not list(job.job_dir.glob("*.mp4*"))
    other.write_bytes(b"changed by its owner")
    with stored_as(OutputFile(path=other, overwrite=True)):
        assert again(job) is None, "the bytes are nowhere any more"


def test_a_picture_of_the_users_is_not_replaced(
    settings_with, tmp_path: Path, published: list[UpscaleResult]
) -> None:
    job = planned_job(settings_with().work_dir)
    theirs = tmp_path / "mine.preview.jpg"
    theirs.write_bytes(b"mine")
    with stored_as(OutputFile(path=tmp_path / "mine.mp4")):
        result = finished(job)
    assert result.preview_path == str(tmp_path / "mine.preview-1.jpg")
    assert theirs.read_bytes() == b"mine"


def test_the_picture_has_its_public_address_beside_the_videos(
    settings_with, published: list[UpscaleResult]
) -> None:
    """The result artifact shows it from there."""
    job = planned_job(settings_with(public_url="https://videos.example.org/a").work_dir)
    first, second = finished(job), again(job)
    assert second is not None
    for result in (first, second):
        assert result.cdn_url == "https://videos.example.org/a/a_720p_0123.mp4"
        assert result.preview_url == "https://videos.example.org/a/a_720p_0123.preview.jpg"


def test_a_full_disk_at_the_record_gets_room_from_the_pieces(
    settings_with, tmp_path: Path, small_disk: Path, published: list[UpscaleResult]
) -> None:
    job = planned_job(settings_with(work_dir=small_disk, output_dir=tmp_path / "out").work_dir)
    rest = JobDir(job.job_dir).segments_path / "00001.mp4"
    fill(rest)
    result = finished(job)
    assert Path(str(result.output_path)).read_bytes() == VIDEO
    saved = UpscaleResult.model_validate_json(JobDir(job.job_dir).result_path.read_bytes())
    assert (saved, result.notes) == (result, ())


def test_a_disk_that_takes_no_record_keeps_the_result_and_says_so(
    settings_with, tmp_path: Path, small_disk: Path, published: list[UpscaleResult]
) -> None:
    settings = settings_with(work_dir=small_disk, output_dir=tmp_path / "out", keep_segments=True)
    job = planned_job(settings.work_dir)
    fill(small_disk / "of others")
    result = finished(job)
    assert published == [result]
    assert Path(str(result.output_path)).read_bytes() == VIDEO
    assert "result.json could not be written (No space left on device)" in result.notes[-1]


def test_the_room_for_the_output_is_checked_on_its_own_disk(
    settings_with, tmp_path: Path, small_disk: Path
) -> None:
    """300 frames at 1280x720 take about 5 MB, and the output's disk has one."""
    job = planned_job(settings_with().work_dir)
    with (
        stored_as(OutputFile(path=small_disk / "mine.mp4")),
        pytest.raises(ResourceError, match=f"the finished video needs about .*{small_disk} has"),
    ):
        make_room.fn(job)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"filename": 7}', b"\xff\xfe"])
def test_a_result_that_cannot_be_read_is_no_result(
    settings_with, published: list[UpscaleResult], content: bytes
) -> None:
    job = planned_job(settings_with().work_dir)
    finished(job)
    JobDir(job.job_dir).result_path.write_bytes(content)
    assert again(job) is None
