"""Where finished files are kept: the Storage protocol and the local folder (bunny.py: the other).

A stored file never changes. A second file that wants a name that is taken by other bytes gets
`-<n>` before its suffix, so that links which were given out keep their meaning.
"""

import contextlib
import errno
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from seedvr2_core.errors import (
    InvalidRequestError,
    ResourceError,
    StorageError,
)

logger = logging.getLogger(__name__)

STALL_SECONDS = 600.0
"""An upload or a look at storage that tells nothing for so long is stuck: longer than each single
wait of a storage."""

_MAX_NAMES = 1000
_MAX_NAME_BYTES = 255
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A file as the storage has it, by its own count."""

    name: str
    num_bytes: int
    sha256: str
    """Hex, lower case; "" where the storage has not computed it yet."""
    url: str | None
    """Public address; None where the storage has none."""
    path: Path | None
    """The file itself; None where it is not on this machine."""


class Storage(Protocol):
    """What every storage can do. All of it raises StorageError, ResourceError when it is full."""

    def put(self, path: Path, name: str, *, sha256: str | None = None) -> Stored:
        """Store a file under `name`, or under `name` with `-<n>` if other bytes have it.

        The same bytes under the same name are not written again.

        Args:
            path: a file of this machine.
            name: what it is called in storage.
            sha256: the digest it must have, if it is known; other bytes are not stored.
        """
        ...

    def stat(self, name: str) -> Stored | None:
        """What is stored under exactly this name, or None."""
        ...

    def delete(self, name: str) -> None:
        """Remove what is stored under this name, if anything is."""
        ...


def no_name_left(name: str) -> StorageError:
    """Every candidate is taken."""
    return StorageError(
        f"{_MAX_NAMES} different files named like {name} are in storage; "
        "remove those that are not needed"
    )


def candidates(name: str) -> Iterator[str]:
    """The name, then the name with -1, -2, ... before its suffix."""
    yield name
    stem, dot, suffix = name.rpartition(".") if "." in name else (name, "", "")
    for number in range(1, _MAX_NAMES):
        yield f"{stem}-{number}{dot}{suffix}"


def check_name(name: str) -> None:
    """Refuse names that could leave the folder or hide in it."""
    if (
        not name.isprintable()
        or not name.strip()
        or name.startswith(".")
        or any(separator in name for separator in "/\\")
        or len(name.encode()) > _MAX_NAME_BYTES - 5
    ):
        raise InvalidRequestError(
            f"{name[:80]!r} cannot be the name of a stored file; expected at most "
            f"{_MAX_NAME_BYTES - 5} bytes without slashes, control characters or a leading dot"
        )


@contextlib.contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn what the system says into errors of the tree."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _FULL:
            raise ResourceError(f"{doing} failed: {reason}; free space and run again") from error
        raise StorageError(f"{doing} failed: {reason}") from error
