"""Packs the pictures of a sequence into one archive, named by its digest.

The pictures are read twice: once to know the digest, and once to write them if no such archive is
there yet. Where both differ, somebody has changed them meanwhile.
"""

import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from seedvr2_core.errors import (
    FileReadError,
    InvalidVideoError,
    SourceUnavailableError,
    UnsupportedFormatError,
)
from seedvr2_core.files.durable import sync_directory, sync_file
from seedvr2_core.files.mp4_index import too_many_frames
from seedvr2_core.files.reading import FileReader, OnBytes, no_bytes
from seedvr2_core.files.writing import FileWriter
from seedvr2_core.video.sequence.archive import (
    MAX_MEMBER_BYTES,
    MAX_MEMBERS,
    Member,
    PictureArchive,
    SequenceTimes,
    write_archive,
)
from seedvr2_core.video.sequence.names import pictures_at, title_of

_PIECE_BYTES = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedPictures:
    """An archive that was made, or was there."""

    path: Path
    sha256: str
    num_bytes: int


@dataclass(frozen=True, slots=True)
class PictureOnDisk:
    """A picture in a file of its own."""

    path: Path
    on_bytes: Callable[[int], None]
    """Called with the number of bytes of each piece."""

    @property
    def name(self) -> str:
        """Its file name; bytes that are no text are written out."""
        return self.path.name.encode(errors="backslashreplace").decode()

    def pieces(self) -> Iterator[bytes]:
        """Its bytes."""
        with FileReader(self.path) as file:
            if file.num_bytes > MAX_MEMBER_BYTES:
                raise UnsupportedFormatError(
                    f"{self.path} has {file.num_bytes} bytes, a picture's file has at most "
                    f"{MAX_MEMBER_BYTES}"
                )
            if not file.num_bytes:
                raise InvalidVideoError(f"{self.path} is empty (0 bytes), not a picture")
            while piece := file.read(_PIECE_BYTES):
                self.on_bytes(len(piece))
                yield piece


@dataclass(frozen=True, slots=True)
class PictureInZip:
    """A picture in a zip that somebody has packed."""

    archive: PictureArchive
    index: int
    on_bytes: Callable[[int], None]

    @property
    def name(self) -> str:
        """Its file name."""
        return self.archive.names[self.index].encode(errors="backslashreplace").decode()

    def pieces(self) -> Iterator[bytes]:
        """Its bytes."""
        for piece in self.archive.pieces(self.index):
            self.on_bytes(len(piece))
            yield piece


def pack_files(
    paths: Sequence[Path], rate: Fraction, folder: Path, *, on_bytes: OnBytes = no_bytes
) -> PackedPictures:
    """Pack files.

    Args:
        paths: of the pictures, in order.
        rate: frames a second.
        folder: where the archive lies, under its digest.
        on_bytes: called with the bytes done and in all.

    Raises:
        SourceUnavailableError: they change while they are read, or cannot be read now.
        InvalidVideoError: one is empty, or too large.
        OSError: the archive cannot be written.
    """
    try:
        total = 2 * sum(path.stat().st_size for path in paths)
        counted = _Counter(on_bytes, total)
        return _pack([PictureOnDisk(path, counted) for path in paths], rate, folder)
    except (FileNotFoundError, FileReadError) as error:
        raise SourceUnavailableError(
            f"a picture could not be read ({error}); try again when nobody writes to them"
        ) from error


def pack_zip(
    path: Path, name: str, rate: Fraction, folder: Path, *, on_bytes: OnBytes = no_bytes
) -> PackedPictures | None:
    """Pack the pictures of a zip, with their times.

    Args:
        path: the zip.
        name: of it, for messages.
        rate: frames a second.
        folder: where the archive lies, under its digest.
        on_bytes: called with the bytes done and in all.

    Returns:
        None if it has these times already.

    Raises: as `pack_files`; InvalidVideoError, UnsupportedFormatError: it is no zip that is taken.
    """
    with FileReader(path) as file:
        archive = PictureArchive(file, name)
        wanted = SequenceTimes.of_rate(rate, len(archive.entries))
        if archive.has_times and archive.times() == wanted:
            return None
        counted = _Counter(on_bytes, 2 * archive.num_bytes)
        members = [PictureInZip(archive, k, counted) for k in range(len(archive.entries))]
        return _pack(members, rate, folder)


def pack_source(
    source: Path, rate: Fraction, folder: Path, *, on_bytes: OnBytes = no_bytes
) -> Path:
    """Pack a folder, a pattern or a zip of pictures into a file that is called like it.

    Args:
        source: of the pictures.
        rate: frames a second.
        folder: where the file goes; one of its name is replaced.
        on_bytes: called with the bytes done and in all.

    Returns:
        The file; a zip that has these times already is returned itself.

    Raises: as `pack_files`, `pack_zip` and `pictures_at`.
    """
    if source.is_file():
        packed = pack_zip(source, source.name, rate, folder, on_bytes=on_bytes)
        if packed is None:
            return source
    else:
        packed = pack_files(pictures_at(source), rate, folder, on_bytes=on_bytes)
    named = folder / f"{title_of(source).removesuffix('.zip')}.zip"
    packed.path.replace(named)
    return named


def refuse_excess(count: int, num_bytes: int, name: str, *, frames: int, most_bytes: int) -> None:
    """Refuse a sequence that is too long or too large, before it is copied.

    Raises:
        UnsupportedFormatError: it is.
    """
    most = min(frames, MAX_MEMBERS)
    if count > most:
        raise too_many_frames(name, most)
    if num_bytes > most_bytes:
        raise UnsupportedFormatError(
            f"{name}: its pictures have {num_bytes} bytes, more than {most_bytes} "
            "(SEEDVR2_FETCH_MAX_BYTES); make several sequences of it"
        )


class _Counter:
    """Counts bytes up."""

    def __init__(self, on_bytes: OnBytes, total: int) -> None:
        self._on_bytes, self._total, self._done = on_bytes, total, 0

    def __call__(self, num_bytes: int) -> None:
        self._done += num_bytes
        self._on_bytes(min(self._done, self._total), self._total)


def _pack(members: Sequence[Member], rate: Fraction, folder: Path) -> PackedPictures:
    times = SequenceTimes.of_rate(rate, len(members))
    sha256, num_bytes = write_archive(None, members, times)
    path = folder / sha256
    if path.is_file() and path.stat().st_size == num_bytes:
        os.utime(path)
        return PackedPictures(path=path, sha256=sha256, num_bytes=num_bytes)
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".pictures-{uuid.uuid4().hex}.part"
    try:
        with FileWriter(part) as file:
            written, _ = write_archive(file, members, times)
        if written != sha256:
            raise SourceUnavailableError(
                "the pictures of the sequence have changed while they were read; try again when "
                "nobody writes to them"
            )
        sync_file(part)
        part.replace(path)
        sync_directory(folder)
    finally:
        part.unlink(missing_ok=True)
    return PackedPictures(path=path, sha256=sha256, num_bytes=num_bytes)
