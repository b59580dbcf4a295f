"""What we know about a run that may be lost: its state, its last sign of life, and our verdict.

Nothing here changes a run. The progress artifact of the run's present attempt shows two signs of
life: a beat tells that its work goes on, and a renewal of the artifact that its process is there.
We do not compare clocks of different machines where it decides: a sign that looks too old is only a
reason to watch the run. It is alive if the sign changes while we watch, and lost if it does not
change for the whole limit while the API is answering (`tasks/recovery/watch.py`).
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State

from seedvr2_core.errors import InvalidRequestError
from tasks.recovery.states import attempt_began, read_states, somebody_cancelled, we_cancelled
from tasks.recovery.verdicts import MEANINGS, Meaning, Verdict
from tasks.run import PROGRESS_KEY, read_progress
from tasks.run.appointments import MAX_RECOVERIES, recoveries_of
from tasks.run.artifacts import SavedProgress, newest_artifact
from tasks.run.attempts import attempts_of
from tasks.run.routing import job_among, job_filter
from tasks.schemas import Prospect, Record
from tasks.settings import get_settings
from tasks.storage.by_put import digest_of


class RunReport(Record):
    """What we know about a run; `recover` logs it and publishes it as an artifact."""

    run_id: UUID
    """The job's id, also where the report was asked for by the id of a `route` run."""
    asked_for: UUID
    state: str
    """Prefect's name for it: Running, Crashed, TimedOut, ..."""
    state_id: UUID | None
    message: str | None
    attempts: int
    recoveries: int
    """How often `recover` has re-queued the run."""
    deployed: bool
    """Whether a deployment started the run. No other run can be re-queued."""
    fresh: bool
    """Whether the request asked to ignore what earlier runs of it left."""
    delivers_to: str = ""
    """Digest of the address that takes its video, if its request names one: that is a secret."""
    helps: UUID | None = None
    """The job that the run helps with; None: the run is a job of its own."""
    run_seconds: float
    phase: str | None = None
    percent: float | None = None
    began_at: datetime | None = None
    """First sign of life of this attempt."""
    beat_at: datetime | None = None
    renewed_at: datetime | None = None
    """The last sign of life of its process, by the server's clock."""
    alive_seconds: float | None = None
    """How often its process shows one; None if it is of a version that shows none."""
    stall_limit_seconds: float | None = None
    deadline: datetime | None = None
    job: Prospect | None = None
    verdict: Verdict

    @property
    def meaning(self) -> Meaning:
        """What follows from the verdict."""
        return MEANINGS[self.verdict]

    @property
    def lost(self) -> bool:
        """Whether something has to be done about the run."""
        return self.meaning.lost

    @property
    def may_requeue(self) -> bool:
        """Whether the run may get another attempt: it can help, and not all are used up."""
        return self.meaning.may_requeue and self.recoveries < MAX_RECOVERIES


def read_report(run_id: UUID) -> RunReport:
    """Look at a run once.

    Raises:
        InvalidRequestError: there is no such run.
    """
    with get_client(sync_client=True) as client:
        run = job_among(client.read_flow_runs(flow_run_filter=job_filter(run_id)), run_id)
        if run is None:
            raise InvalidRequestError(f"no flow run has the id {run_id} on {client.api_url}")
        states = read_states(client, run.id)
        progress = _last_progress(client, run.id, since=attempt_began(states))
    return report_on(run, states, progress, asked_for=run_id, now=datetime.now(UTC))


def _last_progress(client: SyncPrefectClient, run_id: UUID, *, since: datetime) -> SavedProgress:
    """The progress of the present attempt; each attempt writes an artifact of its own."""
    progress = read_progress(newest_artifact(client, run_id, PROGRESS_KEY))
    earlier = progress.began_at is not None and progress.began_at < since
    return SavedProgress() if earlier else progress


def report_on(
    run: FlowRun,
    states: Sequence[State],
    progress: SavedProgress,
    *,
    asked_for: UUID,
    now: datetime,
) -> RunReport:
    """The report on a run from what was read about it.

    Args:
        run: as the server has it.
        states: every state it has been in, the oldest first.
        progress: of its present attempt.
        asked_for: the id by which somebody asked for the run.
        now: the present time.
    """
    state = run.state
    report = RunReport(
        run_id=run.id,
        asked_for=asked_for,
        state=state.name if state and state.name else "unknown",
        state_id=state.id if state else None,
        message=state.message if state else None,
        attempts=attempts_of(run),
        recoveries=recoveries_of(run),
        deployed=run.deployment_id is not None,
        fresh=bool(run.parameters.get("fresh", False)),
        delivers_to=digest_of(url) if (url := run.parameters.get("output_url")) else "",
        helps=run.parameters.get("job_id"),
        run_seconds=run.estimated_run_time.total_seconds(),
        phase=progress.phase,
        percent=progress.percent,
        began_at=progress.began_at,
        beat_at=progress.beat_at,
        renewed_at=progress.renewed_at,
        alive_seconds=progress.alive_seconds,
        stall_limit_seconds=progress.stall_seconds,
        deadline=progress.deadline,
        job=progress.prospect,
        verdict="waiting",
    )
    return report.model_copy(update={"verdict": _verdict(state, states, report, now)})


def _verdict(
    state: State | None, states: Sequence[State], report: RunReport, now: datetime
) -> Verdict:
    """The verdict on a run with this history."""
    if state is None:
        return "waiting"
    if (state.is_cancelling() or state.is_cancelled()) and we_cancelled(states):
        return "interrupted"
    if state.is_crashed():
        return "abandoned" if somebody_cancelled(states) else "crashed"
    if state.is_final():
        return "ended"
    if state.is_running():
        return _verdict_running(report, state.timestamp, now)
    return _verdict_waiting(state, now)


def _verdict_waiting(state: State, now: datetime) -> Verdict:
    """The verdict on a run that is not running: is a worker late to start or to cancel it?"""
    settings, quiet = get_settings(), now - state.timestamp
    if state.is_pending() and quiet > timedelta(seconds=settings.recover_pending_seconds):
        return "stuck"
    if state.is_cancelling() and quiet > timedelta(seconds=settings.recover_margin_seconds):
        return "abandoned"
    return "waiting"


def _verdict_running(report: RunReport, since: datetime, now: datetime) -> Verdict:
    """The verdict on a run whose state is Running.

    Its own process ends it when it hangs or passes a limit that somebody set; the margin leaves it
    time to do so. A process that is gone cannot, and its signs of life say so much sooner.

    Args:
        report: what is known of the run.
        since: when it became Running.
        now: the present time.
    """
    settings = get_settings()
    margin = timedelta(seconds=settings.recover_margin_seconds)
    patience = timedelta(seconds=settings.recover_silent_seconds)
    if report.began_at is None or report.renewed_at is None:
        # A process opens its record as soon as it has said that it runs.
        return "gone" if now > since + patience else "alive"
    if report.alive_seconds is not None and now > max(report.renewed_at, since) + patience:
        return "gone"
    if report.deadline is not None and now > report.deadline + margin:
        return "overdue"
    if report.beat_at is None or report.stall_limit_seconds is None:
        return "alive"
    limit = timedelta(seconds=report.stall_limit_seconds)
    return "silent" if now > report.beat_at + limit + margin else "alive"
