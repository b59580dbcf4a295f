"""The gateway's HTTP API: submit, watch and cancel upscaling jobs with any HTTP client.

Prefect keeps all jobs and their states. The gateway itself stores only the videos that callers
send. While Prefect cannot be reached it answers 503 with Retry-After, and the caller may send the
same request again.
"""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, FastAPI, Header, HTTPException, Path, Query, Request
from fastapi.responses import JSONResponse
from prefect.client.schemas.objects import FlowRun
from pydantic import BaseModel

from deployments.gateway.answers import (
    STATE_TYPES,
    Job,
    JobList,
    Status,
    Submitted,
    describe,
    gpu_type,
    status_word,
)
from deployments.gateway.auth import Authenticate, authentication, digest
from deployments.gateway.body import read_body
from deployments.gateway.logs import add_logs
from deployments.gateway.prefect_api import PrefectApi
from deployments.host.machine import this_machine
from seedvr2_core.errors import (
    InvalidRequestError,
    InvalidVideoError,
    ResourceError,
    SeedVR2Error,
    SourceRefusedError,
)
from seedvr2_core.frames import padded_size
from seedvr2_core.planning.sizes import size_for, size_note
from tasks.net.untrusted import check_url
from tasks.run.routing import LABEL_RESOLUTION, deployment_for
from tasks.schemas import Resolution, UpscaleRequest, check_request
from tasks.settings import Settings
from tasks.sources import check_source
from tasks.sources.uploads import find_upload, is_upload, sweep_parts

WAVELET_NOTE = "color_correction wavelet is a name of the old service; the job runs with auto"

JobId = Annotated[str, Path(description="The job_id that POST /upscale answered.")]


class Target(BaseModel):
    """Answer to GET /plan: the output's size for a video of this size, and where it would run."""

    resolution: str
    width: int
    height: int
    model_width: int
    model_height: int
    gpu_type: str
    deployment: str
    notes: list[str]


_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": UpscaleRequest.model_json_schema(ref_template="#/{model}")
            },
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"video": {"type": "string", "format": "binary"}},
                    "additionalProperties": {"type": "string"},
                    "description": "The video as a file, and the JSON body's fields as text.",
                }
            },
            "application/octet-stream": {
                "schema": {"type": "string", "format": "binary"},
            },
        },
    }
}


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
        exception_handlers={SeedVR2Error: _refused},
    )
    authenticate = authentication(settings)
    _add_submission(app, settings, prefect, authenticate)
    _add_jobs(app, prefect, authenticate)
    add_logs(app, prefect, authenticate, _find_run_id)
    _add_plan(app, authenticate)
    _add_health(app, settings, prefect)
    return app


def _add_submission(
    app: FastAPI, settings: Settings, prefect: PrefectApi, authenticate: Authenticate
) -> None:
    """Add POST /upscale and PUT /upscale/{filename}."""

    async def submit(
        request: Request,
        caller: Annotated[str, Depends(authenticate)],
        idempotency_key: Annotated[str | None, Header(max_length=255)] = None,
    ) -> Submitted:
        """Submit a video as an address (video_url), as base64, as a form with a file, or as bytes.

        If the body is the video's bytes, the options are query parameters. A request that is sent
        again with the same Idempotency-Key returns the same job.
        """
        await prefect.check()  # before we receive gigabytes that could not be submitted
        fields = await read_body(request, settings)
        asked, notes = _check_fields(fields, settings)
        key = idempotency_key or uuid.uuid4().hex
        return await _submit(prefect, asked, notes, key=f"gateway:{digest(f'{caller}:{key}')}")

    app.post("/upscale", status_code=202, openapi_extra=_BODY)(submit)
    raw = {"requestBody": {"required": True, "content": {"video/*": {}}}}
    app.put("/upscale/{filename}", status_code=202, openapi_extra=raw)(submit)


async def _submit(
    prefect: PrefectApi, asked: UpscaleRequest, notes: list[str], *, key: str
) -> Submitted:
    """Create the job, or return the one that an earlier request created with this key.

    Raises:
        HTTPException: 422, the earlier request with this key asked for something else.
    """
    deployment = deployment_for(asked.resolution)
    parameters = asked.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    parameters["resolution"] = asked.resolution
    labels = {LABEL_RESOLUTION: asked.resolution}
    run = await prefect.create(deployment, parameters, key=key, labels=labels)
    if any(run.parameters.get(name) != value for name, value in parameters.items()):
        raise HTTPException(
            422,
            f"this Idempotency-Key was used by another request, which created job {run.id}; "
            "choose a new key",
        )
    return Submitted(
        job_id=str(run.id),
        status=status_word(run),
        gpu_type=gpu_type(deployment) or deployment,
        deployment=deployment,
        resolution=asked.resolution,
        video_url=asked.video_url,
        notes=notes,
    )


def _add_jobs(app: FastAPI, prefect: PrefectApi, authenticate: Authenticate) -> None:
    """Add GET /status/{job_id}, POST /cancel/{job_id} and GET /jobs."""

    @app.get("/status/{job_id}", dependencies=[Depends(authenticate)])
    async def status(job_id: JobId) -> Job:
        """State, progress and result of a job."""
        return await _read_job(prefect, job_id)

    @app.post("/cancel/{job_id}", dependencies=[Depends(authenticate)])
    async def cancel(job_id: JobId) -> Job:
        """Cancel a job; its finished segments are kept. 409 if it has completed or failed."""
        run = await _find_run(prefect, job_id)
        word = status_word(run)
        if word in ("completed", "failed"):
            raise HTTPException(409, f"job {run.id} has {word} and cannot be cancelled")
        if word != "cancelled":
            await prefect.cancel(run.id)
        return await _read_job(prefect, str(run.id))

    @app.get("/jobs", dependencies=[Depends(authenticate)])
    async def jobs(
        status: Annotated[Status | None, Query(description="Only jobs in this state.")] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        offset: Annotated[int, Query(ge=0)] = 0,
    ) -> JobList:
        """List jobs, newest first."""
        types = STATE_TYPES[status] if status else ()
        runs = await prefect.jobs(state_types=types, limit=limit, offset=offset)
        artifacts = await prefect.artifacts([run.id for run in runs]) if runs else []
        return JobList(jobs=[describe(r, artifacts) for r in runs], limit=limit, offset=offset)


def _add_plan(app: FastAPI, authenticate: Authenticate) -> None:
    """Add GET /plan."""

    @app.get("/plan", dependencies=[Depends(authenticate)])
    async def plan(
        width: Annotated[int, Query(ge=1, le=65_536)],
        height: Annotated[int, Query(ge=1, le=65_536)],
        resolution: Resolution = "1080p",
    ) -> Target:
        """The output's size for a video displayed at this size, and where it would run."""
        return _target(width, height, resolution)


def _add_health(app: FastAPI, settings: Settings, prefect: PrefectApi) -> None:
    """Add GET /healthz."""

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """200 while jobs can be submitted, 503 while Prefect cannot be reached; needs no token.

        If this gateway accepts paths, `files_of` names the machine whose files they mean. A caller
        sends a path only if its own machine has the same name.
        """
        await prefect.check()
        files = {"files_of": this_machine()} if settings.allow_local_files else {}
        return {"status": "ok", **files}


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


def _check_fields(fields: dict[str, Any], settings: Settings) -> tuple[UpscaleRequest, list[str]]:
    """Check a body's fields as far as this is possible without reading the video.

    Returns:
        The request for the flow, and a note on every value that was replaced.

    Raises:
        InvalidRequestError: an option is wrong, or not exactly one source is given.
        SourceRefusedError: the source's address can never be fetched.
    """
    notes = []
    given = {name: value for name, value in fields.items() if value not in (None, "")}
    if given.get("color_correction") == "wavelet":
        given["color_correction"] = "auto"
        notes.append(WAVELET_NOTE)
    request = check_request(**given)
    if is_upload(request.video_url):
        find_upload(request.video_url or "", settings)
    elif request.video_url:
        check_url(request.video_url, settings)
    if request.video_path:
        check_source(request, settings)
    return request, notes


async def _find_run(prefect: PrefectApi, job_id: str) -> FlowRun:
    """Find the flow run of a job.

    Raises:
        HTTPException: 404, there is no such job.
    """
    run = await prefect.find_job(_uuid(job_id))
    if run is None:
        raise _not_found(job_id)
    return run


async def _find_run_id(prefect: PrefectApi, job_id: str) -> UUID:
    """Find the id of a job's flow run; raises as `_find_run` does."""
    return (await _find_run(prefect, job_id)).id


async def _read_job(prefect: PrefectApi, job_id: str) -> Job:
    """Read a job from Prefect.

    We make the two calls one after the other: the server does not answer two at once any sooner,
    and under load it answers everybody later.
    """
    run = await _find_run(prefect, job_id)
    artifacts = await prefect.artifacts_of(run.id)
    return describe(run, artifacts)


def _uuid(job_id: str) -> UUID:
    try:
        return UUID(job_id)
    except ValueError as error:
        raise _not_found(job_id) from error


def _not_found(job_id: str) -> HTTPException:
    return HTTPException(404, f"there is no job {job_id[:80]!r}")


async def _refused(_: Request, error: Exception) -> JSONResponse:
    """Answer an error of seedvr2_core/errors.py with its message and a status code."""
    code = 500
    if isinstance(error, ResourceError):
        code = 507
    elif isinstance(error, InvalidRequestError | InvalidVideoError | SourceRefusedError):
        code = 422
    return JSONResponse({"detail": str(error)}, status_code=code)
