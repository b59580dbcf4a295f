"""The page at `/`: files of the folder `page`, the picture of a job, and a job that is tried again.

The files hold no secret and need no token: the page asks for one and sends it with each question.
Nothing on it comes from another server, and neither scripts nor styles stand in the HTML.
"""

import asyncio
from pathlib import Path
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import FileResponse, Response
from prefect.client.schemas.objects import FlowRun

from deployments.gateway.answers import Submitted, gpu_type, status_word
from deployments.gateway.auth import Authenticate, Caller
from deployments.gateway.limits.open_jobs import OpenJobs
from deployments.gateway.prefect_api import PrefectApi
from deployments.gateway.problems import WITH_TOKEN, problems
from deployments.gateway.routes.docs import json_refusals
from deployments.gateway.routes.jobs import JobId, find_run
from seedvr2_core.errors import SeedVR2Error
from tasks.plan import size_to_route
from tasks.request.delivery import split_list
from tasks.run import read_result
from tasks.run.routing import LABEL_RESOLUTION, deployment_for
from tasks.schemas import check_request
from tasks.settings import Settings

_FOLDER = Path(__file__).parents[1] / "page"
_KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_PARTS = {path.name: _KINDS[path.suffix] for path in _FOLDER.iterdir() if path.suffix in _KINDS}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; media-src 'self'; connect-src 'self'; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_PICTURE = {"schema": {"type": "string", "format": "binary"}}
_MAX_PICTURE_BYTES = 20 * 10**6


def add_page(
    app: FastAPI,
    settings: Settings,
    prefect: PrefectApi,
    open_jobs: OpenJobs,
    authenticate: Authenticate,
) -> None:
    """Add GET /, GET /page/{name}, GET /preview/{job_id} and POST /retry/{job_id}."""

    @app.get("/", include_in_schema=False)
    def page() -> Response:
        return _part("index.html")

    @app.get("/page/{name}", include_in_schema=False)
    def page_part(name: str) -> Response:
        return _part(name)

    @app.get(
        "/preview/{job_id}",
        response_class=FileResponse,
        responses={
            200: {"description": "The picture.", "content": {"image/jpeg": _PICTURE}},
            **json_refusals(problems(*WITH_TOKEN, 404, 503)),
        },
    )
    async def preview(
        job_id: JobId, caller: Annotated[Caller, Depends(authenticate)]
    ) -> FileResponse:
        """A part of a job's middle frame, before on the left and after on the right, as JPEG."""
        run = await find_run(prefect, caller, job_id)
        told = read_result(await prefect.artifacts_of(run.id)).get("preview_path")
        path = await asyncio.to_thread(_picture, told, settings)
        if path is None:
            raise HTTPException(404, f"there is no picture of job {run.id} on this machine")
        headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "private, max-age=3600"}
        return FileResponse(path, media_type="image/jpeg", headers=headers)

    @app.post("/retry/{job_id}", status_code=202, responses=problems(*WITH_TOKEN, 404, 409, 503))
    async def retry(job_id: JobId, caller: Annotated[Caller, Depends(authenticate)]) -> Submitted:
        """Submit a failed or cancelled job again; it goes on with the segments that are kept.

        It becomes a new job with the same source and options. Asked twice, it is the same one.
        """
        run = await find_run(prefect, caller, job_id)
        size = await asyncio.to_thread(_size_of, run, settings)
        return await _tried_again(prefect, open_jobs, caller, run, size)


async def _tried_again(
    prefect: PrefectApi,
    open_jobs: OpenJobs,
    caller: Caller,
    run: FlowRun,
    size: tuple[int, int] | None,
) -> Submitted:
    """Make a job with the source and options of one that failed or was cancelled.

    Raises:
        HTTPException: 409, it did neither; 429, the caller has as many jobs as it may have.
    """
    word = status_word(run)
    if word not in ("failed", "cancelled"):
        raise HTTPException(409, f"job {run.id} is {word}; only failed ones are tried again")
    resolution = str(run.parameters.get("resolution", "1080p"))
    deployment = deployment_for(resolution, size)
    key = f"gateway:retry:{run.id}"
    async with open_jobs.turn(caller, key):
        again = await prefect.create(
            deployment,
            {**run.parameters, "fresh": False},  # what is kept of this job is to be used
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
        notes=[f"tries job {run.id} again"],
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
    """Tags of a job that is tried again: the owner's, or else who asks becomes the owner."""
    owner = next((tag for tag in run.tags if tag.startswith("caller:")), caller.tag)
    return [owner, *split_list(str(run.parameters.get("tags") or ""))]


def _part(name: str) -> Response:
    """A file of the page.

    Raises:
        HTTPException: 404, it has no such part.
    """
    if name not in _PARTS:
        raise HTTPException(404, f"the page has no part {name[:80]!r}")
    content = (_FOLDER / name).read_bytes()
    return Response(content, media_type=_PARTS[name], headers=_HEADERS)


def _picture(told: object, settings: Settings) -> Path | None:
    """The file of a job's picture, if it lies among the results or the jobs of this installation.

    A result names a path, and results are made by whoever may run jobs: no other file is shown.
    """
    if not isinstance(told, str):
        return None
    try:
        path = Path(told).resolve(strict=True)
        rooms = [
            folder.absolute().resolve() for folder in (settings.storage_dir, settings.jobs_dir)
        ]
        ours = any(path.is_relative_to(room) for room in rooms)
        is_picture = path.suffix == ".jpg" and path.is_file()
        if ours and is_picture and path.stat().st_size <= _MAX_PICTURE_BYTES:
            return path
    except (OSError, RuntimeError, ValueError):
        return None
    return None
