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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from email.message import Message
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

import httpx

from seedvr2_core.errors import (
    InvalidVideoError,
    ResourceError,
    SeedVR2Error,
    SegmentError,
    SourceRefusedError,
    SourceUnavailableError,
)
from seedvr2_core.records import read_record, sync_directory, sync_file, write_record
from seedvr2_core.segments import file_sha256
from tasks.locks import hold_lock
from tasks.safe_http import (
    check_answer,
    check_size,
    check_url,
    content_length,
    open_answer,
    shown_url,
)
from tasks.schemas import FetchedSource
from tasks.settings import Settings

TIMEOUT = httpx.Timeout(30.0, connect=10.0)
"""Seconds to connect, and without a byte; the whole download has its own limit."""
KEEP_FREE_BYTES = 256 * 10**6
"""Disk space that a download leaves to others."""

_DISK_CHECK_BYTES = 64 * 2**20
_MAX_NAME = 120
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of an address's file; kept beside its part."""

    etag: str | None
    last_modified: str | None
    total: int | None
    """Bytes of the whole file, if the server says so."""
    name: str
    sha256: str | None = None
    """Set when the whole file lies among the sources."""

    @property
    def validator(self) -> str | None:
        """What `If-Range` takes: a strong ETag or a date."""
        if self.etag and not self.etag.startswith("W/"):
            return self.etag
        return self.last_modified


class Place:
    """The files of one address in WORK_DIR/intake."""

    def __init__(self, url: str, settings: Settings) -> None:
        """Name them after the whole address, query included."""
        key = hashlib.sha256(url.encode()).hexdigest()
        folder = settings.work_dir / "intake"
        self.part = folder / f"{key}.part"
        self.lock = folder / f"{key}.lock"
        self._record = folder / f"{key}.json"

    def read(self) -> Known | None:
        """What was known when the last download began or ended."""
        try:
            return read_record(self._record, Known)
        except (FileNotFoundError, SegmentError):
            return None

    def holds_all_of(self, known: Known) -> bool:
        """Whether the part is whole: its process ended before it came among the sources."""
        whole = known.sha256 is None and known.total is not None
        return whole and self.part.exists() and self.part.stat().st_size == known.total

    def begin(self, known: Known) -> None:
        """Start from nothing: old bytes go before the new validator comes."""
        self.part.unlink(missing_ok=True)
        write_record(self._record, known)

    def end(self, known: Known) -> None:
        """Note that the whole file lies among the sources."""
        write_record(self._record, known)

    def forget(self) -> None:
        """Drop the part and what is known of it."""
        self._record.unlink(missing_ok=True)
        self.part.unlink(missing_ok=True)


def source_path(settings: Settings, sha256: str) -> Path:
    """Where a source with this digest lies."""
    return settings.work_dir.absolute() / "sources" / sha256


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
    check_url(url)
    place, shown = Place(url, settings), shown_url(url)

    def say_so() -> None:
        note(f"another run is fetching {shown}; waiting for it")

    with (
        disk_errors(settings),
        hold_lock(place.lock, timeout=settings.fetch_seconds, on_wait=say_so),
    ):
        try:
            known = asyncio.run(_bring_in(url, place, settings, note))
        except SourceRefusedError:
            place.forget()
            raise
        return _settle(known, place, settings, shown)


async def _bring_in(
    url: str, place: Place, settings: Settings, note: Callable[[str], None]
) -> Known:
    """Transfer within the time limit, from the start again if the part is not worth keeping."""
    shown = shown_url(url)
    try:
        async with asyncio.timeout(settings.fetch_seconds):
            for _ in range(2):
                known = await _transfer(url, place, settings, note)
                if known is not None:
                    return known
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
) -> Known | None:
    """One request. None: what lies here does not fit what the server has."""
    known = place.read()
    if known and place.holds_all_of(known):
        return known
    headers = _conditions(known, place, settings)
    async with open_answer(url, settings, headers=headers, timeout=TIMEOUT) as answer:
        status = answer.status_code
        if known and known.sha256 and status == HTTPStatus.NOT_MODIFIED:
            note(f"{shown_url(url)} has not changed; it is here already")
            return known if _is_whole(known, settings) else None
        if "Range" in headers and status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return None
        check_answer(answer, url, settings)
        if status == HTTPStatus.PARTIAL_CONTENT:
            if known is None or "Range" not in headers or not _continues(answer, known, place):
                return None
            note(f"going on with {shown_url(url)} at {headers['Range']}")
        else:
            known = _known_of(answer, url)
            place.begin(known)
        await _receive(answer, place, known.total, settings, shown=shown_url(url))
    return known


def _conditions(known: Known | None, place: Place, settings: Settings) -> dict[str, str]:
    """Headers that ask only for what is not here."""
    if known is None:
        return {}
    if known.sha256:
        if not source_path(settings, known.sha256).exists():
            return {}
        if known.etag:
            return {"If-None-Match": known.etag}
        return {"If-Modified-Since": known.last_modified} if known.last_modified else {}
    if known.validator and place.part.exists() and (have := place.part.stat().st_size):
        return {"Range": f"bytes={have}-", "If-Range": known.validator}
    return {}


def _continues(answer: httpx.Response, known: Known, place: Place) -> bool:
    """Whether a partial answer goes on exactly where the part ends, in the same file."""
    told = _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", "").strip())
    if told is None or int(told[1]) != place.part.stat().st_size:
        return False
    same_size = told[2] == "*" or known.total in (None, int(told[2]))
    return same_size and answer.headers.get("etag", known.etag) == known.etag


def _known_of(answer: httpx.Response, url: str) -> Known:
    """What a whole answer's headers say of the file."""
    return Known(
        etag=answer.headers.get("etag"),
        last_modified=answer.headers.get("last-modified"),
        total=content_length(answer),
        name=_name_of(answer, url),
    )


async def _receive(
    answer: httpx.Response, place: Place, total: int | None, settings: Settings, *, shown: str
) -> None:
    """Append the body to the part, within the limits of size and disk."""
    with place.part.open("ab") as stream:
        size = checked = stream.tell()
        _check_disk(0 if total is None else total - size, settings)
        async for chunk in answer.aiter_raw():
            size += len(chunk)
            check_size(size, shown, settings)
            stream.write(chunk)
            if size - checked > _DISK_CHECK_BYTES:
                checked = size
                _check_disk(0, settings)
    if total is not None and size != total:
        raise SourceUnavailableError(
            f"{shown} ended after {size} of {total} bytes; what came is kept, try again"
        )


def _settle(known: Known, place: Place, settings: Settings, shown: str) -> FetchedSource:
    """Give the whole file its place among the sources."""
    if known.sha256 is None:
        sync_file(place.part)
        if not place.part.stat().st_size:
            place.forget()
            raise InvalidVideoError(f"{shown} serves an empty file (0 bytes), not a video")
        known = replace(known, sha256=file_sha256(place.part))
        assert known.sha256
        path = source_path(settings, known.sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        place.part.replace(path)
        sync_directory(path.parent)
        place.end(known)
    assert known.sha256
    path = source_path(settings, known.sha256)
    return FetchedSource(
        path=path, sha256=known.sha256, size_bytes=path.stat().st_size, name=known.name
    )


def _is_whole(known: Known, settings: Settings) -> bool:
    """Whether the source of an earlier download still has its bytes."""
    assert known.sha256
    path = source_path(settings, known.sha256)
    return path.is_file() and file_sha256(path) == known.sha256


def _name_of(answer: httpx.Response, url: str) -> str:
    """What people call the file: the server's word, else the end of the address's path."""
    message = Message()
    message["content-disposition"] = answer.headers.get("content-disposition", "")
    for name in (message.get_filename(""), *(u.path for u in (httpx.URL(url), answer.url))):
        if plain := plain_name(name):
            return plain
    return "video"


def plain_name(name: str) -> str:
    """A file name without directories, percent codes and what does not print; may be empty."""
    last = unquote(name, errors="replace").replace("\\", "/").rpartition("/")[2]
    last = "".join(c for c in last if c.isprintable()).strip().lstrip(".").strip()
    if len(last) <= _MAX_NAME:
        return last
    suffix = PurePosixPath(last).suffix[:16]
    return last[: _MAX_NAME - len(suffix)] + suffix


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
