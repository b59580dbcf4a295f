"""Bytes that callers send: hashed while they are written, published whole, named by digest.

An upload ends as WORK_DIR/intake/<sha256>. A request names it as its video_url with the reference
`upload:<sha256>/<file name>`, so parameters stay small and the same bytes are the same source.
Whoever runs the job must see the same work directory.
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
from tasks.schemas import FetchedSource
from tasks.settings import Settings

_REFERENCE = re.compile(r"upload:([0-9a-f]{64})(?:/([^/\\]{1,200}))?")
_PART = ".upload-{}.part"


class PartFile:
    """A file under way: bytes are appended and hashed; it has no name before `publish`.

    Its lock tells a sweep that somebody still writes; the kernel drops it with the process.
    """

    def __init__(self, folder: Path) -> None:
        """Begin a file in this folder, which is made if need be. Raises OSError, as all here."""
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / _PART.format(uuid.uuid4().hex)
        self._stream = self._path.open("xb")
        fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._hash = hashlib.sha256()
        self.num_bytes = 0

    @property
    def sha256(self) -> str:
        """Digest of what was written so far, hex, lower case."""
        return self._hash.hexdigest()

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""
        self._stream.write(data)
        self._hash.update(data)
        self.num_bytes += len(data)

    def publish(self, target: Path) -> None:
        """Give the file its name, durably; what had the name before is replaced."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        target.parent.mkdir(parents=True, exist_ok=True)
        self._path.replace(target)
        sync_directory(target.parent)

    def close(self) -> None:
        """Let go of it; what was not published is removed."""
        self._path.unlink(missing_ok=True)
        self._stream.close()


def sweep_parts(folder: Path) -> int:
    """Remove what killed processes left half written; returns how many files that were."""
    removed = 0
    for path in folder.glob(_PART.format("*")):
        with path.open("rb") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # its writer lives
            path.unlink(missing_ok=True)
            removed += 1
    return removed


def upload_reference(sha256: str, name: str) -> str:
    """What stands for an upload in a request's video_url."""
    plain = re.sub(r"[^\w. -]", "_", name.replace("\\", "/").rsplit("/", 1)[-1]).strip(". ")
    return f"upload:{sha256}/{plain[-200:] or 'video'}"


def is_upload(video_url: str | None) -> bool:
    """Whether a request's address is a reference to an upload."""
    return (video_url or "").startswith("upload:")


def find_upload(reference: str, settings: Settings) -> Path:
    """Where the upload lies.

    Raises:
        InvalidRequestError: it is no reference.
        SourceRefusedError: this machine does not have it.
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


def take_reference(reference: str, settings: Settings) -> FetchedSource:
    """The uploaded source, its bytes checked against its name."""
    path = find_upload(reference, settings)
    sha256 = file_sha256(path)
    if sha256 != path.name:
        raise SourceRefusedError(
            f"{path} no longer holds the bytes that were uploaded (sha256 {sha256}); "
            "remove it and upload the file again"
        )
    name = reference.partition("/")[2] or f"upload-{sha256[:8]}"
    return FetchedSource(path=path, sha256=sha256, num_bytes=path.stat().st_size, name=name)
