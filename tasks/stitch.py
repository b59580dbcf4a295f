"""Stitch: the finished segments become one file, with every other stream of the source."""

from pathlib import Path

from prefect import get_run_logger

from seedvr2_core.errors import SeedVR2Error
from seedvr2_core.files import file_sha256
from seedvr2_core.files.durable import sync_directory, sync_file
from tasks.child import run_operation
from tasks.child.operation import LIMIT_SECONDS
from tasks.schemas import JoinedVideo, PlannedJob
from tasks.step import step


@step(name="stitch", retries=1, retry_delay_seconds=2, timeout_seconds=LIMIT_SECONDS + 60)
def stitch(job: PlannedJob) -> JoinedVideo:
    """Join the packets of all segments without re-encoding and check the result against the plan.

    Side effects: writes jobs/<job_key>/output.mp4, complete or not at all.
    """
    output = job.job_dir / "output.mp4"
    part = output.with_name("output.mp4.part")
    request: dict[str, object] = {
        "op": "join",
        "job_dir": str(job.job_dir),
        "source": str(job.source.path),
        "out": str(part),
        "metadata": {"comment": f"upscaled to {job.resolution} by {job.engine_label}"},
    }
    try:
        event = run_operation(request, until="joined", doing="joining the segments")
        sync_file(part)
        part.replace(output)
    finally:
        part.unlink(missing_ok=True)  # of a child that was ended, or of a full disk
    sync_directory(job.job_dir)
    for note in event["notes"]:
        get_run_logger().warning("%s", note)
    return JoinedVideo(
        path=output,
        sha256=file_sha256(output),
        num_bytes=output.stat().st_size,
        num_frames=job.num_frames,
        preview=_draw_preview(job, output),
        notes=tuple(event["notes"]),
    )


def _draw_preview(job: PlannedJob, output: Path) -> Path | None:
    """The before/after picture; a job without one is still a good job."""
    picture = job.job_dir / "preview.jpg"
    request: dict[str, object] = {
        "op": "preview",
        "job_dir": str(job.job_dir),
        "source": str(job.source.path),
        "output": str(output),
        "out": str(picture),
    }
    try:
        run_operation(request, until="previewed", doing="drawing the preview")
    except SeedVR2Error as error:
        get_run_logger().warning("no before/after picture: %s", error)
        return None
    return picture
