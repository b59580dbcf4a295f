"""Refusals: every one is a JSON object with one sentence, and declared in the OpenAPI."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from seedvr2_core.errors import (
    InvalidRequestError,
    InvalidVideoError,
    ResourceError,
    SeedVR2Error,
    SourceRefusedError,
    StorageError,
)

_MAX_DETAIL = 2000

_MEANINGS = {
    400: ("The body ended early.", "the body ended early; send the request again"),
    401: (
        "The token is missing or unknown.",
        "this gateway needs one of its tokens; send the header Authorization: Bearer TOKEN",
    ),
    403: (
        "A web page of another origin asks a gateway that has no tokens.",
        "requests by other web pages are refused while SEEDVR2_GATEWAY_TOKENS is not set",
    ),
    404: (
        "This caller has no such job, or no such upload.",
        "there is no job '6a1fb6a8-2f0a-4d8e-9a53-0c9c5a7c9d11'",
    ),
    408: (
        "The body came too slowly.",
        "less than 30000 bytes of the body came in 30 s; send it faster",
    ),
    409: (
        "The job is not in a state for this, the Idempotency-Key belongs to another request, or "
        "the upload has another offset.",
        "job 6a1fb6a8-2f0a-4d8e-9a53-0c9c5a7c9d11 has completed and cannot be cancelled",
    ),
    410: (
        "The upload has expired.",
        "upload 3f2a9c0d4b8e4f10a6c1d2e3f4a5b6c7 has expired; begin another one",
    ),
    412: (
        "The client speaks another version of tus.",
        "expected the header Tus-Resumable: 1.0.0, the version that is spoken here",
    ),
    413: (
        "The video or its fields are too large.",
        "the video is larger than 50000000000 bytes, the limit of this gateway",
    ),
    415: (
        "The body is of a type that is not taken.",
        "got a body of type 'text/plain'; expected application/json, multipart/form-data, video/*, "
        "image/* or application/octet-stream",
    ),
    421: (
        "The header Host names another server.",
        "this server is not known as 'example.org'; if it should be, name the host in "
        "SEEDVR2_ALLOWED_HOSTS",
    ),
    422: (
        "A value is wrong; the sentence names each one and what is expected.",
        "quality: Input should be less than or equal to 100, got '101'",
    ),
    429: (
        "The token has made all requests that it may make for now, or has as many open jobs or "
        "unfinished uploads as it may have. Send the request again after Retry-After seconds.",
        "this token may make 60 requests a minute; send the request again in 2 s",
    ),
    500: (
        "A fault of the gateway; its log has more.",
        "the gateway failed; its log says why",
    ),
    503: (
        "Prefect cannot be reached. Send the same request again after Retry-After seconds.",
        "Prefect cannot be reached (ConnectError); nothing is lost: send the same request (and "
        "Idempotency-Key) again",
    ),
    507: (
        "There is no room for the video: the disk is nearly full, or the token's quota is used up.",
        "the disk of the gateway has no room for this video; free space or set SEEDVR2_WORK_DIR",
    ),
}
EVERYWHERE = (421, 422, 500)
"""What any request may be answered."""
WITH_TOKEN = (401, 403, 429)
"""What any request to an address that needs a token may be answered."""


class Problem(BaseModel):
    """Answer to a request that is refused or that failed."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"detail": "there is no job 'nonsense'"}]}
    )

    detail: str = Field(description="What is wrong, and what to do about it, in one sentence.")
    code: str | None = Field(
        default=None, description="Names the kind of error; it never changes. Not of every refusal."
    )
    remedy: str | None = Field(
        default=None, description="What helps against all errors of this kind."
    )


def problems(*codes: int) -> dict[int | str, dict[str, Any]]:
    """Declarations of these statuses, for the `responses` of an address."""
    found: dict[int | str, dict[str, Any]] = {}
    for code in sorted({*codes, *EVERYWHERE}):
        meaning, example = _MEANINGS[code]
        found[code] = {
            "model": Problem,
            "description": meaning,
            "content": {"application/json": {"example": {"detail": example}}},
        }
    wait = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
    for code in {429, 503} & found.keys():
        found[code]["headers"] = wait
    return found


def problem(
    status: int,
    sentence: str,
    headers: dict[str, str] | None = None,
    *,
    kind: type[SeedVR2Error] | None = None,
) -> JSONResponse:
    """An answer with this status and sentence, and the code and remedy of an error's class.

    The sentence may quote what a caller sent, so it is cut and made fit for UTF-8.
    """
    detail = sentence.encode(errors="replace").decode()
    if len(detail) > _MAX_DETAIL:
        detail = f"{detail[: _MAX_DETAIL // 2]} ... {detail[-_MAX_DETAIL // 2 + 5 :]}"
    told = {"detail": detail} | ({"code": kind.code, "remedy": kind.remedy} if kind else {})
    return JSONResponse(told, status_code=status, headers=headers)


def add_handlers(app: FastAPI) -> None:
    """Let the application answer all errors as problems."""

    @app.exception_handler(SeedVR2Error)
    async def refused(_: Request, error: SeedVR2Error) -> JSONResponse:
        code = 500
        if isinstance(error, ResourceError):
            code = 507
        elif isinstance(error, InvalidRequestError | InvalidVideoError | SourceRefusedError):
            code = 422
        elif isinstance(error, StorageError):  # the object store; nothing was submitted
            return problem(503, str(error), {"Retry-After": "30"}, kind=type(error))
        return problem(code, str(error), kind=type(error))

    @app.exception_handler(HTTPException)
    async def declined(_: Request, error: HTTPException) -> JSONResponse:
        return problem(error.status_code, error.detail, dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def wrong(_: Request, error: RequestValidationError) -> JSONResponse:
        return problem(422, "; ".join(_sentence(one) for one in error.errors()))

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> JSONResponse:
        return problem(500, _MEANINGS[500][1])  # the traceback is logged by the server


def _sentence(error: Any) -> str:
    """One of pydantic's errors about a parameter: where, and what is expected."""
    where = ".".join(str(part) for part in error["loc"][1:])
    return f"{where}: {error['msg']}, got {str(error.get('input'))[:80]!r}"
