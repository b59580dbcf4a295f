"""Where a download lies while it is under way, and what is known of it: WORK_DIR/intake.

The files are named after a digest of the whole address; neither their names nor what is in them
shows a query string.
"""

import contextlib
import hashlib
from dataclasses import dataclass
from email.message import Message

import httpx

from seedvr2_core.errors import DeadlineError, SegmentError
from seedvr2_core.files import hold_lock, read_record, write_record
from tasks.settings import Settings
from tasks.sources.names import plain_name

_MAX_VALIDATOR = 1000


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

    def differs_from(self, answer: httpx.Response) -> bool:
        """Whether an answer is of another version of the file, as far as it says."""
        told = (answer.headers.get("etag"), answer.headers.get("last-modified"))
        return any(
            new is not None and new != old
            for old, new in zip((self.etag, self.last_modified), told, strict=True)
        )


class Place:
    """The files of one address in WORK_DIR/intake."""

    def __init__(self, url: str, settings: Settings) -> None:
        """Name them after the whole address, query included."""
        key = hashlib.sha256(url.encode()).hexdigest()
        folder = settings.intake_dir
        self.part = folder / f"{key}.part"
        self.lock = folder / f"{key}.lock"
        self._record = folder / f"{key}.json"

    def read(self) -> Known | None:
        """What was known when the last download began or ended."""
        try:
            return read_record(self._record, Known)
        except (FileNotFoundError, SegmentError):
            return None

    @property
    def size(self) -> int:
        """Bytes that have come so far."""
        return self.part.stat().st_size if self.part.exists() else 0

    def holds_all_of(self, known: Known) -> bool:
        """Whether the part is whole: its process ended before it came among the sources."""
        whole = known.sha256 is None and known.total is not None
        return whole and self.part.exists() and self.size == known.total

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

    def tidy(self) -> None:
        """Leave nothing behind where nothing came; for the holder of the lock, when it is done."""
        known = self.read()
        if self.size == 0 and not (known and known.sha256):
            self.forget()
            self.lock.unlink(missing_ok=True)


def forget_source(sha256: str, settings: Settings) -> None:
    """Drop every note that the file with this digest lies among the sources."""
    for record in settings.intake_dir.glob("*.json"):
        lock = record.with_suffix(".lock")
        with (
            contextlib.suppress(DeadlineError, FileNotFoundError, SegmentError),
            hold_lock(lock, timeout=0, on_wait=lambda: None),  # whoever holds it asks anew
        ):
            if read_record(record, Known).sha256 == sha256:
                record.unlink()
                lock.unlink()


def known_of(answer: httpx.Response, url: str, total: int | None) -> Known:
    """What a whole answer's headers say of the file."""
    return Known(
        etag=_validator(answer, "etag"),
        last_modified=_validator(answer, "last-modified"),
        total=total,
        name=_name_of(answer, url),
    )


def _validator(answer: httpx.Response, header: str) -> str | None:
    """A header that will be sent back: nothing that could not stand in a request."""
    value = answer.headers.get(header)
    plain = value and value.isascii() and value.isprintable() and len(value) <= _MAX_VALIDATOR
    return value if plain else None


def _name_of(answer: httpx.Response, url: str) -> str:
    """What people call the file: the server's word, else the end of the address's path."""
    message = Message()
    message["content-disposition"] = answer.headers.get("content-disposition", "")
    for name in (message.get_filename(""), *(u.path for u in (httpx.URL(url), answer.url))):
        if plain := plain_name(name):
            return plain
    return "video"
