"""The gateway's HTTP API: submit, watch and cancel upscaling jobs with any HTTP client.

Prefect keeps all jobs and their states. The gateway itself stores only the videos that callers
send. While Prefect cannot be reached it answers 503 with Retry-After, and the caller may send the
same request again.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from deployments.gateway.answers import Health, Job, JobList, LogPage, Submitted
from deployments.gateway.auth import (
    authentication,
    is_closed,
    page_authentication,
)
from deployments.gateway.prefect_api import PrefectApi, unavailable
from deployments.gateway.problems import add_handlers, problem, problems
from deployments.gateway.quota import Quota
from deployments.gateway.routes.docs import add_docs
from deployments.gateway.routes.events import add_events
from deployments.gateway.routes.files import JobFiles, add_files
from deployments.gateway.routes.jobs import add_jobs
from deployments.gateway.routes.page import add_page
from deployments.gateway.routes.plan import PlannedRequest, add_plan
from deployments.gateway.routes.submission import add_submission
from deployments.gateway.uploads.kept import Uploads
from deployments.gateway.uploads.routes import add_uploads
from deployments.host.hosts import HostCheck, allowed_hosts
from deployments.host.machine import this_machine
from tasks.settings import Settings
from tasks.sources.uploads import sweep_parts

SWEEP_SECONDS = 600.0
"""Time between two looks for uploads that have expired."""
HEALTH_SECONDS = 2.5
"""Who asks for the health is answered within 3 s, also where Prefect takes a call and is silent."""


def create_app(settings: Settings, prefect: PrefectApi) -> FastAPI:
    """Build the gateway's ASGI application.

    Args:
        settings: tokens, limits and the work directory, which takes the videos that are sent.
        prefect: client of the Prefect server; closed when the application shuts down.
    """

    uploads = Uploads(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        sweep_parts(settings.intake_dir)
        sweeping = asyncio.create_task(_sweep(uploads))
        yield
        sweeping.cancel()
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
    quota = Quota(settings, promised=uploads.promised)
    add_submission(app, settings, prefect, quota, authenticate)
    add_jobs(app, prefect, authenticate)
    add_events(app, prefect, authenticate)
    add_plan(app, settings, quota, authenticate)
    add_uploads(app, settings, quota, uploads, authenticate)
    _add_health(app, settings, prefect)
    add_page(app, settings, prefect, authenticate)
    add_files(app, settings, prefect, authenticate)
    shown = (Submitted, Job, JobList, LogPage, PlannedRequest, JobFiles)
    add_docs(app, page_authentication(settings), shown)
    return app


async def _sweep(uploads: Uploads) -> None:
    """Remove uploads that have expired, as long as the gateway runs."""
    while True:
        with contextlib.suppress(OSError):  # a disk that fails is told by requests
            await asyncio.to_thread(uploads.sweep)
        await asyncio.sleep(SWEEP_SECONDS)


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
