"""The gateway's HTTP API: submit, watch and cancel upscaling jobs with any HTTP client.

Prefect keeps all jobs and their states. The gateway itself stores only the videos that callers
send. While Prefect cannot be reached it answers 503 with Retry-After, and the caller may send the
same request again.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Query

from deployments.gateway.answers import Health, Target, gpu_type
from deployments.gateway.auth import (
    Authenticate,
    authentication,
    is_closed,
    page_authentication,
)
from deployments.gateway.docs import add_docs
from deployments.gateway.jobs import add_jobs
from deployments.gateway.prefect_api import PrefectApi, unavailable
from deployments.gateway.problems import WITH_TOKEN, add_handlers, problem, problems
from deployments.gateway.submission import add_submission
from deployments.host.hosts import HostCheck, allowed_hosts
from deployments.host.machine import this_machine
from seedvr2_core.frames import padded_size
from seedvr2_core.planning.sizes import size_for, size_note
from tasks.request_types import Resolution
from tasks.run.routing import deployment_for
from tasks.settings import Settings
from tasks.sources.uploads import sweep_parts

HEALTH_SECONDS = 2.5
"""Who asks for the health is answered within 3 s, also where Prefect takes a call and is silent."""

Side = Annotated[int, Query(ge=1, le=65_536, description="In pixels, as displayed.")]


def create_app(settings: Settings, prefect: PrefectApi) -> FastAPI:
    """Build the gateway's ASGI application.

    Args:
        settings: tokens, limits and the work directory, which takes the videos that are sent.
        prefect: client of the Prefect server; closed when the application shuts down.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        sweep_parts(settings.intake_dir)
        yield
        await prefect.close()

    app = FastAPI(
        title="SeedVR2 upscaling",
        summary="Submit, watch and cancel upscaling jobs.",
        lifespan=lifespan,
        openapi_url=None,  # the pages are ours, behind the token
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
    )
    app.add_middleware(
        HostCheck,
        allowed=allowed_hosts(settings, guarded=is_closed(settings)),
        refuse=lambda sentence: problem(421, sentence),
    )
    add_handlers(app)
    authenticate = authentication(settings)
    add_submission(app, settings, prefect, authenticate)
    add_jobs(app, prefect, authenticate)
    _add_plan(app, authenticate)
    _add_health(app, settings, prefect)
    add_docs(app, page_authentication(settings))
    return app


def _add_plan(app: FastAPI, authenticate: Authenticate) -> None:
    """Add GET /plan."""

    @app.get("/plan", dependencies=[Depends(authenticate)], responses=problems(*WITH_TOKEN))
    async def plan(width: Side, height: Side, resolution: Resolution = "1080p") -> Target:
        """The output's size for a video displayed at this size, and where it would run."""
        return _target(width, height, resolution)


def _add_health(app: FastAPI, settings: Settings, prefect: PrefectApi) -> None:
    """Add GET /healthz."""

    @app.get("/healthz", responses=problems(503), response_model_exclude_none=True)
    async def healthz() -> Health:
        """200 while jobs can be submitted, 503 while Prefect cannot be reached; needs no token."""
        try:
            async with asyncio.timeout(HEALTH_SECONDS):
                await prefect.check()
        except TimeoutError as error:
            raise unavailable(f"does not answer within {HEALTH_SECONDS:g} s") from error
        return Health(status="ok", files_of=this_machine() if settings.allow_local_files else None)


def _target(width: int, height: int, resolution: str) -> Target:
    """Compute the answer to GET /plan; no video is read."""
    out_width, out_height = size_for(width, height, resolution)
    model_height, model_width = padded_size(out_height, out_width)
    deployment = deployment_for(resolution)
    notes = [size_note(width, height, resolution)]
    if out_width * out_height < width * height:
        notes.append("the source is larger than the output and is scaled down")
    return Target(
        resolution=resolution,
        width=out_width,
        height=out_height,
        model_width=model_width,
        model_height=model_height,
        gpu_type=gpu_type(deployment) or deployment,
        deployment=deployment,
        notes=[note for note in notes if note],
    )
