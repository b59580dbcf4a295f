"""A job that is asked for once more: one that failed, or the whole video of a preview."""

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Query
from prefect.client.schemas.objects import FlowRun

from deployments.gateway.answers import Submitted, gpu_type, status_word
from deployments.gateway.auth import Authenticate, Caller
from deployments.gateway.limits.open_jobs import OpenJobs
from deployments.gateway.prefect_api import PrefectApi
from deployments.gateway.problems import WITH_TOKEN, problems
from deployments.gateway.routes.jobs import JobId, find_run
from seedvr2_core.errors import InvalidRequestError, SeedVR2Error
from tasks.plan import size_to_route
from tasks.request.delivery import split_list
from tasks.run import read_result
from tasks.run.failures import OVER_BUDGET
from tasks.run.routing import LABEL_RESOLUTION, deployment_for
from tasks.run.spending import limit_seconds
from tasks.schemas import check_request
from tasks.settings import Settings

Limits = Mapping[str, float | None]
"""`max_seconds` and `max_price` of a request."""
STOPPED_AT_ITS_LIMIT = (
    "was stopped at its limit, and would be again; give a larger one in the address (max_seconds "
    "or max_price), or no_limit=true, and it goes on"
)
NewSeconds = Annotated[
    float | None,
    Query(
        gt=0,
        allow_inf_nan=False,
        description="Limit in the place of the job's own: seconds that it may hold its device, in "
        "all of its runs, those before this one included.",
    ),
]
NewPrice = Annotated[
    float | None,
    Query(
        gt=0,
        allow_inf_nan=False,
        description="The same as a price, where SEEDVR2_HOUR_PRICE says what an hour costs.",
    ),
]
NoLimit = Annotated[
    bool, Query(description="In the place of the job's own limits: none, of time or of price.")
]


def add_again(
    app: FastAPI,
    settings: Settings,
    prefect: PrefectApi,
    open_jobs: OpenJobs,
    authenticate: Authenticate,
) -> None:
    """Add POST /retry/{job_id} and POST /whole/{job_id}."""
    refusals = problems(*WITH_TOKEN, 404, 409, 503)

    async def submit(
        run: FlowRun, caller: Caller, *, key: str, changes: Mapping[str, object], note: str
    ) -> Submitted:
        size = await asyncio.to_thread(_size_of, run, settings)
        parameters = {**run.parameters, "fresh": False, **changes}  # what is kept is to be used
        return await _create(prefect, open_jobs, caller, run, size, parameters, key=key, note=note)

    @app.post("/retry/{job_id}", status_code=202, responses=refusals)
    async def retry(
        job_id: JobId,
        caller: Annotated[Caller, Depends(authenticate)],
        max_seconds: NewSeconds = None,
        max_price: NewPrice = None,
        no_limit: NoLimit = False,
    ) -> Submitted:
        """Submit a failed or cancelled job again; it goes on with the segments that are kept.

        It becomes a new job with the same source and options. Asked twice, it is the same one. A
        job that was stopped at its limit of time or price needs a larger one, or none.
        """
        run = await find_run(prefect, caller, job_id)
        word = status_word(run)
        if word not in ("failed", "cancelled"):
            raise HTTPException(409, f"job {run.id} is {word}; only failed ones are tried again")
        limits = _new_limits(max_seconds, max_price, no_limit=no_limit, settings=settings)
        if limits is None and run.state and run.state.name == OVER_BUDGET:
            raise HTTPException(409, f"job {run.id} {STOPPED_AT_ITS_LIMIT}")
        key = f"gateway:retry:{run.id}"
        note = f"tries job {run.id} again"
        if limits is not None:
            key += "".join(f":{name}={value}" for name, value in limits.items())
            note += f" with {_in_words(limits)}"
        return await submit(run, caller, key=key, changes=limits or {}, note=note)

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
        key = f"gateway:whole:{run.id}"
        return await submit(run, caller, key=key, changes={"preview": ""}, note=note)


def _new_limits(
    max_seconds: float | None, max_price: float | None, *, no_limit: bool, settings: Settings
) -> Limits | None:
    """The limits in the place of those that the job had; None: it keeps them.

    Raises:
        InvalidRequestError: they contradict each other, or nobody has said what an hour costs.
    """
    if max_seconds is None and max_price is None and not no_limit:
        return None
    if no_limit and (max_seconds is not None or max_price is not None):
        raise InvalidRequestError(
            "no_limit stands beside max_seconds or max_price; give a limit, or none"
        )
    limit_seconds(max_seconds, max_price, settings)
    return {"max_seconds": max_seconds, "max_price": max_price}


def _in_words(limits: Limits) -> str:
    """The limits for people."""
    told = [f"{name} {value:g}" for name, value in limits.items() if value is not None]
    return " and ".join(told) or "no limit"


async def _create(
    prefect: PrefectApi,
    open_jobs: OpenJobs,
    caller: Caller,
    run: FlowRun,
    size: tuple[int, int] | None,
    parameters: Mapping[str, Any],
    *,
    key: str,
    note: str,
) -> Submitted:
    """Make a job after another one.

    Args:
        prefect: where.
        open_jobs: how many jobs callers have.
        caller: who asks.
        run: the other job.
        size: of its source, where that decides the deployment.
        parameters: of the new one.
        key: asked for twice with the same one, it is the same job.
        note: for the caller.

    Raises:
        HTTPException: 429, the caller has as many jobs as it may have.
    """
    resolution = str(run.parameters.get("resolution", "1080p"))
    deployment = deployment_for(resolution, size)
    async with open_jobs.turn(caller, key):
        again = await prefect.create(
            deployment,
            {name: value for name, value in parameters.items() if value is not None},
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
