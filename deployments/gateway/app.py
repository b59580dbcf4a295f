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

from deployments.gateway.answers import Job, JobList, Submitted
from deployments.gateway.auth import (
    authentication,
    is_closed,
    page_authentication,
)
from deployments.gateway.limits.open_jobs import OpenJobs
from deployments.gateway.limits.per_minute import RateHeaders, RateLimit
from deployments.gateway.prefect_api import PrefectApi
from deployments.gateway.problems import add_handlers, problem
from deployments.gateway.quota import Quota
from deployments.gateway.routes.again import add_again
from deployments.gateway.routes.deletion import add_deletion
from deployments.gateway.routes.docs import add_docs
from deployments.gateway.routes.events import add_events
from deployments.gateway.routes.files import JobFiles, add_files
from deployments.gateway.routes.health import add_health, add_metrics
from deployments.gateway.routes.jobs import LogPage, add_jobs
from deployments.gateway.routes.page import add_page
from deployments.gateway.routes.plan import PlannedRequest, add_plan
from deployments.gateway.routes.submission import add_submission
from deployments.gateway.uploads.kept import Uploads
from deployments.gateway.uploads.routes import add_uploads
from deployments.host.hosts import HostCheck, allowed_hosts
from tasks.settings import Settings
from tasks.sources.uploads import sweep_parts

SWEEP_SECONDS = 600.0
"""Time between two looks for uploads that have expired."""


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
    app.add_middleware(RateHeaders)
    add_handlers(app)
    authenticate = authentication(settings, RateLimit(settings))
    quota = Quota(settings, promised=uploads.promised)
    open_jobs = OpenJobs(settings, prefect)
    add_submission(app, settings, prefect, quota, open_jobs, authenticate)
    add_jobs(app, prefect, authenticate)
    add_deletion(app, settings, prefect, authenticate)
    add_events(app, prefect, authenticate)
    add_plan(app, settings, quota, authenticate)
    add_uploads(app, settings, quota, uploads, authenticate)
    add_health(app, settings, prefect)
    add_metrics(app, settings, prefect)
    add_again(app, settings, prefect, open_jobs, authenticate)
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
