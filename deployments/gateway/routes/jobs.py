"""What callers ask about their jobs: status, list, log; and how they cancel one."""

from collections.abc import Iterable
from datetime import UTC, datetime
from logging import getLevelName
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, FastAPI, HTTPException, Path, Query
from prefect.client.schemas.objects import Artifact, FlowRun
from pydantic import BaseModel, Field

from deployments.gateway.answers import (
    STATE_TYPES,
    Job,
    JobList,
    Status,
    describe,
    example,
    status_word,
)
from deployments.gateway.auth import Authenticate, Caller
from deployments.gateway.prefect_api import PrefectApi
from deployments.gateway.problems import WITH_TOKEN, problems
from tasks.request.delivery import MAX_TAGS

MAX_LINES = 200  # Prefect returns no more in one answer
MAX_OFFSET = 1_000_000_000
_JOB_ID = "6a1fb6a8-2f0a-4d8e-9a53-0c9c5a7c9d11"

JobId = Annotated[
    str,
    Path(
        description="The job_id that POST /upscale answered.",
        examples=[_JOB_ID],
    ),
]
Offset = Annotated[int, Query(ge=0, le=MAX_OFFSET, description="How many to leave out.")]
_READ = (*WITH_TOKEN, 503)
_LINE: dict[str, Any] = {
    "id": "0d5c9a0e-8a3c-4c43-9a8e-3f0b7d1c2e55",
    "at": "2026-11-28T09:00:05Z",
    "level": "INFO",
    "message": "750 frames of 320x180 become 1920x1080",
}


class LogLine(BaseModel):
    """One line of a log.

    Prefect receives lines in batches, so a line may arrive after others with a later time.
    """

    model_config = example(_LINE)

    id: UUID = Field(description="Of the line: one that came before can be left out.")
    at: datetime = Field(description="When it was written, by the clock of the job's machine.")
    level: str = Field(description="`INFO`, `WARNING`, `ERROR` ...")
    message: str = Field(description="The text.")


class LogPage(BaseModel):
    """Answer to GET /logs/{job_id}."""

    model_config = example({"job_id": _JOB_ID, "lines": [_LINE], "more": False})

    job_id: str = Field(description="The job whose lines these are.")
    lines: list[LogLine] = Field(description="Oldest first.")
    more: bool = Field(description="There may be more lines; ask again with a larger offset.")


def add_jobs(app: FastAPI, prefect: PrefectApi, authenticate: Authenticate) -> None:
    """Add GET /status/{job_id}, POST /cancel/{job_id}, GET /jobs and GET /logs/{job_id}."""

    @app.get("/status/{job_id}", responses=problems(*_READ, 404))
    async def status(job_id: JobId, caller: Annotated[Caller, Depends(authenticate)]) -> Job:
        """State, progress and result of a job."""
        run = await find_run(prefect, caller, job_id)
        return await _read_job(prefect, run)

    @app.post("/cancel/{job_id}", responses=problems(*_READ, 404, 409))
    async def cancel(job_id: JobId, caller: Annotated[Caller, Depends(authenticate)]) -> Job:
        """Cancel a job; its finished segments are kept. 409 if it has completed or failed."""
        run = await find_run(prefect, caller, job_id)
        word = status_word(run)
        if word in ("completed", "failed"):
            raise HTTPException(409, f"job {run.id} has {word} and cannot be cancelled")
        if word != "cancelled":
            await prefect.cancel(run.id)
            run = await find_run(prefect, caller, job_id)
        return await _read_job(prefect, run)

    @app.get("/jobs", responses=problems(*_READ))
    async def jobs(
        caller: Annotated[Caller, Depends(authenticate)],
        status: Annotated[Status | None, Query(description="Only jobs in this state.")] = None,
        tag: Annotated[
            list[str],
            Query(max_length=MAX_TAGS, description="Only jobs with this tag; several: with all."),
        ] = [],  # noqa: B006 - FastAPI copies it
        limit: Annotated[int, Query(ge=1, le=100, description="Length of the page.")] = 20,
        offset: Offset = 0,
    ) -> JobList:
        """List the caller's jobs, newest first; with an operator's token those of everybody."""
        types = STATE_TYPES[status] if status else ()
        tags = [_own(one) for one in tag] + ([] if caller.sees_all else [caller.tag])
        runs = await prefect.jobs(state_types=types, tags=tags, limit=limit, offset=offset)
        artifacts = await prefect.artifacts([run.id for run in runs]) if runs else []
        found = [await _described(prefect, run, artifacts) for run in runs]
        return JobList(jobs=found, limit=limit, offset=offset)

    @app.get("/logs/{job_id}", responses=problems(*_READ, 404))
    async def logs(
        job_id: JobId,
        caller: Annotated[Caller, Depends(authenticate)],
        after: Annotated[datetime | None, Query(description="Only lines since then.")] = None,
        offset: Offset = 0,
    ) -> LogPage:
        """Lines that a job has logged, oldest first."""
        since = _utc(after)
        run = await find_run(prefect, caller, job_id)
        found = await prefect.logs(run.id, after=since, limit=MAX_LINES, offset=offset)
        lines = [_line_of(entry) for entry in found]
        return LogPage(job_id=str(run.id), lines=lines, more=len(lines) == MAX_LINES)


async def find_run(prefect: PrefectApi, caller: Caller, job_id: str) -> FlowRun:
    """Find the flow run of a job.

    Raises:
        HTTPException: 404, this caller has no such job. Whether somebody else has is not told.
    """
    missing = HTTPException(404, f"there is no job {job_id[:80]!r}")
    try:
        run = await prefect.find_job(UUID(job_id))
    except ValueError as error:
        raise missing from error
    if run is None or not caller.may_see(run):
        raise missing
    return run


async def _read_job(prefect: PrefectApi, run: FlowRun) -> Job:
    """Read a job's artifacts and describe it.

    We make the calls one after the other: the server does not answer two at once any sooner, and
    under load it answers everybody later.
    """
    return await _described(prefect, run, await prefect.artifacts_of(run.id))


async def _described(prefect: PrefectApi, run: FlowRun, artifacts: Iterable[Artifact]) -> Job:
    """A job with its place in the queue."""
    return describe(run, artifacts, position=await prefect.position(run))


def _line_of(entry: dict[str, Any]) -> LogLine:
    """A line of Prefect's log, as callers get it."""
    return LogLine(
        id=entry["id"],
        at=entry["timestamp"],
        level=getLevelName(entry["level"]),
        message=entry["message"],
    )


def _own(tag: str) -> str:
    """A tag as callers give it. Those with a colon are ours, and nobody searches by them."""
    if not tag.strip() or ":" in tag:
        raise HTTPException(422, f"tag: {tag[:60]!r} is no tag that a job may have")
    return tag.strip()


def _utc(moment: datetime | None) -> datetime | None:
    """The same moment in UTC, which is what Prefect compares; without a zone it is UTC already.

    Raises:
        HTTPException: 422, the moment lies before the year 1 or after 9999 in UTC.
    """
    if moment is None or moment.tzinfo is None:
        return moment and moment.replace(tzinfo=UTC)
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise HTTPException(422, "after: this moment is in no year that we can compare") from error
