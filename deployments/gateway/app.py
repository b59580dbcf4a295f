"""The HTTP front door: submit, watch and cancel upscaling jobs with nothing but an HTTP client.

Prefect is the record; the gateway keeps nothing but the videos that callers send. While Prefect is
away it answers 503 with Retry-After, and the same request may be sent again.
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
from deployments.gateway.auth import Caller, digest, who_calls
from deployments.gateway.body import read_body
from deployments.gateway.logs import add_logs
from deployments.gateway.prefect_api import PrefectLine
from deployments.host.machine import this_machine
from seedvr2_core.errors import (
    InvalidRequestError,
    InvalidVideoError,
    ResourceError,
    SeedVR2Error,
    SourceRefusedError,
)
from seedvr2_core.frames import padded_size
from seedvr2_core.planning.sizes import size_for
from tasks.net.untrusted import check_url
from tasks.run.routing import LABEL_RESOLUTION, deployment_for
from tasks.schemas import Resolution, UpscaleRequest, check_request
from tasks.settings import Settings
from tasks.sources import check_source
from tasks.sources.uploads import find_upload, is_upload, sweep_parts

WAVELET_NOTE = "color_correction wavelet is the old service's name; taken as auto"

JobId = Annotated[str, Path(description="The id that POST /upscale gave out.")]


class Target(BaseModel):
    """Answer to GET /plan: what a picture of this size becomes, and where."""

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
                    "description": "The video as a file; the fields of the JSON body as text.",
                }
            },
            "application/octet-stream": {
                "schema": {"type": "string", "format": "binary"},
            },
        },
    }
}


def create_app(settings: Settings, line: PrefectLine) -> FastAPI:
    """The gateway as an ASGI application.

    Args:
        settings: tokens, limits and the work directory for uploads.
        line: to the Prefect server; closed with the application.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        sweep_parts(settings.intake_dir)
        yield
        await line.close()

    app = FastAPI(
        title="SeedVR2 upscaling",
        summary="Submit, watch and cancel upscaling jobs.",
        lifespan=lifespan,
        exception_handlers={SeedVR2Error: _refused},
    )
    caller = who_calls(settings)
    _add_submission(app, settings, line, caller)
    _add_jobs(app, line, caller)
    add_logs(app, line, caller, _run_id)
    _add_answers(app, settings, line, caller)
    return app


def _add_submission(app: FastAPI, settings: Settings, line: PrefectLine, caller: Caller) -> None:
    """POST /upscale and PUT /upscale/{filename}."""

    async def submit(
        request: Request,
        who: Annotated[str, Depends(caller)],
        idempotency_key: Annotated[str | None, Header(max_length=255)] = None,
    ) -> Submitted:
        """Submit a video: an address (video_url), base64, a form with a file, or its bytes.

        With bytes as the body the options are query parameters. With an Idempotency-Key the same
        request may be sent again and gives the same job.
        """
        await line.check()  # before gigabytes are taken that could not be submitted
        fields = await read_body(request, settings)
        asked, notes = _checked(fields, settings)
        key = idempotency_key or uuid.uuid4().hex
        return await _submit(line, asked, notes, key=f"gateway:{digest(f'{who}:{key}')}")

    app.post("/upscale", status_code=202, openapi_extra=_BODY)(submit)
    raw = {"requestBody": {"required": True, "content": {"video/*": {}}}}
    app.put("/upscale/{filename}", status_code=202, openapi_extra=raw)(submit)


async def _submit(
    line: PrefectLine, asked: UpscaleRequest, notes: list[str], *, key: str
) -> Submitted:
    """Create the job, or find the one that this key created."""
    deployment = deployment_for(asked.resolution)
    parameters = asked.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    parameters["resolution"] = asked.resolution
    labels = {LABEL_RESOLUTION: asked.resolution}
    run = await line.create(deployment, parameters, key=key, labels=labels)
    if any(run.parameters.get(name) != value for name, value in parameters.items()):
        raise HTTPException(
            422, f"this Idempotency-Key belongs to job {run.id}, another request; choose a new one"
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


def _add_jobs(app: FastAPI, line: PrefectLine, caller: Caller) -> None:
    """GET /status/{job_id}, POST /cancel/{job_id}, GET /jobs."""

    @app.get("/status/{job_id}", dependencies=[Depends(caller)])
    async def status(job_id: JobId) -> Job:
        """Where a job is."""
        return await _described(line, job_id)

    @app.post("/cancel/{job_id}", dependencies=[Depends(caller)])
    async def cancel(job_id: JobId) -> Job:
        """Cancel a job; finished segments are kept. 409 if it has ended otherwise."""
        run = await _run(line, job_id)
        word = status_word(run)
        if word in ("completed", "failed"):
            raise HTTPException(409, f"job {run.id} has {word} and cannot be cancelled")
        if word != "cancelled":
            await line.cancel(run.id)
        return await _described(line, str(run.id))

    @app.get("/jobs", dependencies=[Depends(caller)])
    async def jobs(
        status: Annotated[Status | None, Query(description="Only jobs in this state.")] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        offset: Annotated[int, Query(ge=0)] = 0,
    ) -> JobList:
        """Jobs, newest first."""
        types = STATE_TYPES[status] if status else ()
        runs = await line.jobs(state_types=types, limit=limit, offset=offset)
        artifacts = await line.artifacts([run.id for run in runs]) if runs else []
        return JobList(jobs=[describe(r, artifacts) for r in runs], limit=limit, offset=offset)


def _add_answers(app: FastAPI, settings: Settings, line: PrefectLine, caller: Caller) -> None:
    """GET /plan, GET /healthz."""

    @app.get("/plan", dependencies=[Depends(caller)])
    async def plan(
        width: Annotated[int, Query(ge=1, le=65_536)],
        height: Annotated[int, Query(ge=1, le=65_536)],
        resolution: Resolution = "1080p",
    ) -> Target:
        """What a picture displayed at this size becomes, and where it would run."""
        return _target(width, height, resolution)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """200 while jobs can be submitted, 503 while Prefect is away; needs no token.

        Where paths may be submitted, `files_of` tells whose: callers compare it with their own.
        """
        await line.check()
        files = {"files_of": this_machine()} if settings.allow_local_files else {}
        return {"status": "ok", **files}


def _target(width: int, height: int, resolution: str) -> Target:
    """Arithmetic only: no video is looked at."""
    out_width, out_height = size_for(width, height, resolution)
    model_height, model_width = padded_size(out_height, out_width)
    deployment = deployment_for(resolution)
    smaller = out_width * out_height < width * height
    return Target(
        resolution=resolution,
        width=out_width,
        height=out_height,
        model_width=model_width,
        model_height=model_height,
        gpu_type=gpu_type(deployment) or deployment,
        deployment=deployment,
        notes=["the source is larger than the target and is scaled down"] if smaller else [],
    )


def _checked(fields: dict[str, Any], settings: Settings) -> tuple[UpscaleRequest, list[str]]:
    """The request as the flow takes it, and what was understood differently.

    Raises:
        InvalidRequestError, SourceRefusedError: what is wrong, and what was expected.
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


async def _run(line: PrefectLine, job_id: str) -> FlowRun:
    """The run of a job id.

    Raises:
        HTTPException: 404, there is none.
    """
    run = await line.find_job(_uuid(job_id))
    if run is None:
        raise _not_found(job_id)
    return run


async def _run_id(line: PrefectLine, job_id: str) -> UUID:
    """Id of the run of a job id; raises as `_run` does."""
    return (await _run(line, job_id)).id


async def _described(line: PrefectLine, job_id: str) -> Job:
    """A job as it is now.

    One call after the other: the server answers two at once no sooner, and many callers later.
    """
    run = await _run(line, job_id)
    artifacts = await line.artifacts_of(run.id)
    return describe(run, artifacts)


def _uuid(job_id: str) -> UUID:
    try:
        return UUID(job_id)
    except ValueError as error:
        raise _not_found(job_id) from error


def _not_found(job_id: str) -> HTTPException:
    return HTTPException(404, f"there is no job {job_id[:80]!r}")


async def _refused(_: Request, error: Exception) -> JSONResponse:
    """Errors of the tree as answers."""
    code = 500
    if isinstance(error, ResourceError):
        code = 507
    elif isinstance(error, InvalidRequestError | InvalidVideoError | SourceRefusedError):
        code = 422
    return JSONResponse({"detail": str(error)}, status_code=code)
