"""Verify: check that the storage holds the file and that its public address, if any, shows it.

And report: measure the result against its source.
"""

import time
from pathlib import Path

from prefect import get_run_logger

from seedvr2_core.child.protocol import MakeReport
from seedvr2_core.errors import SeedVR2Error, StorageError
from seedvr2_core.files import read_record
from seedvr2_core.job import JobDir
from seedvr2_core.planning.outline import PlanOutline
from seedvr2_core.planning.timing import REPORT_SHARE
from seedvr2_core.report.record import AboutJob
from tasks.child import run_operation
from tasks.child.rates import learn_delivery
from tasks.run import current
from tasks.schemas import JoinedVideo, PlannedJob, StoredVideo
from tasks.settings import get_settings
from tasks.step import step
from tasks.storage import Stored, open_storage
from tasks.storage.base import STALL_SECONDS
from tasks.storage.open import takes_video_alone
from tasks.storage.public import wait_until_served

PAGE_SECONDS = 0.15
"""What is left of that time for all but the looking: plan and page are read and written. The
process is the one that has joined the segments (`one_child`)."""


@step(name="verify", retries=4, retry_delay_seconds=[1, 2, 4, 8], retry_jitter_factor=0.5)
def verify(stored: StoredVideo, video: JoinedVideo) -> StoredVideo:
    """Compare storage and public address with the file that was uploaded.

    With a local folder every byte of the copy is read. The public address is asked for the first
    and the last bytes, again and again for SEEDVR2_VERIFY_SECONDS, because CDNs remember for a
    while that a file was missing.

    Raises:
        StorageError: the storage has lost or changed the file (retried, because a storage may need
            a moment).
        NotServedError, ForbiddenError, WrongBytesError: the public address shows no file, or
            another one (final).
    """
    settings = get_settings()

    def read(num_bytes: int, total: int) -> None:
        _beat(video, f"read {num_bytes / 1e6:.0f} of {total / 1e6:.0f} MB")

    check_described(stored, open_storage(settings, on_bytes=read).stat(stored.name))
    if stored.url is not None:

        def waiting(seen: StorageError) -> None:
            get_run_logger().info("not served yet: %s", seen)
            _beat(video, str(seen))

        _beat(video, "asking the public address")
        patience = settings.verify_seconds
        wait_until_served(stored.url, video.path, patience=patience, on_wait=waiting)
    return stored


@step(name="report")
def report(
    job: PlannedJob, video: JoinedVideo, stored: StoredVideo, *, began: float
) -> Path | None:
    """Compare places of the result with the source, in a child process and a bounded time.

    Args:
        job: the job, whose segments are still there.
        video: the joined file.
        stored: the same in storage.
        began: when the run began, by `time.monotonic`.

    Returns:
        The page; None if reports are off, for a preview, or there is none: that fails no job.

    Side effects: writes jobs/<job_key>/report.json and report.html; keeps how long it took to join
        and store, for later plans.
    """
    _learn_delivery(job)
    if not get_settings().report or job.preview is not None:
        return None
    so_far = time.monotonic() - began
    request = MakeReport(
        job_dir=job.job_dir,
        source=job.source.path,
        about=AboutJob(
            source_name=job.source.name,
            output_name=stored.name,
            output_sha256=stored.sha256,
            output_bytes=stored.num_bytes,
            stage_seconds=current().stage_seconds,
            seconds_so_far=so_far,
            notes=(*job.notes, *video.notes),
        ),
        seconds=max(0.0, REPORT_SHARE * so_far - PAGE_SECONDS),
    )
    try:
        made = run_operation(request, doing="comparing the result with its source")
    except (SeedVR2Error, OSError) as error:
        get_run_logger().warning("no report: %s", error)
        return None
    for warning in made.warnings:
        get_run_logger().info("report: %s", warning)
    return JobDir(job.job_dir).report_path


def _learn_delivery(job: PlannedJob) -> None:
    """Keep how long it took to join and store, where the output went where all go."""
    if job.preview is not None or takes_video_alone():
        return
    try:
        plan = read_record(JobDir(job.job_dir).outline_path, PlanOutline)
    except (SeedVR2Error, OSError) as error:
        get_run_logger().warning("how long the delivery took was not kept: %s", error)
        return
    learn_delivery(plan, current().stage_seconds, get_settings())


def check_described(stored: StoredVideo, found: Stored | None) -> None:
    """Compare the storage's description of a file (None: it has none) with what was uploaded.

    Raises:
        StorageError: what differs, what was expected and what it is.
    """
    if found is None:
        raise StorageError(f"{stored.name} is not in storage after its upload; run the job again")
    for what, expected, got in (
        ("length", stored.num_bytes, found.num_bytes),
        ("sha256", stored.sha256, found.sha256 or "none yet"),
    ):
        if got != expected:
            raise StorageError(
                f"{stored.name} in storage has the wrong {what}: expected {expected}, got {got}; "
                "remove it there and run the job again"
            )


def _beat(video: JoinedVideo, doing: str) -> None:
    """Tell the job's record that we are alive and waiting; the frames are all done."""
    current().progress(
        phase="verify",
        frames=video.num_frames,
        num_frames=video.num_frames,
        stall_seconds=STALL_SECONDS,
        detail=doing,
    )
