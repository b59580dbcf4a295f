"""Makes a job's report: report.json and the page that shows it."""

import time
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version

from seedvr2_core.beat import Beat, no_beat
from seedvr2_core.files import read_record, write_record
from seedvr2_core.files.durable import write_bytes
from seedvr2_core.job import JobDir
from seedvr2_core.job.sidecar import Sidecar
from seedvr2_core.planning import Plan
from seedvr2_core.report.advice import summarize, warnings_of
from seedvr2_core.report.look import Looked, look_at
from seedvr2_core.report.page import page
from seedvr2_core.report.record import (
    REPORT_FORMAT,
    AboutJob,
    EngineFacts,
    QualityReport,
    SegmentTime,
    VideoFacts,
)

_PACKAGES = ("seedvr2-prefect", "torch", "av", "numpy", "safetensors", "triton")


def make_report(
    job_dir: JobDir, source: Path, about: AboutJob, *, seconds: float, beat: Beat = no_beat
) -> QualityReport:
    """Write report.json and report.html into a job's directory, whose segments are still there.

    Args:
        job_dir: of the job.
        source: the job's source.
        about: what the process that runs the job knows.
        seconds: how long it may look at frames.
        beat: sign of life, once a place.

    Raises:
        InvalidVideoError: a frame cannot be read.
    """
    began = time.monotonic()
    plan = read_record(job_dir.plan_path, Plan)
    looked = look_at(plan, job_dir, source, seconds=seconds, beat=beat)
    beat("report", 100, 100)
    report = _report(plan, job_dir, about, looked, began)
    write_record(job_dir.report_json_path, report)
    write_bytes(job_dir.report_path, page(report, looked.moments).encode())
    return report


def _report(
    plan: Plan, job_dir: JobDir, about: AboutJob, looked: Looked, began: float
) -> QualityReport:
    sidecars = _sidecars(plan, job_dir)
    summary = summarize(looked.sights)
    width, height = plan.video.upright_size
    enlarges = plan.width * plan.height > width * height
    return QualityReport(
        format=REPORT_FORMAT,
        job_key=plan.job_key,
        source=_source(plan, about),
        output=_output(plan, about),
        resolution=plan.resolution,
        engine=_engine(plan, sidecars),
        versions=_versions(),
        stage_seconds={name: round(value, 2) for name, value in about.stage_seconds.items()},
        segments=tuple(
            SegmentTime(index=s.index, num_frames=s.stop - s.start, seconds=s.seconds)
            for s in sidecars
        ),
        planned_peaks=dict(plan.memory.peaks) if plan.memory else {},
        peak_bytes=max((s.host_bytes for s in sidecars), default=0) or None,
        gpu_peak_bytes=max((s.gpu_bytes for s in sidecars), default=0) or None,
        summary=summary,
        sights=tuple(sorted(looked.sights, key=lambda sight: sight.frame)),
        non_finite=_NUMBERS_CHECKED if plan.memory else "not checked by this engine",
        warnings=warnings_of(
            summary,
            source_side=min(width, height),
            enlarges=enlarges,
            num_frames=plan.video.num_frames,
        ),
        notes=about.notes,
        report_seconds=round(time.monotonic() - began, 2),
    )


_NUMBERS_CHECKED = (
    "none: the engine checks all latents and frames, and fails or takes a wider precision (see "
    "there) where it finds one"
)


def _sidecars(plan: Plan, job_dir: JobDir) -> list[Sidecar]:
    paths = (job_dir.sidecar_path(segment.index) for segment in plan.segments)
    return [read_record(path, Sidecar) for path in paths if path.is_file()]


def _source(plan: Plan, about: AboutJob) -> VideoFacts:
    video = plan.video
    width, height = video.upright_size
    return VideoFacts(
        name=about.source_name,
        sha256=plan.source_sha256,
        num_bytes=video.size_bytes,
        container=video.format_name,
        codec=video.codec,
        pix_fmt=video.pix_fmt,
        width=width,
        height=height,
        num_frames=video.num_frames,
        duration_seconds=round(video.duration_seconds, 3),
    )


def _output(plan: Plan, about: AboutJob) -> VideoFacts:
    encoder = plan.encoder
    return VideoFacts(
        name=about.output_name,
        sha256=about.output_sha256,
        num_bytes=about.output_bytes,
        container=plan.output.container,
        codec=encoder.codec,
        pix_fmt=encoder.pix_fmt,
        width=plan.width,
        height=plan.height,
        num_frames=plan.video.num_frames,
        duration_seconds=round(plan.video.duration_seconds, 3),
        settings=", ".join(
            [
                f"{encoder.codec} {encoder.pix_fmt}",
                *([f"preset {encoder.preset}"] if encoder.preset else []),
                *([f"crf {encoder.crf}"] if encoder.crf else []),
                f"a key frame at least every {encoder.keyint} frames",
            ]
        ),
    )


def _engine(plan: Plan, sidecars: list[Sidecar]) -> EngineFacts:
    settings = asdict(plan.engine)
    name, digest = settings.pop("name"), settings.pop("weights_digest")
    if not plan.engine.window:  # without latents these are not used
        settings = {}
    return EngineFacts(
        name=name,
        weights_digest=digest,
        options={"resolution": plan.resolution, **settings},
        devices=tuple(dict.fromkeys(sidecar.device for sidecar in sidecars)),
        precisions=tuple(dict.fromkeys(sidecar.precision for sidecar in sidecars)),
        threads=plan.torch_threads,
    )


def _versions() -> dict[str, str]:
    found = {"python": python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
