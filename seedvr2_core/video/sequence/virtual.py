"""An archive of pictures as libav sees it: a QuickTime file whose samples are plain PNGs.

The file is nowhere. Its index is written here, and a sample is made when it is read, so that a
sequence can be decoded from any picture on, with exact times, and takes no second room on the disk.
The index is possible because all samples have the same size (`picture/plain_png.py`).
"""

import io
import itertools
import os
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np

from seedvr2_core.errors import InvalidVideoError, SeedVR2Error
from seedvr2_core.files.reading import FileReader, OnBytes, no_bytes
from seedvr2_core.video.picture.pixels import UprightPixels, upright_pixels
from seedvr2_core.video.picture.still import still_kind
from seedvr2_core.video.sequence.archive import PictureArchive, SequenceTimes

_UNITY = struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
_MDAT_HEAD = 16
_RESOLUTION = 0x480000


class PictureBytes(io.BytesIO):
    """A picture's bytes, as `WholeFile` has them."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.num_bytes = len(content)


class PictureFile(io.RawIOBase):
    """The file that libav reads; raises what is wrong with a picture when it is read.

    Args:
        archive: open.
        times: of its pictures.
        file: in which the archive lies.
        name: of the archive, for messages.
        on_bytes: called before every read with the position and the file's length.

    Raises:
        InvalidVideoError: the first picture cannot be read.
        FileReadError: the machine failed to read it.
    """

    def __init__(
        self,
        archive: PictureArchive,
        times: SequenceTimes,
        file: FileReader,
        *,
        name: str,
        on_bytes: OnBytes = no_bytes,
    ) -> None:
        super().__init__()
        self.name = file.name
        self._archive, self._file, self._name, self._on_bytes = archive, file, name, on_bytes
        self._position = 0
        self._error: SeedVR2Error | None = None
        first = self._upright(0)
        self._shape, self._type, self._chunks = first.pixels.shape, first.pixels.dtype, first.chunks
        self._made = (0, first.as_png())
        self._sample_bytes = len(self._made[1])
        self._head = _index_of(first.pixels.shape[1::-1], self._sample_bytes, times)
        self.num_bytes = len(self._head) + self._sample_bytes * len(archive.entries)

    @property
    def failed(self) -> SeedVR2Error | None:
        """The first read that failed; libraries may have swallowed the exception."""
        return self._file.failed or self._error

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """The position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move the position; returns it."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.num_bytes}[whence]
        if start + offset < 0:
            raise ValueError(f"{self._name}: no position {start + offset}")
        self._position = start + offset
        return self._position

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes from the position on; nothing at the end.

        Raises:
            InvalidVideoError: a picture cannot be read, or is not like the first one.
            FileReadError: the machine failed to read it.
        """
        self._on_bytes(self._position, self.num_bytes)
        size = self.num_bytes if size < 0 else size
        if self._position < len(self._head):
            piece = self._head[self._position :][:size]
        elif self._position < self.num_bytes:
            index, at = divmod(self._position - len(self._head), self._sample_bytes)
            piece = self._sample(index)[at : at + size]
        else:
            piece = b""
        self._position += len(piece)
        return piece

    def _sample(self, index: int) -> bytes:
        """The PNG of a picture; the last one is kept."""
        if self._made[0] != index:
            try:
                self._made = (index, self._png(index))
            except SeedVR2Error as error:
                self._error = self._error or error
                raise
        return self._made[1]

    def _png(self, index: int) -> bytes:
        found = self._alike(self._upright(index))
        if (found.pixels.shape, found.pixels.dtype, found.chunks) != (
            self._shape,
            self._type,
            self._chunks,
        ):
            first, other = self._archive.names[0], self._archive.names[index]
            raise InvalidVideoError(
                f"{self._name}: all pictures of a sequence have one size, depth and kind of "
                f"colours, but {other} is not like {first}; make them alike"
            )
        return found.as_png()

    def _alike(self, found: UprightPixels) -> UprightPixels:
        """A picture with alpha if the first one has it, and without if that has none to be seen."""
        pixels, channels = found.pixels, self._shape[2]
        opaque = np.iinfo(pixels.dtype).max
        if pixels.shape[2] < channels:
            alpha = np.full(pixels.shape[:2], opaque, pixels.dtype)
            return replace(found, pixels=np.dstack([pixels, alpha]))
        if pixels.shape[2] > channels and int(pixels[:, :, 3].min()) == opaque:
            return replace(found, pixels=pixels[:, :, :3])
        return found

    def _upright(self, index: int) -> UprightPixels:
        name = f"{self._name}: {PurePosixPath(self._archive.entries[index].filename).name}"
        content = bytearray()
        for piece in self._archive.pieces(index):
            content += piece
            self._on_bytes(self._position, 0)
        kind = still_kind(bytes(content[:4096]))
        if not kind:
            raise InvalidVideoError(f"{name} is no picture that is taken")
        return upright_pixels(PictureBytes(bytes(content)), name, kind, keep_alpha=True)


def _index_of(size: tuple[int, int], sample_bytes: int, times: SequenceTimes) -> bytes:
    """All of the file that comes before its samples.

    Args:
        size: (width, height).
        sample_bytes: of each picture.
        times: of the pictures.
    """
    scale, ticks = times.time_base[1], times.time_base[0]
    ends = [*times.pts[1:], times.pts[-1] + times.last_duration]
    steps = [ticks * (end - start) for start, end in zip(times.pts, ends, strict=True)]
    runs = [(len(list(run)), step) for step, run in itertools.groupby(steps)]
    count = len(steps)
    kind = _box(b"ftyp", b"qt  ", struct.pack(">I", 0x200), b"qt  ")

    def moov(first: int) -> bytes:
        tables = (
            _full(b"stsd", struct.pack(">I", 1), _entry(size)),
            _full(b"stts", struct.pack(">I", len(runs)), *(struct.pack(">2I", *r) for r in runs)),
            _full(b"stsc", struct.pack(">4I", 1, 1, count, 1)),
            _full(b"stsz", struct.pack(">2I", sample_bytes, count)),
            _full(b"co64", struct.pack(">IQ", 1, first)),
        )
        return _movie(size, scale, sum(steps), tables)

    first = len(kind) + len(moov(0)) + _MDAT_HEAD
    media = struct.pack(">I4sQ", 1, b"mdat", _MDAT_HEAD + sample_bytes * count)
    return kind + moov(first) + media


def _movie(size: tuple[int, int], scale: int, duration: int, tables: tuple[bytes, ...]) -> bytes:
    """The box `moov` of one video track."""
    clock = struct.pack(">2QIQ", 0, 0, scale, duration)
    movie = struct.pack(">iH10x", 0x10000, 0x100) + _UNITY + bytes(24) + struct.pack(">I", 2)
    place = struct.pack(">2Q2IQ8x4H", 0, 0, 1, 0, duration, 0, 0, 0, 0) + _UNITY
    track = place + struct.pack(">2I", size[0] << 16, size[1] << 16)
    reference = _full(b"dref", struct.pack(">I", 1), _full(b"url ", flags=1))
    return _box(
        b"moov",
        _full(b"mvhd", clock, movie, version=1),
        _box(
            b"trak",
            _full(b"tkhd", track, version=1, flags=7),
            _box(
                b"mdia",
                _full(b"mdhd", clock, bytes(4), version=1),
                _full(b"hdlr", b"mhlr", b"vide", bytes(13)),
                _box(
                    b"minf",
                    _full(b"vmhd", bytes(8), flags=1),
                    _box(b"dinf", reference),
                    _box(b"stbl", *tables),
                ),
            ),
        ),
    )


def _entry(size: tuple[int, int]) -> bytes:
    """How the samples are coded: QuickTime's sample description of PNG."""
    shape = struct.pack(">2H2I4xH", *size, _RESOLUTION, _RESOLUTION, 1)
    depth = struct.pack(">Hh", 24, -1)
    return _box(b"png ", bytes(6), struct.pack(">H", 1), bytes(16), shape, bytes(32), depth)


def _box(kind: bytes, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return struct.pack(">I4s", 8 + len(content), kind) + content


def _full(kind: bytes, *parts: bytes, version: int = 0, flags: int = 0) -> bytes:
    return _box(kind, struct.pack(">I", version << 24 | flags), *parts)


def names_told(archive: PictureArchive) -> Iterator[str]:
    """What is said of what lies beside the pictures of a zip of ours."""
    for other in archive.others:
        yield f"{other}, which lies beside the pictures, is not carried over"
