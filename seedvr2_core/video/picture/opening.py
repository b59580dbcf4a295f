"""What libav reads of a source: a video as it is, pictures in a form of ours.

Numpy and Pillow are loaded for pictures alone.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from seedvr2_core.errors import FileReadError, InvalidVideoError, SeedVR2Error
from seedvr2_core.files.reading import FileReader, OnBytes, no_bytes
from seedvr2_core.video._reasons import HEAD_BYTES, refuse_pictures
from seedvr2_core.video.picture.still import StillFacts, still_kind
from seedvr2_core.video.sequence.archive import ZIP_START, PictureArchive, without_times

if TYPE_CHECKING:
    from seedvr2_core.video.sequence.look import SequenceFacts
    from seedvr2_core.video.sequence.virtual import PictureFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """What libav is given."""

    file: "FileReader | PictureFile | io.BytesIO"
    demuxer: str | None
    """The only one that may be used; None: any that a source may use."""
    head: bytes
    """How the source's file begins."""

    @property
    def failed(self) -> SeedVR2Error | None:
        """The first read that failed; libraries may have swallowed the exception."""
        return None if isinstance(self.file, io.BytesIO) else self.file.failed


def media_of(file: FileReader, name: str, on_bytes: OnBytes) -> Media:
    """What libav is to read of an open file.

    Raises:
        InvalidVideoError: empty, or pictures that cannot be read.
        UnsupportedFormatError: pictures that are not taken.
        FileReadError: the machine failed to read it.
    """
    if not file.num_bytes:
        raise InvalidVideoError(f"{name}: the file is empty (0 bytes), a video is needed")
    head = file.read(HEAD_BYTES)
    file.seek(0)
    refuse_pictures(name, head)
    if kind := still_kind(head):
        from seedvr2_core.video.picture.pixels import upright_pixels

        png = upright_pixels(file, name, kind).as_png()
        return Media(file=io.BytesIO(png), demuxer="png_pipe", head=head)
    if head.startswith(ZIP_START):
        from seedvr2_core.video.sequence.virtual import PictureFile

        archive = PictureArchive(file, name)
        times = archive.times()
        if times is None:
            raise without_times(name)
        pictures = PictureFile(archive, times, file, name=name, on_bytes=on_bytes)
        return Media(file=pictures, demuxer="mov", head=head)
    return Media(file=file, demuxer=None, head=head)


def look_at_picture(path: Path) -> StillFacts | None:
    """What a source says of itself if it is a picture; None for a video.

    Raises:
        InvalidVideoError: it cannot be read.
        UnsupportedFormatError: a picture that is not taken.
        FileReadError: the machine failed to read it.
    """
    with open_file(path) as file:
        kind = still_kind(file.read(HEAD_BYTES))
        file.seek(0)
        if not kind:
            return None
        from seedvr2_core.video.picture.pixels import look_at_still

        return look_at_still(file, path.name, kind)


def look_at_pictures(path: Path, on_bytes: OnBytes) -> "SequenceFacts | None":
    """What the pictures of a source are if it is a sequence; None for all else.

    Args:
        path: the source.
        on_bytes: called with each picture's number and their count.

    Raises: as `look_at_picture`; InvalidVideoError if pictures differ.
    """
    if not is_archive(path):
        return None
    from seedvr2_core.video.sequence.look import look_at_sequence

    with open_file(path) as file:
        archive = PictureArchive(file, path.name)
        times = archive.times()
        if times is None:
            raise without_times(path.name)
        return look_at_sequence(archive, times, path.name, on_bytes)


def is_archive(path: Path) -> bool:
    """Whether a source is a zip.

    Raises: as `open_file`.
    """
    with open_file(path) as file:
        return file.read(len(ZIP_START)) == ZIP_START


def is_of_pictures(path: Path) -> bool:
    """Whether a source is a picture or a zip.

    Raises: as `open_file`.
    """
    with open_file(path) as file:
        head = file.read(HEAD_BYTES)
    return bool(still_kind(head)) or head.startswith(ZIP_START)


def open_file(path: Path, on_bytes: OnBytes = no_bytes) -> FileReader:
    """The source's file.

    Raises:
        InvalidVideoError: it is not there, is no file, or may not be read.
        FileReadError: the machine cannot say.
    """
    try:
        if not path.is_file():
            raise InvalidVideoError(f"{path.name}: there is no such file")
        return FileReader(path, on_bytes=on_bytes)
    except PermissionError as error:
        raise InvalidVideoError(f"{path.name}: this file may not be read") from error
    except OSError as error:
        raise FileReadError(f"{path.name}: it cannot be opened ({error.strerror})") from error
