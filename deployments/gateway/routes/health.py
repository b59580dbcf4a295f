"""What machines ask about the gateway: is it alive, can it do its work, what are its figures."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Annotated, Literal

from fastapi import Depends, FastAPI, HTTPException, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ConfigDict, Field

from deployments.gateway.auth import Caller, metrics_authentication
from deployments.gateway.metrics.exposition import RequestCounts, exposition
from deployments.gateway.metrics.figures import Readings
from deployments.gateway.prefect_api import PrefectApi, unavailable
from deployments.gateway.problems import problem, problems
from deployments.gateway.routes.docs import json_refusals
from deployments.host.machine import this_machine
from seedvr2_core.files.place import try_writing
from tasks.settings import Settings

HEALTH_SECONDS = 2.5
"""Who asks for the health is answered within 3 s, also where Prefect takes a call and is silent."""
RETRY_AFTER_SECONDS = 10

_METRICS = {
    200: {
        "description": "The metrics in Prometheus' text format.",
        "content": {"text/plain": {"example": 'seedvr2_jobs{pool="h100",status="pending"} 3.0\n'}},
    }
}


class Health(BaseModel):
    """Answer to GET /healthz."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "ok", "files_of": None}]})

    status: Literal["ok"] = Field(description="Jobs can be submitted.")
    files_of: str | None = Field(
        default=None,
        description="If this gateway accepts paths: the machine whose files they mean. A caller "
        "sends a path only if its own machine has the same name.",
    )


class ReadyCheck(BaseModel):
    """One of the checks of `GET /readyz`."""

    ok: bool = Field(description="Whether it is as it should be.")
    seconds: float = Field(description="How long the check took.")
    detail: str | None = Field(default=None, description="What is wrong; null if nothing is.")


class Readiness(BaseModel):
    """Answer to GET /readyz."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "status": "ready",
                    "checks": {
                        "prefect": {"ok": True, "seconds": 0.004},
                        "database": {"ok": True, "seconds": 0.006},
                        "work_dir": {"ok": True, "seconds": 0.001},
                    },
                }
            ]
        }
    )

    status: Literal["ready"] = Field(description="All checks are well.")
    checks: dict[str, ReadyCheck] = Field(
        description="`prefect`, `database`, `work_dir`: a `ReadyCheck` each."
    )


def add_health(app: FastAPI, settings: Settings, prefect: PrefectApi) -> None:
    """Add GET /healthz and GET /readyz, which need no token."""
    work_dir = WorkDirCheck(settings)

    @app.get("/healthz", responses=problems(503), response_model_exclude_none=True)
    async def healthz() -> Health:
        """200 while jobs can be submitted, 503 while Prefect cannot be reached; needs no token."""
        try:
            async with asyncio.timeout(HEALTH_SECONDS):
                await prefect.check()
        except TimeoutError as error:
            raise unavailable(f"does not answer within {HEALTH_SECONDS:g} s") from error
        return Health(status="ok", files_of=this_machine() if settings.allow_local_files else None)

    @app.get("/readyz", responses=problems(503), response_model=Readiness)
    async def readyz() -> Readiness | Response:
        """200 if Prefect answers, its database does, and the work directory can be written.

        Each check takes 2.5 s at most. 503 names what fails; needs no token.
        """
        names = ("prefect", "database", "work_dir")
        looks = (prefect.check, prefect.check_database, work_dir.look)
        checks = dict(zip(names, await asyncio.gather(*map(_checked, looks)), strict=True))
        told = "; ".join(
            f"{name}: {check.detail}" for name, check in checks.items() if check.detail
        )
        if told:
            return problem(503, told, {"Retry-After": str(RETRY_AFTER_SECONDS)})
        return Readiness(status="ready", checks=checks)


def add_metrics(app: FastAPI, settings: Settings, prefect: PrefectApi) -> None:
    """Add GET /metrics, for an operator's token or one of SEEDVR2_GATEWAY_METRICS_TOKENS."""
    readings, requests = Readings(prefect), Counter[tuple[str, str]]()
    app.add_middleware(RequestCounts, counts=requests)
    authenticate = metrics_authentication(settings)

    @app.get(
        "/metrics",
        response_class=Response,
        responses={**_METRICS, **json_refusals(problems(401, 403))},
    )
    async def metrics(_: Annotated[Caller, Depends(authenticate)]) -> Response:
        """Figures for Prometheus: jobs by state, queue age, workers at work, frames, errors.

        They are read from Prefect at most once in 10 s. They are about the jobs of everybody, so an
        operator's token is needed, or one that may read the metrics and nothing else.
        """
        figures = await readings.latest()
        text = exposition(figures, readings.totals, requests)
        return Response(text, media_type=CONTENT_TYPE_LATEST)


async def _checked(look: Callable[[], Awaitable[None]]) -> ReadyCheck:
    """Make a check, for a bounded time."""
    began, detail = time.monotonic(), None
    try:
        async with asyncio.timeout(HEALTH_SECONDS):
            await look()
    except TimeoutError:
        detail = f"no answer within {HEALTH_SECONDS:g} s"
    except HTTPException as error:
        detail = str(error.detail).partition(";")[0]
    except OSError as error:
        detail = f"{error.strerror or error}"
    return ReadyCheck(ok=detail is None, seconds=round(time.monotonic() - began, 3), detail=detail)


class WorkDirCheck:
    """Whether the work directory can be written.

    All who ask at one time wait for the same look, so that a disk that hangs holds one thread.
    """

    def __init__(self, settings: Settings) -> None:
        self._folder = settings.work_dir.absolute()
        self._looking: asyncio.Task[None] | None = None

    async def look(self) -> None:
        """Write a small file and remove it.

        Raises:
            OSError: the directory cannot be written.
        """
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(asyncio.to_thread(self._write))
        await asyncio.shield(self._looking)

    def _write(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        try_writing(self._folder)
