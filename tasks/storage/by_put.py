"""The address that a caller gave for the finished video: one PUT, in the place of a storage.

The address belongs to the job (`output_url`), and its query is a secret: it stays among the run's
parameters, from which every attempt of the run reads it, and is in no message, record or artifact.
It may lead anywhere, so it is asked through the client for strangers' addresses.

A PUT of the same bytes to the same address changes nothing, so it is simply tried again. Nobody but
the caller can look at what was stored: the storage's answer is all the proof there is. It is noted
in WORK_DIR/delivered under the address's digest, so that a run that is lost after it is not made
again.
"""

import asyncio
import base64
import hashlib
import math
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path

import httpx
from pydantic import BaseModel, ValidationError

from seedvr2_core.errors import (
    SourceRefusedError,
    SourceUnavailableError,
    StorageError,
    StorageRefusedError,
)
from seedvr2_core.files.durable import write_bytes
from seedvr2_core.files.reading import OnBytes, no_bytes
from tasks.net.answers import may_heal, status_text
from tasks.net.presigned import expires_at, put_headers
from tasks.net.stoppable import run_stoppable
from tasks.net.untrusted import check_reachable, check_url, put, shown_url
from tasks.settings import Settings
from tasks.storage.base import Stored, check_name, translated
from tasks.storage.bunny import content_type

# After the last byte the storage may go on hashing and writing for minutes before it answers.
_TIMEOUT = httpx.Timeout(30.0, connect=10.0, read=300.0)
_PIECE_BYTES = 2**20


class _Delivered(BaseModel):
    """What an address has taken."""

    name: str
    num_bytes: int
    sha256: str


class Deliveries:
    """What one address has taken, as it is noted on this machine."""

    def __init__(self, digest: str, settings: Settings) -> None:
        """Look at nothing yet; `digest` is of the address."""
        self._path = settings.delivered_dir / f"{digest}.json"

    def stat(self, name: str) -> Stored | None:
        """The file that the address has taken under this name; None if it is not known to have."""
        try:
            told = _Delivered.model_validate_json(self._path.read_bytes())
        except (OSError, ValidationError):
            return None
        if told.name != name:
            return None
        return Stored(name=name, num_bytes=told.num_bytes, sha256=told.sha256, url=None, path=None)

    def note(self, name: str, num_bytes: int, sha256: str) -> Stored:
        """Note what the address has taken."""
        told = _Delivered(name=name, num_bytes=num_bytes, sha256=sha256)
        with translated(f"writing {self._path}"):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(self._path, told.model_dump_json().encode())
        return Stored(name=name, num_bytes=num_bytes, sha256=sha256, url=None, path=None)


class PutStorage:
    """Sends a job's result to the address that its caller gave (see `base.Storage`)."""

    def __init__(self, url: str, settings: Settings, *, on_bytes: OnBytes = no_bytes) -> None:
        """Use this address.

        Args:
            url: as the request has it.
            settings: which addresses may be asked.
            on_bytes: called with the bytes done and the bytes in all while the file is read or
                sent.

        Raises:
            SourceRefusedError: it may not be asked.
        """
        self._address = check_url(url, settings)
        self._settings, self._on_bytes = settings, on_bytes
        self._deliveries = Deliveries(digest_of(url), settings)

    def check(self) -> None:
        """See whether the address can be reached; nothing is sent.

        Raises:
            SourceRefusedError: it leads to a private network.
            StorageError: its host is not known now.
        """
        try:
            asyncio.run(check_reachable(self._address.given, self._settings))
        except SourceUnavailableError as error:
            raise StorageError(str(error)) from error

    def put(self, path: Path, name: str, *, sha256: str | None = None) -> Stored:
        """Send a file; see Storage.put. It is read twice, because its digests go before it.

        Raises:
            InvalidRequestError: the name cannot be the name of a stored file.
            StorageRefusedError: the address does not take it, or the file is another one.
            StorageError: the address may take it later.
        """
        check_name(name)
        with translated(f"reading {path}"):
            num_bytes = path.stat().st_size
            digest, md5 = self._digests(path, num_bytes)
        if sha256 not in (None, digest.hex()):
            raise StorageRefusedError(
                f"{path} is not the file that was made: expected sha256 {sha256}, got "
                f"{digest.hex()}; run the job again"
            )
        found = self._deliveries.stat(name)
        if found is not None and (found.num_bytes, found.sha256) == (num_bytes, digest.hex()):
            return found
        checksums = {"Content-MD5": _base64(md5), "Content-Digest": f"sha-256=:{_base64(digest)}:"}
        headers = put_headers(
            self._address.given, content_type=content_type(name), checksums=checksums
        )
        answer = self._send(path, num_bytes, {**headers, "Content-Length": str(num_bytes)})
        self._check(answer, md5)
        return self._deliveries.note(name, num_bytes, digest.hex())

    def stat(self, name: str) -> Stored | None:
        """What the address is known to have taken; the storage itself shows it to nobody."""
        return self._deliveries.stat(name)

    def delete(self, name: str) -> None:
        """Nothing: the address allows a PUT and no more.

        Raises:
            StorageRefusedError: always.
        """
        raise StorageRefusedError(f"{name} cannot be removed: {self._address.shown} takes PUT only")

    def _digests(self, path: Path, num_bytes: int) -> tuple[bytes, bytes]:
        """SHA-256 and MD5 of a file; storages know no better one that every PUT may carry."""
        sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        with path.open("rb") as stream:
            while piece := stream.read(_PIECE_BYTES):
                sha256.update(piece)
                md5.update(piece)
                self._on_bytes(stream.tell(), num_bytes)
        return sha256.digest(), md5.digest()

    def _send(self, path: Path, num_bytes: int, headers: dict[str, str]) -> httpx.Response:
        async def pieces() -> AsyncIterator[bytes]:
            with path.open("rb") as stream:
                while piece := await asyncio.to_thread(stream.read, _PIECE_BYTES):
                    yield piece
                    self._on_bytes(stream.tell(), num_bytes)

        sending = put(self._address, pieces(), self._settings, headers=headers, timeout=_TIMEOUT)
        try:
            with translated(f"reading {path}"):
                return run_stoppable(sending)
        except SourceUnavailableError as error:
            raise StorageError(str(error)) from error
        except SourceRefusedError as error:
            raise StorageRefusedError(str(error)) from error

    def _check(self, answer: httpx.Response, md5: bytes) -> None:
        """Judge an answer; its body is not read, because it may quote the address."""
        status = answer.status_code
        said = f"{self._address.shown} answered {status_text(status)}"
        if not answer.is_success:
            if may_heal(status):
                raise StorageError(f"{said}; try again")
            expired = status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.GONE)
            why = (
                "the address has expired, or was signed for another method or other headers"
                if expired
                else "expected success of a PUT of the video"
            )
            raise StorageRefusedError(
                f"{said}: {why}; the video is kept for a while, so the same request with a new "
                "output_url goes on there"
            )
        told = [answer.headers.get("content-md5", "")]
        for value in answer.headers.get_list("x-goog-hash", split_commas=True):
            kind, _, digest = value.strip().partition("=")
            told.append(digest if kind == "md5" else "")
        if wrong := [one for one in told if one and one != _base64(md5)]:
            raise StorageError(
                f"{said}, but has other bytes (MD5 {wrong[0][:40]}, expected {_base64(md5)}); try "
                "again"
            )


def delivery_notes(url: str | None, *, eta_seconds: float) -> tuple[str, ...]:
    """What is told of an address before the job: where it leads, and whether it expires before.

    Args:
        url: as the request has it; None: there is none.
        eta_seconds: in how many seconds the video is expected.
    """
    if url is None:
        return ()
    notes = [f"the video is sent to {shown_url(url)}"]
    ends = expires_at(url)
    left = (ends - datetime.now(UTC)).total_seconds() if ends else math.inf
    if left < eta_seconds:
        notes.append(
            f"that address works for {left:.0f} s more, and the video is expected in "
            f"{eta_seconds:.0f} s; if it has expired by then, the same request with a new "
            "output_url goes on there"
        )
    return tuple(notes)


def digest_of(url: str) -> str:
    """The name of an address where it must not be shown."""
    return hashlib.sha256(url.encode()).hexdigest()


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode("ascii")
