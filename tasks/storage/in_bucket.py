"""A folder in a bucket of S3, of a service like it, of Google's or of Azure's, as storage.

An object is stored whole or not at all; larger files go up in pieces. S3 compares a checksum of
each piece; from the other services the object is read back once. The digest of the whole file is
kept among the object's metadata, so bytes that are stored already are not sent again. We wait for
nothing here beyond a few seconds: every other wait is a task retry, visible in Prefect.
"""

from pathlib import Path
from urllib.parse import quote

from seedvr2_core.errors import StorageError, StorageRefusedError
from seedvr2_core.files import file_sha256
from seedvr2_core.files.reading import OnBytes, no_bytes
from tasks.net.bucket import Bucket, Described
from tasks.net.bucket_services import service_of
from tasks.settings import Settings
from tasks.storage.base import Stored, candidates, check_name, no_name_left, translated
from tasks.storage.bunny import content_type


class BucketStorage:
    """Stores files in a bucket (see `base.Storage`)."""

    def __init__(self, settings: Settings, *, on_bytes: OnBytes = no_bytes) -> None:
        """Use the bucket of the settings.

        Args:
            settings: where that is, and how it is reached.
            on_bytes: called with the bytes done and the bytes in all while a file is sent or read.

        Raises:
            StorageRefusedError: a setting is missing or wrong.
        """
        address = settings.outputs_bucket
        if address is None:
            raise StorageRefusedError(
                f"SEEDVR2_{settings.storage.upper()}_OUTPUTS is not set; the storage "
                f"`{settings.storage}` needs a bucket and a folder"
            )
        self._bucket = Bucket(address, settings)
        self._compares = service_of(address).compares
        self._base_url, self._link_seconds = settings.outputs_base_url, settings.link_seconds
        self._on_bytes = on_bytes

    def put(self, path: Path, name: str, *, sha256: str | None = None) -> Stored:
        """Store a file (see Storage.put). Without `sha256` the file is read twice.

        An object of another writer that has no digest counts as other bytes.

        Raises:
            InvalidRequestError: the name cannot be the name of a stored file.
            StorageRefusedError: the key may not write, or there is no such bucket.
            StorageError: the service may take it later, or what it has are other bytes, which were
                removed.
        """
        check_name(name)
        with translated(f"reading {path}"):
            digest = sha256 or file_sha256(path, on_bytes=self._on_bytes)
            num_bytes = path.stat().st_size
        for candidate in candidates(name):
            found = self._bucket.stat(candidate)
            if found is None:
                self._bucket.put_file(
                    path,
                    candidate,
                    sha256=digest,
                    content_type=content_type(candidate),
                    on_bytes=self._on_bytes,
                )
                self._read_back(candidate, digest)
                return self._stored(candidate, num_bytes, digest)
            if (found.num_bytes, found.sha256) == (num_bytes, digest):
                self._read_back(candidate, digest)
                return self._described(candidate, found)
        raise no_name_left(name)

    def _read_back(self, name: str, sha256: str) -> None:
        """Compare what a service has that compared nothing itself."""
        if self._compares:
            return
        digest = self._bucket.digest(name, on_bytes=self._on_bytes)
        if digest != sha256:
            self._bucket.delete(name)
            raise StorageError(
                f"{name} in {self._bucket.address} had sha256 {digest}, expected {sha256}, and was "
                "removed; try again"
            )

    def stat(self, name: str) -> Stored | None:
        """What the service says about the file with this name; None if there is none."""
        check_name(name)
        found = self._bucket.stat(name)
        return self._described(name, found) if found else None

    def delete(self, name: str) -> None:
        """Remove the file, if there is one."""
        check_name(name)
        self._bucket.delete(name)

    def _described(self, name: str, found: Described) -> Stored:
        return self._stored(name, found.num_bytes, found.sha256)

    def _stored(self, name: str, num_bytes: int, sha256: str) -> Stored:
        url = (
            f"{self._base_url.rstrip('/')}/{quote(name)}"
            if self._base_url
            else self._bucket.link(name, self._link_seconds)
        )
        return Stored(name=name, num_bytes=num_bytes, sha256=sha256, url=url, path=None)
