"""The page at `/`: files of the folder `page`, and the picture of a job.

The files hold no secret and need no token: the page asks for one and sends it with each question.
Nothing on it comes from another server, and neither scripts nor styles stand in the HTML.
"""

import asyncio
from pathlib import Path
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import FileResponse, Response

from deployments.gateway.auth import Authenticate, Caller
from deployments.gateway.prefect_api import PrefectApi
from deployments.gateway.problems import WITH_TOKEN, problems
from deployments.gateway.routes.docs import json_refusals
from deployments.gateway.routes.jobs import JobId, find_run
from tasks.run import read_result
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
_MAX_PICTURE_BYTES = 40 * 10**6


def add_page(
    app: FastAPI, settings: Settings, prefect: PrefectApi, authenticate: Authenticate
) -> None:
    """Add GET /, GET /page/{name} and GET /preview/{job_id}."""

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
        """A part of a frame near the middle, before on the left and after on the right, as JPEG.

        Of a job that makes a single picture it is all of it.
        """
        run = await find_run(prefect, caller, job_id)
        told = read_result(await prefect.artifacts_of(run.id)).get("preview_path")
        path = await asyncio.to_thread(_picture, told, settings)
        if path is None:
            raise HTTPException(404, f"there is no picture of job {run.id} on this machine")
        headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "private, max-age=3600"}
        return FileResponse(path, media_type="image/jpeg", headers=headers)


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
