"""Files of an unfinished download in WORK_DIR/intake, and what we know about it.

The files are named after a digest of the whole address. Neither their names nor their contents show
a query string, which may hold a secret.
"""

import contextlib
import hashlib
from dataclasses import dataclass
from email.message import Message

import httpx

from seedvr2_core.errors import DeadlineError, SegmentError
from seedvr2_core.files import hold_lock, read_record, write_record
from tasks.net.untrusted import Address
from tasks.settings import Settings
from tasks.sources.names import plain_name

_MAX_VALIDATOR = 1000
"""Characters of an ETag or a date that we would send back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the server said about the file at an address, and whether we have it; kept as JSON."""

    etag: str | None
    last_modified: str | None
    total: int | None
    """Bytes of the whole file, if the server says so."""
    name: str
    sha256: str | None = None
    """Digest of the whole file once it lies among the sources; None until then."""

    @property
    def validator(self) -> str | None:
        """What the header If-Range takes: a strong ETag, else the date of the last change."""
        if self.etag and not self.etag.startswith("W/"):
            return self.etag
        return self.last_modified

    def differs_from(self, answer: httpx.Response) -> bool:
        """Whether an answer's headers say that it comes from another version of the file."""
        told = (answer.headers.get("etag"), answer.headers.get("last-modified"))
        return any(
            new is not None and new != old
            for old, new in zip((self.etag, self.last_modified), told, strict=True)
        )


class PartialDownload:
    """The download of one address: the part that has come so far, a lock, and a record.

    Whoever changes any of it holds the lock.
    """

    def __init__(self, address: Address, settings: Settings) -> None:
        """Name the files after the whole address, query included. Nothing is written yet."""
        key = hashlib.sha256(address.given.encode()).hexdigest()
        self.address = address
        self.part = settings.intake_dir / f"{key}.part"
        self.lock = settings.intake_dir / f"{key}.lock"
        self._record = settings.intake_dir / f"{key}.json"

    @property
    def num_bytes(self) -> int:
        """Bytes that have come so far."""
        return self.part.stat().st_size if self.part.exists() else 0

    def read(self) -> Known | None:
        """What was known when the last download began or ended; None if there was none."""
        try:
            return read_record(self._record, Known)
        except (FileNotFoundError, SegmentError):
            return None

    def is_whole(self, known: Known) -> bool:
        """Whether every byte has come, but the process ended before it moved the file away."""
        waiting = known.sha256 is None and known.total is not None
        return waiting and self.part.exists() and self.num_bytes == known.total

    def begin(self, known: Known) -> None:
        """Start from nothing: old bytes are removed before the new validator is written."""
        self.part.unlink(missing_ok=True)
        write_record(self._record, known)

    def end(self, known: Known) -> None:
        """Record that the whole file lies among the sources."""
        write_record(self._record, known)

    def forget(self) -> None:
        """Remove the part and the record."""
        self._record.unlink(missing_ok=True)
        self.part.unlink(missing_ok=True)

    def tidy(self) -> None:
        """Remove all files, the lock too, if no byte has come and no source is recorded."""
        known = self.read()
        if self.num_bytes == 0 and not (known and known.sha256):
            self.forget()
            self.lock.unlink(missing_ok=True)


def forget_source(sha256: str, settings: Settings) -> None:
    """Remove every record that says that the file with this digest lies among the sources."""
    for record in settings.intake_dir.glob("*.json"):
        lock = record.with_suffix(".lock")
        with (
            # Who holds the lock is asking the server just now and will see that the file is gone.
            contextlib.suppress(DeadlineError, FileNotFoundError, SegmentError),
            hold_lock(lock, timeout=0, on_wait=lambda: None),
        ):
            if read_record(record, Known).sha256 == sha256:
                record.unlink()
                lock.unlink()


def known_of(answer: httpx.Response, address: Address, total: int | None) -> Known:
    """What the headers of an answer with the whole file say; `total` is its length in bytes."""
    return Known(
        etag=_validator(answer, "etag"),
        last_modified=_validator(answer, "last-modified"),
        total=total,
        name=_name_of(answer, address),
    )


def _validator(answer: httpx.Response, header: str) -> str | None:
    """A header that we will send back; None if it holds what no request should contain."""
    value = answer.headers.get(header)
    plain = value and value.isascii() and value.isprintable() and len(value) <= _MAX_VALIDATOR
    return value if plain else None


def _name_of(answer: httpx.Response, address: Address) -> str:
    """The file's name: as the server calls it, else the last part of the address's path."""
    message = Message()
    message["content-disposition"] = answer.headers.get("content-disposition", "")
    for name in (message.get_filename(""), address.url.path, answer.url.path):
        if plain := plain_name(name):
            return plain
    return "video"
