"""A folder of this machine as storage."""

from pathlib import Path
from urllib.parse import quote

from seedvr2_core.errors import StorageError
from seedvr2_core.files import file_sha256
from seedvr2_core.files.durable import sync_file
from seedvr2_core.files.place import place
from seedvr2_core.files.reading import OnBytes, no_bytes
from tasks.storage.base import Stored, candidates, check_name, no_name_left, translated


class LocalStorage:
    """Stores files in a folder (see `base.Storage`).

    On the same file system a file is stored as a hard link, so its bytes are not copied (see
    `seedvr2_core.files.place`). A job replaces its output by rename and removes it by unlink, so it
    never changes the bytes that both names share.
    """

    def __init__(
        self, folder: Path, *, public_url: str | None = None, on_bytes: OnBytes = no_bytes
    ) -> None:
        """Use this folder, which is made when something is put.

        Args:
            folder: where files are kept.
            public_url: address under which a web server (the edge) serves the folder, if any.
            on_bytes: called with the bytes done and the bytes in all while a file is read.
        """
        self._on_bytes = on_bytes
        self._folder = folder
        self._public_url = public_url.rstrip("/") if public_url else None

    def put(self, path: Path, name: str, *, sha256: str | None = None) -> Stored:
        """Store a file (see Storage.put).

        Raises:
            InvalidRequestError: the name has path separators or a leading dot, or is too long.
            StorageError: the folder cannot be written, the file cannot be read, or its digest is
                not the expected one.
            ResourceError: the disk is full.
        """
        check_name(name)
        with translated(f"storing {name} in {self._folder}"):
            self._folder.mkdir(parents=True, exist_ok=True)
            sync_file(path)
            num_bytes, digest = path.stat().st_size, self._sha256(path)
            if sha256 not in (None, digest):
                raise StorageError(
                    f"{path} is not the file that was made: expected sha256 {sha256}, got "
                    f"{digest}; run the job again"
                )
            for candidate in candidates(name):
                target = self._folder / candidate
                if self._claim(path, target, digest) or self._holds(target, num_bytes, digest):
                    return self._stored(candidate, num_bytes, digest)
        raise no_name_left(name)

    def stat(self, name: str) -> Stored | None:
        """The file with this name, or None; its bytes are read and hashed."""
        check_name(name)
        path = self._folder / name
        with translated(f"reading {name} in {self._folder}"):
            if not path.is_file():
                return None
            return self._stored(name, path.stat().st_size, self._sha256(path))

    def delete(self, name: str) -> None:
        """Remove the file, if there is one."""
        check_name(name)
        with translated(f"removing {name} from {self._folder}"):
            (self._folder / name).unlink(missing_ok=True)

    def _stored(self, name: str, num_bytes: int, sha256: str) -> Stored:
        path = (self._folder / name).absolute()
        url = f"{self._public_url}/{quote(name)}" if self._public_url else None
        return Stored(name=name, num_bytes=num_bytes, sha256=sha256, url=url, path=path)

    def _claim(self, path: Path, target: Path, sha256: str) -> bool:
        """Store the file under `target` if that name is free; False if it is taken.

        The temporary name is made from the digest alone, so that it replaces what a killed run has
        left. No output can have it because of its dot.
        """
        return place(path, target, part_name=f".{sha256}.part", on_bytes=self._on_bytes)

    def _sha256(self, path: Path) -> str:
        return file_sha256(path, on_bytes=self._on_bytes)

    def _holds(self, target: Path, num_bytes: int, sha256: str) -> bool:
        """Whether this file exists and has these bytes."""
        if not target.is_file() or target.stat().st_size != num_bytes:
            return False
        return self._sha256(target) == sha256
