"""`seedvr2 plan`: shows what a job would take, without running it."""

from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import BaseModel

from deployments.cli.words import duration
from seedvr2_core.config import DEFAULT_ENGINE, find_engine
from seedvr2_core.errors import InvalidRequestError
from seedvr2_core.frames import FRAMES_PER_LATENT
from seedvr2_core.kernels.devices import gpu_name
from seedvr2_core.planning.cards import host_obstacle, parse_card
from seedvr2_core.words import counted
from tasks.schemas import Device, FetchedSource, ProbedSource, UpscaleRequest
from tasks.settings import Settings
from tasks.sources.names import printable


class PlanSummary(BaseModel):
    """What a job will produce and what it takes."""

    source: str
    source_size: tuple[int, int]
    frames: int
    duration_seconds: float
    width: int
    height: int
    engine: str
    device: str
    """This machine's device, or the card that --gpu names or that is assumed."""
    shots: int
    segments: int
    window_frames: int
    """Frames that a SeedVR2 model sees at once; 0 for engines that look at single frames."""
    memory_gb: dict[str, float]
    """Predicted peak of each phase in GB; empty for engines without phases."""
    eta_seconds: float
    """Expected time of the whole job."""
    eta_is_guess: bool
    """The time could not be measured on this machine."""
    price: float | None
    """Expected price of the job; None: SEEDVR2_HOUR_PRICE is not set."""
    job_limit_seconds: float | None
    """Time after which restoring is ended as failed (SEEDVR2_JOB_SECONDS); None: no limit."""
    notes: tuple[str, ...]

    def as_text(self) -> str:
        """The plan for people, as a table."""
        lines = [
            f"source    {self.source}: {self.source_size[0]}x{self.source_size[1]}, "
            f"{counted(self.frames, 'frame')}, {self.duration_seconds:.2f} s",
            f"output    {self.width}x{self.height}",
            f"engine    {self.engine} on {self.device}",
            *self._shots_as_text(),
            f"segments  {self.segments}",
            f"time      {self._time_as_text()}",
            *([] if self.price is None else [f"price     {self.price:.2f}"]),
        ]
        return "\n".join([*lines, *(f"note      {note}" for note in self.notes)])

    def _time_as_text(self) -> str:
        """How long the job takes, and the limit if there is one."""
        about = f"about {duration(self.eta_seconds)}" + (" (a guess)" if self.eta_is_guess else "")
        if self.job_limit_seconds is None:
            return about
        return f"{about}, stopped after {duration(self.job_limit_seconds)} (SEEDVR2_JOB_SECONDS)"

    def _shots_as_text(self) -> list[str]:
        """The lines that only engines with windows have."""
        if not self.window_frames:
            return []
        peaks = ", ".join(f"{phase} {peak:.1f} GB" for phase, peak in self.memory_gb.items())
        return [
            f"shots     {self.shots}, windows of {counted(self.window_frames, 'frame')}",
            f"memory    {peaks}",
        ]


def named_card(name: str) -> Device:
    """The device that --gpu describes: the name of a card, or GB of memory.

    Raises:
        InvalidRequestError: neither.
    """
    card = parse_card(name)
    return Device(name=gpu_name(0), kind=card.kind, free_bytes=card.free_bytes)


def planned_summary(
    request: UpscaleRequest, settings: Settings, *, gpu: str | None = None
) -> PlanSummary:
    """Probe a local file and plan a job for it.

    Args:
        request: what is asked for.
        settings: of this machine.
        gpu: a card to plan for, as `parse_card` takes it. None: this machine's device; where it
            has no GPU and the model needs one, an H100.

    Raises:
        InvalidRequestError: the source is an address. Its video is unknown until it is downloaded.
    """
    if request.video_path is None:
        raise InvalidRequestError(
            "seedvr2 plan needs a file on this machine; download the video first"
        )
    from seedvr2_core.files import file_sha256
    from tasks.estimate import is_guess, plan_job
    from tasks.job.cost import excess, price_of

    path = Path(request.video_path)
    source = FetchedSource(
        path=path,
        sha256=file_sha256(path),
        num_bytes=path.stat().st_size,
        name=printable(path.name),
    )
    assumed = named_card(gpu) if gpu else None
    host_bytes = parse_card(gpu).host_bytes if gpu else None
    with TemporaryDirectory() as folder:
        probed, assumed = _probed(source, request, Path(folder), settings, assumed)
        plan = plan_job(request, probed, settings, measure_from=0.0, assumed=assumed)
    refusals = (
        excess(plan.eta_seconds, plan.video.num_frames, settings),
        host_obstacle(plan, host_bytes),
    )
    return PlanSummary(
        source=source.name,
        source_size=(probed.width, probed.height),
        frames=probed.num_frames,
        duration_seconds=probed.duration_seconds,
        width=plan.width,
        height=plan.height,
        engine=plan.engine.name,
        device=assumed.kind if assumed else plan.device,
        shots=len(plan.shots),
        segments=len(plan.segments),
        window_frames=FRAMES_PER_LATENT * plan.engine.window,
        memory_gb={phase: round(peak / 1e9, 2) for phase, peak in plan.memory.peaks}
        if plan.memory
        else {},
        eta_seconds=plan.eta_seconds,
        eta_is_guess=is_guess(plan),
        job_limit_seconds=plan.limits.job,
        price=price_of(plan.eta_seconds, settings),
        notes=(*plan.notes, *(f"it would be refused: {told}" for told in refusals if told)),
    )


def _probed(
    source: FetchedSource,
    request: UpscaleRequest,
    folder: Path,
    settings: Settings,
    assumed: Device | None,
) -> tuple[ProbedSource, Device | None]:
    """Probe the source, with its cuts if the engine looks at shots.

    Returns:
        What was found, and the card to plan for: `assumed`, an H100 where the model needs a GPU
        and there is none, or None for this machine's device.
    """
    from tasks.job.engine_choice import choose_device, choose_engine
    from tasks.probe import find_cuts, probe_source

    model = request.model
    spec = find_engine(DEFAULT_ENGINE if model == "auto" else model)
    probed = probe_source(source, folder, settings, allow_damaged=request.allow_damaged)
    here = choose_device(settings.device, probed.devices)
    if assumed is None and model != "auto" and spec.needs_gpu and here.name == "cpu":
        assumed = named_card("h100")
    if assumed is None:
        spec, _ = choose_engine(model, here, settings)
    if spec.has_latents:
        probed = probed.model_copy(update={"cuts_path": find_cuts(probed, here.name)})
    return probed, assumed
