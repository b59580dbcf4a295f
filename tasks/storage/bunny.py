"""A Bunny storage zone as storage: PUT stores a file, DESCRIBE tells its length and digest.

A PUT stores a file whole or not at all. A DESCRIBE comes first, so that bytes that are stored
already are not sent again: an earlier attempt may have lost its answer, or another run was first.
The zone's password is sent in the AccessKey header only; no message, no log line and no repr shows
it.

We wait here only when the storage sends Retry-After. Every other wait is a task retry, visible in
Prefect.
"""

import contextlib
import mimetypes
import time
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from seedvr2_core.errors import ResourceError, StorageError, StorageRefusedError
from seedvr2_core.files import file_sha256
from seedvr2_core.files.reading import OnBytes, no_bytes
from tasks.net.answers import may_heal, status_text, whole_number
from tasks.net.trusted import open_client
from tasks.storage.base import Stored, candidates, check_name, no_name_left, translated
from tasks.storage.bunny_zone import BunnyZone

_ASK = httpx.Timeout(30.0, connect=10.0)
# After the last byte the storage may go on hashing and writing for minutes before it answers.
_PUT = httpx.Timeout(30.0, connect=10.0, read=300.0)
_PIECE_BYTES = 2**20
_GRACE_SECONDS = 60.0
_MIN_BYTES_PER_SECOND = 50_000
"""An upload that is slower than this on average, after _GRACE_SECONDS, is given up."""
_MAX_WAIT_SECONDS = 60.0
"""Longest sum of waits that Retry-After asks for during one request."""
_MIN_WAIT_SECONDS = 5.0
"""Each wait counts as at least this long in that sum, so that Retry-After: 0 cannot repeat for
ever."""
_BEAT_SECONDS = 5.0
"""Seconds between signs of life during a wait."""
_MAY_SAY_WHEN = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)


class _Description(BaseModel):
    """The part of DESCRIBE's answer that we use."""

    Length: int
    Checksum: str | None = None


class BunnyStorage:
    """Stores files in a Bunny storage zone (see `base.Storage`).

    No redirect is followed: the password goes where the settings say and nowhere else.
    """

    def __init__(self, zone: BunnyZone, *, on_bytes: OnBytes = no_bytes) -> None:
        """Use this zone.

        Args:
            zone: its addresses and keys.
            on_bytes: called after every piece that was sent or hashed, and while we wait (then with
                0 bytes).
        """
        self._zone = zone
        self._on_bytes = on_bytes
        self._num_bytes = 0

    def put(self, path: Path, name: str, *, sha256: str | None = None) -> Stored:
        """Store a file (see Storage.put). Without `sha256` the file is read twice.

        Raises:
            InvalidRequestError: the name cannot be the name of a stored file.
            StorageRefusedError: the storage refuses it: the key or the zone is wrong, or the bytes
                changed on the way.
            StorageError: the storage may take it later.
            ResourceError: the storage is full.
        """
        check_name(name)
        with translated(f"reading {path}"):
            num_bytes = path.stat().st_size
            digest = sha256 or file_sha256(path, on_bytes=self._on_bytes)
        self._num_bytes = num_bytes
        with open_client(follow_redirects=False) as client:
            for candidate in candidates(name):
                found = self._describe(client, candidate)
                if found is None:
                    self._send(client, path, candidate, num_bytes, digest)
                    return self._stored(candidate, num_bytes, digest)
                if not found.sha256 and found.num_bytes == num_bytes:
                    raise StorageError(
                        f"{candidate} is in storage with {num_bytes} bytes and no digest yet, so "
                        "it cannot be told whether it is this file; try again"
                    )
                if (found.num_bytes, found.sha256) == (num_bytes, digest):
                    return found
        raise no_name_left(name)

    def stat(self, name: str) -> Stored | None:
        """What the storage says about the file with this name; None if there is none."""
        check_name(name)
        with open_client(follow_redirects=False) as client:
            return self._describe(client, name)

    def delete(self, name: str) -> None:
        """Remove the file, if there is one; the pull zone may go on serving it for a while."""
        check_name(name)
        with open_client(follow_redirects=False) as client:
            answer = self._ask(client, "DELETE", name, f"removing {name}")
        if answer.status_code != HTTPStatus.NOT_FOUND:
            self._check(answer, f"removing {name}")

    def _describe(self, client: httpx.Client, name: str) -> Stored | None:
        answer = self._ask(client, "DESCRIBE", name, f"asking for {name}")
        if answer.status_code == HTTPStatus.NOT_FOUND:
            return None
        self._check(answer, f"asking for {name}")
        try:
            told = _Description.model_validate_json(answer.content)
        except ValidationError:
            raise StorageRefusedError(
                f"{self._zone.storage_url} answered DESCRIBE with something that describes no "
                "file; BUNNY_HOST must name the storage, not the pull zone"
            ) from None
        return self._stored(name, told.Length, (told.Checksum or "").lower())

    def _send(
        self, client: httpx.Client, path: Path, name: str, num_bytes: int, digest: str
    ) -> None:
        """PUT a file under a name that is free."""
        headers = {
            "Checksum": digest.upper(),
            "Override-Content-Type": content_type(name),
            "Content-Type": "application/octet-stream",
            "Content-Length": str(num_bytes),
        }
        doing = f"storing {name}"
        with translated(f"reading {path}"), path.open("rb") as stream:
            answer = self._ask(
                client, "PUT", name, doing, headers=headers, body=(stream, num_bytes)
            )
            refused = answer.status_code == HTTPStatus.BAD_REQUEST
            if refused and file_sha256(path, on_bytes=self._on_bytes) != digest:
                raise StorageRefusedError(
                    f"{path} is not the file that was made: expected sha256 {digest}; "
                    "run the job again"
                )
        self._check(answer, doing)

    def _ask(
        self,
        client: httpx.Client,
        method: str,
        name: str,
        doing: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: tuple[BinaryIO, int] | None = None,
    ) -> httpx.Response:
        """Make one request; while the storage answers with Retry-After, wait and repeat it.

        Args:
            client: of this operation.
            method: DESCRIBE, PUT or DELETE.
            name: of the file in storage.
            doing: begins the message of an error.
            headers: beside the key.
            body: an open file and its length in bytes.
        """
        url = f"{self._zone.storage_url}/{quote(self._zone.name)}{self._zone.path(name)}"
        given = {"AccessKey": self._zone.key.get_secret_value(), **(headers or {})}
        waited = 0.0
        while True:
            with self._errors(doing):
                answer = client.request(
                    method,
                    url,
                    headers=given,
                    content=self._pieces(*body) if body else None,
                    timeout=_PUT if body else _ASK,
                )
            pause = _asked_to_wait(answer)
            if pause is None or waited + pause > _MAX_WAIT_SECONDS:
                return answer
            self._rest(pause)
            waited += max(pause, _MIN_WAIT_SECONDS)

    @contextlib.contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        """Turn errors of the network into StorageError."""
        try:
            yield
        except httpx.TransportError as error:
            timed_out = isinstance(error, httpx.TimeoutException)
            told = "did not answer in time" if timed_out else "is away or broke off"
            raise StorageError(
                f"{doing}: {self._zone.storage_url} {told} ({type(error).__name__}); try again"
            ) from error

    def _pieces(self, stream: BinaryIO, num_bytes: int) -> Iterator[bytes]:
        """The file from its beginning, in pieces. Raises StorageError if they go out too slowly."""
        began, sent = time.monotonic(), 0
        stream.seek(0)
        while piece := stream.read(_PIECE_BYTES):
            yield piece
            sent += len(piece)
            self._on_bytes(sent, num_bytes)
            seconds = time.monotonic() - began
            if seconds > _GRACE_SECONDS and sent < seconds * _MIN_BYTES_PER_SECOND:
                raise StorageError(
                    f"{self._zone.storage_url} took {sent} of {num_bytes} bytes in "
                    f"{seconds:.0f} s, less than {_MIN_BYTES_PER_SECOND} a second; try again"
                )

    def _rest(self, seconds: float) -> None:
        """Wait, with a sign of life every few seconds."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._on_bytes(0, self._num_bytes)
            time.sleep(min(left, _BEAT_SECONDS))

    def _check(self, answer: httpx.Response, doing: str) -> None:
        """Turn every status that is no success into an error.

        The body of the answer is not shown, because it may quote what was sent.
        """
        status = answer.status_code
        if answer.is_success:
            return
        said = f"{doing}: {self._zone.storage_url} answered {status_text(status)}"
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise StorageRefusedError(
                f"{said}; BUNNY_STORAGE_KEY must be the password of the storage zone "
                f"{self._zone.name} (not the account's API key), and BUNNY_HOST or "
                "SEEDVR2_BUNNY_REGION must be the zone's own"
            )
        if status == HTTPStatus.BAD_REQUEST:
            raise StorageRefusedError(
                f"{said}: other bytes than the checksum's came there, or it takes no such name; "
                "look for a proxy that changes requests, then run the job again"
            )
        if status == HTTPStatus.INSUFFICIENT_STORAGE:
            raise ResourceError(f"{said}; the storage is full: free space and run again")
        if may_heal(status):
            raise StorageError(f"{said}; try again")
        raise StorageRefusedError(f"{said}; expected success: BUNNY_HOST must name the storage")

    def _stored(self, name: str, num_bytes: int, sha256: str) -> Stored:
        return Stored(
            name=name, num_bytes=num_bytes, sha256=sha256, url=self._zone.link(name), path=None
        )


_TYPES = {".mkv": "video/x-matroska", ".webp": "image/webp", ".exr": "image/x-exr"}
"""What Python or the system need not know."""


def content_type(name: str) -> str:
    """The content type that a file of this name is served with."""
    ending = name[name.rfind(".") :].lower()
    return _TYPES.get(ending) or mimetypes.guess_type(name)[0] or "application/octet-stream"


def _asked_to_wait(answer: httpx.Response) -> int | None:
    """Seconds of the Retry-After header, if the storage asks us to wait."""
    if answer.status_code not in _MAY_SAY_WHEN:
        return None
    return whole_number(answer.headers.get("retry-after", ""))
