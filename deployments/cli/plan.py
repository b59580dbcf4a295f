"""`seedvr2 plan`: shows what a job would take, without running it."""

from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import BaseModel

from seedvr2_core.errors import InvalidRequestError
from seedvr2_core.frames import FRAMES_PER_LATENT
from tasks.schemas import FetchedSource, UpscaleRequest
from tasks.settings import Settings


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
    job_limit_seconds: float | None
    """Time after which restoring is ended as failed (SEEDVR2_JOB_SECONDS); None: no limit."""
    notes: tuple[str, ...]

    def as_text(self) -> str:
        """The plan for people, as a table."""
        lines = [
            f"source    {self.source}: {self.source_size[0]}x{self.source_size[1]}, "
            f"{self.frames} frames, {self.duration_seconds:.2f} s",
            f"output    {self.width}x{self.height}",
            f"engine    {self.engine} on {self.device}",
            *self._shots_as_text(),
            f"segments  {self.segments}",
            f"time      {self._time_as_text()}",
        ]
        return "\n".join([*lines, *(f"note      {note}" for note in self.notes)])

    def _time_as_text(self) -> str:
        """How long the job takes, and the limit if there is one."""
        about = f"about {self.eta_seconds:.0f} s" + (" (a guess)" if self.eta_is_guess else "")
        if self.job_limit_seconds is None:
            return about
        return f"{about}, stopped after {self.job_limit_seconds:.0f} s (SEEDVR2_JOB_SECONDS)"

    def _shots_as_text(self) -> list[str]:
        """The lines that only engines with windows have."""
        if not self.window_frames:
            return []
        peaks = ", ".join(f"{phase} {peak:.1f} GB" for phase, peak in self.memory_gb.items())
        return [
            f"shots     {self.shots}, windows of {self.window_frames} frames",
            f"memory    {peaks}",
        ]


def planned_summary(request: UpscaleRequest, settings: Settings) -> PlanSummary:
    """Probe a local file and plan a job for it.

    Raises:
        InvalidRequestError: the source is an address. Its video is unknown until it is downloaded.
    """
    if request.video_path is None:
        raise InvalidRequestError(
            "seedvr2 plan needs a file on this machine; download the video first"
        )
    from seedvr2_core.files import file_sha256
    from tasks.estimate import is_guess, plan_job
    from tasks.probe import probe_source

    path = Path(request.video_path)
    source = FetchedSource(
        path=path, sha256=file_sha256(path), num_bytes=path.stat().st_size, name=path.name
    )
    with TemporaryDirectory() as folder:
        probed = probe_source(
            source, request.model, Path(folder), settings, allow_damaged=request.allow_damaged
        )
        plan = plan_job(request, probed, settings, measure_from=0.0)
    return PlanSummary(
        source=path.name,
        source_size=(probed.width, probed.height),
        frames=probed.num_frames,
        duration_seconds=probed.duration_seconds,
        width=plan.width,
        height=plan.height,
        engine=plan.engine.name,
        device=plan.device,
        shots=len(plan.shots),
        segments=len(plan.segments),
        window_frames=FRAMES_PER_LATENT * plan.engine.window,
        memory_gb={phase: round(peak / 1e9, 2) for phase, peak in plan.memory.peaks}
        if plan.memory
        else {},
        eta_seconds=plan.eta_seconds,
        eta_is_guess=is_guess(plan),
        job_limit_seconds=plan.limits.job,
        notes=plan.notes,
    )
