"""The gateway from the caller's side: what `seedvr2 submit`, status, cancel and logs talk through.

A gateway that has answered once is waited for while it, or Prefect behind it, is away; one that
never did is an error at once. Imports no Prefect.
"""

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import httpx

from deployments.host.machine import this_machine
from seedvr2_core.errors import InvalidRequestError, ServiceError
from tasks.schemas import UpscaleRequest
from tasks.settings import Settings

AWAY_SECONDS = 900.0
"""How long a gateway may be away before we give up asking."""
_AGAIN_SECONDS = 2.0
_TIMEOUT = httpx.Timeout(300.0, connect=5.0)
"""A file of many gigabytes is synced to disk before the gateway answers."""
_AWAY = (408, 429, 502, 503, 504)
_OF_THE_CALLER = (400, 401, 403, 404, 413, 415, 422)

Answer = dict[str, Any]


class Gateway:
    """A gateway, and who we are to it.

    All methods raise ServiceError where it fails or is away, InvalidRequestError where it refuses.
    """

    def __init__(self, settings: Settings, *, url: str | None, say: Callable[[str], None]) -> None:
        """Use this gateway, or the settings' one.

        Args:
            settings: gateway_url, gateway_token.
            url: instead of the settings'.
            say: told once when the gateway goes away.
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
        self._met = False

    def submit(self, request: UpscaleRequest, *, upload: bool = False) -> Answer:
        """Create a job; a file goes by its path where the gateway sees the same files, else whole.

        Args:
            request: its video_path is absolute.
            upload: send a file's bytes in any case.
        """
        key = {"Idempotency-Key": uuid.uuid4().hex}  # however often we ask, there is one job
        options = request.model_dump(mode="json", exclude_defaults=True)
        options["resolution"] = request.resolution
        if request.video_path is None or not (upload or self._is_elsewhere()):
            return self._ask("POST", "/upscale", headers=key, json=options)
        path = Path(options.pop("video_path"))
        where = f"/upscale/{quote(path.name, safe='')}"
        return self._ask("PUT", where, headers=key, params=options, file=path)

    def status(self, job_id: str) -> Answer:
        """Where a job is."""
        return self._ask("GET", f"/status/{quote(job_id, safe='')}")

    def cancel(self, job_id: str) -> Answer:
        """Cancel a job; the answer is its status."""
        return self._ask("POST", f"/cancel/{quote(job_id, safe='')}")

    def logs(self, job_id: str, seen: set[str], after: str | None) -> Iterator[Answer]:
        """Log lines that are not in `seen` yet, oldest first; `seen` grows.

        Args:
            job_id: of the job.
            seen: ids of lines that were given out.
            after: time (ISO 8601) from which on to look; None: from the beginning.
        """
        params: dict[str, Any] = {"offset": 0} | ({"after": after} if after else {})
        more = True
        while more:
            page = self._ask("GET", f"/logs/{quote(job_id, safe='')}", params=params)
            for line in page["lines"]:
                if line["id"] not in seen:
                    seen.add(line["id"])
                    yield line
            more = page["more"]
            params["offset"] += len(page["lines"])

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _is_elsewhere(self) -> bool:
        """Whether the gateway takes no paths, or a path of ours means another file to it."""
        return self._ask("GET", "/healthz").get("files_of") != this_machine()

    def _ask(
        self,
        method: str,
        path: str,
        *,
        file: Path | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
        json: object = None,
    ) -> Answer:
        """One question, again and again while the gateway is away."""
        limit = time.monotonic() + AWAY_SECONDS
        told = False
        while True:
            try:
                with _opened(file) as content:
                    answer = self._http.request(
                        method, path, headers=headers, params=params, json=json, content=content
                    )
            except httpx.RequestError as error:
                why = (
                    f"no gateway answers at {self._url} ({type(error).__name__}); start seedvr2 "
                    "serve, or say where it is with --gateway or SEEDVR2_GATEWAY_URL"
                )
            else:
                if answer.status_code not in _AWAY:
                    self._met = True
                    return self._read(answer)
                why = _detail(answer)
            if not self._met or time.monotonic() > limit:
                raise ServiceError(why)
            if not told:
                told = True
                self._say(f"waiting: {why}")
            time.sleep(_AGAIN_SECONDS)

    def _read(self, answer: httpx.Response) -> Answer:
        """The body of a good answer."""
        if answer.is_success:
            return answer.json()
        detail = _detail(answer)
        if answer.status_code == 401:
            detail += "; set SEEDVR2_GATEWAY_TOKEN"
        if answer.status_code in _OF_THE_CALLER:
            raise InvalidRequestError(detail)
        raise ServiceError(detail)


@contextmanager
def _opened(file: Path | None) -> Iterator[BinaryIO | None]:
    """The file that is sent, if one is."""
    if file is None:
        yield None
        return
    with file.open("rb") as stream:
        yield stream


def _detail(answer: httpx.Response) -> str:
    """What the gateway says went wrong, in words."""
    try:
        detail = answer.json()["detail"]
    except (ValueError, TypeError, KeyError):
        detail = "no reason given"  # something else answers there
    if not isinstance(detail, str):
        detail = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in detail)
    return f"{detail} (HTTP {answer.status_code} from {answer.request.url.host})"
