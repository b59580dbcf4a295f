"""What is known of a run that may be lost: its state, the last sign of life it left, and what that
means. Nothing here changes a run; `tasks/recovery/settle.py` does.

A sign of life is a beat in the progress artifact of the run's present attempt. Clocks of different
machines are not compared where it matters: a run is alive if its beat changes while it is watched,
and silent if it does not for as long as it should have, the API answering all the while.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter
from prefect.client.schemas.objects import Artifact, FlowRun, State
from prefect.client.schemas.sorting import ArtifactSort

from seedvr2_core.errors import InvalidRequestError
from tasks.run import PROGRESS_KEY
from tasks.run.appointments import recoveries_of
from tasks.run.routing import job_among, job_filter
from tasks.schemas import Prospect, Record
from tasks.settings import get_settings

MARK = "recover: "
"""Begins the message of every state that `recover` sets."""
POLL_SECONDS = 2.0

Verdict = Literal[
    "waiting",
    "alive",
    "crashed",
    "silent",
    "overdue",
    "stuck",
    "interrupted",
    "abandoned",
    "ended",
]
LOST = ("crashed", "silent", "overdue", "stuck", "interrupted", "abandoned")


class RunReport(Record):
    """What is known of a run."""

    run_id: UUID
    """The job's, also where the id of a `route` run was asked for."""
    asked_for: UUID
    state: str
    state_id: UUID | None
    message: str | None
    attempts: int
    recoveries: int
    deployed: bool
    """A run that no deployment started cannot be re-queued."""
    fresh: bool
    """What an earlier run of the same request left does not count."""
    run_seconds: float
    phase: str | None = None
    percent: float | None = None
    began_at: datetime | None = None
    """First sign of life of this attempt."""
    beat_at: datetime | None = None
    stall_limit_seconds: float | None = None
    deadline: datetime | None = None
    job: Prospect | None = None
    verdict: Verdict
    """waiting: not begun, or somebody cancels it. stuck: a worker took it and never started it.
    interrupted: a `recover` did not finish. abandoned: cancelled, and nobody is left to end it."""

    @property
    def lost(self) -> bool:
        """Whether something has to be done about it."""
        return self.verdict in LOST


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
        progress = _last_progress(client, run.id, since=_attempt_began(states))
    return report_on(run, states, progress, asked_for=run_id, now=datetime.now(UTC))


def read_states(client: SyncPrefectClient, run_id: UUID) -> list[State]:
    """Every state that a run has been in, the oldest first."""
    return sorted(client.read_flow_run_states(run_id), key=lambda state: state.timestamp)


def _attempt_began(states: Sequence[State]) -> datetime:
    """When the present attempt was taken up; what is older, an earlier attempt left."""
    taken_up = [state.timestamp for state in states if state.is_pending()]
    return taken_up[-1] if taken_up else datetime.min.replace(tzinfo=UTC)


def _last_progress(client: SyncPrefectClient, run_id: UUID, *, since: datetime) -> Artifact | None:
    """The progress artifact of the present attempt; each attempt writes one."""
    of_run = {"flow_run_id": {"any_": [run_id]}, "key": {"any_": [PROGRESS_KEY]}}
    found = client.read_artifacts(
        artifact_filter=ArtifactFilter.model_validate(of_run),
        sort=ArtifactSort.CREATED_DESC,
        limit=1,
    )
    return next((a for a in found if a.created is None or a.created >= since), None)


def report_on(
    run: FlowRun,
    states: Sequence[State],
    progress: Artifact | None,
    *,
    asked_for: UUID,
    now: datetime,
) -> RunReport:
    """The report from what was read."""
    state, beat = run.state, (progress.metadata_ if progress else None) or {}
    report = RunReport(
        run_id=run.id,
        asked_for=asked_for,
        state=state.name if state and state.name else "unknown",
        state_id=state.id if state else None,
        message=state.message if state else None,
        attempts=run.run_count,
        recoveries=recoveries_of(run),
        deployed=run.deployment_id is not None,
        fresh=bool(run.parameters.get("fresh", False)),
        run_seconds=run.estimated_run_time.total_seconds(),
        phase=beat.get("phase"),
        percent=_percent(progress),
        began_at=progress.created if progress else None,
        beat_at=_time(beat.get("beat_at")),
        stall_limit_seconds=float(beat["stall_limit"]) if "stall_limit" in beat else None,
        deadline=_time(beat.get("deadline")),
        job=Prospect.model_validate_json(beat["job"]) if "job" in beat else None,
        verdict="waiting",
    )
    return report.model_copy(update={"verdict": _verdict(state, states, report, now)})


def _percent(progress: Artifact | None) -> float | None:
    data = progress.data if progress else None
    return float(data) if isinstance(data, int | float) else None


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _verdict(
    state: State | None, states: Sequence[State], report: RunReport, now: datetime
) -> Verdict:
    """What it means; a run that has begun and left no beat yet is taken for alive."""
    if state is None:
        return "waiting"
    if (state.is_cancelling() or state.is_cancelled()) and we_cancelled(states):
        return "interrupted"
    if state.is_crashed():
        return "abandoned" if _somebody_cancelled(states) else "crashed"
    if state.is_final():
        return "ended"
    return _verdict_running(report, now) if state.is_running() else _verdict_waiting(state, now)


def _verdict_waiting(state: State, now: datetime) -> Verdict:
    """A worker starts what it took, and ends what is cancelled, unless it died over it."""
    settings, quiet = get_settings(), now - state.timestamp
    if state.is_pending() and quiet > timedelta(seconds=settings.recover_pending_seconds):
        return "stuck"
    if state.is_cancelling() and quiet > timedelta(seconds=settings.recover_margin_seconds):
        return "abandoned"
    return "waiting"


def _somebody_cancelled(states: Sequence[State]) -> bool:
    """Whether somebody else than a `recover` cancelled the present attempt."""
    since = _attempt_began(states)
    return any(s.is_cancelling() and s.timestamp >= since for s in states) and not we_cancelled(
        states
    )


def we_cancelled(states: Sequence[State]) -> bool:
    """Whether the last one to cancel the run was a `recover`."""
    cancelling = [state for state in states if state.is_cancelling()]
    return bool(cancelling) and (cancelling[-1].message or "").startswith(MARK)


def _verdict_running(report: RunReport, now: datetime) -> Verdict:
    """The guard in the run's own process acts at its limits; the margin is for it."""
    margin = timedelta(seconds=get_settings().recover_margin_seconds)
    if report.deadline is not None and now > report.deadline + margin:
        return "overdue"
    if report.beat_at is None or report.stall_limit_seconds is None:
        return "alive"
    limit = timedelta(seconds=report.stall_limit_seconds)
    return "silent" if now > report.beat_at + limit + margin else "alive"
