"""Downloads that go on after a crash: WORK_DIR/intake/<digest>.part -> WORK_DIR/sources/<sha256>.

One process at a time works on an address; it holds the lock beside the part. What the server said
about the file (ETag, Last-Modified) is kept there too. With it a download that was cut goes on
where it stopped, if the file is still the same, and for a file that we have already the server is
only asked whether it has changed.
"""

import asyncio
import contextlib
import hashlib
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import TYPE_CHECKING

import httpx

from seedvr2_core.errors import (
    InvalidVideoError,
    ResourceError,
    SeedVR2Error,
    SourceRefusedError,
    SourceUnavailableError,
)
from seedvr2_core.files import file_sha256, hold_lock
from seedvr2_core.files.durable import digest_of, sync_directory, sync_file
from seedvr2_core.files.reading import OnBytes, no_bytes
from tasks.net.answers import content_length
from tasks.net.stoppable import run_stoppable
from tasks.net.untrusted import Address, check_answer, check_size, check_url, open_answer
from tasks.schemas import FetchedSource
from tasks.settings import Settings
from tasks.sources.partial import Known, PartialDownload, known_of

if TYPE_CHECKING:
    from hashlib import _Hash

TIMEOUT = httpx.Timeout(30.0, connect=10.0)
"""Seconds to connect, and seconds without a byte. The whole download has a limit of its own."""
SLOW_SECONDS = 30.0
MIN_BYTES_PER_SECOND = 10_000
"""What a server must send on average over every SLOW_SECONDS. At less than that a source of 1 GB
would take more than a day."""
KEEP_FREE_BYTES = 256 * 10**6
"""Disk space that a download leaves free for others."""
DISK_CHECK_BYTES = 64 * 2**20
"""The free space is checked each time that this many bytes have come."""

_CONTENT_RANGE = re.compile(r"bytes (\d{1,20})-\d+/(\d{1,20}|\*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Arrived:
    """A file that we have: in the part, or (if `known.sha256` is set) among the sources."""

    known: Known
    part_sha256: str | None = None
    """Digest of the part, if it was computed while the part was written."""


def download(
    url: str, settings: Settings, *, note: Callable[[str], None], on_bytes: OnBytes = no_bytes
) -> FetchedSource:
    """Download the file at an address, or go on with a download that was cut.

    Args:
        url: http or https address.
        settings: where files go, what may be reached, and the limits.
        note: takes lines for the log.
        on_bytes: called with the bytes done and the bytes in all (0: not known) while they come or
            are hashed, and with (0, 0) while another process works on the address.

    Raises:
        SourceRefusedError: it can never be downloaded; nothing is kept.
        SourceUnavailableError: it cannot be downloaded now; what came is kept for the next attempt.
        InvalidVideoError: it is empty.
        ResourceError: there is not enough disk space.
        DeadlineError: another process works on the same address for longer than the limit.
    """
    address = check_url(url, settings)
    partial = PartialDownload(address, settings)

    def tell_waiting() -> None:
        note(f"another run is fetching {address.shown}; waiting for it")

    with (
        disk_errors(settings),
        hold_lock(
            partial.lock,
            timeout=settings.fetch_seconds,
            on_wait=tell_waiting,
            while_waiting=lambda: on_bytes(0, 0),
        ),
    ):
        try:
            arrived = run_stoppable(_bring_in(partial, settings, note, on_bytes))
            return _settle(arrived, partial, settings, on_bytes)
        except (SourceRefusedError, InvalidVideoError):
            partial.forget()
            raise
        finally:
            partial.tidy()


@contextlib.contextmanager
def disk_errors(settings: Settings) -> Iterator[None]:
    """Turn an OSError while a source is written into a ResourceError."""
    try:
        yield
    except OSError as error:
        if isinstance(error, SeedVR2Error):  # DeadlineError is a TimeoutError, hence an OSError
            raise
        raise ResourceError(
            f"{settings.work_dir} cannot take the source: {error.strerror or error}; "
            "free space or set SEEDVR2_WORK_DIR"
        ) from error


async def _bring_in(
    partial: PartialDownload, settings: Settings, note: Callable[[str], None], on_bytes: OnBytes
) -> _Arrived:
    """Transfer the file within the time limit; once more from its start if the part is useless."""
    shown = partial.address.shown
    try:
        async with asyncio.timeout(settings.fetch_seconds):
            for _ in range(2):
                arrived = await _transfer(partial, settings, note, on_bytes)
                if arrived is not None:
                    return arrived
                partial.forget()
                note(f"{shown} has changed or cannot be resumed; starting again")
    except TimeoutError as error:
        raise SourceUnavailableError(
            f"{shown} was not whole after {settings.fetch_seconds:g} s "
            "(SEEDVR2_FETCH_SECONDS); what came is kept, try again"
        ) from error
    raise SourceUnavailableError(f"{shown} answers a plain request with a part; try again")


async def _transfer(
    partial: PartialDownload, settings: Settings, note: Callable[[str], None], on_bytes: OnBytes
) -> _Arrived | None:
    """Make one request and receive its answer.

    Returns:
        The file; None if what we have does not fit what the server has.
    """
    known, address = partial.read(), partial.address
    if known and partial.is_whole(known):
        return _Arrived(known)
    headers = _conditions(known, partial, settings)
    # Hash the part before the request: that takes a while, and servers do not wait for ever.
    digest = hashlib.sha256()
    if "Range" in headers:
        digest = digest_of(partial.part, on_bytes=on_bytes)
    async with open_answer(address, settings, headers=headers, timeout=TIMEOUT) as answer:
        status = answer.status_code
        if known and known.sha256 and status == HTTPStatus.NOT_MODIFIED:
            note(f"{address.shown} has not changed; it is here already")
            return _Arrived(known) if _is_intact(known, settings, on_bytes) else None
        if "Range" in headers and status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return None
        check_answer(answer, address, settings)
        if status == HTTPStatus.PARTIAL_CONTENT:
            known = _continued(answer, known, partial) if "Range" in headers else None
            if known is None:
                return None
            note(f"going on with {address.shown} at {headers['Range']}")
        else:
            known, digest = known_of(answer, address, content_length(answer)), hashlib.sha256()
            partial.begin(known)
        await _receive(answer, partial, known.total, digest, settings, on_bytes)
    return _Arrived(known, digest.hexdigest())


def _conditions(
    known: Known | None, partial: PartialDownload, settings: Settings
) -> dict[str, str]:
    """Request headers that ask only for what we do not have."""
    if known is None:
        return {}
    if known.sha256:
        if not (settings.sources_dir / known.sha256).exists():
            return {}
        if known.etag:
            return {"If-None-Match": known.etag}
        return {"If-Modified-Since": known.last_modified} if known.last_modified else {}
    if known.validator and partial.num_bytes:
        return {"Range": f"bytes={partial.num_bytes}-", "If-Range": known.validator}
    return {}


def _continued(
    answer: httpx.Response, known: Known | None, partial: PartialDownload
) -> Known | None:
    """What is known of the file if a partial answer goes on exactly where our part ends.

    Returns:
        None if it begins elsewhere, or comes from another version of the file.
    """
    told = _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", "").strip())
    if known is None or told is None or known.differs_from(answer):
        return None
    if int(told[1]) != partial.num_bytes:
        return None
    if told[2] == "*":
        return known
    return replace(known, total=int(told[2])) if known.total in (None, int(told[2])) else None


async def _receive(
    answer: httpx.Response,
    partial: PartialDownload,
    total: int | None,
    digest: "_Hash",
    settings: Settings,
    on_bytes: OnBytes,
) -> None:
    """Append the body to the part and its digest, within the limits of size, disk and speed.

    `total` is the length of the whole file in bytes, None if the server does not say.
    """
    address = partial.address
    pace = _Pace(address)
    with partial.part.open("ab") as stream:
        num_bytes = checked = stream.tell()
        check_disk(0 if total is None else total - num_bytes, settings)
        async for chunk in answer.aiter_raw():
            num_bytes += len(chunk)
            check_size(num_bytes, address, settings)
            if total is not None and num_bytes > total:
                partial.forget()
                raise SourceUnavailableError(
                    f"{address.shown} sends more than the {total} bytes it announced; try again"
                )
            stream.write(chunk)
            digest.update(chunk)
            pace.came(len(chunk))
            on_bytes(num_bytes, total or 0)
            if num_bytes - checked > DISK_CHECK_BYTES:
                checked = num_bytes
                check_disk(0, settings)
    if total is not None and num_bytes != total:
        raise SourceUnavailableError(
            f"{address.shown} ended after {num_bytes} of {total} bytes; what came is kept, "
            "try again"
        )


class _Pace:
    """Ends a transfer that is too slow: a byte now and then would hold the job for hours."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._since = time.monotonic()
        self._num_bytes = 0

    def came(self, num_bytes: int) -> None:
        """Count bytes that have come, and judge the speed every SLOW_SECONDS.

        Raises:
            SourceUnavailableError: fewer than MIN_BYTES_PER_SECOND came.
        """
        self._num_bytes += num_bytes
        seconds = time.monotonic() - self._since
        if seconds < SLOW_SECONDS:
            return
        if self._num_bytes < MIN_BYTES_PER_SECOND * seconds:
            raise SourceUnavailableError(
                f"{self._address.shown} sent {self._num_bytes} bytes in {seconds:.0f} s, less than "
                f"{MIN_BYTES_PER_SECOND} a second; what came is kept, try again"
            )
        self._since, self._num_bytes = time.monotonic(), 0


def _settle(
    arrived: _Arrived, partial: PartialDownload, settings: Settings, on_bytes: OnBytes
) -> FetchedSource:
    """Move a whole file among the sources, if it does not lie there already."""
    known = arrived.known
    if known.sha256 is None:
        sync_file(partial.part)
        if not partial.num_bytes:
            shown = partial.address.shown
            raise InvalidVideoError(f"{shown} serves an empty file (0 bytes), not a video")
        sha256 = arrived.part_sha256 or file_sha256(partial.part, on_bytes=on_bytes)
        known = replace(known, sha256=sha256)
        assert known.sha256
        path = settings.sources_dir / known.sha256
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.part.replace(path)
        sync_directory(path.parent)
        partial.end(known)
    assert known.sha256
    path = settings.sources_dir / known.sha256
    return FetchedSource(
        path=path, sha256=known.sha256, num_bytes=path.stat().st_size, name=known.name
    )


def _is_intact(known: Known, settings: Settings, on_bytes: OnBytes) -> bool:
    """Whether the source of an earlier download is still there with the same bytes."""
    assert known.sha256
    path = settings.sources_dir / known.sha256
    return path.is_file() and file_sha256(path, on_bytes=on_bytes) == known.sha256


def check_disk(
    num_bytes: int,
    settings: Settings,
    *,
    doing: str = "the download",
    helps: str = "free space or set SEEDVR2_WORK_DIR",
) -> None:
    """Make sure that this many more bytes fit on the disk of the work directory.

    Args:
        num_bytes: how many will be written.
        settings: names the work directory, which need not be there yet.
        doing: what needs the room, as the subject of the message.
        helps: what to do where there is none.

    Raises:
        ResourceError: they do not fit.
    """
    work_dir = settings.work_dir.absolute()
    folder = next(place for place in (work_dir, *work_dir.parents) if place.exists())
    free = shutil.disk_usage(folder).free
    if free - num_bytes < KEEP_FREE_BYTES:
        raise ResourceError(
            f"{doing} needs {num_bytes / 1e9:.2f} GB more and leaves "
            f"{KEEP_FREE_BYTES / 1e9:.2f} GB to others, but {free / 1e9:.2f} GB are free in "
            f"{folder}; {helps}"
        )
