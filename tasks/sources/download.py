"""A download that survives its process: WORK_DIR/intake/<sha256(url)>.part -> sources/<sha256>.

One process at a time works on an address (a lock beside the part). What the server says of the
file (ETag, Last-Modified) lies beside it too, so that a cut download goes on where it stopped if
the file is still the same, and a file that is here already is only asked after.
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
from pathlib import Path
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
from seedvr2_core.files.durable import sync_directory, sync_file
from tasks.net.stoppable import run_stoppable
from tasks.net.untrusted import (
    check_answer,
    check_size,
    check_url,
    content_length,
    open_answer,
    shown_url,
)
from tasks.schemas import FetchedSource
from tasks.settings import Settings
from tasks.sources.partial import Known, Place, known_of

if TYPE_CHECKING:
    from hashlib import _Hash

TIMEOUT = httpx.Timeout(30.0, connect=10.0)
"""Seconds to connect, and without a byte; the whole download has its own limit."""
SLOW_SECONDS = 30.0
MIN_BYTES_PER_SECOND = 10_000
"""What a server must send over every SLOW_SECONDS; a source of 1 GB would take more than a day."""
KEEP_FREE_BYTES = 256 * 10**6
"""Disk space that a download leaves to others."""
DISK_CHECK_BYTES = 64 * 2**20
"""How many bytes come between two looks at the disk."""

_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Arrived:
    """A file that is here: as the part, or among the sources already."""

    known: Known
    sha256: str | None = None
    """Of the part, if it was hashed while it was written."""


def download(url: str, settings: Settings, *, note: Callable[[str], None]) -> FetchedSource:
    """Bring the file behind an address in, or go on with a download that was cut.

    Raises:
        SourceRefusedError: it will never be obtained; nothing is kept.
        SourceUnavailableError: it cannot be obtained now; what came is kept for the next attempt.
        InvalidVideoError: it is empty.
        ResourceError: the disk does not suffice.
        DeadlineError: another process works on the same address for longer than the limit.
    """
    url = url.strip()
    check_url(url, settings)
    place, shown = Place(url, settings), shown_url(url)

    def say_so() -> None:
        note(f"another run is fetching {shown}; waiting for it")

    with (
        disk_errors(settings),
        hold_lock(place.lock, timeout=settings.fetch_seconds, on_wait=say_so),
    ):
        try:
            arrived = run_stoppable(_bring_in(url, place, settings, note))
            return _settle(arrived, place, settings, shown)
        except (SourceRefusedError, InvalidVideoError):
            place.forget()
            raise
        finally:
            place.tidy()


async def _bring_in(
    url: str, place: Place, settings: Settings, note: Callable[[str], None]
) -> _Arrived:
    """Transfer within the time limit, from the start again if the part is not worth keeping."""
    shown = shown_url(url)
    try:
        async with asyncio.timeout(settings.fetch_seconds):
            for _ in range(2):
                arrived = await _transfer(url, place, settings, note)
                if arrived is not None:
                    return arrived
                place.forget()
                note(f"{shown} has changed or cannot be resumed; starting again")
    except TimeoutError as error:
        raise SourceUnavailableError(
            f"{shown} was not whole after {settings.fetch_seconds:g} s "
            "(SEEDVR2_FETCH_SECONDS); what came is kept, try again"
        ) from error
    raise SourceUnavailableError(f"{shown} answers a plain request with a part; try again")


async def _transfer(
    url: str, place: Place, settings: Settings, note: Callable[[str], None]
) -> _Arrived | None:
    """One request. None: what lies here does not fit what the server has."""
    known = place.read()
    if known and place.holds_all_of(known):
        return _Arrived(known)
    headers = _conditions(known, place, settings)
    # Before the request: a large part takes a while, and servers do not wait for ever.
    digest = _digest_of(place.part) if "Range" in headers else hashlib.sha256()
    async with open_answer(url, settings, headers=headers, timeout=TIMEOUT) as answer:
        status = answer.status_code
        if known and known.sha256 and status == HTTPStatus.NOT_MODIFIED:
            note(f"{shown_url(url)} has not changed; it is here already")
            return _Arrived(known) if _is_whole(known, settings) else None
        if "Range" in headers and status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return None
        check_answer(answer, url, settings)
        if status == HTTPStatus.PARTIAL_CONTENT:
            known = _continued(answer, known, place) if "Range" in headers else None
            if known is None:
                return None
            note(f"going on with {shown_url(url)} at {headers['Range']}")
        else:
            known, digest = known_of(answer, url, content_length(answer)), hashlib.sha256()
            place.begin(known)
        await _receive(answer, place, known.total, digest, settings, shown=shown_url(url))
    return _Arrived(known, digest.hexdigest())


def _conditions(known: Known | None, place: Place, settings: Settings) -> dict[str, str]:
    """Headers that ask only for what is not here."""
    if known is None:
        return {}
    if known.sha256:
        if not (settings.sources_dir / known.sha256).exists():
            return {}
        if known.etag:
            return {"If-None-Match": known.etag}
        return {"If-Modified-Since": known.last_modified} if known.last_modified else {}
    if known.validator and place.size:
        return {"Range": f"bytes={place.size}-", "If-Range": known.validator}
    return {}


def _continued(answer: httpx.Response, known: Known | None, place: Place) -> Known | None:
    """The file whose rest a partial answer holds; None: it does not go on exactly where we are."""
    told = _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", "").strip())
    if known is None or told is None or int(told[1]) != place.size or known.differs_from(answer):
        return None
    if told[2] == "*":
        return known
    return replace(known, total=int(told[2])) if known.total in (None, int(told[2])) else None


def _digest_of(part: Path) -> "_Hash":
    """A running digest of what has come so far."""
    with part.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256")


async def _receive(
    answer: httpx.Response,
    place: Place,
    total: int | None,
    digest: "_Hash",
    settings: Settings,
    *,
    shown: str,
) -> None:
    """Append the body to the part and its digest, within the limits of size, disk and patience."""
    pace = _Pace(shown)
    with place.part.open("ab") as stream:
        size = checked = stream.tell()
        _check_disk(0 if total is None else total - size, settings)
        async for chunk in answer.aiter_raw():
            size += len(chunk)
            check_size(size, shown, settings)
            if total is not None and size > total:
                place.forget()
                raise SourceUnavailableError(
                    f"{shown} sends more than the {total} bytes it announced; try again"
                )
            stream.write(chunk)
            digest.update(chunk)
            pace.came(len(chunk))
            if size - checked > DISK_CHECK_BYTES:
                checked = size
                _check_disk(0, settings)
    if total is not None and size != total:
        raise SourceUnavailableError(
            f"{shown} ended after {size} of {total} bytes; what came is kept, try again"
        )


class _Pace:
    """Ends a transfer that drips: a byte now and then would hold us for hours."""

    def __init__(self, shown: str) -> None:
        self._shown = shown
        self._since = time.monotonic()
        self._num_bytes = 0

    def came(self, num_bytes: int) -> None:
        """Count bytes.

        Raises:
            SourceUnavailableError: too few of them since the last look.
        """
        self._num_bytes += num_bytes
        seconds = time.monotonic() - self._since
        if seconds < SLOW_SECONDS:
            return
        if self._num_bytes < MIN_BYTES_PER_SECOND * seconds:
            raise SourceUnavailableError(
                f"{self._shown} sent {self._num_bytes} bytes in {seconds:.0f} s, less than "
                f"{MIN_BYTES_PER_SECOND} a second; what came is kept, try again"
            )
        self._since, self._num_bytes = time.monotonic(), 0


def _settle(arrived: _Arrived, place: Place, settings: Settings, shown: str) -> FetchedSource:
    """Give the whole file its place among the sources."""
    known = arrived.known
    if known.sha256 is None:
        sync_file(place.part)
        if not place.size:
            raise InvalidVideoError(f"{shown} serves an empty file (0 bytes), not a video")
        known = replace(known, sha256=arrived.sha256 or file_sha256(place.part))
        assert known.sha256
        path = settings.sources_dir / known.sha256
        path.parent.mkdir(parents=True, exist_ok=True)
        place.part.replace(path)
        sync_directory(path.parent)
        place.end(known)
    assert known.sha256
    path = settings.sources_dir / known.sha256
    return FetchedSource(
        path=path, sha256=known.sha256, size_bytes=path.stat().st_size, name=known.name
    )


def _is_whole(known: Known, settings: Settings) -> bool:
    """Whether the source of an earlier download still has its bytes."""
    assert known.sha256
    path = settings.sources_dir / known.sha256
    return path.is_file() and file_sha256(path) == known.sha256


def _check_disk(num_bytes: int, settings: Settings) -> None:
    """Make sure that so many more bytes fit.

    Raises:
        ResourceError: they do not.
    """
    free = shutil.disk_usage(settings.work_dir).free
    if free - num_bytes < KEEP_FREE_BYTES:
        raise ResourceError(
            f"the download needs {num_bytes / 1e9:.2f} GB more and leaves "
            f"{KEEP_FREE_BYTES / 1e9:.2f} GB to others, but {free / 1e9:.2f} GB are free in "
            f"{settings.work_dir}; free space or set SEEDVR2_WORK_DIR"
        )


@contextlib.contextmanager
def disk_errors(settings: Settings) -> Iterator[None]:
    """Turn what the file system refuses while a source is written into an error of the tree."""
    try:
        yield
    except OSError as error:
        if isinstance(error, SeedVR2Error):  # DeadlineError is a TimeoutError, hence an OSError
            raise
        raise ResourceError(
            f"{settings.work_dir} cannot take the source: {error.strerror or error}; "
            "free space or set SEEDVR2_WORK_DIR"
        ) from error
