"""The bodies of callbacks: that a run has started, how far it is, how it ended."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID, uuid5

from pydantic import Field

from seedvr2_core.errors import split_code
from tasks.request.delivery import metadata_of, split_list
from tasks.run.attempts import attempts_of
from tasks.run.routing import LABEL_ROUTED_FROM
from tasks.schemas import Record

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun, State

    from tasks.run.record import JobProgress

_EVENTS = UUID("6f0f8a0e-5b8e-4a39-9a0c-2f6f1a3f7c55")
"""Namespace of the event ids."""
_PREFIX = "Flow run encountered an exception: "
"""What Prefect puts before an exception's words in a state's message."""
_MAX_ERROR = 4000
"""Longest error text in an event, in characters."""

Status = Literal["started", "progress", "completed", "failed", "cancelled", "crashed"]
_STATUSES: Mapping[str, Status] = {
    "COMPLETED": "completed",
    "FAILED": "failed",
    "CRASHED": "crashed",
    "CANCELLING": "cancelled",
    "CANCELLED": "cancelled",
}


class CallbackEvent(Record):
    """The body of a callback."""

    event: str
    """upscale.started, upscale.progress, upscale.completed, upscale.failed, upscale.cancelled,
    upscale.crashed."""
    event_id: str
    """The same event has the same id, so that a receiver can drop what it has seen."""
    occurred_at: str
    job_id: str
    routed_from: str | None
    """The `route` run that created the job, if one did; its id is the one that the caller holds."""
    attempt: int
    status: Status
    state: str
    """Prefect's name of the state: Running, Completed, Failed, TimedOut, ..."""
    filename: str | None
    cdn_url: str | None
    sha256: str | None
    error: str | None
    error_code: str | None = None
    """Of the error's class, as docs/errors.md lists it; None if it has none."""
    error_remedy: str | None = None
    tags: tuple[str, ...] = ()
    """The caller's own, like the next."""
    metadata: dict[str, Any] = Field(default_factory=dict)
    progress: float | None = None
    """0..100; of `upscale.progress` alone, like the next four."""
    phase: str | None = None
    frames_done: int | None = None
    frames: int | None = None
    seconds_left: float | None = None


def wanted_events(flow_run: "FlowRun") -> tuple[str, ...]:
    """What the caller of a run wants to be told of; () if it has named no address."""
    if not flow_run.parameters.get("callback_url"):
        return ()
    told = flow_run.parameters.get("callback_events") or "ended"
    return split_list(told) if isinstance(told, str) else ("ended",)


def event_of(flow_run: "FlowRun", state: "State[Any]", result: Mapping[str, Any]) -> CallbackEvent:
    """What the caller is told about a run's end.

    Args:
        flow_run: the run.
        state: the state in which it ended; hooks get Cancelling instead of Cancelled.
        result: row of the result artifact; empty if there is none.
    """
    status = _STATUSES[state.type.value]
    told, kind = split_code(_error(state))
    return _event(
        flow_run,
        status,
        str(status),
        state=state.name or status,
        filename=result.get("filename"),
        cdn_url=result.get("cdn_url"),
        sha256=result.get("sha256"),
        error=None if status == "completed" else told[:_MAX_ERROR],
        error_code=kind.code if kind else None,
        error_remedy=kind.remedy if kind else None,
    )


def started_event(flow_run: "FlowRun") -> CallbackEvent:
    """That an attempt of a run has begun."""
    return _event(flow_run, "started", f"started:{attempts_of(flow_run)}", state="Running")


def progress_event(flow_run: "FlowRun", progress: "JobProgress", number: int) -> CallbackEvent:
    """How far an attempt is.

    Args:
        flow_run: the run.
        progress: of the attempt.
        number: how many such events the attempt had before.
    """
    return _event(
        flow_run,
        "progress",
        f"progress:{attempts_of(flow_run)}:{number}",
        state="Running",
        progress=progress.percent,
        phase=progress.phase,
        frames_done=progress.frames,
        frames=progress.num_frames or None,
        seconds_left=progress.seconds_left,
    )


def _event(flow_run: "FlowRun", status: Status, identity: str, **told: Any) -> CallbackEvent:
    """An event of a run; `identity` names it among those of the run."""
    routed_from = flow_run.labels.get(LABEL_ROUTED_FROM)
    fields: dict[str, Any] = dict.fromkeys(("filename", "cdn_url", "sha256", "error"))
    return CallbackEvent(
        event=f"upscale.{status}",
        event_id=str(uuid5(_EVENTS, f"{flow_run.id}:{identity}")),
        occurred_at=datetime.now(UTC).isoformat(timespec="seconds"),
        job_id=str(flow_run.id),
        routed_from=str(routed_from) if routed_from else None,
        attempt=attempts_of(flow_run),
        status=status,
        **(fields | told | _noted(flow_run)),
    )


def _noted(flow_run: "FlowRun") -> dict[str, Any]:
    """Tags and metadata of the request; nothing where they are none, as such a run is refused."""
    tags, metadata = (flow_run.parameters.get(name) for name in ("tags", "metadata"))
    try:
        noted = metadata_of(metadata) if isinstance(metadata, str) else {}
    except ValueError:
        noted = {}
    return {
        "tags": split_list(tags) if isinstance(tags, str) else (),
        "metadata": noted if isinstance(noted, dict) else {},
    }


def _error(state: "State[Any]") -> str:
    """Why there is no output: the state's message, else its name."""
    message = (state.message or "").removeprefix(_PREFIX)
    return message or state.name or ""
