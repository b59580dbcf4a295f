"""Which runs have one output, and when it is to be removed.

Runs of equal requests have the same job and so the same output. Each completed run has a tag with
the job's key, so that an output is removed with the last of its runs and not before. Prefect is the
record of the time too: a run of `recover` is scheduled for it, which survives every restart.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowFilter, FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.states import Scheduled

from tasks.request.delivery import metadata_of, split_list
from tasks.run.appointments import find_recover

LABEL_DELETED = "seedvr2.deleted_at"
"""When the run's output was removed (ISO time)."""
LABEL_EXPIRES = "seedvr2.expires_at"
"""When it is to be removed (ISO time)."""
_TAG_DIGITS = 12


def job_tag(job_key: str) -> str:
    """The tag of the completed runs of one job."""
    return f"job:{job_key[:_TAG_DIGITS]}"


def callers_own(
    tags: str, metadata: str, expires_in: float | None, default: float | None
) -> dict[str, Any]:
    """The fields of a result that are its caller's own: what was noted, and when it expires.

    Args:
        tags: of the request, as text with commas.
        metadata: likewise, as JSON text.
        expires_in: of the request, in seconds; 0 is never, None leaves it to the installation.
        default: of the installation; None: never.
    """
    seconds = default if expires_in is None else expires_in
    until = datetime.now(UTC) + timedelta(seconds=seconds) if seconds else None
    return {
        "tags": split_list(tags),
        "metadata": metadata_of(metadata),
        "expires_at": until.isoformat(timespec="seconds") if until else None,
    }


def keep_output(client: SyncPrefectClient, run: FlowRun, job_key: str, until: str | None) -> None:
    """Note that a completed run has the job's output, and see to its removal.

    Args:
        client: of the server.
        run: the run.
        job_key: key of the job.
        until: when the output expires (ISO time); None: never.
    """
    client.update_flow_run(run.id, tags=sorted({*run.tags, job_tag(job_key)}))
    if until is None:
        return
    client.update_flow_run_labels(run.id, {LABEL_EXPIRES: until})
    appoint_removal(client, run, until)


def appoint_removal(client: SyncPrefectClient, run: FlowRun, until: str) -> None:
    """Let `recover` look at a run when its output has expired; nothing where it is not deployed."""
    recover_id = find_recover(client)
    if recover_id is not None:
        client.create_flow_run_from_deployment(
            recover_id,
            name=f"remove the output of {run.id}",
            parameters={"run_id": str(run.id)},
            state=Scheduled(scheduled_time=datetime.fromisoformat(until)),
            idempotency_key=f"expire:{run.id}:{until}",
        )


def others_with_output(job_key: str, run: FlowRun) -> dict[str, Any]:
    """The filter for the other completed runs of a job, as JSON."""
    return {
        "tags": {"all_": [job_tag(job_key)]},
        "id": {"not_any_": [str(run.id)]},
        "state": {"type": {"any_": ["COMPLETED"]}},
    }


def is_shared(others: Iterable[FlowRun]) -> bool:
    """Whether one of these runs still has its output."""
    return any(LABEL_DELETED not in run.labels for run in others)


def others_of(client: SyncPrefectClient, job_key: str, run: FlowRun) -> list[FlowRun]:
    """The other completed runs of a job."""
    return client.read_flow_runs(
        flow_filter=FlowFilter.model_validate({"name": {"any_": ["upscale"]}}),
        flow_run_filter=FlowRunFilter.model_validate(others_with_output(job_key, run)),
        limit=200,
    )


def now_deleted() -> str:
    """The value of the label of a run whose output is removed now."""
    return datetime.now(UTC).isoformat(timespec="seconds")
