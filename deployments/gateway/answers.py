"""The gateway's answers about jobs, made from a job's flow run and artifacts in Prefect."""

from collections.abc import Iterable
from datetime import datetime
from typing import Literal

from prefect.client.schemas.objects import Artifact, FlowRun
from pydantic import BaseModel, Field

from tasks.run import read_progress, read_result
from tasks.run.appointments import LABEL_RECOVERIES, LABEL_RECOVERING, MAX_RECOVERIES, recoveries_of

Status = Literal["pending", "processing", "completed", "failed", "cancelled"]

STATE_TYPES: dict[Status, tuple[str, ...]] = {
    "pending": ("SCHEDULED", "PENDING", "PAUSED"),
    "processing": ("RUNNING", "CANCELLING"),
    "completed": ("COMPLETED",),
    "failed": ("FAILED", "CRASHED"),
    "cancelled": ("CANCELLED",),
}
"""Prefect's state types for each status; a state such as Late or TimedOut has one of them."""
_WORDS: dict[str, Status] = {t: word for word, types in STATE_TYPES.items() for t in types}
_PREFIX = "Flow run encountered an exception: "
_WAITING = "waiting for "
"""The message of a run that has left its worker to wait begins with this."""


class Submitted(BaseModel):
    """Answer to POST /upscale."""

    job_id: str
    status: Status
    gpu_type: str
    deployment: str
    resolution: str
    video_url: str | None = Field(description="The source; upload:... is a video that was sent.")
    notes: list[str] = Field(description="What was changed in the request, and why.")


class Job(BaseModel):
    """Answer to GET /status/{job_id}."""

    job_id: str
    status: Status
    state: str = Field(description="Name of Prefect's state: Late, Running, TimedOut, ...")
    progress: float = Field(description="0..100.")
    phase: str | None
    gpu_type: str | None
    resolution: str | None
    download_url: str | None
    output_path: str | None = Field(description="Where a local storage keeps the output.")
    filename: str | None
    input_size_mb: float | None
    output_size_mb: float | None
    error: str | None
    elapsed_seconds: float
    submitted_at: datetime | None
    notes: list[str]
    waiting_for: str | None = Field(
        default=None, description="What a job waits for that has left its worker meanwhile."
    )


class JobList(BaseModel):
    """Answer to GET /jobs."""

    jobs: list[Job]
    limit: int
    offset: int


def gpu_type(pool: str | None) -> str | None:
    """The old service's name of a pool or deployment: H100 for h100, but local for local."""
    name = (pool or "").rpartition("/")[2]
    return (name.upper() if name[-1:].isdigit() else name) or None


def status_word(run: FlowRun) -> Status:
    """The status that callers see for a run's state.

    Two kinds of runs that have ended still count as "processing": a crashed run that `recover`
    watches and may still restart, and a run that `recover` has cancelled to restart it.
    """
    kind = run.state.type.value if run.state else "SCHEDULED"
    if kind == "CANCELLED" and run.labels.get(LABEL_RECOVERING):
        return "processing"
    watched = LABEL_RECOVERIES in run.labels
    if kind == "CRASHED" and watched and recoveries_of(run) < MAX_RECOVERIES:
        return "processing"
    return _WORDS[kind]


def describe(run: FlowRun, artifacts: Iterable[Artifact]) -> Job:
    """A job from its run and its artifacts, newest first."""
    own = [a for a in artifacts if a.flow_run_id == run.id]
    progress, result = read_progress(own), read_result(own)
    status = status_word(run)
    return Job(
        job_id=str(run.id),
        status=status,
        state=run.state.name or "" if run.state else "",
        progress=100.0 if status == "completed" else progress.percent or 0.0,
        phase=progress.phase,
        gpu_type=gpu_type(run.work_pool_name),
        resolution=run.parameters.get("resolution"),
        download_url=result.get("cdn_url"),
        output_path=result.get("output_path"),
        filename=result.get("filename"),
        input_size_mb=result.get("input_size_mb"),
        output_size_mb=result.get("output_size_mb"),
        error=_error(run, status),
        elapsed_seconds=round(run.estimated_run_time.total_seconds(), 1),
        submitted_at=run.created,
        notes=list(result.get("notes") or ()),
        waiting_for=_waiting_for(run),
    )


def _waiting_for(run: FlowRun) -> str | None:
    """What a run waits for, as its state says it; None if it is not waiting."""
    told = (run.state.message or "") if run.state and run.state.name == "AwaitingRetry" else ""
    return told.removeprefix(_WAITING) if told.startswith(_WAITING) else None


def _error(run: FlowRun, status: Status) -> str | None:
    """Why the job has no output: the message of its state, else the state's name."""
    if status not in ("failed", "cancelled") or run.state is None:
        return None
    message = (run.state.message or "").removeprefix(_PREFIX)
    return message or run.state.name
