"""The gateway's answers about jobs, made from a job's flow run and artifacts in Prefect."""

from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime
from typing import Any, Literal

from prefect.client.schemas.objects import Artifact, FlowRun
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from seedvr2_core.errors import split_code
from tasks.request.delivery import metadata_of, split_list
from tasks.request.shared import PreviewPart
from tasks.run import read_progress, read_result
from tasks.run.appointments import LABEL_RECOVERIES, LABEL_RECOVERING, MAX_RECOVERIES, recoveries_of
from tasks.run.artifacts import SavedProgress
from tasks.run.retention import LABEL_DELETED, LABEL_EXPIRES
from tasks.schemas import Account
from tasks.sources.kinds import SourceKind, kind_of_url
from tasks.sources.names import name_in

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
_WHILE_AT_WORK = ("frames_per_second", "seconds_left_low", "seconds_left_high")
"""Measures that end with the work."""
_PREFIX = "Flow run encountered an exception: "
_WAITING = "waiting for "
"""The message of a run that has left its worker to wait begins with this."""


_ID = "6a1fb6a8-2f0a-4d8e-9a53-0c9c5a7c9d11"
_SUBMITTED: dict[str, Any] = {
    "job_id": _ID,
    "status": "pending",
    "gpu_type": "H100",
    "deployment": "upscale/h100",
    "resolution": "1080p",
    "video_url": "https://example.org/a.mp4",
    "notes": [],
}
_JOB: dict[str, Any] = {
    "job_id": _ID,
    "status": "completed",
    "state": "Completed",
    "progress": 100.0,
    "phase": "verify",
    "source_name": "a.mp4",
    "engine": "seedvr2-7b",
    "width": 1920,
    "height": 1080,
    "frames": 750,
    "frames_done": 750,
    "segment": 3,
    "segments": 3,
    "frames_per_second": None,
    "seconds_left": None,
    "seconds_left_low": None,
    "seconds_left_high": None,
    "estimated_seconds": 300.0,
    "taken_seconds": 311.2,
    "device": "cuda:0",
    "seed": 100,
    "gpu_seconds": 305.9,
    "cost": 0.34,
    "detail": None,
    "position": None,
    "gpu_type": "H100",
    "resolution": "1080p",
    "download_url": "https://cdn.example.org/a_1080p_0123456789ab.mp4",
    "output_path": None,
    "filename": "a_1080p_0123456789ab.mp4",
    "input_size_mb": 3.1,
    "output_size_mb": 12.25,
    "error": None,
    "error_code": None,
    "error_remedy": None,
    "elapsed_seconds": 320.5,
    "submitted_at": "2026-11-28T09:00:00Z",
    "notes": [],
    "waiting_for": None,
    "tags": ["trailer"],
    "metadata": {"order": 17},
    "expires_at": None,
    "deleted_at": None,
}


def example(value: dict[str, Any]) -> ConfigDict:
    """Show this answer in the OpenAPI."""
    return ConfigDict(json_schema_extra={"examples": [value]})


class Submitted(BaseModel):
    """Answer to POST /upscale."""

    model_config = example(_SUBMITTED)

    job_id: str = Field(description="Names the job at every address from now on.")
    status: Status = Field(description="`pending`, unless an equal request was sent before.")
    gpu_type: str = Field(description="The workers that take it: `H100`, `local`.")
    deployment: str = Field(description="The deployment in Prefect that runs it.")
    resolution: str = Field(description="As the request has it, in lower case.")
    video_url: str | None = Field(description="The source; upload:... is a video that was sent.")
    notes: list[str] = Field(description="What was changed in the request, and why.")


class Job(BaseModel):
    """Answer to GET /status/{job_id}."""

    model_config = example(_JOB)

    job_id: str = Field(description="As it was asked for.")
    status: Status = Field(description="The last three are ends.")
    state: str = Field(description="Name of Prefect's state: Late, Running, TimedOut, ...")
    progress: float = Field(description="0..100.")
    phase: str | None = Field(
        description="The kind of work under way: `encode`, `dit`, `decode`, `upload` ...; null "
        "before it begins."
    )
    source_name: str | None = Field(description="The source's file name, as far as it has one.")
    engine: str | None = Field(
        description="What restores the frames. Null until that is decided, if it was left open."
    )
    width: int | None = Field(description="Width of the result in pixels; null until planned.")
    height: int | None = Field(description="Height of the result in pixels; null until planned.")
    frames: int | None = Field(description="Frames of the result; null until planned.")
    frames_done: int | None = Field(
        description="Frames restored so far, those that an earlier run has kept included."
    )
    seconds_left: float | None = Field(
        description="Expected seconds until the result is stored; null if it is not at work."
    )
    seconds_left_low: float | None = Field(
        default=None, description="The least that `seconds_left` may be, by what is known so far."
    )
    seconds_left_high: float | None = Field(default=None, description="The most that it may be.")
    segment: int | None = Field(
        default=None, description="The segment at work, counted from 1; all before it are kept."
    )
    segments: int | None = Field(
        default=None, description="Segments of the job; null until planned."
    )
    frames_per_second: float | None = Field(
        default=None, description="Restored frames a second, as measured; null if not at work."
    )
    estimated_seconds: float | None = Field(
        default=None,
        description="What the last run was expected to take, from its plan to the stored result.",
    )
    taken_seconds: float | None = Field(
        default=None, description="What it has taken, as measured; null until it has completed."
    )
    device: str | None = Field(
        default=None, description="What the engine runs on: `cpu`, `cuda:0`; null until planned."
    )
    seed: int | None = Field(
        default=None, description="Seed of the noise; null for engines that draw none."
    )
    engine_was_warm: bool | None = Field(
        default=None,
        description="Whether an earlier job had loaded the engine; null until it has completed, "
        "and if it needed none.",
    )
    gpu_seconds: float | None = Field(
        default=None,
        description="Seconds for which the job has held its GPU, in all of its runs; null on a "
        "CPU.",
    )
    cost: float | None = Field(
        default=None,
        description="What those seconds, or those of the CPU, cost; null where the operator has "
        "not said what an hour costs.",
    )
    detail: str | None = Field(
        description="What goes on where frames do not say it: `30 of 400 MB`, `waiting for cuda:0`."
    )
    position: int | None = Field(
        description="How many jobs wait for the same workers in front of this one; 0: it is the "
        "next. Null if it does not wait."
    )
    gpu_type: str | None = Field(description="The workers that take it: `H100`, `local`.")
    resolution: str | None = Field(description="As the request has it; null: the default.")
    download_url: str | None = Field(
        description="Address of the result; null until it is stored, and where the storage has no "
        "public address."
    )
    output_path: str | None = Field(description="Where a local storage keeps the output.")
    filename: str | None = Field(description="Name of the result in storage.")
    input_size_mb: float | None = Field(description="Size of the source in MB (10^6 bytes).")
    output_size_mb: float | None = Field(description="Size of the result in MB.")
    error: str | None = Field(description="Why there is no result, in one sentence.")
    error_code: str | None = Field(
        default=None,
        description="Names the kind of error; it never changes. Null: no kind of ours.",
    )
    error_remedy: str | None = Field(
        default=None, description="What helps against all errors of this kind."
    )
    elapsed_seconds: float = Field(description="Seconds for which its runs have been at work.")
    submitted_at: datetime | None = Field(description="When the job was created.")
    notes: list[str] = Field(description="What the result differs in from what was expected.")
    waiting_for: str | None = Field(
        default=None, description="What a job waits for that has left its worker meanwhile."
    )
    preview: PreviewPart | None = Field(
        default=None, description="What a preview shows of the whole job; null: it is none."
    )
    whole_with: str | None = Field(
        default=None,
        description="Of a completed preview: a POST to this address, which is relative to the "
        "gateway's, submits the whole video. It keeps the preview's segments.",
    )
    tags: list[str] = Field(default=[], description="The caller's own words.")
    metadata: dict[str, Any] = Field(default={}, description="What the caller has noted.")
    expires_at: datetime | None = Field(
        default=None, description="When the output is removed; null: never, or not known yet."
    )
    deleted_at: datetime | None = Field(
        default=None, description="When the output was removed; null: it was not."
    )


class JobList(BaseModel):
    """Answer to GET /jobs."""

    model_config = example({"jobs": [_JOB], "limit": 20, "offset": 0})

    jobs: list[Job] = Field(description="Newest first.")
    limit: int = Field(description="Length of the page that was asked for.")
    offset: int = Field(description="How many newer jobs were left out.")


def gpu_type(pool: str | None) -> str | None:
    """The old service's name of a pool or deployment: H100 for h100, but local for local."""
    name = (pool or "").rpartition("/")[2]
    return (name.upper() if name[-1:].isdigit() else name) or None


def status_word(run: FlowRun) -> Status:
    """The status that callers see for a run's state.

    Two kinds of runs that have ended still count as "processing": a crashed run that `recover`
    watches and may still restart, and a run that `recover` has cancelled to restart it, which its
    worker may call crashed meanwhile.
    """
    kind = run.state.type.value if run.state else "SCHEDULED"
    if kind in ("CANCELLED", "CRASHED") and run.labels.get(LABEL_RECOVERING):
        return "processing"
    watched = LABEL_RECOVERIES in run.labels
    if kind == "CRASHED" and watched and recoveries_of(run) < MAX_RECOVERIES:
        return "processing"
    return _WORDS[kind]


def describe(run: FlowRun, artifacts: Iterable[Artifact], *, position: int | None) -> Job:
    """A job from its run and its artifacts, newest first.

    Args:
        run: the job's flow run.
        artifacts: of this run, others among them are left out.
        position: how many jobs wait in front of it; None if it does not wait.
    """
    own = [a for a in artifacts if a.flow_run_id == run.id]
    progress, result = read_progress(own), read_result(own)
    planned = {**_planned(progress), **result}
    deleted = run.labels.get(LABEL_DELETED)
    where = {} if deleted else result
    status = status_word(run)
    error, kind = split_code(_error(run, status) or "")
    measured = asdict(progress.measures)
    if status != "processing":
        measured |= dict.fromkeys(_WHILE_AT_WORK)
    measured |= {k: v for k, v in result.items() if k in Account.model_fields and v is not None}
    return Job(
        job_id=str(run.id),
        status=status,
        state=run.state.name or "" if run.state else "",
        progress=100.0 if status == "completed" else progress.percent or 0.0,
        phase=progress.phase,
        source_name=_source_name(run),
        engine=planned.get("engine") or _asked_engine(run),
        width=planned.get("width"),
        height=planned.get("height"),
        frames=planned.get("frames"),
        frames_done=planned.get("frames") if status == "completed" else progress.frames,
        seconds_left=progress.seconds_left if status == "processing" else None,
        detail=progress.detail or None if status == "processing" else None,
        position=position,
        gpu_type=gpu_type(run.work_pool_name),
        resolution=run.parameters.get("resolution"),
        download_url=where.get("cdn_url"),
        output_path=where.get("output_path"),
        filename=result.get("filename"),
        input_size_mb=planned.get("input_size_mb"),
        output_size_mb=result.get("output_size_mb"),
        error=error or None,
        error_code=kind.code if kind else None,
        error_remedy=kind.remedy if kind else None,
        elapsed_seconds=round(run.estimated_run_time.total_seconds(), 1),
        submitted_at=run.created,
        notes=list(result.get("notes") or ()),
        waiting_for=_waiting_for(run),
        preview=planned.get("preview"),
        whole_with=f"whole/{run.id}" if status == "completed" and planned.get("preview") else None,
        expires_at=_moment(run.labels.get(LABEL_EXPIRES)),
        deleted_at=_moment(deleted),
        **_callers_own(run),
        **measured,
    )


def _callers_own(run: FlowRun) -> dict[str, Any]:
    """Tags and metadata of the request. Other doors than ours may have let anything through."""
    tags, metadata = run.parameters.get("tags"), run.parameters.get("metadata")
    try:
        noted = metadata_of(metadata) if isinstance(metadata, str) else {}
    except ValueError:
        noted = {}
    return {
        "tags": list(split_list(tags)) if isinstance(tags, str) else [],
        "metadata": noted if isinstance(noted, dict) else {},
    }


def _planned(progress: SavedProgress) -> dict[str, Any]:
    """What the plan says the job will make; {} before it is planned, or if we cannot read it."""
    try:
        prospect = progress.prospect
    except ValidationError:  # written by a newer version, while this gateway is not yet updated
        return {}
    return prospect.model_dump() if prospect else {}


def _source_name(run: FlowRun) -> str | None:
    """The file name of the source, without directories, host or query."""
    source = run.parameters.get("video_url") or run.parameters.get("video_path")
    if not isinstance(source, str):
        return None
    is_upload = kind_of_url(source) is SourceKind.UPLOAD
    name = source.partition("/")[2] if is_upload else name_in(source)
    return name or None


def _asked_engine(run: FlowRun) -> str | None:
    """The engine that the request named; None if it left the choice open."""
    asked = run.parameters.get("model")
    return asked if asked != "auto" else None


def _moment(label: object) -> datetime | None:
    """The time that a label of a run holds."""
    return datetime.fromisoformat(label) if isinstance(label, str) else None


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
