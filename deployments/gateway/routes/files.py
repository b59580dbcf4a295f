"""A job's files for the page: source and result, to be played side by side, the result to be kept,
and the report.

A browser's player, and a new tab, send no token. So whoever has one asks for an address that holds
a secret of its own, is good for some hours and for one file, and is forgotten when the gateway
ends.
"""

import asyncio
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field

from deployments.gateway.auth import Authenticate, Caller
from deployments.gateway.prefect_api import PrefectApi
from deployments.gateway.problems import WITH_TOKEN, problems
from deployments.gateway.routes.jobs import JobId, find_run
from seedvr2_core.errors import SegmentError
from seedvr2_core.files import read_record
from seedvr2_core.job import JobDir
from seedvr2_core.video.output.formats import OUTPUT_ENDINGS
from tasks.run import read_result
from tasks.settings import Settings

GOOD_SECONDS = 4 * 3600.0
"""How long an address is good, from the last time that it was used."""
MOST_ADDRESSES = 1000
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox"
"""A report has pictures and styles inside, and nothing in it may run or be asked for."""
_VIDEO_KINDS = {
    ".mp4": "video/mp4",
    ".mov": "video/quicktime",
    ".mkv": "video/x-matroska",
    ".webm": "video/webm",
}
_KINDS = {**_VIDEO_KINDS, ".html": "text/html; charset=utf-8"}


class JobFiles(BaseModel):
    """Answer to GET /files/{job_id}: relative addresses, good for some hours."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "before": None,
                    "after": "file/7Zq0sTqkD1mX3v2f",
                    "result": "file/7Zq0sTqkD1mX3v2f?keep=true",
                    "report": "file/0b1Vt8e9",
                }
            ]
        }
    )

    before: str | None = Field(
        description="The source; null if it is no longer, or never was, in the work directory."
    )
    after: str | None = Field(
        description="The result, if it is a video; null if it is not on this machine."
    )
    result: str | None = Field(
        description="The result, whatever its kind, as a file to be saved under its name; null if "
        "it is not on this machine."
    )
    report: str | None = Field(
        description="The page with what was measured of the result; null if there is none here."
    )


class Addresses:
    """The addresses that were handed out, and the file behind each."""

    def __init__(self) -> None:
        self._files: OrderedDict[str, tuple[Path, float]] = OrderedDict()

    def of(self, path: Path) -> str:
        """A new address for a file; the one that was not used for longest makes room."""
        secret = secrets.token_urlsafe(24)
        self._files[secret] = (path, time.monotonic() + GOOD_SECONDS)
        if len(self._files) > MOST_ADDRESSES:
            self._files.popitem(last=False)
        return secret

    def file(self, secret: str) -> Path | None:
        """The file of an address; None if the address is not, or no longer, good."""
        path, until = self._files.pop(secret, (None, 0.0))
        if path is None or until < time.monotonic():
            return None
        self._files[secret] = (path, time.monotonic() + GOOD_SECONDS)
        return path


def add_files(
    app: FastAPI, settings: Settings, prefect: PrefectApi, authenticate: Authenticate
) -> None:
    """Add GET /files/{job_id} and GET /file/{secret}."""
    addresses = Addresses()

    @app.get("/files/{job_id}", responses=problems(*WITH_TOKEN, 404, 503))
    async def job_files(
        job_id: JobId, caller: Annotated[Caller, Depends(authenticate)]
    ) -> JobFiles:
        """Addresses of a completed job's source, result and report, for those who send no token.

        These are players, downloads and new tabs of a browser.
        """
        run = await find_run(prefect, caller, job_id)
        result = read_result(await prefect.artifacts_of(run.id))
        found = await asyncio.to_thread(_files_of, result, settings)

        def address(path: Path | None) -> str | None:
            return f"file/{addresses.of(path)}" if path else None

        made = address(found.result)
        return JobFiles(
            before=address(found.before),
            after=made if found.result and found.result.suffix in _VIDEO_KINDS else None,
            result=f"{made}?keep=true" if made else None,
            report=address(found.report),
        )

    @app.get("/file/{secret}", include_in_schema=False)
    def job_file(secret: str, keep: bool = False) -> FileResponse:
        """A file, also in parts, as a player asks for them; the address is the permission.

        With `keep` a browser saves it and shows nothing.
        """
        path = addresses.file(secret)
        if path is None or not path.is_file():
            raise HTTPException(404, "this address is no longer good; ask for the files again")
        headers = {
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": _POLICY,
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cache-Control": "private, no-store",
        }
        # A source, which nobody keeps, has its digest as its name.
        other = "application/octet-stream" if keep else "video/mp4"
        kind = _KINDS.get(path.suffix.lower(), other)
        name = path.name if keep else None
        return FileResponse(path, media_type=kind, headers=headers, filename=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Files:
    """Where a job's files are; None where one is not on this machine."""

    before: Path | None
    result: Path | None
    report: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sourced:
    """What we need of a job's outline."""

    source_sha256: str


def _files_of(result: Any, settings: Settings) -> _Files:
    """Find the files of a result. It was made by whoever may run jobs: no other file is shown."""
    folders = (settings.storage_dir, settings.jobs_dir)
    return _Files(
        before=_before(result, settings, folders),
        result=_ours(result.get("output_path"), OUTPUT_ENDINGS, folders[:1]),
        report=_ours(result.get("report_path"), (".html",), folders),
    )


def _before(result: Any, settings: Settings, folders: Sequence[Path]) -> Path | None:
    """The source, or the piece of it that a preview shows.

    That lies in the job's folder where `recover` has completed a run that was lost at its end.
    """
    shown = result.get("preview")
    if isinstance(shown, dict):
        return _ours(shown.get("before_path"), _VIDEO_KINDS, folders)
    return _source(result.get("job_key"), settings)


def _source(job_key: object, settings: Settings) -> Path | None:
    """The source in the work directory; a file that lies elsewhere is its owner's to show."""
    if not isinstance(job_key, str) or not re.fullmatch("[0-9a-f]{64}", job_key):
        return None
    try:
        outline = read_record(JobDir(settings.jobs_dir / job_key).outline_path, _Sourced)
    except (SegmentError, FileNotFoundError):
        return None
    if not re.fullmatch("[0-9a-f]{64}", outline.source_sha256):
        return None
    folders = (settings.sources_dir, settings.intake_dir)
    found = (folder / outline.source_sha256 for folder in folders)
    return next((path for path in found if path.is_file()), None)


def _ours(told: object, endings: Container[str], folders: Sequence[Path]) -> Path | None:
    """The file that a result names, if it lies in one of these folders and has such an ending."""
    if not isinstance(told, str):
        return None
    try:
        path = Path(told).resolve(strict=True)
        ours = any(path.is_relative_to(folder.absolute().resolve()) for folder in folders)
        return path if ours and path.suffix in endings and path.is_file() else None
    except (OSError, RuntimeError, ValueError):
        return None
