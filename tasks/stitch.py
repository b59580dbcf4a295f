"""Stitch: join the finished segments into one file, with every other stream of the source."""

from functools import partial
from pathlib import Path

from prefect import get_run_logger

from seedvr2_core.child.protocol import CutExcerpt, Join, Preview
from seedvr2_core.errors import SeedVR2Error
from seedvr2_core.files import file_sha256
from seedvr2_core.files.durable import replace_file, sync_directory, sync_file
from seedvr2_core.job import JobDir
from tasks.child import run_operation
from tasks.run import current
from tasks.schemas import JoinedVideo, PlannedJob, PreviewPart
from tasks.step import step
from tasks.storage.base import STALL_SECONDS


@step(name="stitch", retries=1, retry_delay_seconds=2)
def stitch(job: PlannedJob) -> JoinedVideo:
    """Join the packets of all segments without re-encoding and check the result against the plan.

    Side effects: writes jobs/<job_key>/output.mp4, complete or not at all, and preview.jpg.
    Raises: SegmentError, ResourceError; child failures (retried once).
    """
    if job.preview is not None:
        return _cut(job, job.preview)
    job_dir = JobDir(job.job_dir)
    part, output = job_dir.output_part_path, job_dir.output_path
    request = Join(
        job_dir=job.job_dir,
        source=job.source.path,
        out=part,
        metadata={"comment": f"upscaled to {job.resolution} by {job.engine_label}"},
    )
    try:
        joined = run_operation(request, doing="joining the segments")
        sync_file(part)
        replace_file(part, output)
    finally:
        part.unlink(missing_ok=True)  # left by a child that was ended, or by a full disk
    sync_directory(job_dir.path)
    for note in joined.notes:
        get_run_logger().warning("%s", note)
    return JoinedVideo(
        path=output,
        sha256=file_sha256(output, on_bytes=partial(_hashed, job)),
        num_bytes=output.stat().st_size,
        num_frames=job.num_frames,
        preview=_draw_preview(job, job_dir),
        notes=joined.notes,
    )


def _cut(job: PlannedJob, shown: PreviewPart) -> JoinedVideo:
    """Cut the piece that a preview shows out of its segments, in result and source.

    Side effects: writes both clips, each complete or not at all, and their picture.
    """
    own = JobDir(job.own_dir)
    own.path.mkdir(exist_ok=True)
    request = CutExcerpt(
        job_dir=job.job_dir,
        source=job.source.path,
        first=shown.first,
        stop=shown.stop,
        out=own.output_part_path,
        before=own.before_part_path,
        picture=own.preview_path,
        metadata={"comment": f"preview of {job.resolution} by {job.engine_label}"},
    )
    made = {own.output_part_path: own.output_path, own.before_part_path: own.before_path}
    try:
        joined = run_operation(request, doing="cutting the preview")
        for part, file in made.items():
            sync_file(part)
            replace_file(part, file)
    finally:
        for part in own.part_files():  # left by a child that was ended, or by a full disk
            part.unlink(missing_ok=True)
    sync_directory(own.path)
    return JoinedVideo(
        path=own.output_path,
        sha256=file_sha256(own.output_path, on_bytes=partial(_hashed, job)),
        num_bytes=own.output_path.stat().st_size,
        num_frames=shown.stop - shown.first,
        preview=own.preview_path,
        before=own.before_path,
        notes=joined.notes,
    )


def _hashed(job: PlannedJob, num_bytes: int, total: int) -> None:
    """Tell the job's record that we are alive: a large file takes minutes."""
    current().progress(
        phase="join",
        frames=job.num_frames,
        num_frames=job.num_frames,
        stall_seconds=STALL_SECONDS,
        detail=f"hashed {num_bytes / 1e6:.0f} of {total / 1e6:.0f} MB",
    )


def _draw_preview(job: PlannedJob, job_dir: JobDir) -> Path | None:
    """Draw the before/after picture. If that fails, the job goes on without one."""
    request = Preview(
        job_dir=job_dir.path,
        source=job.source.path,
        output=job_dir.output_path,
        out=job_dir.preview_path,
    )
    try:
        run_operation(request, doing="drawing the preview")
    except SeedVR2Error as error:
        get_run_logger().warning("no before/after picture: %s", error)
        return None
    return job_dir.preview_path
