"""`seedvr2 plan`: shows what a job would take, without running it."""

from collections.abc import Callable

from deployments.cli.words import duration, table
from seedvr2_core.words import counted
from tasks.plan import JobPlan, named_card, plan_source
from tasks.schemas import UpscaleRequest
from tasks.settings import Settings
from tasks.sources import obtain_source

__all__ = ["PlanSummary", "named_card", "planned_summary"]


class PlanSummary(JobPlan):
    """The plan of a job as the command shows it."""

    def as_text(self, columns: int | None = None) -> str:
        """The plan for people, as a table that is at most so wide."""
        lines = [
            f"source    {self.source}: {self.source_size[0]}x{self.source_size[1]}, "
            f"{counted(self.frames, 'frame')}, {self.duration_seconds:.2f} s",
            f"output    {self.width}x{self.height}, {self.format.codec} of {self.format.bits} bits "
            f"in {self.format.container}",
            f"engine    {self.engine} on {self.device}",
            *self._shots_as_text(),
            f"segments  {self.segments}",
            f"time      {self._time_as_text()}",
            *([] if self.price is None else [f"price     {self.price:.2f}"]),
        ]
        lines += [f"note      {note}" for note in self.notes]
        return table(lines, indent=10, columns=columns)

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


def planned_summary(
    request: UpscaleRequest,
    settings: Settings,
    *,
    gpu: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> PlanSummary:
    """Probe a file or an address and plan a job for it.

    What is downloaded is kept among the sources, where the job finds it.

    Args:
        request: what is asked for.
        settings: of this machine.
        gpu: a card to plan for, as `named_card` takes it. None: this machine's device; where it
            has no GPU and the model needs one, an H100.
        say: takes lines about the download.

    Raises: as `plan_source` and `obtain_source` do.
    """
    card = named_card(gpu) if gpu else None
    source = obtain_source(request, settings, note=say)
    planned = plan_source(source, request, settings, card=card)
    return PlanSummary(**planned.model_dump())
