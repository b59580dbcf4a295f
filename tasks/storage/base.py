"""The Storage protocol, and what its implementations share.

A stored file never changes. If a name is taken by other bytes, the new file gets `-<n>` before its
suffix, so that links that were given out keep their meaning.
"""

import contextlib
import errno
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from seedvr2_core.errors import InvalidRequestError, ResourceError, StorageError

STALL_SECONDS = 600.0
"""An upload or a verification without progress for so long is stuck. It is longer than any single
wait of a storage."""

_MAX_NAMES = 1000
_MAX_NAME_BYTES = 250
"""File systems allow 255; five are left for the suffix `-<n>`."""
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A file in storage, as the storage itself describes it."""

    name: str
    num_bytes: int
    sha256: str
    """Hex, lower case; "" if the storage has not computed it yet."""
    url: str | None
    """Public address; None if the storage has none."""
    path: Path | None
    """Where the file lies; None if it is not on this machine."""


class Storage(Protocol):
    """What every storage can do.

    All methods raise StorageError (or a kind of it), and ResourceError if the storage is full.
    """

    def put(self, path: Path, name: str, *, sha256: str | None = None) -> Stored:
        """Store a file under `name`, or under `name` with `-<n>` if other bytes have that name.

        If the same bytes are stored under that name already, they are not written again.

        Args:
            path: a file of this machine.
            name: its name in storage.
            sha256: the digest it must have, if known; a file with another one is not stored.
        """
        ...

    def stat(self, name: str) -> Stored | None:
        """The file that is stored under exactly this name, or None."""
        ...

    def delete(self, name: str) -> None:
        """Remove the file that is stored under this name, if there is one."""
        ...


def candidates(name: str) -> Iterator[str]:
    """Names to try in turn: `name`, then `name` with -1, -2, ... before its suffix."""
    yield name
    stem, dot, suffix = name.rpartition(".") if "." in name else (name, "", "")
    for number in range(1, _MAX_NAMES):
        yield f"{stem}-{number}{dot}{suffix}"


def no_name_left(name: str) -> StorageError:
    """The error for a file whose candidates are all taken by other bytes."""
    return StorageError(
        f"{_MAX_NAMES} different files named like {name} are in storage; "
        "remove those that are not needed"
    )


def check_name(name: str) -> None:
    """Refuse names that would lead out of the folder, be hidden in it, or be too long.

    Raises:
        InvalidRequestError: what a name may be.
    """
    if (
        not name.isprintable()
        or not name.strip()
        or name.startswith(".")
        or any(separator in name for separator in "/\\")
        or len(name.encode()) > _MAX_NAME_BYTES
    ):
        raise InvalidRequestError(
            f"{name[:80]!r} cannot be the name of a stored file; expected at most "
            f"{_MAX_NAME_BYTES} bytes without slashes, control characters or a leading dot"
        )


@contextlib.contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn OSError into ResourceError (disk full) or StorageError; `doing` begins the message."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _FULL:
            raise ResourceError(f"{doing} failed: {reason}; free space and run again") from error
        raise StorageError(f"{doing} failed: {reason}") from error
