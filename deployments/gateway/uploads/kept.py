"""Uploads that may be interrupted: their bytes and notes on the disk, which outlive the gateway.

Below WORK_DIR/intake/resumable lie <id>.part, the bytes so far, and <id>.json, whose upload it is.
The length of the part is the offset at which the upload goes on. A whole one is published like any
video that was sent, as WORK_DIR/intake/<sha256>; its note stays until it expires, so that a caller
who did not hear the last answer learns that all is there.
"""

import contextlib
import hashlib
import os
import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import HTTPException
from pydantic import BaseModel, ValidationError

from deployments.gateway.quota import Arrival
from seedvr2_core.files.durable import sync_directory, write_bytes
from tasks.settings import Settings
from tasks.sources.uploads import upload_reference

if TYPE_CHECKING:
    from hashlib import _Hash

MAX_OPEN = 100
"""Unfinished uploads of one token."""
_ID = re.compile(r"[0-9a-f]{32}")
_PIECE_BYTES = 2**20


class Note(BaseModel):
    """What is known of an upload beside its bytes."""

    owner: str
    length: int
    name: str
    metadata: str
    """As the caller sent it."""
    fingerprint: str
    """By which the caller knows the file again; "" if it gave none."""
    sha256: str = ""
    """Set as soon as the upload is whole, before it is published."""


class KeptUpload:
    """One upload. All methods may raise OSError."""

    def __init__(self, folder: Path, name: str, note: Note) -> None:
        """Look at nothing yet; `name` is its id."""
        self.id, self.note = name, note
        self._part, self._path = folder / f"{name}.part", folder / f"{name}.json"
        self._hash: tuple[_Hash, int] = hashlib.sha256(), 0
        """Of the first bytes, and how many: so the whole is not read once more."""

    @property
    def offset(self) -> int:
        """How many bytes have come."""
        if self.note.sha256:
            return self.note.length
        try:
            return self._part.stat().st_size
        except FileNotFoundError:
            return 0

    @property
    def reference(self) -> str:
        """What a request says in `video_url`; "" until the upload is whole."""
        return upload_reference(self.note.sha256, self.note.name) if self.note.sha256 else ""

    def used_at(self) -> float:
        """When its last byte came, or it was made."""
        return max(_mtime(self._part), _mtime(self._path))

    def save(self) -> None:
        """Write the note."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(self._path, self.note.model_dump_json().encode())

    def append(self, data: bytes) -> None:
        """Add bytes to its end."""
        begun = self.offset
        with self._part.open("ab") as stream:
            stream.write(data)
        digest, hashed = self._hash
        if hashed == begun:
            digest.update(data)
            self._hash = digest, begun + len(data)

    def cut(self, num_bytes: int) -> None:
        """Forget what came after so many bytes."""
        os.truncate(self._part, num_bytes)
        self._hash = hashlib.sha256(), 0

    def sync(self) -> None:
        """Bring what has come to the disk."""
        with contextlib.suppress(FileNotFoundError), self._part.open("rb") as stream:
            os.fsync(stream.fileno())

    def publish(self, target: Path) -> int:
        """Rename the part to `target`, replacing a file of that name; returns its inode."""
        self._part.replace(target)
        sync_directory(target.parent)
        return target.stat().st_ino

    def complete(self, settings: Settings, arrival: Arrival) -> None:
        """Give a whole upload its name among the videos that were sent; nothing if it has that."""
        if self.offset < self.note.length:
            return
        if not self.note.sha256:
            self.sync()
            self.note = self.note.model_copy(update={"sha256": self._digest()})
            self.save()
        if not self._part.exists():
            return
        target = settings.intake_dir / self.note.sha256
        arrival.videos.publish(self, target)
        arrival.videos.keep(target)
        arrival.keep(self.note.sha256, num_bytes=self.note.length)

    def _digest(self) -> str:
        digest, hashed = self._hash
        if hashed != self.note.length:
            digest = hashlib.sha256()
            with self._part.open("rb") as stream:
                while piece := stream.read(_PIECE_BYTES):
                    digest.update(piece)
        return digest.hexdigest()

    def remove(self) -> None:
        """Remove bytes and note; what is published stays."""
        self._part.unlink(missing_ok=True)
        self._path.unlink(missing_ok=True)


class Uploads:
    """All uploads of a gateway. One object serves all requests; its methods are for threads."""

    def __init__(self, settings: Settings) -> None:
        """Find what an earlier process has left when it is first asked for."""
        self._settings = settings
        self._folder = settings.intake_dir / "resumable"
        self._seen: dict[str, KeptUpload] = {}

    def find_begun(self, note: Note) -> KeptUpload | None:
        """The unfinished upload that the caller has begun of the same file."""
        if not note.fingerprint:
            return None
        return next((one for one in self._all() if one.note == note), None)

    def create(self, note: Note) -> KeptUpload:
        """Begin an upload.

        Raises:
            HTTPException: 429, the caller has too many that are not finished.
        """
        self.sweep()
        mine = [one for one in self._all() if one.note.owner == note.owner and not one.reference]
        if len(mine) >= MAX_OPEN:
            raise HTTPException(
                429, f"this token has {MAX_OPEN} unfinished uploads; finish or remove one of them"
            )
        upload = KeptUpload(self._folder, uuid.uuid4().hex, note)
        upload.save()
        self._seen[upload.id] = upload
        return upload

    def find(self, name: str, owner: str) -> KeptUpload:
        """An upload of this caller.

        Raises:
            HTTPException: 404, there is none of this id, or it is another caller's; 410, it has
                expired.
        """
        upload = self._load(name) if _ID.fullmatch(name) else None
        if upload is None or upload.note.owner != owner:
            raise HTTPException(404, f"there is no upload {name[:80]!r}")
        if self.expires_at(upload) < time.time():
            self.remove(upload)
            raise HTTPException(410, f"upload {name} has expired; begin another one")
        return upload

    def expires_at(self, upload: KeptUpload) -> float:
        """When an upload is removed if nothing more of it comes, in seconds of the epoch."""
        return upload.used_at() + self._settings.gateway_upload_seconds

    def promised(self, owner: str) -> int:
        """Bytes that the unfinished uploads of a caller have or will have."""
        return sum(
            one.note.length
            for one in self._all()
            if one.note.owner == owner and not one.note.sha256
        )

    def remove(self, upload: KeptUpload) -> None:
        """Remove what there is of an upload."""
        self._seen.pop(upload.id, None)
        upload.remove()

    def sweep(self) -> None:
        """Remove what has expired."""
        for upload in list(self._all()):
            if self.expires_at(upload) < time.time():
                self.remove(upload)

    def _all(self) -> Iterator[KeptUpload]:
        for path in self._folder.glob("*.json"):
            if upload := self._load(path.stem):
                yield upload

    def _load(self, name: str) -> KeptUpload | None:
        path = self._folder / f"{name}.json"
        if not path.is_file():
            self._seen.pop(name, None)
            return None
        if name not in self._seen:
            try:
                note = Note.model_validate_json(path.read_bytes())
            except (OSError, ValidationError):
                return None
            self._seen[name] = KeptUpload(self._folder, name, note)
        return self._seen[name]


def _mtime(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
