"""GET and POST /plan: what a job would make and take, before it is submitted."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from deployments.gateway.answers import gpu_type
from deployments.gateway.auth import Authenticate, Caller
from deployments.gateway.body import read_body
from deployments.gateway.problems import WITH_TOKEN, problems
from deployments.gateway.quota import Quota
from deployments.gateway.routes.docs import body_schemas
from deployments.gateway.routes.submission import check_fields
from seedvr2_core.errors import DeadlineError, SourceError, SourceRefusedError
from seedvr2_core.frames import padded_size
from seedvr2_core.planning.cards import NAMED_GB
from seedvr2_core.planning.sizes import size_for, size_note
from tasks.plan import JobPlan, named_card, place_of, plan_source, size_to_route
from tasks.request.video import Resolution
from tasks.run.routing import deployment_for
from tasks.schemas import UpscaleRequest
from tasks.settings import Settings
from tasks.sources import obtain_source

MAX_PLANS = 2
"""At a time: each has a child process that reads a whole video."""
WAIT_SECONDS = 20.0
"""How long a request waits for its turn."""
FETCH_SECONDS = 45.0
"""How long one request waits for a download; the next one goes on with it."""
RETRY_AFTER_SECONDS = 5

Side = Annotated[int, Query(ge=1, le=65_536, description="In pixels, as displayed.")]

_EXAMPLE = {
    "source": "a.mp4",
    "source_size": [640, 360],
    "frames": 750,
    "duration_seconds": 30.0,
    "width": 1920,
    "height": 1080,
    "engine": "seedvr2-7b",
    "device": "NVIDIA H100 80GB",
    "shots": 1,
    "segments": 3,
    "window_frames": 100,
    "memory_gb": {"encode": 10.2, "dit": 41.5, "decode": 20.7},
    "eta_seconds": 470.0,
    "eta_is_guess": True,
    "price": 0.52,
    "job_limit_seconds": None,
    "notes": [],
    "video_url": "upload:" + "0" * 64 + "/a.mp4",
    "resolution": "1080p",
    "deployment": "upscale/h100",
    "gpu_type": "H100",
}


_TARGET = {
    "resolution": "4k",
    "width": 3840,
    "height": 2160,
    "model_width": 3840,
    "model_height": 2192,
    "gpu_type": "H200",
    "deployment": "upscale/h200",
    "notes": [],
}


class Target(BaseModel):
    """Answer to GET /plan: the output's size for a video of this size, and where it would run."""

    model_config = ConfigDict(json_schema_extra={"examples": [_TARGET]})

    resolution: str = Field(description="As it was asked for.")
    width: int = Field(description="Width of the result in pixels.")
    height: int = Field(description="Height of the result in pixels.")
    model_width: int = Field(description="Width with the margin that SeedVR2 works on.")
    model_height: int = Field(description="Height with that margin.")
    gpu_type: str = Field(description="The workers that would take it: `H100`, `local`.")
    deployment: str = Field(description="The deployment in Prefect that would run it.")
    notes: list[str] = Field(description="Where the size differs from what the name says, and why.")


class PlannedRequest(JobPlan):
    """Answer to POST /plan."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    video_url: str | None = Field(
        description="The source. A video that was sent is kept: submit this in its place."
    )
    resolution: str = Field(description="As the request has it.")
    deployment: str = Field(description="Where the job would run.")
    gpu_type: str = Field(description="The workers that would take it: `H100`, `local`.")


def add_plan(app: FastAPI, settings: Settings, quota: Quota, authenticate: Authenticate) -> None:
    """Add GET /plan and POST /plan."""
    turns = asyncio.Semaphore(MAX_PLANS)

    @app.get("/plan", dependencies=[Depends(authenticate)], responses=problems(*WITH_TOKEN))
    async def plan(width: Side, height: Side, resolution: Resolution = "1080p") -> Target:
        """The output's size for a video displayed at this size, and where it would run."""
        return _target(width, height, resolution)

    async def plan_video(
        request: Request, caller: Annotated[Caller, Depends(authenticate)]
    ) -> PlannedRequest:
        """What upscaling a video would make and take: size, segments, memory, time and price.

        The body is as for POST /upscale. The video is fetched and read, but no job is made and no
        GPU is used. While an address is still being fetched the answer is 503 with Retry-After;
        the same request goes on with the download.
        """
        with quota.count(caller) as arrival:
            body = await read_body(request, settings, arrival)
            try:
                asked, notes = check_fields(body.fields, settings)
                async with _turn(turns):
                    planned, deployment = await asyncio.to_thread(_plan, asked, settings)
            except BaseException:  # no job needs the video
                await asyncio.to_thread(body.upload.retract)
                raise
            await asyncio.to_thread(body.upload.keep)
        return _answer(asked, planned, deployment, notes)

    post = app.post(
        "/plan",
        responses=problems(*WITH_TOKEN, 400, 408, 413, 415, 503, 507),
        openapi_extra=body_schemas(UpscaleRequest.model_json_schema()),
    )
    post(plan_video)


@asynccontextmanager
async def _turn(turns: asyncio.Semaphore) -> AsyncIterator[None]:
    """Wait for one of the few places.

    Raises:
        HTTPException: 503, all were taken for too long.
    """
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            await turns.acquire()
    except TimeoutError as error:
        raise _later("other plans are being made; send the same request again") from error
    try:
        yield
    finally:
        turns.release()


def _later(why: str) -> HTTPException:
    return HTTPException(503, why, headers={"Retry-After": str(RETRY_AFTER_SECONDS)})


def _plan(request: UpscaleRequest, settings: Settings) -> tuple[JobPlan, str]:
    """Fetch and probe the source, and plan a job for the machine that would take it.

    Returns:
        The plan, and the deployment that would run it.

    Raises:
        HTTPException: 503, the source is not here yet.
        SeedVR2Error: the job would be refused.
    """
    limited = settings.model_copy(
        update={"fetch_seconds": min(FETCH_SECONDS, settings.fetch_seconds)}
    )
    try:
        source = obtain_source(request, limited, note=lambda line: None)
    except SourceRefusedError:
        raise
    except (SourceError, DeadlineError) as error:
        raise _later(f"{error}; send the same request again to go on") from error
    usual = deployment_for(request.resolution, size_to_route(request, settings))
    name = usual.rpartition("/")[2]
    card = named_card(name) if name in NAMED_GB else None
    planned = plan_source(source, request, settings, card=card, thorough=False)
    return planned, place_of(request, settings)


def _answer(
    asked: UpscaleRequest, planned: JobPlan, deployment: str, notes: list[str]
) -> PlannedRequest:
    """The plan, with where the job would run."""
    where = {
        "video_url": asked.video_url,
        "resolution": asked.resolution,
        "deployment": deployment,
        "gpu_type": gpu_type(deployment) or deployment,
        "notes": (*notes, *planned.notes),
    }
    return PlannedRequest.model_validate(planned.model_dump() | where)


def _target(width: int, height: int, resolution: str) -> Target:
    """Compute the answer to GET /plan; no video is read."""
    out_width, out_height = size_for(width, height, resolution)
    model_height, model_width = padded_size(out_height, out_width)
    deployment = deployment_for(resolution, (width, height))
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
