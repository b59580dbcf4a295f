"""Where finished files are kept: the Storage protocol and the local folder (bunny.py: the other).

A stored file never changes. A second file that wants a name that is taken by other bytes gets
`-<n>` before its suffix, so that links which were given out keep their meaning.
"""

import contextlib
import errno
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from seedvr2_core.errors import (
    InvalidRequestError,
    ResourceError,
    StorageError,
    StorageRefusedError,
)
from seedvr2_core.files.records import sync_directory, sync_file
from seedvr2_core.job.sidecar import file_sha256
from tasks.settings import Settings

logger = logging.getLogger(__name__)

STALL_SECONDS = 600.0
"""An upload or a look at storage that tells nothing for so long is stuck: longer than each single
wait of a storage."""

_MAX_NAMES = 1000
_MAX_NAME_BYTES = 255
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A file as the storage has it, by its own count."""

    name: str
    length: int
    """Bytes."""
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


def open_storage(
    settings: Settings, *, on_sent: Callable[[int, int], None] | None = None
) -> Storage:
    """The storage that the settings name.

    Args:
        settings: of this installation.
        on_sent: told bytes sent and bytes in all while a file goes over the network.

    Raises:
        StorageRefusedError: what the storage needs is not set.
    """
    if settings.storage == "bunny":
        from tasks.storage.bunny import BunnyStorage  # which needs this module's words
        from tasks.storage.bunny_zone import read_zone

        return BunnyStorage(read_zone(settings), on_sent=on_sent)
    return LocalStorage(settings.storage_dir, public_url=settings.public_url)


def check_storage(settings: Settings) -> None:
    """Refuse at the door what could not be delivered in the end: a storage is asked once.

    One that does not answer now may do so when the video is done; a warning says so.

    Raises:
        StorageRefusedError: credentials are missing, or the storage refuses them.
    """
    if settings.storage == "local":
        return
    try:
        open_storage(settings).stat("seedvr2-door-check.mp4")
    except StorageRefusedError:
        raise
    except StorageError as error:
        logger.warning("the storage does not answer now, the job begins all the same: %s", error)


class LocalStorage:
    """A folder of this machine.

    On the same file system a file is stored as a hard link: nothing is read or written twice, and
    a name is claimed in one step that fails if it is taken. That is safe because neither side is
    ever opened for writing again: the job replaces its output by rename (a new inode) and removes
    it by unlink. Elsewhere it is copied beside its name, synced, and then given its name.
    """

    def __init__(self, folder: Path, *, public_url: str | None = None) -> None:
        """Use this folder, which is made when something is put.

        Args:
            folder: where files are kept.
            public_url: address under which somebody (an edge) serves the folder.
        """
        self._folder = folder
        self._public_url = public_url.rstrip("/") if public_url else None

    def put(self, path: Path, name: str, *, sha256: str | None = None) -> Stored:
        """Store a file (see Storage.put).

        Raises:
            InvalidRequestError: the name holds path separators, a leading dot, or is too long.
            StorageError: the folder or the file refused, or the file is not what was expected.
            ResourceError: the disk is full.
        """
        check_name(name)
        with translated(f"storing {name} in {self._folder}"):
            self._folder.mkdir(parents=True, exist_ok=True)
            sync_file(path)
            length, digest = path.stat().st_size, file_sha256(path)
            if sha256 not in (None, digest):
                raise StorageError(
                    f"{path} is not the file that was made: expected sha256 {sha256}, got "
                    f"{digest}; run the job again"
                )
            for candidate in candidates(name):
                target = self._folder / candidate
                if self._claim(path, target, digest) or _holds(target, length, digest):
                    return self._stored(candidate, length, digest)
        raise no_name_left(name)

    def stat(self, name: str) -> Stored | None:
        """What the folder holds under this name; its bytes are read and hashed."""
        check_name(name)
        path = self._folder / name
        with translated(f"reading {name} in {self._folder}"):
            if not path.is_file():
                return None
            return self._stored(name, path.stat().st_size, file_sha256(path))

    def delete(self, name: str) -> None:
        """Remove the file, if there is one."""
        check_name(name)
        with translated(f"removing {name} from {self._folder}"):
            (self._folder / name).unlink(missing_ok=True)

    def _stored(self, name: str, length: int, sha256: str) -> Stored:
        path = (self._folder / name).absolute()
        url = f"{self._public_url}/{quote(name)}" if self._public_url else None
        return Stored(name=name, length=length, sha256=sha256, url=url, path=path)

    def _claim(self, path: Path, target: Path, sha256: str) -> bool:
        """Store under a name that is free; False if it is taken.

        The bytes come into the folder under a name that no output can have. It depends on the
        bytes alone, so what a killed run left is written over.
        """
        if target.exists():
            return False
        staged = self._folder / f".{sha256}.part"
        staged.unlink(missing_ok=True)
        try:
            _bring(path, staged)
            return _publish(staged, target)
        finally:
            staged.unlink(missing_ok=True)


def _holds(target: Path, length: int, sha256: str) -> bool:
    """Whether a file has these bytes already."""
    return target.is_file() and target.stat().st_size == length and file_sha256(target) == sha256


def _bring(path: Path, staged: Path) -> None:
    """Link the file, or copy it where it cannot be linked."""
    try:
        os.link(path, staged)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        shutil.copyfile(path, staged)
        sync_file(staged)


def _publish(staged: Path, target: Path) -> bool:
    """Give staged bytes their name; False if it was taken in the meantime."""
    try:
        os.link(staged, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        # No hard links here at all: a rename, which two runs at once could win one after the other.
        staged.replace(target)
    sync_directory(target.parent)
    return True


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
