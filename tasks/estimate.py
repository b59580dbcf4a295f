"""Estimate: choose engine and device, plan the job, predict its time and set its limits."""

import os
import shutil
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from prefect import get_run_logger

from seedvr2_core.child.protocol import CheckPlan, MakePlan
from seedvr2_core.config import DEFAULT_ENGINE, EngineSpec, find_engine
from seedvr2_core.engines import known_weights
from seedvr2_core.engines.table import EngineWeights
from seedvr2_core.files import hold_lock, read_record
from seedvr2_core.files.durable import replace_file, sync_directory
from seedvr2_core.job import JobDir
from seedvr2_core.job.job_dir import outline_beside
from seedvr2_core.planning import Options
from seedvr2_core.planning.outline import PlanOutline
from seedvr2_core.planning.outputs import chosen_codec, encoder_name
from seedvr2_core.planning.plan import EngineSettings, Rates
from seedvr2_core.planning.sizes import output_name, target_size
from seedvr2_core.planning.timing import ENGINE_SECONDS_PER_FRAME
from seedvr2_core.planning.windows import engine_settings
from seedvr2_core.video.output.formats import CONTAINERS, depth_of, holds_alpha
from seedvr2_core.words import counted
from tasks.child import run_operation
from tasks.child.operation import STALL_SECONDS
from tasks.child.preview import part_of, preview_of
from tasks.child.rates import known_rates, measure
from tasks.early.begun import begun_early
from tasks.job.again import MasterNote, check_masters
from tasks.job.cost import refuse_excess
from tasks.job.engine_choice import choose_device, choose_engine
from tasks.job.masters import look_at_masters
from tasks.run import current
from tasks.run.spending import price_of
from tasks.schemas import Device, OutputFormat, PlannedJob, ProbedSource, UpscaleRequest
from tasks.settings import Settings, get_settings
from tasks.step import step
from tasks.storage.by_put import delivery_notes
from tasks.store import copy_of

MEASURE_FROM_SECONDS = 60.0
"""A job that is expected to take less is planned without measuring the machine first."""


def plan_job(
    request: UpscaleRequest,
    probed: ProbedSource,
    settings: Settings,
    *,
    out: Path,
    measure_from: float = MEASURE_FROM_SECONDS,
    assumed: Device | None = None,
    made: MasterNote | None = None,
) -> PlanOutline:
    """Plan a request, in a child process that holds the times of all frames.

    Args:
        request: what is asked for.
        probed: the source.
        settings: of this machine.
        out: where the plan is written, with its outline beside it.
        measure_from: expected seconds of a job from which on a small engine is measured first, if
            that was not done on this machine before.
        assumed: a device that this machine need not have, for a plan that is only looked at: the
            engine's weights are not needed, and they are not part of the key.
        made: what made the pixels that are only coded again; it is not needed here itself.

    Returns:
        What the plan says, but for its lists of times, shots and pieces.

    Side effects: keeps what was measured in WORK_DIR/rates.

    Raises:
        InvalidRequestError, PlanError: the request asks for something that is not possible.
        CheckpointError, ResourceError: weights are missing or damaged; the device is too small.
    """
    note, video = "", probed.video
    if made is not None:
        device, weights = probed.devices[-1], made.weights  # the last one is the processor
        spec = find_engine(made.engine)
    elif assumed is None:
        device = choose_device(settings.device, probed.devices)
        spec, note = choose_engine(
            request.model, device, settings, request.weights_file, video=video
        )
        # At first use it reads up to 16 GB, which takes minutes from a network share.
        beat = partial(current().beat, stall_seconds=STALL_SECONDS)
        weights = known_weights(spec.name, settings.weights_folder, request.weights_file, beat=beat)
    else:
        device, weights = assumed, EngineWeights()
        spec = find_engine(DEFAULT_ENGINE if request.model == "auto" else request.model)
        note = f"planned for {assumed.kind}, whatever this machine has"
    engine, window_note = engine_settings(request, spec, weights.digest)
    notes = tuple(filter(None, (note, window_note, *weights.notes)))
    options = _options(request, probed, settings, device, engine, weights, notes)
    encoder = encoder_name(chosen_codec(video, options), request.preset, request.encoder)
    size = target_size(video, request.resolution)
    rates = known_rates(spec.name, encoder, device.kind, settings, size=size)
    plan = _make_plan(probed, options, rates, out)
    known = assumed or made or rates.measured or not _can_be_measured(spec)
    if known or plan.eta_seconds < measure_from:
        return plan
    measured = measure(plan, out, probed.source.path, settings)
    return plan if measured is None else _make_plan(probed, options, measured, out)


def _options(
    request: UpscaleRequest,
    probed: ProbedSource,
    settings: Settings,
    device: Device,
    engine: EngineSettings,
    weights: EngineWeights,
    notes: tuple[str, ...],
) -> Options:
    """What the plan is made from."""
    return Options(
        resolution=request.resolution,
        engine=engine,
        device=device.name,
        device_kind=device.kind,
        device_bytes=device.free_bytes,
        host_bytes=device.host_bytes,
        dit_dtype=device.dit_dtype,
        own_kernels=device.own_kernels,
        cpu_count=probed.cpu_count,
        crf=request.wanted_crf,
        preset=request.preset,
        codec=request.codec,
        container=request.container,
        audio=request.audio,
        encoder=request.encoder,
        grain=request.grain,
        grain_seed=request.seed,
        segment_seconds=settings.segment_seconds,
        batch_size=request.batch_size,
        weights_file=request.weights_file,
        quantized=weights.quantized,
        load_seconds=weights.load_seconds,
        stall_seconds=settings.stall_seconds,
        job_seconds=settings.job_seconds,
        notes=notes,
    )


def _make_plan(probed: ProbedSource, options: Options, rates: Rates, out: Path) -> PlanOutline:
    """Let a child write the plan to `out`; returns its outline."""
    request = MakePlan(
        info=probed.info_path,
        cuts=probed.cuts_path,
        source_sha256=probed.source.sha256,
        options=options,
        rates=rates,
        out=out,
        like=begun_early(probed.info_path, get_settings()),
    )
    run_operation(request, doing="planning the job")
    return read_record(outline_beside(out), PlanOutline)


def _can_be_measured(spec: EngineSpec) -> bool:
    """Whether some seconds tell how fast an engine is: a model with windows only begins in them."""
    return not spec.has_latents and spec.name not in ENGINE_SECONDS_PER_FRAME


def _operators_notes(plan: PlanOutline, settings: Settings) -> tuple[str, ...]:
    """Tell the user of the limit and of the price that the operator has set, if any."""
    notes: list[str] = []
    if plan.limits.job is not None:
        notes.append(f"restoring may take {plan.limits.job:g} s at the most (SEEDVR2_JOB_SECONDS)")
    if (price := price_of(plan.eta_seconds, settings)) is not None:
        notes.append(
            f"expected price {price:.2f}, at {settings.hour_price:g} an hour (SEEDVR2_HOUR_PRICE)"
        )
    return tuple(notes)


_METHODS: dict[str, Literal["bwdif", "bob", "film"]] = {
    "bwdif": "bwdif",
    "bob": "bob",
    "film": "film",
}
"""What the result calls them; a plan of a later version may have others."""


def output_format(plan: PlanOutline) -> OutputFormat:
    """What the result is coded as."""
    return OutputFormat(
        codec=plan.encoder.codec,
        bits=depth_of(plan.encoder),
        container=plan.output.container,
        hdr="experimental" if plan.encoder.color.hdr else None,
        deinterlace=_METHODS.get(plan.deinterlace),
        alpha="kept" if holds_alpha(plan.encoder) else "flattened" if plan.alpha else None,
    )


def is_guess(plan: PlanOutline) -> bool:
    """Whether the predicted time rests on nothing that was measured on this machine."""
    if plan.engine.name in ENGINE_SECONDS_PER_FRAME:
        return False
    return plan.frame_seconds is None or not plan.frame_seconds.rates.measured


def _planned_for_all(
    made: Path, planned: PlanOutline, job_dir: JobDir, *, fresh: bool
) -> PlanOutline:
    """The plan that all machines obey: the first that came into the store, where there is one.

    Args, Raises: as `_write_or_obey`; StorageError: the store does not answer.
    """
    copy = copy_of(planned.job_key, get_settings())
    if copy is None:
        return _write_or_obey(made, planned, job_dir, fresh=fresh)
    copy.bring_plan(job_dir)
    again = made.with_name("again.json")
    shutil.copyfile(made, again)
    shutil.copyfile(outline_beside(made), outline_beside(again))
    plan = _write_or_obey(made, planned, job_dir, fresh=fresh)
    if copy.keep_plan(job_dir):
        return plan
    copy.bring_plan(job_dir)  # another machine was faster, or what it left cannot be obeyed
    plan = _write_or_obey(again, planned, job_dir, fresh=fresh)
    copy.replace_plan(job_dir)
    return plan


def _write_or_obey(
    made: Path, planned: PlanOutline, job_dir: JobDir, *, fresh: bool
) -> PlanOutline:
    """Give the new plan its place, or obey the one that an earlier run has written.

    The plan of a fresh start gets a name of its own until its run holds the job.

    Args:
        made: the new plan, on the same disk; its outline lies beside it.
        planned: that outline.
        job_dir: of the job.
        fresh: the request is for a fresh start.

    Raises:
        InvalidRequestError: the job is new and takes more than the operator allows.
    """
    path = job_dir.plan_path
    # Two equal requests may come at once. Their plans may differ, because they depend on how much
    # memory is free.
    with hold_lock(job_dir.plan_lock_path, timeout=60, on_wait=lambda: None):
        earlier = _obeyed(path, made)
        if earlier is None:  # a job that was accepted once goes on, whatever it takes
            refuse_excess(planned.eta_seconds, planned.num_frames, get_settings())
            _put(made, path)
            return planned
        os.utime(path)  # the sweep must see that the job is in use
        if fresh:
            _put(made, job_dir.fresh_plan_path)
            return planned
        return earlier


def _obeyed(path: Path, made: Path) -> PlanOutline | None:
    """The plan that an earlier run has written for the same job.

    Side effects: writes its outline, which earlier versions have not written.

    Returns:
        None if there is none that can be obeyed: it is missing, damaged, of another format, or of
        another job. The new one then takes its place, and segments that fit it are kept.
    """
    if not os.path.lexists(path):
        return None
    out = outline_beside(path)
    request = CheckPlan(plan=path, planned=outline_beside(made), out=out)
    if fault := run_operation(request, doing="reading the plan of an earlier run").fault:
        get_run_logger().warning("the job is planned anew: %s", fault)
        return None
    return read_record(out, PlanOutline)


def _put(made: Path, path: Path) -> None:
    """Give a plan and its outline their names."""
    replace_file(outline_beside(made), outline_beside(path))
    replace_file(made, path)
    sync_directory(path.parent)


@step(name="estimate", retries=5, retry_delay_seconds=[2, 8, 30, 60, 60])
def estimate(
    request: UpscaleRequest, probed: ProbedSource, made: MasterNote | None = None
) -> PlannedJob:
    """Plan the job and write WORK_DIR/jobs/<job_key>/plan.json.

    This takes a moment, except the first time that an engine is used: then its weights, up to
    16 GB, are hashed. A small engine is measured first, if this machine is new and the job long.
    What was `made` before is to be coded again here, from masters of all segments.

    Raises: InvalidRequestError, PlanError, CheckpointError, ResourceError, NoMasterError (final);
        StorageError (retried): the store that keeps plans does not answer.
    """
    settings = get_settings()
    settings.jobs_dir.mkdir(parents=True, exist_ok=True)
    # The sweep takes a folder that a killed run has left here for an old job, and removes it.
    with TemporaryDirectory(dir=settings.jobs_dir, prefix=".planning-") as folder:
        out = Path(folder) / "plan.json"
        planned = plan_job(request, probed, settings, out=out, made=made)
        outlook = look_at_masters(planned, request, settings)
        if made is not None:
            check_masters(outlook.num_ready, planned, made)
        planned = replace(planned, eta_seconds=outlook.eta_seconds)
        job_dir = JobDir(settings.job_dir(planned.job_key))
        plan = _planned_for_all(out, planned, job_dir, fresh=request.fresh)
    plan = replace(plan, eta_seconds=look_at_masters(plan, request, settings).eta_seconds)
    _log(plan, planned.device, outlook.notes)
    spec = find_engine(plan.engine.name)
    told = [*plan.notes, *outlook.lasting_notes, *_operators_notes(planned, settings)]
    told += delivery_notes(delivery_url(request), eta_seconds=plan.eta_seconds)
    job = PlannedJob(
        job_key=plan.job_key,
        job_dir=job_dir.path,
        source=probed.source,
        num_segments=len(plan.segments),
        num_frames=plan.num_frames,
        width=plan.width,
        height=plan.height,
        resolution=plan.resolution,
        engine=plan.engine.name,
        engine_label=spec.label,
        device=planned.device,
        output_name=_output_name(plan, probed),
        format=output_format(plan),
        eta_seconds=plan.eta_seconds,
        eta_is_guess=is_guess(plan),
        job_limit_seconds=planned.limits.job,
        stall_limit_seconds=planned.limits.stall,
        duration_seconds=probed.video.duration_seconds,
        seed=plan.engine.seed if spec.has_latents else None,
        max_seconds=request.max_seconds,
        max_price=request.max_price,
        tags=request.tags,
        metadata=request.metadata,
        expires_in=request.expires_in,
        keep_master=request.keep_master,
        coded_only=made is not None,
        notes=tuple(told),
    )
    return _previewed(job, plan, request) if request.preview else job


def _output_name(plan: PlanOutline, probed: ProbedSource) -> str:
    """Name of the whole job's output."""
    ending = CONTAINERS[plan.output.container].ending
    return output_name(probed.source.name, plan.resolution, plan.job_key, ending=ending)


def _previewed(job: PlannedJob, plan: PlanOutline, request: UpscaleRequest) -> PlannedJob:
    """The job with the piece alone that its preview shows.

    Raises:
        InvalidRequestError: the film has no such place.
    """
    job_dir = JobDir(job.job_dir)
    fresh = job_dir.fresh_plan_path
    path = fresh if request.fresh and fresh.is_file() else job_dir.plan_path
    part = part_of(
        plan, request.preview, plan_path=path, job_dir=job.job_dir, settings=get_settings()
    )
    return preview_of(job, part)


def delivery_url(request: UpscaleRequest) -> str | None:
    """The caller's address for the output; a preview goes to the installation's storage."""
    return None if request.preview else request.output_url


def _log(plan: PlanOutline, device: str, notes: Iterable[str]) -> None:
    """Tell the run's log what is planned, and what the masters are worth now."""
    get_run_logger().info(
        "%s to %dx%d by %s on %s in %s, about %.0f s",
        counted(plan.num_frames, "frame"),
        plan.width,
        plan.height,
        plan.engine.name,
        device,
        counted(len(plan.segments), "segment"),
        plan.eta_seconds,
    )
    for note in notes:
        get_run_logger().info("%s", note)
