"""What a job would take, without running it: for `seedvr2 plan` and the gateway's POST /plan."""

import logging
import math
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import BaseModel, Field

from seedvr2_core.child.protocol import FindSize
from seedvr2_core.config import DEFAULT_ENGINE, EngineSpec, find_engine
from seedvr2_core.errors import InvalidVideoError, SeedVR2Error
from seedvr2_core.frames import FRAMES_PER_LATENT
from seedvr2_core.kernels.devices import gpu_name
from seedvr2_core.planning.cards import parse_card
from seedvr2_core.planning.outline import PlanOutline
from tasks.child import run_operation
from tasks.child.preview import part_of, preview_notes
from tasks.estimate import is_guess, output_format, plan_job
from tasks.job.again import find_master
from tasks.job.cost import excess
from tasks.job.engine_choice import choose_device, choose_engine
from tasks.job.masters import look_at_masters
from tasks.probe import find_cuts, probe_source
from tasks.run.routing import deployment_for, wants_size
from tasks.run.spending import limit_seconds, price_of
from tasks.schemas import Device, FetchedSource, OutputFormat, ProbedSource, UpscaleRequest
from tasks.settings import Settings
from tasks.sources import discard, source_here
from tasks.sources.names import called_by_name

logger = logging.getLogger(__name__)


class JobPlan(BaseModel):
    """What a job will produce and what it takes."""

    source: str = Field(description="The source's name.")
    source_size: tuple[int, int] = Field(description="Width and height as displayed, in pixels.")
    frames: int = Field(description="Frames of the result.")
    duration_seconds: float = Field(description="Playing time.")
    width: int = Field(description="Of the result, in pixels.")
    height: int = Field(description="Of the result, in pixels.")
    format: OutputFormat = Field(default=OutputFormat(), description="What it is coded as.")
    engine: str = Field(description="What restores the frames.")
    device: str = Field(description="What the plan is for: `cpu`, `cuda:0`, or the name of a card.")
    shots: int = Field(description="Parts between cuts; 1 where cuts were not looked for.")
    segments: int = Field(description="Parts that are kept when a job is interrupted.")
    window_frames: int = Field(
        description="Frames that a SeedVR2 model sees at once; 0 for engines that look at one."
    )
    memory_gb: dict[str, float] = Field(
        description="Predicted peak of each phase in GB; empty for engines without phases."
    )
    eta_seconds: float = Field(description="Expected seconds of the whole job.")
    eta_is_guess: bool = Field(description="Nothing was measured that this time could rest on.")
    price: float | None = Field(
        description="Expected price; null where the operator has not said what an hour costs."
    )
    job_limit_seconds: float | None = Field(
        description="Seconds after which restoring is ended as failed; null: no limit."
    )
    notes: tuple[str, ...] = Field(description="What else there is to know before it begins.")


def named_card(name: str) -> Device:
    """The device that --gpu describes: the name of a card, or GB of memory.

    Raises:
        InvalidRequestError: neither.
    """
    card = parse_card(name)
    return Device(
        name=gpu_name(0), kind=card.kind, free_bytes=card.free_bytes, host_bytes=card.host_bytes
    )


def size_to_route(request: UpscaleRequest, settings: Settings) -> tuple[int, int] | None:
    """(width, height) of a request's source as displayed, where that decides its deployment.

    Only what lies on this machine is looked at: a path, an upload, an address that was fetched
    before. A file that cannot be looked at is for the job to refuse, in the words of its probe.

    Returns:
        None if it does not matter, or is not known.
    """
    if not wants_size(request.resolution):
        return None
    path = source_here(request, settings)
    if path is None:
        return None
    try:
        found = run_operation(FindSize(path=path), doing="looking at the source's size")
    except SeedVR2Error as error:
        logger.info("the size of %s is not known: %s", path.name, error)
        return None
    return found.width, found.height


def place_of(request: UpscaleRequest, settings: Settings) -> str:
    """Name of the deployment that a request's job belongs on.

    Raises:
        InvalidRequestError, PlanError: as `deployment_for`.
    """
    usual = deployment_for(request.resolution, size_to_route(request, settings))
    if settings.coding_deployment is not None and find_master(request, settings) is not None:
        return settings.coding_deployment
    return usual


def plan_source(
    source: FetchedSource,
    request: UpscaleRequest,
    settings: Settings,
    *,
    card: Device | None = None,
    thorough: bool = True,
) -> JobPlan:
    """Probe a source and plan a job for it.

    Args:
        source: the video; a download that is none is removed.
        request: what is asked for.
        settings: of this machine.
        card: a GPU to plan for. None: this machine's device; where it has no GPU and the model
            needs one, an H100.
        thorough: find cuts, and measure a machine that is new to the engine, which decodes the
            whole video and takes seconds. Otherwise neither, and no weights are looked into.

    Raises:
        InvalidVideoError: the source is no video that can be upscaled.
        InvalidRequestError, PlanError, ResourceError, CheckpointError: the job would be refused.
    """
    with TemporaryDirectory() as folder, called_by_name(source):
        try:
            probed = probe_source(
                source,
                Path(folder),
                settings,
                allow_damaged=request.allow_damaged,
                wanted=request.wanted_frames,
            )
        except InvalidVideoError:
            if source.path.parent == settings.sources_dir:  # who sent an upload takes it back
                discard(source, settings)
            raise
        spec, assumed = _engine_and_card(request.model, probed, settings, card)
        notes: list[str] = []
        if spec.has_latents and thorough:
            device = choose_device(settings.device, probed.devices)
            probed = probed.model_copy(update={"cuts_path": find_cuts(probed, device.name)})
        elif spec.has_latents:
            assumed = assumed or choose_device(settings.device, probed.devices)
            notes.append("cuts were not looked for: the job finds them, and may have more segments")
        plan = plan_job(
            request,
            probed,
            settings,
            out=Path(folder) / "plan.json",
            measure_from=0.0 if thorough else math.inf,
            assumed=assumed,
        )
        if request.preview:
            notes += _preview_told(plan, request.preview, Path(folder) / "plan.json", settings)
    outlook = look_at_masters(plan, request, settings)
    plan = replace(plan, eta_seconds=outlook.eta_seconds)
    notes += (*outlook.notes, *outlook.lasting_notes)
    notes += _limits_told(plan, request, settings)
    return _summary(probed, plan, settings, assumed, notes)


def _engine_and_card(
    model: str, probed: ProbedSource, settings: Settings, card: Device | None
) -> tuple[EngineSpec, Device | None]:
    """The engine, and the card to plan for; None for this machine's device."""
    spec = find_engine(DEFAULT_ENGINE if model == "auto" else model)
    here = choose_device(settings.device, probed.devices)
    if card is None and model != "auto" and spec.needs_gpu and here.name == "cpu":
        card = named_card("h100")
    if card is None:
        spec, _ = choose_engine(model, here, settings, video=probed.video)
    return spec, card


def _preview_told(plan: PlanOutline, wanted: str, plan_path: Path, settings: Settings) -> list[str]:
    """What a preview will be like, as notes of the plan."""
    job_dir = settings.job_dir(plan.job_key)
    part = part_of(plan, wanted, plan_path=plan_path, job_dir=job_dir, settings=settings)
    return list(preview_notes(part))


def _limits_told(plan: PlanOutline, request: UpscaleRequest, settings: Settings) -> list[str]:
    """What the limits of the operator and of the caller will do to the job; [] if nothing."""
    told: list[str] = []
    if refusal := excess(plan.eta_seconds, plan.num_frames, settings):
        told.append(f"it would be refused: {refusal}")
    limit = limit_seconds(request.max_seconds, request.max_price, settings)
    if plan.eta_seconds > limit:
        what = "stopped at" if is_guess(plan) else "refused by"
        told.append(
            f"it would be {what} the limit that you set (max_seconds, max_price), which allows "
            f"{limit:.0f} s"
        )
    return told


def _summary(
    probed: ProbedSource,
    plan: PlanOutline,
    settings: Settings,
    assumed: Device | None,
    notes: list[str],
) -> JobPlan:
    """The plan in numbers."""
    return JobPlan(
        source=probed.source.name,
        source_size=probed.video.upright_size,
        frames=probed.video.num_frames,
        duration_seconds=probed.video.duration_seconds,
        width=plan.width,
        height=plan.height,
        format=output_format(plan),
        engine=plan.engine.name,
        device=assumed.kind if assumed else plan.device,
        shots=plan.num_shots,
        segments=len(plan.segments),
        window_frames=FRAMES_PER_LATENT * plan.engine.window,
        memory_gb={phase: round(peak / 1e9, 2) for phase, peak in plan.memory.peaks}
        if plan.memory
        else {},
        eta_seconds=plan.eta_seconds,
        eta_is_guess=is_guess(plan),
        job_limit_seconds=plan.limits.job,
        price=price_of(plan.eta_seconds, settings),
        notes=(*plan.notes, *notes),
    )
