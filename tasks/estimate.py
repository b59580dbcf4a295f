"""Estimate: choose engine and device, plan the job, predict its time and its limits."""

from pathlib import Path

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from seedvr2_core.engine import ENGINES, find_engine, weights_digest
from seedvr2_core.errors import CheckpointError, InvalidRequestError
from seedvr2_core.plan import EngineSettings, Plan, output_name, plan_latent_windows
from seedvr2_core.planner import Options, build_plan
from seedvr2_core.records import read_record, write_record
from seedvr2_core.video.info import VideoInfo
from tasks.retry import retryable
from tasks.schemas import PlannedJob, ProbedSource, UpscaleRequest
from tasks.settings import Settings, get_settings

ENGINE_LABELS = {
    "span": "SPAN (small CNN, not SeedVR2)",
    "lanczos": "Lanczos resize (no restoration)",
}


def choose_engine(request: UpscaleRequest, settings: Settings) -> tuple[str, str]:
    """Engine name and a note for the user ("" if none).

    Raises:
        CheckpointError: auto on a pool that must not fall back to a small engine.
        InvalidRequestError: no such engine here.
    """
    if request.model != "auto":
        return find_engine(request.model).name, ""
    if "seedvr2-7b" in ENGINES:
        return "seedvr2-7b", ""
    if settings.allow_cpu_engine:
        return "span", "model auto became span: no SeedVR2 weights on this machine"
    raise CheckpointError(
        "model auto needs SeedVR2 weights, and there are none on this machine; choose span or "
        "lanczos, or set SEEDVR2_ALLOW_CPU_ENGINE=true to let auto become span"
    )


def choose_device(wanted: str, devices: tuple[str, ...]) -> str:
    """The torch device to run on.

    Raises:
        InvalidRequestError: the setting names a device that is not there.
    """
    if wanted == "auto":
        return devices[0]
    if wanted in devices:
        return wanted
    raise InvalidRequestError(
        f"SEEDVR2_DEVICE={wanted} is not on this machine; there are: {', '.join(devices)}"
    )


def plan_job(request: UpscaleRequest, probed: ProbedSource, settings: Settings) -> Plan:
    """The plan of a request; writes nothing."""
    name, note = choose_engine(request, settings)
    window, overlap, window_note = plan_latent_windows(request.batch_size, request.temporal_overlap)
    latents = find_engine(name).has_latents
    engine = EngineSettings(
        name=name,
        weights_digest=weights_digest(name),
        seed=request.seed if latents else 0,
        window=window if latents else 0,
        overlap=overlap if latents else 0,
        stitch_mode=request.stitch_mode if latents else "",
        color_correction=request.color_correction if latents else "",
    )
    options = Options(
        resolution=request.resolution,
        engine=engine,
        device=choose_device(settings.device, probed.devices),
        cpu_count=probed.cpu_count,
        crf=request.crf,
        preset=request.preset,
        segment_seconds=settings.segment_seconds,
        stall_seconds=settings.stall_seconds,
        job_seconds=settings.job_seconds,
        notes=tuple(text for text in (note, window_note if latents else "") if text),
    )
    video = read_record(probed.info_path, VideoInfo)
    return build_plan(video, probed.source.sha256, options)


def _write_or_obey(plan: Plan, job_dir: Path, *, fresh: bool) -> Plan:
    """A plan that is there is obeyed, unless a fresh start is asked."""
    path = job_dir / "plan.json"
    if path.exists() and not fresh:
        return read_record(path, Plan)
    job_dir.mkdir(parents=True, exist_ok=True)
    write_record(path, plan)
    return plan


@task(
    name="estimate",
    retries=1,
    retry_delay_seconds=2,
    retry_condition_fn=retryable,
    timeout_seconds=120,
    persist_result=False,
    cache_policy=NO_CACHE,
)
def estimate(request: UpscaleRequest, probed: ProbedSource) -> PlannedJob:
    """Plan the job and write WORK_DIR/jobs/<job_key>/plan.json.

    Raises: InvalidRequestError, CheckpointError (final).
    """
    settings = get_settings()
    planned = plan_job(request, probed, settings)
    job_dir = settings.work_dir / "jobs" / planned.job_key
    plan = _write_or_obey(planned, job_dir, fresh=request.fresh)
    get_run_logger().info(
        "%d frames to %dx%d by %s on %s in %d segments, about %.0f s",
        plan.video.num_frames,
        plan.width,
        plan.height,
        plan.engine.name,
        planned.device,
        len(plan.segments),
        plan.eta_seconds,
    )
    return PlannedJob(
        job_key=plan.job_key,
        job_dir=job_dir,
        source=probed.source,
        num_segments=len(plan.segments),
        num_frames=plan.video.num_frames,
        width=plan.width,
        height=plan.height,
        resolution=plan.resolution,
        engine=plan.engine.name,
        engine_label=ENGINE_LABELS[plan.engine.name],
        device=planned.device,
        output_name=output_name(probed.source.name, plan.resolution, plan.job_key),
        eta_seconds=plan.eta_seconds,
        job_limit_seconds=planned.limits.job,
        stall_limit_seconds=planned.limits.stall,
        duration_seconds=probed.duration_seconds,
        notes=plan.notes,
    )
