"""A folder of an object store: whole objects, conditional writes, files with a known digest.

An object is written whole or not at all. `create` and `replace` are conditional (If-None-Match and
If-Match, or Google's generations), so that of two writers one learns that it came second. A write
whose answer was lost is tried again and finds its own bytes: that counts as written.

Files are moved in pieces, each under a limit of its own, so that what is slow goes on and what
hangs ends. The secret of the access key is in no message.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from seedvr2_core.errors import ResourceError, StorageError, StorageRefusedError
from seedvr2_core.files.durable import replace_file, sync_directory
from seedvr2_core.files.reading import OnBytes, no_bytes
from tasks.net.bucket_services import (
    PIECE_SECONDS,
    SMALL_SECONDS,
    first_line,
    open_store,
    service_of,
)
from tasks.settings import Settings

PIECE_BYTES = 8 * 2**20
"""What one request carries; an object of 10,000 pieces, S3's limit, has 84 GB."""
_REFUSED = ("403 Forbidden", "401 Unauthorized", "AccessDenied", "InvalidAccessKeyId")
_CLOCK = ("RequestTimeTooSkewed", "Request date header too old", "in a reasonable timeframe")
"""What S3, Azure and Google say where a request was signed at another time than theirs."""
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound")
_SHA256 = "sha256"
"""Name of the digest among an object's metadata."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A small object."""

    content: bytes
    tag: str
    """Names this state of the object; changes with every write; for `replace`."""
    written_at: datetime
    """By the store's clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """What the store says about an object."""

    num_bytes: int
    sha256: str
    """What its writer said; the store has compared each piece. "" if it said nothing."""
    written_at: datetime


class Bucket:
    """The objects below one address, named by their path from there."""

    def __init__(self, address: str, settings: Settings) -> None:
        """Open no connection yet.

        Args:
            address: s3://BUCKET/FOLDER, gs://BUCKET/FOLDER or az://CONTAINER/FOLDER.
            settings: how the service is reached.

        Raises:
            StorageRefusedError: a setting is missing or wrong.
        """
        self.address = address
        self._is_there = False
        self._service = service_of(address)
        self._small = open_store(address, settings, request_seconds=SMALL_SECONDS)
        """For all but the pieces of files."""
        self._large = open_store(address, settings, request_seconds=PIECE_SECONDS)

    def read(self, name: str) -> Found | None:
        """A small object; None if there is none."""
        import obstore

        with self._translated(f"reading {name}"):
            try:
                got = obstore.get(self._small, name)
                content = bytes(got.bytes())
            except FileNotFoundError:
                return None
            meta = got.meta
        return Found(content=content, tag=self._tag(meta), written_at=meta["last_modified"])

    def _tag(self, told: Any) -> str:
        """The tag of an object that was read or written."""
        return told["version" if self._service.versions else "e_tag"] or ""

    def write(self, name: str, content: bytes) -> None:
        """Write a small object, whatever was there."""
        self._put(name, content, "overwrite")

    def create(self, name: str, content: bytes) -> str | None:
        """Write a small object if there is none of this name.

        Returns:
            Its tag; None if there is one with other bytes.
        """
        return self._put_if(name, content, "create")

    def replace(self, name: str, content: bytes, tag: str) -> str | None:
        """Write a small object if the one that is there is still the one with this tag.

        Returns:
            The new tag; None if it has changed or is gone.
        """
        return self._put_if(name, content, {"version" if self._service.versions else "e_tag": tag})

    def _put_if(self, name: str, content: bytes, mode: Any) -> str | None:
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        try:
            return self._put(name, content, mode)
        except (AlreadyExistsError, PreconditionError):
            there = self.read(name)  # ours, if only the answer was lost
            return there.tag if there and there.content == content else None

    def _put(self, name: str, content: bytes, mode: Any) -> str:
        import obstore

        with self._translated(f"writing {name}"):
            put = obstore.put(self._small, name, content, mode=mode, use_multipart=False)
        return self._tag(put)

    def stat(self, name: str) -> Described | None:
        """What the store says about an object; None if there is none."""
        import obstore
        from obstore.exceptions import PermissionDeniedError

        with self._translated(f"asking for {name}"):
            try:
                got = obstore.get(self._small, name, options={"head": True})
            except FileNotFoundError:
                if not self._is_there:
                    self._look()
                self._is_there = True
                return None
            except PermissionDeniedError:
                self._look()
                raise
            meta, attributes = got.meta, dict(got.attributes)
        return Described(
            num_bytes=meta["size"],
            sha256=str(attributes.get(_SHA256, "")),
            written_at=meta["last_modified"],
        )

    def _look(self) -> None:
        """List nothing: a refusal of that has words, those of an object that is asked for have not.

        They tell a missing bucket from a missing object, and a wrong clock from a wrong key.
        """
        import obstore

        next(iter(obstore.list(self._small, prefix="none", chunk_size=1)), None)

    def names(self, prefix: str) -> list[str]:
        """Names of the objects below a prefix, sorted."""
        import obstore

        with self._translated(f"listing {prefix}"):
            found = obstore.list(self._small, prefix=prefix)
            return sorted(meta["path"] for batch in found for meta in batch)

    def delete(self, *names: str) -> None:
        """Remove objects; it is no error if there are none."""
        import obstore

        for name in names:
            with self._translated(f"removing {name}"), contextlib.suppress(FileNotFoundError):
                obstore.delete(self._small, name)

    def link(self, name: str, seconds: float) -> str:
        """An address under which anybody may read an object for so long.

        Raises:
            StorageRefusedError: obstore cannot sign it. Azure signs the plain name and obstore the
                escaped one, so the two must be the same.
        """
        import obstore

        plain = quote(f"{self.address}/{name}".partition("://")[2])
        if self.address.startswith("az://") and not f"{self.address}/{name}".endswith(plain):
            raise StorageRefusedError(
                f"no address of {name} in {self.address} can be signed: only letters, digits and "
                "._-~/ are possible there; name another folder, or set SEEDVR2_AZURE_BASE_URL"
            )
        with self._translated(f"signing {name}"):
            return obstore.sign(
                self._small,  # type: ignore[arg-type]
                "GET",
                name,
                timedelta(seconds=seconds),
            )

    def put_file(
        self,
        path: Path,
        name: str,
        *,
        sha256: str,
        content_type: str = "application/octet-stream",
        on_bytes: OnBytes = no_bytes,
    ) -> None:
        """Write a file as an object with its digest; larger ones go up in pieces.

        Args:
            path: the file.
            name: of the object; one of this name is replaced.
            sha256: the file's digest. The bytes that are sent are hashed on the way.
            content_type: what the object is served as.
            on_bytes: called with the bytes sent and the bytes in all.

        Raises:
            StorageError: the file is not the one with this digest, and the object was removed; the
                store may take it later.
        """
        import obstore

        digest = hashlib.sha256()
        total = path.stat().st_size

        def pieces() -> Iterator[bytes]:
            with path.open("rb") as stream:
                while piece := stream.read(PIECE_BYTES):
                    digest.update(piece)
                    yield piece
                    on_bytes(stream.tell(), total)

        attributes = {_SHA256: sha256, "Content-Type": content_type}
        with self._translated(f"writing {name}"):
            source = pieces() if total > PIECE_BYTES else b"".join(pieces())
            obstore.put(
                self._large,
                name,
                source,
                attributes=attributes,
                use_multipart=total > PIECE_BYTES,
                chunk_size=PIECE_BYTES,
                max_concurrency=2,
            )
        if digest.hexdigest() != sha256:
            self.delete(name)
            raise StorageError(
                f"{path} is not the file that was made: expected sha256 {sha256}, got "
                f"{digest.hexdigest()}; run the job again"
            )

    def get_file(self, name: str, path: Path, *, sha256: str, on_bytes: OnBytes = no_bytes) -> bool:
        """Read an object into a file, complete or not at all, and compare its digest.

        Returns:
            Whether there is such an object.

        Raises:
            StorageError: its bytes have another digest; the store may answer better later.
            ResourceError: the disk is full.
        """
        if self.stat(name) is None:
            return False
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            digest = self.download(name, part, on_bytes=on_bytes)
            if digest != sha256:
                raise StorageError(
                    f"{name} in {self.address} has sha256 {digest}, expected {sha256}; remove it "
                    "there, and it is made again"
                )
            replace_file(part, path)
        finally:
            part.unlink(missing_ok=True)
        sync_directory(path.parent)
        return True

    def download(self, name: str, part: Path, *, on_bytes: OnBytes = no_bytes) -> str:
        """Read an object that exists piece by piece into a file; returns its digest.

        Raises:
            StorageError: the store does not answer, or the object has changed meanwhile.
            ResourceError: the disk is full.
        """
        digest = hashlib.sha256()
        with self._translated(f"reading {name}"), part.open("wb") as out:
            for piece in self._pieces(name, on_bytes):
                digest.update(piece)
                out.write(piece)
            out.flush()
            os.fsync(out.fileno())
        return digest.hexdigest()

    def digest(self, name: str, *, on_bytes: OnBytes = no_bytes) -> str:
        """Read an object that exists to its end; returns its digest. Raises as `download` does."""
        digest = hashlib.sha256()
        with self._translated(f"reading {name}"):
            for piece in self._pieces(name, on_bytes):
                digest.update(piece)
        return digest.hexdigest()

    def _pieces(self, name: str, on_bytes: OnBytes) -> Iterator[bytes]:
        """The bytes of one state of an object."""
        import obstore

        meta = obstore.head(self._small, name)
        total, tag = meta["size"], meta["e_tag"]
        for start in range(0, total, PIECE_BYTES):
            length = min(PIECE_BYTES, total - start)
            options: Any = {"range": (start, start + length), "if_match": tag}
            piece = bytes(obstore.get(self._large, name, options=options).bytes())
            if len(piece) != length:
                raise StorageError(
                    f"{name} in {self.address} came with {len(piece)} bytes of {length}"
                )
            yield piece
            on_bytes(start + length, total)

    def _told(self, told: str, error: BaseException) -> StorageError:
        """Our error for one of obstore's that no condition of ours has caused."""
        said = first_line(error)
        if any(word in str(error) for word in _CLOCK):
            return StorageRefusedError(
                f"{told}: the clock of this machine ({datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC) is "
                f"too far from the service's; set it right, by NTP for instance ({said})"
            )
        if _is_refused(error):
            return StorageRefusedError(
                f"{told}: the key may not do that; check the {self._service.settings} settings and "
                f"the bucket's policy ({said})"
            )
        if isinstance(error, FileNotFoundError) or any(word in str(error) for word in _NO_BUCKET):
            return StorageRefusedError(
                f"{told}: there is no such bucket ({said}); make it, or correct its name"
            )
        return StorageError(f"{told}: {said}")

    @contextlib.contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        """Turn obstore's errors into ours, but for those that tell of a condition."""
        from obstore import exceptions as theirs

        told = f"{doing} in {self.address} failed"
        try:
            yield
        except (theirs.AlreadyExistsError, theirs.PreconditionError, StorageError):
            raise
        except (theirs.BaseError, FileNotFoundError) as error:
            raise self._told(told, error) from None
        except OSError as error:
            raise ResourceError(
                f"{told}: {error.strerror or error}; free space and run again"
            ) from error


def _is_refused(error: BaseException) -> bool:
    """Whether the key may not do what was asked. Listing tells so in words alone."""
    from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

    known = isinstance(error, PermissionDeniedError | UnauthenticatedError)
    return known or any(word in str(error) for word in _REFUSED)
