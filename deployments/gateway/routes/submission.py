"""POST /upscale and PUT /upscale/{filename}: a request is read, checked and made a job."""

import asyncio
import hashlib
import json
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, HTTPException, Path, Request
from prefect.client.schemas.objects import FlowRun

from deployments.gateway.answers import Submitted, gpu_type, status_word
from deployments.gateway.auth import Authenticate, Caller, digest
from deployments.gateway.body import Upload, read_body
from deployments.gateway.limits.open_jobs import OpenJobs
from deployments.gateway.prefect_api import PrefectApi
from deployments.gateway.problems import WITH_TOKEN, problems
from deployments.gateway.quota import Quota
from deployments.gateway.routes.docs import body_schemas, file_schemas
from seedvr2_core.errors import SeedVR2Error
from tasks.net.untrusted import check_url
from tasks.plan import place_of
from tasks.request.delivery import split_list
from tasks.run.routing import LABEL_RESOLUTION
from tasks.run.spending import limit_seconds
from tasks.schemas import UpscaleRequest, check_request
from tasks.settings import Settings
from tasks.sources import check_source
from tasks.sources.from_bucket import allowed_place
from tasks.sources.kept import keep_upload
from tasks.sources.kinds import SourceKind, kind_of
from tasks.sources.uploads import find_upload

WAVELET_NOTE = "color_correction wavelet is a name of the old service; the job runs with auto"
LABEL_REQUEST = "seedvr2.request"
"""Digest of what the caller asked for, so that a key that is used again can be judged."""


def add_submission(
    app: FastAPI,
    settings: Settings,
    prefect: PrefectApi,
    quota: Quota,
    open_jobs: OpenJobs,
    authenticate: Authenticate,
) -> None:
    """Add POST /upscale and PUT /upscale/{filename}."""

    async def submit(
        request: Request,
        caller: Annotated[Caller, Depends(authenticate)],
        idempotency_key: Annotated[
            str | None,
            Header(
                max_length=255,
                description="A name of your own for this request. Sent again, it returns the same "
                "job; with another request it is refused (409).",
                examples=["order-17"],
            ),
        ] = None,
    ) -> Submitted:
        """Submit a video as an address (video_url), as base64, as a form with a file, or as bytes.

        If the body is the video's bytes, the options are query parameters.
        """
        key = "gateway:" + digest(f"{caller.name}:{idempotency_key or uuid.uuid4().hex}")
        await prefect.check()  # before we receive gigabytes that could not be submitted
        await open_jobs.check(caller, key)
        with quota.count(caller) as arrival:
            body = await read_body(request, settings, arrival)
            async with _for_the_job(body.upload):
                asked, notes = check_fields(body.fields, settings)
                where = await asyncio.to_thread(_place_of, asked, settings)
                async with open_jobs.turn(caller, key):
                    return await _submit(prefect, where, asked, notes, key, caller, open_jobs)

    schema = UpscaleRequest.model_json_schema()
    refusals = problems(*WITH_TOKEN, 400, 408, 409, 413, 415, 503, 507)
    both: dict[str, Any] = {"status_code": 202, "responses": refusals}
    post = app.post("/upscale", openapi_extra=body_schemas(schema), **both)
    post(submit)

    async def submit_file(
        filename: Annotated[str, Path(description="The video's name.", examples=["a.mp4"])],
        request: Request,
        caller: Annotated[Caller, Depends(authenticate)],
        idempotency_key: Annotated[str | None, Header(max_length=255)] = None,
    ) -> Submitted:
        """Submit the body, whatever its type says, as a video; options are query parameters."""
        del filename  # the body's reader takes it from the path
        return await submit(request, caller, idempotency_key)

    put = app.put("/upscale/{filename}", openapi_extra=file_schemas(schema), **both)
    put(submit_file)


@asynccontextmanager
async def _for_the_job(upload: Upload) -> AsyncIterator[None]:
    """Give an upload to the job that is made inside, or take it back if for certain none was."""
    try:
        yield
    except BaseException as error:
        await asyncio.to_thread(upload.retract if _is_refusal(error) else upload.keep)
        raise
    await asyncio.to_thread(upload.keep)


def _place_of(asked: UpscaleRequest, settings: Settings) -> str:
    """Keep the upload that a request names, and choose the deployment by the pixels to come."""
    keep_upload(asked, settings)
    return place_of(asked, settings)


async def _submit(
    prefect: PrefectApi,
    deployment: str,
    asked: UpscaleRequest,
    notes: list[str],
    key: str,
    caller: Caller,
    open_jobs: OpenJobs,
) -> Submitted:
    """Create the job, or return the one that an earlier request created with this key.

    Raises:
        HTTPException: 409, the earlier request with this key asked for something else.
    """
    parameters = asked.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    parameters["resolution"] = asked.resolution
    labels = {LABEL_RESOLUTION: asked.resolution, LABEL_REQUEST: _fingerprint(parameters)}
    run = await prefect.create(
        deployment,
        parameters,
        key=key,
        labels=labels,
        tags=[caller.tag, *split_list(asked.tags)],
        queue=open_jobs.queue(caller),
    )
    if not _asked_the_same(run, parameters, labels[LABEL_REQUEST]):
        raise HTTPException(
            409,
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


def _is_refusal(error: BaseException) -> bool:
    """Whether no job was made for certain: after anything else a job may need the video."""
    if isinstance(error, HTTPException):
        return error.status_code != 503
    return isinstance(error, SeedVR2Error)


def _fingerprint(parameters: Mapping[str, Any]) -> str:
    """A digest of a request; equal for equal requests, whatever the order of their fields."""
    return hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()


def _asked_the_same(run: FlowRun, parameters: Mapping[str, Any], fingerprint: str) -> bool:
    """Whether the request that created a run was this one."""
    known = run.labels.get(LABEL_REQUEST)
    if known is not None:
        return known == fingerprint
    # Made by an older version, and beside what was asked for it has the deployment's defaults.
    return all(run.parameters.get(name) == value for name, value in parameters.items())


def check_fields(fields: dict[str, Any], settings: Settings) -> tuple[UpscaleRequest, list[str]]:
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
    limit_seconds(request.max_seconds, request.max_price, settings)
    url = request.video_url or ""
    match kind_of(request):
        case SourceKind.UPLOAD:
            find_upload(url, settings)
        case SourceKind.OBJECT:
            allowed_place(url, settings)
        case SourceKind.ADDRESS:
            check_url(url, settings)
        case SourceKind.FILE | SourceKind.PICTURES:
            check_source(request, settings)
        case SourceKind.BYTES:
            pass
    return request, notes
