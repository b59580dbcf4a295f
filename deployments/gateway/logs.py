"""GET /logs/{job_id}: what a job has logged, read from Prefect page by page."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from logging import getLevelName
from typing import Annotated
from uuid import UUID

from fastapi import Depends, FastAPI, Path, Query
from pydantic import BaseModel, Field

from deployments.gateway.auth import Caller
from deployments.gateway.prefect_api import PrefectLine

MAX_LINES = 200  # the most that Prefect answers


class LogLine(BaseModel):
    """One line; Prefect takes lines in batches, so that one may come in after a later one."""

    id: UUID
    at: datetime
    level: str
    message: str


class LogPage(BaseModel):
    """Answer to GET /logs/{job_id}."""

    job_id: str
    lines: list[LogLine] = Field(description="Oldest first.")
    more: bool = Field(description="There may be more: ask again with a larger offset.")


def add_logs(
    app: FastAPI,
    line: PrefectLine,
    caller: Caller,
    find: Callable[[PrefectLine, str], Awaitable[UUID]],
) -> None:
    """Add the address.

    Args:
        app: the gateway.
        line: to Prefect.
        caller: the dependency that knows who asks.
        find: from a job id to its run; 404 where there is none.
    """

    @app.get("/logs/{job_id}", dependencies=[Depends(caller)])
    async def logs(
        job_id: Annotated[str, Path(description="The id that POST /upscale gave out.")],
        after: Annotated[datetime | None, Query(description="Only lines from then on.")] = None,
        offset: Annotated[int, Query(ge=0)] = 0,
    ) -> LogPage:
        """What a job has logged."""
        run_id = await find(line, job_id)
        found = await line.logs(run_id, after=after, limit=MAX_LINES, offset=offset)
        lines = [
            LogLine(
                id=entry["id"],
                at=entry["timestamp"],
                level=getLevelName(entry["level"]),
                message=entry["message"],
            )
            for entry in found
        ]
        return LogPage(job_id=str(run_id), lines=lines, more=len(lines) == MAX_LINES)
