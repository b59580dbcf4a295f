"""Videos that callers send: written to a part, hashed meanwhile, and named by their digest.

An upload ends as WORK_DIR/intake/<sha256>. A request names it by the reference
`upload:<sha256>/<file name>` in its video_url: so the run's parameters stay small, and the same
bytes are the same source. The worker that runs the job must see the same work directory.
"""

import fcntl
import hashlib
import os
import re
import uuid
from pathlib import Path

from seedvr2_core.errors import InvalidRequestError, SourceRefusedError
from seedvr2_core.files import file_sha256
from seedvr2_core.files.durable import sync_directory
from seedvr2_core.files.reading import OnBytes, no_bytes
from tasks.schemas import FetchedSource
from tasks.settings import Settings

_REFERENCE = re.compile(r"upload:([0-9a-f]{64})(?:/([^/\\]{1,200}))?")
_PART = ".upload-{}.part"


class PartFile:
    """A file that is being written: bytes are appended and hashed until `publish` names it.

    It holds a lock, so that `sweep_parts` sees that somebody is still writing; the kernel releases
    the lock when the process ends. All methods may raise OSError.
    """

    def __init__(self, folder: Path) -> None:
        """Begin a file in this folder, which is made if it does not exist."""
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / _PART.format(uuid.uuid4().hex)
        self._stream = self._path.open("xb")
        fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._hash = hashlib.sha256()
        self.num_bytes = 0
        """Bytes written so far."""

    @property
    def sha256(self) -> str:
        """Digest of what has been written so far, hex, lower case."""
        return self._hash.hexdigest()

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes to the file and its digest."""
        self._stream.write(data)
        self._hash.update(data)
        self.num_bytes += len(data)

    def sync(self) -> None:
        """Bring what has been written to the disk; `publish` then has little left to do."""
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def publish(self, target: Path) -> int:
        """Sync the file and rename it to `target`, replacing any file of that name.

        Returns:
            The file's inode, by which it can be told from another file of that name.
        """
        self.sync()
        target.parent.mkdir(parents=True, exist_ok=True)
        self._path.replace(target)
        sync_directory(target.parent)
        return os.fstat(self._stream.fileno()).st_ino

    def close(self) -> None:
        """Close the file; it is removed if it was not published."""
        self._path.unlink(missing_ok=True)
        self._stream.close()


def sweep_parts(folder: Path) -> int:
    """Remove files that killed processes left half written; returns their number."""
    removed = 0
    for path in folder.glob(_PART.format("*")):
        with path.open("rb") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # its writer is still at work
            path.unlink(missing_ok=True)
            removed += 1
    return removed


def upload_reference(sha256: str, name: str) -> str:
    """The reference to an upload, for a request's video_url; `name` is made harmless."""
    plain = re.sub(r"[^\w. -]", "_", name.replace("\\", "/").rsplit("/", 1)[-1]).strip(". ")
    return f"upload:{sha256}/{plain[-200:] or 'video'}"


def digest_in(reference: str) -> str:
    """The digest that a reference names; "" if it is no reference."""
    parsed = _REFERENCE.fullmatch(reference)
    return parsed[1] if parsed else ""


def find_upload(reference: str, settings: Settings) -> Path:
    """Path of the upload that a reference names.

    Raises:
        InvalidRequestError: it is no reference.
        SourceRefusedError: there is no such upload in this work directory.
    """
    parsed = _REFERENCE.fullmatch(reference)
    if parsed is None:
        raise InvalidRequestError(
            f"{reference[:100]!r} is no reference to an upload; expected "
            "upload:<sha256>/<file name>, as the gateway gives it out"
        )
    path = settings.intake_dir / parsed[1]
    if not path.is_file():
        raise SourceRefusedError(
            f"there is no upload {parsed[1][:12]}... in {path.parent}; upload the file again, and "
            "let gateway and workers share SEEDVR2_WORK_DIR"
        )
    return path


def take_reference(
    reference: str, settings: Settings, *, on_bytes: OnBytes = no_bytes
) -> FetchedSource:
    """The upload that a reference names, as a source; its bytes are hashed again.

    `on_bytes` is called with the bytes hashed and the bytes in all.

    Raises:
        InvalidRequestError, SourceRefusedError: as `find_upload` does, or the bytes have changed.
    """
    path = find_upload(reference, settings)
    sha256 = file_sha256(path, on_bytes=on_bytes)
    if sha256 != path.name:
        raise SourceRefusedError(
            f"{path} no longer holds the bytes that were uploaded (sha256 {sha256}); "
            "remove it and upload the file again"
        )
    name = reference.partition("/")[2] or f"upload-{sha256[:8]}"
    return FetchedSource(path=path, sha256=sha256, num_bytes=path.stat().st_size, name=name)
