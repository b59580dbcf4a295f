"""What the commands read of a gateway's answers, and the refusal of anything else.

Something else than a gateway may answer at an address, or somebody who means harm: every value that
is shown or computed with is checked, and more than a gateway ever says is not read. Imports no
Prefect.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any

import httpx
from pydantic import AfterValidator, BaseModel, Field, ValidationError
from pydantic_core import from_json

from seedvr2_core.errors import ServiceError

MAX_ANSWER_BYTES = 2**25
"""A page of 100 jobs or 200 lines of a log has less than a megabyte."""
MAX_EVENT_BYTES = 2**20
_MAX_SHOWN = 2000
_FIRST, _LAST = datetime(1970, 1, 2, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)

Answer = dict[str, Any]


def _moment(text: str) -> str:
    """Refuse what is no time of our days; those at the ends of the calendar have no local time."""
    at = datetime.fromisoformat(text)
    if at.tzinfo is None or not _FIRST < at < _LAST:
        raise ValueError("expected a time with its zone")
    return text


Id = Annotated[str, Field(pattern=r"^[0-9A-Za-z_-]{1,100}$")]
Number = Annotated[float, Field(ge=-1e12, le=1e12, allow_inf_nan=False)]
Moment = Annotated[str, AfterValidator(_moment)]


class GivenSubmission(BaseModel, defer_build=True):
    """Of an answer to POST /upscale."""

    job_id: Id
    deployment: str
    notes: list[str]


class GivenJob(BaseModel, defer_build=True):
    """Of an answer to GET /status/{job_id}; what older gateways do not say may be missing."""

    job_id: Id
    status: str
    state: str
    progress: Number
    elapsed_seconds: Number
    phase: str | None
    gpu_type: str | None
    resolution: str | None
    filename: str | None
    download_url: str | None
    output_path: str | None
    error: str | None
    submitted_at: Moment | None
    notes: list[str]
    error_code: str | None = None
    detail: str | None = None
    source_name: str | None = None
    position: int | None = None
    segment: int | None = None
    segments: int | None = None
    frames_per_second: Number | None = None
    seconds_left: Number | None = None
    seconds_left_low: Number | None = None
    seconds_left_high: Number | None = None
    cost: Number | None = None
    whole_with: str | None = None


class GivenJobs(BaseModel, defer_build=True):
    """Of an answer to GET /jobs."""

    jobs: Annotated[list[GivenJob], Field(max_length=100)]


class GivenDeletion(BaseModel, defer_build=True):
    """Of an answer to DELETE /jobs/{job_id}."""

    job_id: Id
    removed: Annotated[list[str], Field(max_length=100)]
    kept: Annotated[list[str], Field(max_length=100)]


class GivenLine(BaseModel, defer_build=True):
    """A line of a log."""

    id: Id
    at: Moment
    level: str
    message: str


class GivenLines(BaseModel, defer_build=True):
    """Of an answer to GET /logs/{job_id}."""

    lines: Annotated[list[GivenLine], Field(max_length=1000)]
    more: bool


class GivenHealth(BaseModel, defer_build=True):
    """Of an answer to GET /healthz."""

    files_of: str | None = None


def given_answer(content: bytes | str, kind: type[BaseModel], url: str) -> Answer:
    """A gateway's answer as it is, if it has what the commands need.

    Raises:
        ServiceError: it has not; the sentence names what is missing or wrong.
    """
    try:
        answer = from_json(content, allow_inf_nan=False)
        kind.model_validate(answer, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "all of it"
        raise _no_answer(url, f"{where[:100]}: {first['msg'][:200]}") from error
    except ValueError as error:
        raise _no_answer(url, f"no JSON: {str(error)[:200]}") from error
    return answer


def bounded(answer: httpx.Response, url: str) -> bytes:
    """The body of an answer that is being received.

    Raises:
        ServiceError: it is longer than any that a gateway gives.
    """
    content = bytearray()
    for piece in answer.iter_bytes():
        content += piece
        if len(content) > MAX_ANSWER_BYTES:
            raise _no_answer(url, f"more than {MAX_ANSWER_BYTES} bytes")
    return bytes(content)


def bounded_lines(answer: httpx.Response) -> Iterator[str]:
    """The lines of a stream of events; it ends where one is longer than any event."""
    rest = b""
    for piece in answer.iter_bytes():
        *lines, rest = (rest + piece).split(b"\n")
        yield from (line.decode("utf-8", "replace") for line in lines)
        if len(rest) > MAX_EVENT_BYTES:
            return


def refusal_words(content: bytes) -> tuple[str, str]:
    """What a refusal says: its sentence, and the code of its error; each "" if it has none."""
    try:
        told = from_json(content)
    except ValueError:
        return "", ""
    if not isinstance(told, dict):
        return "", ""
    detail, code = told.get("detail"), told.get("code")
    if isinstance(detail, list):  # of FastAPI's own, in older gateways
        detail = "; ".join(_field_words(one) for one in detail[:10])
    words = detail[:_MAX_SHOWN] if isinstance(detail, str) else ""
    return words, code if isinstance(code, str) else ""


def _field_words(one: object) -> str:
    """What is wrong with one field."""
    told = one if isinstance(one, dict) else {}
    place = told.get("loc")
    where = ".".join(map(str, place)) if isinstance(place, list) else "a field"
    return f"{where}: {told.get('msg')}"


def _no_answer(url: str, why: str) -> ServiceError:
    return ServiceError(
        f"what answers at {url} is no gateway, or one of another version ({why}); check --gateway "
        "or SEEDVR2_GATEWAY_URL"
    )
