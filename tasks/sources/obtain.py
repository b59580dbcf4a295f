"""From a request to its whole, hashed source on this machine.

`check_source` refuses a bad source before a job begins; `obtain_source` brings the source in.
Downloads and base64 end as WORK_DIR/sources/<sha256>; local files and uploads stay where they are.
These are plain functions that import no Prefect.
"""

import asyncio
import base64
import binascii
import hashlib
import re
import stat
from collections.abc import Callable
from pathlib import Path

import httpx

from seedvr2_core.errors import (
    InvalidRequestError,
    InvalidVideoError,
    SourceRefusedError,
    SourceUnavailableError,
)
from seedvr2_core.files import file_sha256, hold_lock
from seedvr2_core.files.durable import write_bytes
from seedvr2_core.files.reading import OnBytes, no_bytes
from tasks.net.untrusted import Address, check_answer, check_url, open_answer
from tasks.schemas import FetchedSource, UpscaleRequest
from tasks.settings import Settings
from tasks.sources.download import disk_errors, download
from tasks.sources.from_bucket import check_object, take_object
from tasks.sources.kinds import SourceKind, kind_of
from tasks.sources.names import printable
from tasks.sources.partial import PartialDownload, forget_source
from tasks.sources.sequence import (
    as_sequence,
    check_allowed,
    local_pictures,
    refuse_without_rate,
    take_pictures,
)
from tasks.sources.uploads import find_upload, take_reference

_DOOR_SECONDS = 2.5
"""Limit of the check of an address before a job: the caller is waiting for an answer."""
_CONNECT_SECONDS = 1.5
_DATA_URL = re.compile(
    r"data:(?:video/[\w.+-]+|application/octet-stream)?(?:;[^,;]+)*;base64,", re.I
)
_WHITE_SPACE = str.maketrans("", "", " \t\r\n")


def check_source(request: UpscaleRequest, settings: Settings) -> None:
    """Look at the source before anything is started, in about 3 s at most: may it be had?

    A URL is asked for once and its body is not read.

    Raises:
        InvalidRequestError: no base64, or local files are not allowed here.
        InvalidVideoError: the source is empty.
        SourceRefusedError: it will never be obtained.
        SourceUnavailableError: it cannot be obtained now.
    """
    url = request.video_url or ""
    match kind_of(request):
        case SourceKind.PICTURES:
            local_pictures(request, settings)
        case SourceKind.FILE:
            _check_path(request.video_path or "", settings)
        case SourceKind.BYTES:
            _decode(request.video_base64 or "")
        case SourceKind.UPLOAD:
            find_upload(url, settings)
        case SourceKind.OBJECT:
            check_object(url, settings)
        case SourceKind.ADDRESS:
            asyncio.run(_check_headers(check_url(url, settings), settings))


def obtain_source(
    request: UpscaleRequest,
    settings: Settings,
    *,
    note: Callable[[str], None],
    on_bytes: OnBytes = no_bytes,
) -> FetchedSource:
    """Bring the source in, whole; raises as `check_source` does, and ResourceError (disk).

    Args:
        request: names exactly one source.
        settings: what is allowed here, and the limits.
        note: takes lines for the log.
        on_bytes: called with the bytes done and the bytes in all (0: not known) while a file comes
            in or is hashed, and again and again while another process brings it in.
    """
    url = request.video_url or ""
    match kind_of(request):
        case SourceKind.PICTURES:
            return take_pictures(request, settings, note=note, on_bytes=on_bytes)
        case SourceKind.FILE:
            source = _take_file(_check_path(request.video_path or "", settings), on_bytes)
        case SourceKind.BYTES:
            source = _take_bytes(_decode(request.video_base64 or ""), settings)
        case SourceKind.UPLOAD:
            source = take_reference(url, settings, on_bytes=on_bytes)
        case SourceKind.OBJECT:
            source = take_object(url, settings, note=note, on_bytes=on_bytes)
        case SourceKind.ADDRESS:
            source = download(url, settings, note=note, on_bytes=on_bytes)
    return as_sequence(source, request, settings, note=note, on_bytes=on_bytes)


def source_here(request: UpscaleRequest, settings: Settings) -> Path | None:
    """The file of a request's source, if it lies on this machine as a file; nothing is fetched.

    Of a sequence it is the first picture.

    Raises: as `check_source` does.
    """
    match kind_of(request):
        case SourceKind.PICTURES:
            return local_pictures(request, settings)[0]
        case SourceKind.FILE:
            return _check_path(request.video_path or "", settings)
        case SourceKind.UPLOAD:
            return find_upload(request.video_url or "", settings)
        case SourceKind.BYTES | SourceKind.OBJECT:
            return None
        case SourceKind.ADDRESS:
            known = PartialDownload(check_url(request.video_url or "", settings), settings).read()
            path = settings.sources_dir / known.sha256 if known and known.sha256 else None
            return path if path and path.is_file() else None


def discard(source: FetchedSource, settings: Settings) -> None:
    """Remove a source that turned out to be no video; a local file stays where it is."""
    ours = (settings.sources_dir / source.sha256, settings.intake_dir / source.sha256)
    if source.path in ours:
        forget_source(source.sha256, settings)
        source.path.unlink(missing_ok=True)


def _check_path(given: str, settings: Settings) -> Path:
    """The absolute path of a local file, which is regular, readable and not empty."""
    check_allowed(settings)
    refuse_without_rate(given)
    try:
        path = Path(given).resolve(strict=True)
        status = path.stat()
        if regular := stat.S_ISREG(status.st_mode):
            path.open("rb").close()
    except FileNotFoundError as error:
        raise SourceRefusedError(f"{given} does not exist; check the path") from error
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a NUL in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise SourceRefusedError(f"{given[:200]!r} cannot be read: {reason}") from error
    if not regular:
        raise SourceRefusedError(f"{given} is no regular file; pass the path of a video file")
    if status.st_size == 0:
        raise InvalidVideoError(f"{given} is empty (0 bytes), not a video")
    return path


def _take_file(path: Path, on_bytes: OnBytes) -> FetchedSource:
    """Hash a local file where it lies."""
    try:
        sha256, size = file_sha256(path, on_bytes=on_bytes), path.stat().st_size
    except OSError as error:
        raise SourceUnavailableError(
            f"{path} could not be read to its end: {error.strerror}; try again"
        ) from error
    return FetchedSource(path=path, sha256=sha256, num_bytes=size, name=printable(path.name))


def _decode(text: str) -> bytes:
    """The bytes of a video in base64; line breaks and a data URL's prefix are tolerated."""
    head = text[:5].lower()
    bare = _DATA_URL.sub("", text, count=1) if head == "data:" else text
    try:
        content = base64.b64decode(bare.translate(_WHITE_SPACE), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequestError(
            "video_base64 is not base64; expected the file's bytes in the standard alphabet, "
            "padded, with or without data:video/...;base64, in front"
        ) from error
    if not content:
        raise InvalidRequestError("video_base64 is empty; expected the bytes of a video file")
    return content


def _take_bytes(content: bytes, settings: Settings) -> FetchedSource:
    """Write the bytes that came in the request among the sources."""
    sha256 = hashlib.sha256(content).hexdigest()
    path = settings.sources_dir / sha256
    lock = settings.intake_dir / f"{sha256}.lock"
    with (
        disk_errors(settings),
        hold_lock(lock, timeout=settings.fetch_seconds, on_wait=lambda: None),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content)
        lock.unlink(missing_ok=True)
    return FetchedSource(
        path=path, sha256=sha256, num_bytes=len(content), name=f"upload-{sha256[:8]}"
    )


async def _check_headers(address: Address, settings: Settings) -> None:
    """GET an address and judge the answer by its headers; the body is not read."""
    timeout = httpx.Timeout(_DOOR_SECONDS, connect=_CONNECT_SECONDS)
    try:
        async with (
            asyncio.timeout(_DOOR_SECONDS),
            open_answer(address, settings, headers={}, timeout=timeout) as answer,
        ):
            check_answer(answer, address, settings)
    except TimeoutError as error:
        raise SourceUnavailableError(
            f"{address.shown} did not answer within {_DOOR_SECONDS:g} s; try again"
        ) from error
