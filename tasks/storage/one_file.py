"""The file that a caller named for the result, in the place of a storage.

`seedvr2 upscale --output FILE` stores here: the finished video gets this one name and no other. The
name is checked before the job, and again at its end, because somebody may have taken it meanwhile.
"""

import shutil
from pathlib import Path

from seedvr2_core.errors import ResourceError, StorageError, StorageRefusedError
from seedvr2_core.files import file_sha256
from seedvr2_core.files.durable import sync_file
from seedvr2_core.files.place import place
from seedvr2_core.files.reading import OnBytes, no_bytes
from seedvr2_core.files.unpacking import archive_of, unpack
from seedvr2_core.job.output_file import OutputFile, is_source
from tasks.storage.base import Stored, translated


class FileStorage:
    """Stores a job's result as one file that the caller named (see `base.Storage`).

    The names that the job gives are not used, so there is one file and one name.
    """

    def __init__(self, output: OutputFile, *, on_bytes: OnBytes = no_bytes) -> None:
        """Use this file.

        Args:
            output: the file.
            on_bytes: called with the bytes done and the bytes in all while a file is read.
        """
        self._output = output
        self._on_bytes = on_bytes

    @property
    def folder(self) -> Path:
        """The folder that is written to."""
        return self._output.target.parent

    def put(self, path: Path, name: str, *, sha256: str | None = None) -> Stored:
        """Give the caller's file these bytes; see Storage.put.

        Raises:
            StorageRefusedError: the name is taken, or is the source's. Nothing is changed; the
                message says where the result is.
            StorageError, ResourceError: the folder cannot be written, or its disk is full; the
                message says where the result is.
        """
        del name
        output, target = self._output, self._output.target
        kept = f"; the finished video is {path}"
        try:
            with translated(f"writing {output.path}"):
                sync_file(path)
                digest = file_sha256(path, on_bytes=self._on_bytes)
                if sha256 not in (None, digest):
                    raise StorageError(
                        f"{path} is not the file that was made: expected sha256 {sha256}, got "
                        f"{digest}; run the job again"
                    )
                stored = self.stat(output.path.name)
                if stored is not None and stored.sha256 == digest and not is_source(output):
                    return stored
                if is_source(output) or not self._place(path, target, digest):
                    raise StorageRefusedError(
                        f"{output.path} has come into being while the video was made, and is not "
                        f"replaced{kept}: move it, or run the same command with another --output, "
                        "which makes nothing again"
                    )
                return self._stored(digest, path.stat().st_size)
        except (ResourceError, StorageError) as error:
            if kept in str(error) or not path.is_file():
                raise
            raise type(error)(f"{error}{kept}") from error

    def _place(self, path: Path, target: Path, sha256: str) -> bool:
        """Give the caller's file or folder the job's bytes; False if something has the name."""
        if self._output.folder:
            return unpack(path, target, sha256=sha256, on_bytes=self._on_bytes)
        return place(
            path,
            target,
            part_name=f".{sha256}.part",
            replace=self._output.overwrite,
            on_bytes=self._on_bytes,
        )

    def stat(self, name: str) -> Stored | None:
        """The file as it is, whatever its bytes are; None if there is none.

        Of a folder: the archive that it was made of, if all of its bytes are still there.
        """
        del name
        with translated(f"reading {self._output.path}"):
            if self._output.folder:
                found = archive_of(self._output.target, on_bytes=self._on_bytes)
                return self._stored(found.sha256, found.num_bytes) if found else None
            return self._stored() if self._output.target.is_file() else None

    def delete(self, name: str) -> None:
        """Remove the file, if there is one and it is not the source."""
        del name
        if not is_source(self._output):
            with translated(f"removing {self._output.path}"):
                if not self._output.folder:
                    self._output.target.unlink(missing_ok=True)
                elif archive_of(self._output.target) is not None:
                    shutil.rmtree(self._output.target)

    def _stored(self, sha256: str | None = None, num_bytes: int | None = None) -> Stored:
        target = self._output.target
        return Stored(
            name=self._output.path.name,
            num_bytes=target.stat().st_size if num_bytes is None else num_bytes,
            sha256=sha256 or file_sha256(target, on_bytes=self._on_bytes),
            url=None,
            path=self._output.path,
        )
