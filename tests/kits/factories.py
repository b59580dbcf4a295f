"""Made-up videos, options and jobs, for tests of plans, segments and a job's last steps."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seedvr2_core.job import JobDir
from seedvr2_core.job.plan_file import write_plan
from seedvr2_core.planning.build import build_plan
from seedvr2_core.planning.plan import EngineSettings, Options
from seedvr2_core.video.info import ColorInfo, VideoInfo
from tasks.request.shared import PreviewPart
from tasks.schemas import FetchedSource, PlannedJob, UpscaleResult

if TYPE_CHECKING:  # tests of the core use this file, and need no Prefect
    from tasks.run.record import JobProgress

UNTAGGED = ColorInfo(full_range=False, matrix=6, primaries=2, transfer=2)


def make_info(
    width: int = 320,
    height: int = 180,
    *,
    pts: tuple[int, ...] = tuple(range(0, 300)),
    time_base: tuple[int, int] = (1, 25),
    rotation: int = 0,
    sar: tuple[int, int] = (1, 1),
) -> VideoInfo:
    """Describe an 8-bit H.264 video without colour tags; by default 300 frames at 25 per second."""
    return VideoInfo(
        format_name="mp4",
        size_bytes=1,
        stream_index=0,
        codec="h264",
        pix_fmt="yuv420p",
        bit_depth=8,
        width=width,
        height=height,
        rotation=rotation,
        sar=sar,
        color=UNTAGGED,
        time_base=time_base,
        pts=pts,
        last_duration=1,
        nominal_rate=(25, 1),
    )


def make_options(**changes: object) -> Options:
    """The options of a 720p job for `lanczos`, with changes to fields of `Options`."""
    engine = EngineSettings.without_latents("lanczos")
    options = Options(
        resolution="720p",
        engine=engine,
        device="cpu",
        cpu_count=2,
        crf=18,
        preset="medium",
        segment_seconds=10,
    )
    return dataclasses.replace(options, **changes)


VIDEO = b"the finished video"


def planned_job(work_dir: Path) -> PlannedJob:
    """A job whose segments and joined file are there."""
    plan = build_plan(make_info(), "a", make_options(segment_seconds=5))
    job_dir = JobDir(work_dir / "jobs" / plan.job_key)
    job_dir.segments_path.mkdir(parents=True)
    write_plan(job_dir.plan_path, plan)
    (job_dir.segments_path / "00000.mp4").write_bytes(b"packets")
    job_dir.output_path.write_bytes(VIDEO)
    job_dir.preview_path.write_bytes(b"a picture")
    job_dir.report_path.write_bytes(b"a report")
    job_dir.report_json_path.write_bytes(b"{}")
    return PlannedJob(
        job_key=plan.job_key,
        job_dir=job_dir.path,
        source=FetchedSource(path=Path("/a.mp4"), sha256="a", num_bytes=1_500_000, name="a.mp4"),
        num_segments=len(plan.segments),
        num_frames=300,
        width=1280,
        height=720,
        resolution="720p",
        engine="lanczos",
        engine_label="Lanczos",
        device="cpu",
        output_name="a_720p_0123.mp4",
        eta_seconds=1.0,
        job_limit_seconds=10.0,
        stall_limit_seconds=10.0,
        duration_seconds=12.0,
    )


def upscale_result(filename: str, **changes: Any) -> UpscaleResult:
    """The result of a job that has put this file into /out, with changes to its fields."""
    given: dict[str, Any] = {
        "cdn_url": None,
        "output_path": f"/out/{filename}",
        "width": 1280,
        "height": 720,
        "frames": 75,
        "seconds": 1.0,
        "engine": "span",
        "input_size_mb": 1.0,
        "output_size_mb": 1.0,
        "segments_reused": 0,
        "sha256": "0" * 64,
        "job_key": "key",
        "job_id": "id",
    }
    return UpscaleResult(filename=filename, **given | changes)


def preview_part(**changes: Any) -> PreviewPart:
    """What a preview of one second of a film of four segments shows, with changes to its fields."""
    given: dict[str, Any] = {
        "asked": "1s@2",
        "first": 50,
        "stop": 75,
        "start_seconds": 2.0,
        "end_seconds": 3.0,
        "segments": (1,),
        "frames": 50,
        "seconds": 3.0,
        "of_segments": 4,
        "whole_frames": 300,
        "whole_seconds": 9.0,
    }
    return PreviewPart(**given | changes)


class Audience:
    """A listener of jobs in a `shown_to` block, which keeps what it is told."""

    needs_whole_plan = False

    def __init__(self) -> None:
        self.plans: list[PlannedJob] = []
        self.progress: list[JobProgress] = []

    def planned(self, job: PlannedJob) -> None:
        self.plans.append(job)

    def progressed(self, progress: "JobProgress") -> None:
        self.progress.append(progress)

    @property
    def told(self) -> list[tuple[str, str]]:
        """Phase and detail of all progress."""
        return [(progress.phase, progress.detail) for progress in self.progress]
