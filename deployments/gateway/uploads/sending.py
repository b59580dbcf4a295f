"""Sends a file to a gateway by tus 1.0; after a cut it goes on from the last byte that has come.

A later call with the same file goes on as well: the gateway knows it again by its name, size and
time of change. The digest that the gateway names at the end is compared with the file's.
"""

import base64
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote

import httpx

from deployments.gateway.given import bounded
from deployments.gateway.uploads.protocol import BODY_TYPE, REFERENCE, VERSION
from seedvr2_core.errors import InvalidRequestError, ServiceError
from seedvr2_core.files import file_sha256
from tasks.net.answers import whole_number
from tasks.sources.uploads import digest_in

_PIECE_BYTES = 64 * 2**20
"""Sent by one request: a proxy that holds a body back loses no more than this."""
_READ_BYTES = 2**20
_PATIENCE_SECONDS = 900.0
"""How long a gateway that does not take a byte more is asked."""
_AGAIN_SECONDS = (0.5, 1.0, 2.0)
"""Pauses between attempts; the last one is repeated."""
_PASSES = (408, 409, 425, 429, 502, 503, 504)
"""Answers after which we ask for the offset and go on: the gateway or a proxy lost something."""
_GONE = (404, 410)
_NO_UPLOADS = (404, 405)
_VERSION = {"Tus-Resumable": VERSION}


class _InterruptedError(Exception):
    """A request that may be made again; its words say why."""


class FileSender:
    """Sends files over one client."""

    def __init__(
        self,
        http: httpx.Client,
        *,
        say: Callable[[str], None],
        refuse: Callable[[httpx.Response, bytes], Exception],
    ) -> None:
        """Send nothing yet.

        Args:
            http: of the gateway.
            say: called with a sentence when we begin to wait, or go on.
            refuse: makes an error of an answer that refuses for good.
        """
        self._http, self._say, self._refuse = http, say, refuse
        self._address: str | None = None
        self._offset = 0

    def send(self, path: Path) -> str | None:
        """Send a file.

        Returns:
            What a request says in `video_url`; None: the gateway knows no such uploads.

        Raises:
            InvalidRequestError: the gateway refuses it, or the file changed meanwhile.
            ServiceError: the gateway is away for too long.
        """
        reference = self._patiently(path)
        if reference is None:
            return None
        if digest_in(reference) != file_sha256(path):
            raise InvalidRequestError(f"{path} has changed while it was sent; send it again")
        return reference

    def _patiently(self, path: Path) -> str | None:
        """Send until all is there; returns as `send` does."""
        number, best, since = 0, -1, time.monotonic()
        while True:
            try:
                return self._go_on(path) if self._is_known() else None
            except (_InterruptedError, httpx.RequestError) as error:
                why = str(error) or type(error).__name__
            if self._offset > best:
                number, best, since = 0, self._offset, time.monotonic()
            if time.monotonic() - since > _PATIENCE_SECONDS:
                raise ServiceError(
                    f"the gateway took no more than {best} bytes of {path}: {why}; the same "
                    "command goes on there"
                )
            if number == 0:
                self._say(f"waiting: {why}; {self._offset} bytes have come, it goes on there")
            time.sleep(_AGAIN_SECONDS[min(number, len(_AGAIN_SECONDS) - 1)])
            number += 1

    def _is_known(self) -> bool:
        """Whether the gateway knows such uploads."""
        answer = self._http.options("/uploads")
        if answer.status_code in _PASSES:
            raise _InterruptedError(f"the gateway answers {answer.status_code}")
        return answer.status_code not in _NO_UPLOADS and "tus-version" in answer.headers

    def _go_on(self, path: Path) -> str:
        """Begin, or ask how far it is; then send what is missing."""
        size = path.stat().st_size
        if self._address is None:
            self._address = self._begin(path, size)
        answer = self._ask("HEAD", self._address, {})
        while not (reference := answer.headers.get(REFERENCE)):
            self._offset = whole_number(answer.headers.get("upload-offset", "")) or 0
            length = min(_PIECE_BYTES, size - self._offset)
            headers = {
                "Content-Type": BODY_TYPE,
                "Upload-Offset": str(self._offset),
                "Content-Length": str(max(0, length)),
            }
            content = _piece(path, self._offset, length)
            answer = self._ask("PATCH", self._address, headers, content)
        return unquote(reference)

    def _begin(self, path: Path, size: int) -> str:
        mark = f"{path.name}|{size}|{path.stat().st_mtime_ns}"
        metadata = f"filename {_base64(path.name)},fingerprint {_base64(mark)}"
        headers = {"Upload-Length": str(size), "Upload-Metadata": metadata}
        location = self._ask("POST", "/uploads", headers).headers.get("location", "")
        # Only the end is taken: whatever a proxy makes of the address, ours is not left.
        return f"/uploads/{location.rstrip('/').rpartition('/')[2]}"

    def _ask(
        self,
        method: str,
        address: str,
        headers: dict[str, str],
        content: Iterator[bytes] | None = None,
    ) -> httpx.Response:
        """Make one request.

        Raises:
            _InterruptedError: it may be made again.
            SeedVR2Error: it is refused.
        """
        given = {**_VERSION, **headers}
        with self._http.stream(method, address, headers=given, content=content) as answer:
            told = bounded(answer, str(self._http.base_url))
        if answer.is_success:
            return answer
        if answer.status_code in _GONE and self._address is not None:
            self._address = None
            raise _InterruptedError("the upload is gone and begins again")
        cut = answer.status_code == httpx.codes.BAD_REQUEST and method == "PATCH"
        if answer.status_code in _PASSES or cut:
            raise _InterruptedError(str(self._refuse(answer, told)))
        raise self._refuse(answer, told)


def _piece(path: Path, offset: int, length: int) -> Iterator[bytes]:
    with path.open("rb") as stream:
        stream.seek(offset)
        while length > 0 and (data := stream.read(min(_READ_BYTES, length))):
            length -= len(data)
            yield data


def _base64(text: str) -> str:
    return base64.b64encode(text.encode("utf-8", "replace")).decode("ascii")
