"""The file that a caller named for the result, in the place of a storage.

`seedvr2 upscale --output FILE` stores here: the finished video gets this one name and no other. The
name is checked before the job, and again at its end, because somebody may have taken it meanwhile.
"""

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from seedvr2_core.errors import (
    InvalidRequestError,
    ResourceError,
    StorageError,
    StorageRefusedError,
)
from seedvr2_core.files import file_sha256
from seedvr2_core.files.durable import sync_file
from seedvr2_core.files.place import place, try_writing
from seedvr2_core.files.reading import OnBytes, no_bytes
from seedvr2_core.video.output.formats import OUTPUT_ENDINGS
from tasks.storage.base import Stored, translated


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFile:
    """A file that the result is to become."""

    path: Path
    """Absolute, as the caller wrote it. A symbolic link is followed when the file is written."""
    overwrite: bool = False
    """Whether a file of this name is replaced."""
    source: Path | None = None
    """The job's source, if it is a local file; it is never replaced."""

    @property
    def target(self) -> Path:
        """Where the bytes go: the path with all links followed."""
        return Path(os.path.realpath(self.path))


def check_output_file(output: OutputFile) -> None:
    """Check, before any work, that the result can be written; leaves nothing behind.

    Raises:
        InvalidRequestError: the name's ending is none that we write; the name is taken, is the
            source's, too long, or no name of a regular file; or its folder cannot be written.
    """
    path = output.path
    if path.suffix.lower() not in OUTPUT_ENDINGS:
        raise InvalidRequestError(
            f"the output file must end in {' or '.join(OUTPUT_ENDINGS)}, which is what we write, "
            f"got {path.name}"
        )
    try:
        found = os.stat(output.target)
    except FileNotFoundError:
        found = None
    except OSError as error:
        raise InvalidRequestError(
            f"the output file {path} cannot be written: {error.strerror}; choose another name"
        ) from error
    if found is not None:
        _check_taken(output, found)
    _check_folder(output)


def _check_taken(output: OutputFile, found: os.stat_result) -> None:
    """Refuse a name that something has already, unless it may be replaced."""
    path = output.path
    if stat.S_ISDIR(found.st_mode):
        raise InvalidRequestError(f"the output file {path} is a folder; name a file in it")
    if not stat.S_ISREG(found.st_mode):
        raise InvalidRequestError(
            f"the output file {path} is a device or a pipe; name a file, and take the result's "
            "path from the last line of stdout"
        )
    if is_source(output):
        raise InvalidRequestError(
            f"the output file {path} is the source itself, which is never replaced; choose another "
            "name"
        )
    if not output.overwrite:
        raise InvalidRequestError(
            f"the output file {path} exists already; choose another name, or replace it with "
            "--overwrite"
        )


def is_source(output: OutputFile) -> bool:
    """Whether the name leads to the source, by whatever links, spelling or case."""
    try:
        return output.source is not None and os.path.samefile(output.target, output.source)
    except OSError:  # one of them is not there
        return False


def _check_folder(output: OutputFile) -> None:
    """Write an empty file beside the output and remove it again."""
    folder = output.target.parent
    if not folder.is_dir():
        raise InvalidRequestError(
            f"--output must name a file in a folder that exists, got {output.path}"
        )
    try:
        try_writing(folder)
    except OSError as error:
        what = "on a read-only file system" if error.errno == errno.EROFS else error.strerror
        raise InvalidRequestError(
            f"the output's folder {folder} cannot be written ({what}); choose another folder"
        ) from error


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
                part = f".{digest}.part"
                if is_source(output) or not place(
                    path,
                    target,
                    part_name=part,
                    replace=output.overwrite,
                    on_bytes=self._on_bytes,
                ):
                    raise StorageRefusedError(
                        f"{output.path} has come into being while the video was made, and is not "
                        f"replaced{kept}: move it, or run the same command with another --output, "
                        "which makes nothing again"
                    )
                return self._stored(digest)
        except (ResourceError, StorageError) as error:
            if kept in str(error) or not path.is_file():
                raise
            raise type(error)(f"{error}{kept}") from error

    def stat(self, name: str) -> Stored | None:
        """The file as it is, whatever its bytes are; None if there is none."""
        del name
        with translated(f"reading {self._output.path}"):
            return self._stored() if self._output.target.is_file() else None

    def delete(self, name: str) -> None:
        """Remove the file, if there is one and it is not the source."""
        del name
        if not is_source(self._output):
            with translated(f"removing {self._output.path}"):
                self._output.target.unlink(missing_ok=True)

    def _stored(self, sha256: str | None = None) -> Stored:
        target = self._output.target
        return Stored(
            name=self._output.path.name,
            num_bytes=target.stat().st_size,
            sha256=sha256 or file_sha256(target, on_bytes=self._on_bytes),
            url=None,
            path=self._output.path,
        )
