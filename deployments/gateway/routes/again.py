"""A job that is asked for once more: one that failed, or the whole video of a preview."""

import asyncio
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from prefect.client.schemas.objects import FlowRun

from deployments.gateway.answers import Submitted, gpu_type, status_word
from deployments.gateway.auth import Authenticate, Caller
from deployments.gateway.limits.open_jobs import OpenJobs
from deployments.gateway.prefect_api import PrefectApi
from deployments.gateway.problems import WITH_TOKEN, problems
from deployments.gateway.routes.jobs import JobId, find_run
from seedvr2_core.errors import SeedVR2Error
from tasks.plan import size_to_route
from tasks.request.delivery import split_list
from tasks.run import read_result
from tasks.run.routing import LABEL_RESOLUTION, deployment_for
from tasks.schemas import check_request
from tasks.settings import Settings


def add_again(
    app: FastAPI,
    settings: Settings,
    prefect: PrefectApi,
    open_jobs: OpenJobs,
    authenticate: Authenticate,
) -> None:
    """Add POST /retry/{job_id} and POST /whole/{job_id}."""
    refusals = problems(*WITH_TOKEN, 404, 409, 503)

    async def submit(run: FlowRun, caller: Caller, *, why: str, note: str) -> Submitted:
        size = await asyncio.to_thread(_size_of, run, settings)
        return await _create(prefect, open_jobs, caller, run, size, why=why, note=note)

    @app.post("/retry/{job_id}", status_code=202, responses=refusals)
    async def retry(job_id: JobId, caller: Annotated[Caller, Depends(authenticate)]) -> Submitted:
        """Submit a failed or cancelled job again; it goes on with the segments that are kept.

        It becomes a new job with the same source and options. Asked twice, it is the same one.
        """
        run = await find_run(prefect, caller, job_id)
        word = status_word(run)
        if word not in ("failed", "cancelled"):
            raise HTTPException(409, f"job {run.id} is {word}; only failed ones are tried again")
        return await submit(run, caller, why="retry", note=f"tries job {run.id} again")

    @app.post("/whole/{job_id}", status_code=202, responses=refusals)
    async def whole(job_id: JobId, caller: Annotated[Caller, Depends(authenticate)]) -> Submitted:
        """Submit the whole video of a completed preview; it keeps the preview's segments.

        It becomes a new job with the same source and options. Asked twice, it is the same one.
        """
        run = await find_run(prefect, caller, job_id)
        word = status_word(run)
        if word != "completed":
            raise HTTPException(409, f"job {run.id} is {word}; a preview must be completed first")
        if not read_result(await prefect.artifacts_of(run.id)).get("preview"):
            raise HTTPException(409, f"job {run.id} is no preview: its result is the whole video")
        note = f"makes the whole video of preview {run.id}"
        return await submit(run, caller, why="whole", note=note)


async def _create(
    prefect: PrefectApi,
    open_jobs: OpenJobs,
    caller: Caller,
    run: FlowRun,
    size: tuple[int, int] | None,
    *,
    why: str,
    note: str,
) -> Submitted:
    """Make a job with the source and options of another one.

    Args:
        prefect: where.
        open_jobs: how many jobs callers have.
        caller: who asks.
        run: the other job.
        size: of its source, where that decides the deployment.
        why: "retry", or "whole": then it is no preview any more.
        note: for the caller.

    Raises:
        HTTPException: 429, the caller has as many jobs as it may have.
    """
    resolution = str(run.parameters.get("resolution", "1080p"))
    deployment = deployment_for(resolution, size)
    key = f"gateway:{why}:{run.id}"
    changes: dict[str, object] = {"fresh": False}  # what is kept of the job is to be used
    if why == "whole":
        changes["preview"] = ""
    async with open_jobs.turn(caller, key):
        again = await prefect.create(
            deployment,
            run.parameters | changes,
            key=key,
            labels={LABEL_RESOLUTION: resolution},
            tags=_tags_to_keep(run, caller),
            queue=open_jobs.queue(caller),
        )
    return Submitted(
        job_id=str(again.id),
        status=status_word(again),
        gpu_type=gpu_type(deployment) or deployment,
        deployment=deployment,
        resolution=resolution,
        video_url=run.parameters.get("video_url") or None,
        notes=[note],
    )


def _size_of(run: FlowRun, settings: Settings) -> tuple[int, int] | None:
    """The size of a job's source, where that decides its deployment; None: not known.

    What is wrong with its request or source is for the new job to say.
    """
    try:
        return size_to_route(check_request(**run.parameters), settings)
    except SeedVR2Error:
        return None


def _tags_to_keep(run: FlowRun, caller: Caller) -> list[str]:
    """Tags of a job that is asked for again: the owner's, or else who asks becomes the owner."""
    owner = next((tag for tag in run.tags if tag.startswith("caller:")), caller.tag)
    return [owner, *split_list(str(run.parameters.get("tags") or ""))]
