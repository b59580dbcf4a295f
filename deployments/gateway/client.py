"""A client of the gateway, for the commands `seedvr2 submit`, `status`, `cancel` and `logs`.

If the gateway has answered once and then it, or Prefect behind it, cannot be reached, the client
waits and asks again. If it has never answered, that is an error at once. Imports no Prefect.
"""

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import httpx
from pydantic import BaseModel

from deployments.gateway.given import (
    Answer,
    GivenDeletion,
    GivenHealth,
    GivenJob,
    GivenJobs,
    GivenLines,
    GivenSubmission,
    bounded,
    bounded_lines,
    given_answer,
    refusal_words,
)
from deployments.gateway.uploads.archive import file_to_send
from deployments.gateway.uploads.sending import FileSender
from deployments.host.machine import this_machine
from seedvr2_core.errors import InvalidRequestError, SeedVR2Error, ServiceError, error_of_code
from tasks.schemas import UpscaleRequest
from tasks.settings import Settings

AWAY_SECONDS = 900.0
"""How long we keep asking a gateway that does not answer any more."""
_AGAIN_SECONDS = 2.0
POLL_SECONDS = 1.0
"""Time between two questions for a status where there are no events."""
SILENT_SECONDS = 45.0
"""Longest silence of a stream of events: the gateway gives a sign of life every 15 s."""
ENDED = ("completed", "failed", "cancelled")
_TIMEOUT = httpx.Timeout(300.0, connect=5.0)
"""Long, because the gateway syncs a file of many gigabytes to disk before it answers."""
MAX_LINES = 1_000_000
"""Of a log, in one call of `logs`: more are no log of ours."""
_AWAY = (408, 429, 502, 503, 504)
_CALLERS_MISTAKE = (400, 401, 403, 404, 409, 413, 415, 421, 422)


class GatewayClient:
    """Talks to one gateway.

    All methods raise ServiceError if the gateway fails or cannot be reached, and
    InvalidRequestError if it refuses the request.
    """

    def __init__(self, settings: Settings, *, url: str | None, say: Callable[[str], None]) -> None:
        """Use the gateway at `url`, or the one of the settings.

        Args:
            settings: gateway_url and gateway_token.
            url: replaces gateway_url.
            say: called with a sentence, once a request, when we begin to wait for the gateway.
        """
        self._url = (url or settings.gateway_url).rstrip("/")
        token = settings.gateway_token
        headers = {"Authorization": f"Bearer {token.get_secret_value()}"} if token else {}
        try:
            self._http = httpx.Client(base_url=self._url, headers=headers, timeout=_TIMEOUT)
        except httpx.InvalidURL as error:
            raise InvalidRequestError(
                f"{self._url[:100]!r} is no address of a gateway; expected http(s)://host:port"
            ) from error
        self._say = say
        self._has_answered = False

    def submit(self, request: UpscaleRequest, *, upload: bool = False) -> Answer:
        """Create a job.

        If the source is a file or a sequence of pictures, the gateway gets its path where it sees
        the same files as we do, and its bytes otherwise; those of pictures are packed.

        Args:
            request: its video_path is absolute.
            upload: send the file's bytes in any case.
        """
        key = {"Idempotency-Key": uuid.uuid4().hex}  # one job, however often we must ask
        options = request.model_dump(mode="json", exclude_defaults=True)
        options["resolution"] = request.resolution
        if request.video_path is None or not (upload or self._sees_other_files()):
            return self._ask("POST", "/upscale", GivenSubmission, headers=key, json=options)
        del options["video_path"]
        with file_to_send(request) as path:
            if reference := self._send(path):
                options["video_url"] = reference
                return self._ask("POST", "/upscale", GivenSubmission, headers=key, json=options)
            where = f"/upscale/{quote(path.name, safe='')}"
            return self._ask("PUT", where, GivenSubmission, headers=key, params=options, file=path)

    def _send(self, path: Path) -> str | None:
        """Send a file so that it goes on after a cut; None: the gateway is too old for that."""
        self._ask("GET", "/healthz", GivenHealth)  # waits for one that is away for now
        return FileSender(self._http, say=self._say, refuse=self._refusal).send(path)

    def status(self, job_id: str) -> Answer:
        """Read a job's state, progress and result."""
        return self._ask("GET", f"/status/{quote(job_id, safe='')}", GivenJob)

    def follow(self, job_id: str) -> Iterator[Answer]:
        """A job's status whenever it changes, as `status` returns it; the last one has ended.

        The gateway sends events. Where it cannot (an older one, or too many listeners), or a proxy
        holds them back, we ask for the status again and again.
        """
        events_from = time.monotonic()
        while True:
            if time.monotonic() >= events_from:
                for job in self._events(job_id):
                    yield job
                    if job["status"] in ENDED:
                        return
                events_from = time.monotonic() + SILENT_SECONDS
            job = self.status(job_id)
            yield job
            if job["status"] in ENDED:
                return
            time.sleep(POLL_SECONDS)

    def _events(self, job_id: str) -> Iterator[Answer]:
        """The statuses that the gateway sends; ends where there are no more, whatever the cause.

        Why there are none is told by the question for the status that comes next.
        """
        path = f"/events/{quote(job_id, safe='')}"
        timeout = httpx.Timeout(SILENT_SECONDS, connect=5.0)
        try:
            with self._http.stream("GET", path, timeout=timeout) as answer:
                kind = answer.headers.get("content-type", "")
                if answer.status_code != 200 or not kind.startswith("text/event-stream"):
                    return
                self._has_answered = True
                for line in bounded_lines(answer):
                    if line.startswith("data: ") and '"job_id"' in line:
                        yield given_answer(line.removeprefix("data: "), GivenJob, self._url)
        except (httpx.RequestError, ServiceError):
            return

    def jobs(self, limit: int, tags: Sequence[str] = ()) -> list[Answer]:
        """The newest jobs, each as `status` returns it; with tags, only those that have all."""
        params = {"limit": limit} | ({"tag": list(tags)} if tags else {})
        return self._ask("GET", "/jobs", GivenJobs, params=params)["jobs"]

    def delete(self, job_id: str) -> Answer:
        """Remove what a job has made; returns what was removed."""
        return self._ask("DELETE", f"/jobs/{quote(job_id, safe='')}", GivenDeletion)

    def whole(self, job_id: str) -> Answer:
        """Submit the whole video of a completed preview; asked twice, it is the same job."""
        return self._ask("POST", f"/whole/{quote(job_id, safe='')}", GivenSubmission)

    def retry(
        self,
        job_id: str,
        *,
        max_seconds: float | None = None,
        max_price: float | None = None,
        no_limit: bool = False,
    ) -> Answer:
        """Submit a failed or cancelled job again; asked twice, it is the same job.

        With one of the options, these are its limits, in the place of those that it had.
        """
        limits = {"max_seconds": max_seconds, "max_price": max_price, "no_limit": no_limit or None}
        params = {name: value for name, value in limits.items() if value is not None}
        where = f"/retry/{quote(job_id, safe='')}"
        return self._ask("POST", where, GivenSubmission, params=params)

    def cancel(self, job_id: str) -> Answer:
        """Cancel a job; returns what `status` returns."""
        return self._ask("POST", f"/cancel/{quote(job_id, safe='')}", GivenJob)

    def logs(self, job_id: str, seen: set[str], after: str | None) -> Iterator[Answer]:
        """Read the log lines that are not in `seen` yet, oldest first, and add their ids to it.

        Args:
            job_id: the job's id.
            seen: ids of the lines that earlier calls gave out.
            after: only lines from this time on (ISO 8601); None: from the beginning.
        """
        params: dict[str, Any] = {"offset": 0} | ({"after": after} if after else {})
        while params["offset"] < MAX_LINES:
            page = self._ask("GET", f"/logs/{quote(job_id, safe='')}", GivenLines, params=params)
            for line in page["lines"]:
                if line["id"] not in seen:
                    seen.add(line["id"])
                    yield line
            if not (page["more"] and page["lines"]):  # "more" without any line has no end
                return
            params["offset"] += len(page["lines"])
        raise ServiceError(
            f"{self._url} has more than {MAX_LINES} log lines of one job, which no job writes"
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _sees_other_files(self) -> bool:
        """Whether the gateway accepts no paths, or sees another file than we do at a path."""
        return self._ask("GET", "/healthz", GivenHealth).get("files_of") != this_machine()

    def _ask(
        self,
        method: str,
        path: str,
        kind: type[BaseModel],
        *,
        file: Path | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        json: object = None,
    ) -> Answer:
        """Send one request, again and again while the gateway that has answered does not.

        `kind` is what the answer must have.
        """
        limit = time.monotonic() + AWAY_SECONDS
        waiting = False
        while True:
            try:
                with (
                    _opened(file) as content,
                    self._http.stream(
                        method, path, headers=headers, params=params, json=json, content=content
                    ) as answer,
                ):
                    told = bounded(answer, self._url)
            except httpx.RequestError as error:
                why = (
                    f"no gateway answers at {self._url} ({type(error).__name__}); start one with "
                    "`seedvr2 serve`, or name another with --gateway or SEEDVR2_GATEWAY_URL"
                )
            else:
                if answer.status_code not in _AWAY:
                    self._has_answered = True
                    return self._read(answer, told, kind)
                why = _detail(answer, told)
            if not self._has_answered or time.monotonic() > limit:
                raise ServiceError(why)
            if not waiting:
                waiting = True
                self._say(f"waiting: {why}")
            time.sleep(_AGAIN_SECONDS)

    def _read(self, answer: httpx.Response, told: bytes, kind: type[BaseModel]) -> Answer:
        """Read the body of a successful answer; raises the others as errors."""
        if answer.is_success:
            return given_answer(told, kind, self._url)
        raise self._refusal(answer, told)

    def _refusal(self, answer: httpx.Response, told: bytes) -> SeedVR2Error:
        """The error for an answer that is no success."""
        detail = _detail(answer, told)
        if answer.status_code == 401:
            detail += "; set SEEDVR2_GATEWAY_TOKEN to a token of this gateway"
        if error := _kind(told):
            return error(detail)
        mistaken = answer.status_code in _CALLERS_MISTAKE
        return InvalidRequestError(detail) if mistaken else ServiceError(detail)


@contextmanager
def _opened(file: Path | None) -> Iterator[BinaryIO | None]:
    """Open the file to send; None if the request has none."""
    if file is None:
        yield None
        return
    with file.open("rb") as stream:
        yield stream


def _kind(told: bytes) -> type[SeedVR2Error] | None:
    """The class of the error that the gateway names; None if it names none that we know."""
    _, code = refusal_words(told)
    return error_of_code(code)


def _detail(answer: httpx.Response, told: bytes) -> str:
    """What went wrong, in the gateway's words."""
    words, _ = refusal_words(told)
    words = words or "no reason given"  # something else than a gateway answers at this address
    return f"{words} (HTTP {answer.status_code} from {answer.request.url.host})"
