"""The file that a caller named for the result: checked before the work, never taken unasked."""

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from seedvr2_core.errors import InvalidRequestError
from seedvr2_core.files.place import try_writing
from seedvr2_core.video.output.formats import OUTPUT_ENDINGS, PICTURE_CODECS
from seedvr2_core.video.sequence.names import is_picture_name, pattern_of


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFile:
    """A file that the result is to become."""

    path: Path
    """Absolute, as the caller wrote it. A symbolic link is followed when the file is written."""
    overwrite: bool = False
    """Whether a file of this name is replaced."""
    source: Path | None = None
    """The job's source, if it is a local file; it is never replaced."""
    endings: tuple[str, ...] = OUTPUT_ENDINGS
    """That its name may have; none: any."""
    folder: bool = False
    """Whether it is to be a folder of pictures, which does not exist yet or is empty."""

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
    is_free = output.folder or not output.endings
    if not is_free and path.suffix.lower() not in output.endings:
        raise InvalidRequestError(
            f"the output file must end in {' or '.join(output.endings)}, which is what we write, "
            f"got {path.name}; a folder is made only of pictures (container folder, codec "
            f"{' or '.join(PICTURE_CODECS)})"
        )
    try:
        found = os.stat(output.target)
    except FileNotFoundError:
        found = None
    except OSError as error:
        raise InvalidRequestError(
            f"the output file {path} cannot be written: {error.strerror}; choose another name"
        ) from error
    if found is not None and output.folder:
        _check_empty(output, found)
    elif found is not None:
        _check_taken(output, found)
    _check_folder(output)


def _check_empty(output: OutputFile, found: os.stat_result) -> None:
    """Refuse a folder's name that a file has, or a folder with something in it."""
    if not stat.S_ISDIR(found.st_mode) or any(output.target.iterdir()):
        raise InvalidRequestError(
            f"{output.path} exists already and is no empty folder; choose another name: a folder "
            "is never replaced"
        )


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
            f"the output file {path} exists already; choose another name, or let it be replaced "
            "(overwrite)"
        )


def is_source(output: OutputFile) -> bool:
    """Whether the name leads to the source, by whatever links, spelling or case.

    Of a sequence of pictures, which is a folder or a pattern, any picture in the folder counts.
    """
    source, target = output.source, output.target
    if source is None:
        return False
    try:
        is_folder = source.is_dir()
        if not is_folder and (os.path.isfile(source) or pattern_of(source) is None):
            return os.path.samefile(target, source)
        folder = source if is_folder else source.parent
        return is_picture_name(target.name) and os.path.samefile(target.parent, folder)
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
