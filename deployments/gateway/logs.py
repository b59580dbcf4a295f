"""GET /logs/{job_id}: the log of a job, read from Prefect page by page."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from logging import getLevelName
from typing import Annotated
from uuid import UUID

from fastapi import Depends, FastAPI, Path, Query
from pydantic import BaseModel, Field

from deployments.gateway.auth import Authenticate
from deployments.gateway.prefect_api import PrefectApi

MAX_LINES = 200  # Prefect returns no more in one answer


class LogLine(BaseModel):
    """One line of a log.

    Prefect receives lines in batches, so a line may arrive after others with a later time.
    """

    id: UUID
    at: datetime
    level: str
    message: str


class LogPage(BaseModel):
    """Answer to GET /logs/{job_id}."""

    job_id: str
    lines: list[LogLine] = Field(description="Oldest first.")
    more: bool = Field(description="There may be more lines; ask again with a larger offset.")


def add_logs(
    app: FastAPI,
    prefect: PrefectApi,
    authenticate: Authenticate,
    find_run_id: Callable[[PrefectApi, str], Awaitable[UUID]],
) -> None:
    """Add GET /logs/{job_id}.

    Args:
        app: the gateway's application.
        prefect: client of the Prefect server.
        authenticate: dependency that checks the caller's token.
        find_run_id: gives the id of a job's flow run; raises HTTPException 404 if there is none.
    """

    @app.get("/logs/{job_id}", dependencies=[Depends(authenticate)])
    async def logs(
        job_id: Annotated[str, Path(description="The job_id that POST /upscale answered.")],
        after: Annotated[datetime | None, Query(description="Only lines since then.")] = None,
        offset: Annotated[int, Query(ge=0)] = 0,
    ) -> LogPage:
        """Lines that a job has logged, oldest first."""
        run_id = await find_run_id(prefect, job_id)
        found = await prefect.logs(run_id, after=after, limit=MAX_LINES, offset=offset)
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
