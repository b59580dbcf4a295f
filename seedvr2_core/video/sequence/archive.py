"""A sequence as one file: a zip of its pictures as they are, and of the time of each.

This is the form of the folders that we write ourselves (`output/sequence.py`), so such a zip is a
source again. All that is made of pictures is put into this form before the job begins: then a
source is one file with one digest, which nobody changes while the job runs.
"""

import hashlib
import json
import math
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import PurePosixPath
from typing import BinaryIO, Protocol, cast

from seedvr2_core.errors import InvalidVideoError, UnsupportedFormatError
from seedvr2_core.files.reading import FileReader
from seedvr2_core.video.sequence.names import is_picture_name, natural_key

ZIP_START = b"PK\3\4"
TIMES_NAME = "sequence.json"
MAX_MEMBER_BYTES = 2**30
"""Of a picture's file; the largest picture that is taken has half as many, uncompressed."""
MAX_MEMBERS = 500_000
"""Of a sequence: nearly six hours at 24 frames a second."""
_MOST_LIST_BYTES = 2**26
"""Of a zip's list of files. An entry has at least 46 bytes, and takes ten times that in memory."""
_MADE = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip can say: the same pictures give the same bytes."""
_PIECE_BYTES = 2**20
_TIMES_BYTES = 64 * 2**20
_PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1
_MOST_TICKS = 2**31
_END, _LIST_AT = b"PK\5\6", slice(12, 16)
_END_64, _LIST_64_AT = b"PK\6\6", slice(40, 48)
_UNKNOWN_32 = 2**32 - 1
_END_BYTES = 22 + 20 + 56
"""The three records at the end of a zip, before its comment of up to 64 KiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceTimes:
    """When each picture is shown, in ticks of `time_base` seconds."""

    time_base: tuple[int, int]
    pts: tuple[int, ...]
    """Strictly rising, from 0."""
    last_duration: int

    @classmethod
    def of_rate(cls, rate: Fraction, count: int) -> "SequenceTimes":
        """So many pictures at an even rate, in frames a second."""
        time_base = (rate.denominator, rate.numerator)
        return cls(time_base=time_base, pts=tuple(range(count)), last_duration=1)


class Writable(Protocol):
    """What an archive is written to."""

    def write(self, content: bytes, /) -> object:
        """Take all of the bytes."""
        ...


class Member(Protocol):
    """A picture that is put into an archive."""

    @property
    def name(self) -> str:
        """Its file name."""
        ...

    def pieces(self) -> Iterator[bytes]:
        """Its bytes, a megabyte at most at once."""
        ...


class _Hashed:
    """Passes bytes on and knows their digest. It cannot seek, which gives a zip of one form."""

    def __init__(self, target: Writable | None) -> None:
        self._target = target
        self.digest = hashlib.sha256()
        self.num_bytes = 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.num_bytes += len(data)
        if self._target is not None:
            self._target.write(data)
        return len(data)

    def flush(self) -> None:
        """Nothing waits here."""


def write_archive(
    target: Writable | None, members: Iterable[Member], times: SequenceTimes
) -> tuple[str, int]:
    """Write an archive; the same pictures, names and times give the same bytes.

    Args:
        target: takes the bytes; None: they are only hashed.
        members: the pictures in order.
        times: of them.

    Returns:
        Digest (SHA-256, hex) and number of the bytes.
    """
    sink = _Hashed(target)
    with zipfile.ZipFile(cast(BinaryIO, sink), "w") as folder:
        for member in members:
            with folder.open(zipfile.ZipInfo(member.name, _MADE), "w") as entry:
                for piece in member.pieces():
                    entry.write(piece)
        told = {
            "time_base": list(times.time_base),
            "last_duration": times.last_duration,
            "pts": list(times.pts),
        }
        folder.writestr(zipfile.ZipInfo(TIMES_NAME, _MADE), json.dumps(told) + "\n")
    return sink.digest.hexdigest(), sink.num_bytes


class PictureArchive:
    """A zip of pictures, open; closed by whoever has opened its file.

    Args:
        file: the zip.
        name: of the zip, for messages.

    Raises:
        InvalidVideoError: it is damaged, or holds no picture.
        UnsupportedFormatError: it holds too much, or is packed in another way.
        FileReadError: the machine failed to read it.
    """

    def __init__(self, file: FileReader, name: str) -> None:
        self._name = name
        refuse_long_list(file, name)
        try:
            self._folder = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise InvalidVideoError(
                f"{name}: this zip cannot be read ({error}); it is damaged or cut off"
            ) from error
        entries = self._folder.infolist()
        self._told = next((one for one in entries if one.filename == TIMES_NAME), None)
        self.entries = pictures_among(entries, name, in_order=self._told is not None)
        self.others = sorted(
            one.filename
            for one in entries
            if self._told and one is not self._told and not is_picture_name(one.filename)
        )
        """What else lies in a zip of ours, such as its sound."""

    @property
    def names(self) -> list[str]:
        """The pictures' names without folders, in order."""
        return [PurePosixPath(entry.filename).name for entry in self.entries]

    @property
    def has_times(self) -> bool:
        """Whether the zip says when each picture is shown."""
        return self._told is not None

    @property
    def num_bytes(self) -> int:
        """Of all pictures."""
        return sum(entry.file_size for entry in self.entries)

    def times(self) -> SequenceTimes | None:
        """When each picture is shown; None if the zip does not say so.

        Raises:
            InvalidVideoError: what it says cannot be.
        """
        if self._told is None:
            return None
        try:
            if self._told.file_size > _TIMES_BYTES:
                raise ValueError(f"{self._told.file_size} bytes")
            return _checked_times(json.loads(self._folder.read(self._told)), len(self.entries))
        except (zipfile.BadZipFile, ValueError, KeyError, TypeError, RecursionError) as error:
            raise InvalidVideoError(
                f"{self._name}: its {TIMES_NAME} does not say when each of its "
                f"{len(self.entries)} pictures is shown ({error}); remove it from the zip and give "
                "fps"
            ) from error

    def pieces(self, index: int) -> Iterator[bytes]:
        """The bytes of a picture, a megabyte at most at once; its sum is compared.

        Raises:
            InvalidVideoError: it is damaged.
            FileReadError: the machine failed to read it.
        """
        entry = self.entries[index]
        try:
            with self._folder.open(entry) as source:
                while piece := source.read(_PIECE_BYTES):
                    yield piece
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise InvalidVideoError(
                f"{self._name}: {entry.filename} is damaged in the zip ({error}); pack it again"
            ) from error

    def read(self, index: int) -> bytes:
        """A picture's bytes; raises as `pieces` does."""
        return b"".join(self.pieces(index))


def _checked_times(told: dict[str, object], count: int) -> SequenceTimes:
    """What `sequence.json` says, if it can be true."""
    base, pts, last = told["time_base"], told["pts"], told["last_duration"]
    if not isinstance(base, list) or not isinstance(pts, list) or not isinstance(last, int):
        raise TypeError("other kinds of values than expected")
    numbers = [*base, *pts, last]
    if len(base) != 2 or any(type(one) is not int for one in numbers):
        raise TypeError("times are whole numbers")
    ticks = [one - pts[0] for one in pts]
    steps = [b - a for a, b in zip(ticks, [*ticks[1:], ticks[-1] + last], strict=True)]
    if len(pts) != count:
        raise ValueError(f"it has {len(pts)} times")
    if min(steps) < 1 or min(base) < 1 or max(*steps, *base) * base[0] >= _MOST_TICKS:
        raise ValueError("times do not rise, or are too far apart")
    common = math.gcd(*base)
    time_base = (base[0] // common, base[1] // common)
    return SequenceTimes(time_base=time_base, pts=tuple(ticks), last_duration=last)


def pictures_among(
    entries: Sequence[zipfile.ZipInfo], name: str, *, in_order: bool = False
) -> list[zipfile.ZipInfo]:
    """The pictures in a zip, in natural order; hidden files and other files are left out.

    Args:
        entries: of the zip.
        name: of the zip, for messages.
        in_order: take the zip's own order.

    Raises:
        InvalidVideoError: there are none, or they lie in several folders.
        UnsupportedFormatError: one is too large, encrypted or packed in a rare way.
    """
    found = [one for one in entries if not one.is_dir() and _is_shown(one.filename)]
    if not found:
        raise InvalidVideoError(
            f"{name}: this zip holds no picture (by its name, such as .png or .exr)"
        )
    folders = sorted({str(PurePosixPath(one.filename).parent) for one in found})
    if len(folders) > 1:
        raise InvalidVideoError(
            f"{name}: the pictures of this zip lie in several folders ({folders[0]!r}, "
            f"{folders[1]!r}); a sequence lies in one"
        )
    for one in found:
        if one.flag_bits & _ENCRYPTED or one.compress_type not in _PLAIN:
            how = "encrypted" if one.flag_bits & _ENCRYPTED else "compressed in a rare way"
            raise UnsupportedFormatError(
                f"{name}: {one.filename} is {how}; pack the pictures with plain zip (stored or "
                "deflated)"
            )
        if one.file_size > MAX_MEMBER_BYTES:
            raise UnsupportedFormatError(
                f"{name}: {one.filename} has {one.file_size} bytes, a picture's file has at most "
                f"{MAX_MEMBER_BYTES}"
            )
    return found if in_order else sorted(found, key=lambda one: natural_key(one.filename))


def _is_shown(filename: str) -> bool:
    path = PurePosixPath(filename)
    folders = [part for part in path.parts[:-1] if part not in (".", "..")]
    hidden = any(part.startswith((".", "__MACOSX")) for part in folders)
    return is_picture_name(path.name) and not hidden


def refuse_long_list(file: FileReader, name: str) -> None:
    """Refuse a zip that lists more files than fit into memory, before its list is read.

    Raises:
        UnsupportedFormatError: it does.
        FileReadError: the machine failed to read it.
    """
    tail_bytes = _END_BYTES + 2**16
    file.seek(max(0, file.num_bytes - tail_bytes))
    tail = b"".join(iter(lambda: file.read(tail_bytes), b""))
    file.seek(0)
    num_bytes = 0
    for start, place in ((_END, _LIST_AT), (_END_64, _LIST_64_AT)):
        if (at := tail.rfind(start)) >= 0:
            found = int.from_bytes(tail[at:][place], "little")
            num_bytes = max(num_bytes, found if found != _UNKNOWN_32 else 0)
    if num_bytes > _MOST_LIST_BYTES:
        raise UnsupportedFormatError(
            f"{name}: this zip lists too many files ({num_bytes} bytes of list, at most "
            f"{_MOST_LIST_BYTES} are taken); make several of it"
        )


def without_times(name: str) -> InvalidVideoError:
    """The error for a zip of pictures of which nobody has said how fast they follow."""
    return InvalidVideoError(
        f"{name}: this is a zip of pictures; say how many are shown in a second (fps, --fps 24), "
        "and they are one video"
    )
