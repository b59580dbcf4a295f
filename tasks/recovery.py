"""Looking at a run whose machine may be lost: its state, and the last sign of life it left.

It only looks. What is done about it is decided elsewhere, from this report.
"""

from datetime import UTC, datetime
from typing import Literal
from uuid import UUID

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter
from prefect.client.schemas.objects import Artifact, FlowRun
from prefect.client.schemas.sorting import ArtifactSort

from seedvr2_core.errors import InvalidRequestError
from tasks.record import PROGRESS_KEY
from tasks.retry import retryable
from tasks.routing import job_among, job_filter
from tasks.schemas import Record

SILENCE_MARGIN_SECONDS = 300.0
"""Beyond the stall limit: the guard of a living run acts before anybody else does."""

Verdict = Literal["waiting", "alive", "silent", "crashed", "ended"]


class RunReport(Record):
    """What is known of a run."""

    run_id: str
    """The job's, also where the id of a `route` run was asked for."""
    asked_for: str
    state: str
    message: str | None
    attempts: int
    phase: str | None = None
    percent: float | None = None
    beat_at: datetime | None = None
    beat_age_seconds: float | None = None
    stall_limit_seconds: float | None = None
    verdict: Verdict


@task(
    name="look",
    retries=3,
    retry_delay_seconds=[1, 5, 15],
    retry_condition_fn=retryable,
    persist_result=False,
    cache_policy=NO_CACHE,
)
def look(run_id: UUID) -> RunReport:
    """Read a run's state and its last beat.

    Raises:
        InvalidRequestError: there is no such run.
    """
    with get_client(sync_client=True) as client:
        run = job_among(client.read_flow_runs(flow_run_filter=job_filter(run_id)), run_id)
        if run is None:
            raise InvalidRequestError(f"no flow run has the id {run_id} on {client.api_url}")
        progress = _last_progress(client, run.id)
    return report_on(run, progress, asked_for=run_id, now=datetime.now(UTC))


def _last_progress(client: SyncPrefectClient, run_id: UUID) -> Artifact | None:
    """The newest progress artifact of a run; each attempt writes one."""
    of_run = {"flow_run_id": {"any_": [run_id]}, "key": {"any_": [PROGRESS_KEY]}}
    found = client.read_artifacts(
        artifact_filter=ArtifactFilter.model_validate(of_run),
        sort=ArtifactSort.CREATED_DESC,
        limit=1,
    )
    return found[0] if found else None


def report_on(
    run: FlowRun, progress: Artifact | None, *, asked_for: UUID, now: datetime
) -> RunReport:
    """The report from what was read."""
    beat = (progress.metadata_ if progress else None) or {}
    beat_at = datetime.fromisoformat(beat["beat_at"]) if "beat_at" in beat else None
    age = (now - beat_at).total_seconds() if beat_at else None
    limit = float(beat["stall_limit"]) if "stall_limit" in beat else None
    state = run.state
    return RunReport(
        run_id=str(run.id),
        asked_for=str(asked_for),
        state=state.name if state and state.name else "unknown",
        message=state.message if state else None,
        attempts=run.run_count,
        phase=beat.get("phase"),
        percent=_percent(progress),
        beat_at=beat_at,
        beat_age_seconds=age,
        stall_limit_seconds=limit,
        verdict=_verdict(run, age, limit),
    )


def _percent(progress: Artifact | None) -> float | None:
    data = progress.data if progress else None
    return float(data) if isinstance(data, int | float) else None


def _verdict(run: FlowRun, age: float | None, limit: float | None) -> Verdict:
    """A run that has begun and left no beat yet is taken for alive: its child may be loading."""
    state = run.state
    if state is None or not (state.is_running() or state.is_final() or state.is_cancelling()):
        return "waiting"
    if state.is_crashed():
        return "crashed"
    if state.is_final():
        return "ended"
    silent = age is not None and limit is not None and age > limit + SILENCE_MARGIN_SECONDS
    return "silent" if silent else "alive"
