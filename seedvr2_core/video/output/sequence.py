"""A folder of numbered pictures as one file: a zip in which nothing is compressed once more.

Storages keep one file for each job, and browsers load one down. The pictures are the segments'
packets, `000000.png` or `000000.tif` onwards. `sequence.json` has the time of each, and
`sound.mka` what the source has beside its video. The bytes depend on nothing but these.
"""

import io
import json
import struct
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import av.error

from seedvr2_core.errors import SegmentError
from seedvr2_core.files.reading import FileReader, OnBytes, no_bytes
from seedvr2_core.files.writing import FileWriter
from seedvr2_core.video.info import ColorInfo, EncoderSettings, HdrMetadata
from seedvr2_core.video.output.formats import CODECS, depth_of
from seedvr2_core.video.output.gate import Expected, check_beside, check_picture, wrong
from seedvr2_core.video.output.hdr import LUMINANCE_UNITS
from seedvr2_core.video.picture.exr_header import (
    chromaticities_of,
    read_exr_header,
    with_chromaticities,
)
from seedvr2_core.video.picture.plain_png import PNG_START, png_chunk
from seedvr2_core.video.picture.still import kind_of_ours

if TYPE_CHECKING:
    import numpy as np

TIMES_NAME, SOUND_NAME = "sequence.json", "sound.mka"
_DIGITS = 6
"""Of a picture's number; more where there are more pictures."""
_MADE = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip can say: the same job gives the same bytes."""
_COPIED_BYTES = 2**20
_IHDR_END = 33
_PNG_SIZE = struct.Struct(">2IB")
_TAG = struct.Struct("<HHI4s")
_TIFF_WIDTH, _TIFF_HEIGHT, _TIFF_BITS = 256, 257, 258
_SHORT = 3
_UNREADABLE = (struct.error, KeyError, ValueError, OSError)
"""What reading a broken header ends with; errors of a video's are ValueErrors as well."""
_SAID = {
    "tiff": ColorInfo(full_range=False, matrix=2, primaries=2, transfer=2),
    "jpeg": ColorInfo(full_range=True, matrix=5, primaries=2, transfer=2),
    "webp": ColorInfo(full_range=False, matrix=5, primaries=2, transfer=2),
    "exr": ColorInfo(full_range=False, matrix=2, primaries=2, transfer=8),
}
"""What a decoder says of the colours of pictures that have no tags."""


def picture_names(settings: EncoderSettings, count: int) -> list[str]:
    """The names of a job's pictures, in order."""
    digits = max(_DIGITS, len(str(count - 1)))
    ending = CODECS[settings.codec].ending
    return [f"{index:0{digits}}{ending}" for index in range(count)]


def write_sequence(
    path: Path,
    pictures: Iterable[bytes],
    expected: Expected,
    *,
    sound: Path,
    on_bytes: OnBytes = no_bytes,
) -> None:
    """Write the zip.

    Args:
        path: where it is written.
        pictures: each a whole file.
        expected: what it must hold.
        sound: a Matroska file, which is checked and put beside them if it is to have streams.
        on_bytes: called before every write.

    Raises:
        SegmentError: the sound is not as expected.
        OSError: the disk is full, for example.
    """
    info, settings = expected.info, expected.settings
    if expected.others:
        check_beside(sound, expected, on_bytes=on_bytes)
    names = picture_names(settings, info.num_frames)
    with FileWriter(path, on_bytes=on_bytes) as file, zipfile.ZipFile(file, "w") as folder:
        for name, content in zip(names, pictures, strict=True):
            folder.writestr(_entry(name), _finished(content, settings))
        if expected.others:
            entry = _entry(SOUND_NAME)
            entry.file_size = sound.stat().st_size
            with FileReader(sound) as source, folder.open(entry, "w") as target:
                while piece := source.read(_COPIED_BYTES):
                    target.write(piece)
        told = json.dumps(_told(names, expected), indent=1) + "\n"
        folder.writestr(_entry(TIMES_NAME), told)


def write_still(
    path: Path, picture: bytes, settings: EncoderSettings, *, on_bytes: OnBytes = no_bytes
) -> None:
    """Write the only picture of a job as it is.

    Raises:
        OSError: the disk is full, for example.
    """
    with FileWriter(path, on_bytes=on_bytes) as file:
        file.write(_finished(picture, settings))


def check_still(path: Path, expected: Expected, *, on_bytes: OnBytes = no_bytes) -> None:
    """Check a finished picture: its size, its depth and its colours.

    Raises:
        SegmentError: something differs; the message names it.
        FileReadError: the machine failed to read it.
    """
    settings = expected.settings
    with FileReader(path, on_bytes=on_bytes) as file:
        content = b"".join(iter(file.read, b""))
    size = (settings.width, settings.height, depth_of(settings))
    try:
        if (got := _size_of(content)) != size:
            raise wrong(path, "width, height and bits", got, size)
        from seedvr2_core.video.sequence.heads import looks_whole

        if not looks_whole(io.BytesIO(content), settings.codec):
            raise SegmentError(f"{path.name}: not a whole picture: its end is missing")
        _check_first(path, content, expected)
        if content.startswith(PNG_START):
            from PIL import Image

            Image.open(io.BytesIO(content)).verify()  # the sums of all its chunks
    except (*_UNREADABLE, av.error.FFmpegError, SyntaxError) as error:
        if isinstance(error, SegmentError):
            raise
        raise SegmentError(f"{path.name}: not a whole picture: {error}") from error


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _MADE)
    entry.external_attr = 0o644 << 16
    return entry


def _told(names: Sequence[str], expected: Expected) -> dict[str, Any]:
    """What `sequence.json` says: the times are whole numbers of `time_base` seconds."""
    info, settings = expected.info, expected.settings
    return {
        "first": names[0],
        "num_frames": len(names),
        "width": settings.width,
        "height": settings.height,
        "bits": depth_of(settings),
        "primaries": settings.color.primaries,
        "transfer": settings.color.transfer,
        "hdr": None if settings.hdr is None else asdict(settings.hdr),
        "nominal_rate": list(info.nominal_rate),
        "time_base": list(info.time_base),
        "last_duration": info.last_duration,
        "chapters": list(expected.chapters),
        "pts": list(info.pts),
    }


def _finished(content: bytes, settings: EncoderSettings) -> bytes:
    """A picture with what libav cannot write into it."""
    if settings.codec == "exr":
        return with_chromaticities(content, settings.color.primaries)
    if settings.hdr is None or not content.startswith(PNG_START):
        return content
    return _with_hdr(content, settings.hdr)


def _with_hdr(content: bytes, hdr: HdrMetadata) -> bytes:
    """A PNG with the chunks mDCV and cLLI (PNG, third edition) behind its header."""
    chunks = b""
    if hdr.mastering:
        chunks += b"".join(png_chunk(b"mDCV", struct.pack(">8H2I", *hdr.mastering)))
    if hdr.light_level:
        levels = [value * LUMINANCE_UNITS for value in hdr.light_level]
        chunks += b"".join(png_chunk(b"cLLI", struct.pack(">2I", *levels)))
    return content[:_IHDR_END] + chunks + content[_IHDR_END:]


def check_sequence(path: Path, expected: Expected, *, on_bytes: OnBytes = no_bytes) -> None:
    """Check a finished zip: every picture's name, sum, size and depth, the times, the first one's
    colours, and whether the sound is there.

    Raises:
        SegmentError: something differs; the message names it.
        FileReadError: the machine failed to read it.
    """
    info, settings = expected.info, expected.settings
    names = picture_names(settings, info.num_frames)
    beside = [SOUND_NAME] if expected.others else []
    try:
        with FileReader(path, on_bytes=on_bytes) as file, zipfile.ZipFile(file) as folder:
            found = folder.namelist()
            if found != [*names, *beside, TIMES_NAME]:
                raise wrong(path, "files", found[-3:], [names[-1], *beside, TIMES_NAME])
            told = folder.read(TIMES_NAME)
            size = (settings.width, settings.height, depth_of(settings))
            for index, name in enumerate(names):
                content = folder.read(name)  # which compares its sum
                if (got := _size_of(content)) != size:
                    raise wrong(path, f"width, height and bits of {name}", got, size)
                if index == 0:
                    _check_first(path, content, expected)
            for name in beside:
                with folder.open(name) as part:
                    while part.read(_COPIED_BYTES):
                        pass
        _check_told(path, told, _told(names, expected))
    except (zipfile.BadZipFile, *_UNREADABLE) as error:
        if isinstance(error, SegmentError):
            raise
        raise SegmentError(f"{path.name}: not a whole folder of pictures: {error}") from error


def _check_told(path: Path, content: bytes, wanted: dict[str, Any]) -> None:
    """Compare what `sequence.json` says with the plan, and name the first thing that differs."""
    told = json.loads(content)
    for key, want in json.loads(json.dumps(wanted)).items():
        if (got := told.get(key)) == want:
            continue
        if not (isinstance(got, list) and isinstance(want, list)):
            raise wrong(path, f"{key} in {TIMES_NAME}", got, want)
        if len(got) != len(want):
            raise wrong(path, f"length of {key} in {TIMES_NAME}", len(got), len(want))
        pairs = enumerate(zip(got, want, strict=True))
        at = next(index for index, (one, other) in pairs if one != other)
        raise wrong(path, f"{key} in {TIMES_NAME}, number {at}", got[at], want[at])


def _check_first(path: Path, content: bytes, expected: Expected) -> None:
    """Decode a picture, and compare what it says of itself with the plan."""
    settings = expected.settings
    said = _SAID.get(settings.codec, settings.color)
    expected = replace(expected, settings=replace(settings, color=said))
    if settings.codec == "exr":
        header, wanted = (
            read_exr_header(content, path.name),
            chromaticities_of(settings.color.primaries),
        )
        if header.chromaticities != wanted:
            raise wrong(path, "colour primaries", header.chromaticities, wanted)
    with av.open(io.BytesIO(content), "r", format=f"{settings.codec}_pipe") as container:
        check_picture(path, container.streams.video[0], container, expected)


def _size_of(content: bytes) -> tuple[int, int, int]:
    """(width, height, bits) as the header of a picture of our own making has them.

    Raises: what `_UNREADABLE` has.
    """
    if content.startswith(PNG_START):
        return _PNG_SIZE.unpack_from(content, 16)
    kind = kind_of_ours(content)
    if kind == "tiff":
        return _size_of_tiff(content)
    if kind == "exr":
        header = read_exr_header(content, "picture")
        return header.width, header.height, 16
    from PIL import Image

    with Image.open(io.BytesIO(content), "r", [kind.upper()]) as image:
        return (*image.size, 8)


def _size_of_tiff(content: bytes) -> tuple[int, int, int]:
    (at,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, at)
    values: dict[int, int] = {}
    for index in range(count):
        tag, kind, number, value = _TAG.unpack_from(content, at + 2 + index * _TAG.size)
        (one,) = struct.unpack_from("<H" if kind == _SHORT else "<I", value)
        if number > 1 and tag == _TIFF_BITS:
            (one,) = struct.unpack_from("<H", content, struct.unpack("<I", value)[0])
        values[tag] = one
    return values[_TIFF_WIDTH], values[_TIFF_HEIGHT], values[_TIFF_BITS]


def picture_of(path: Path, index: int) -> "np.ndarray":
    """One picture of a finished zip: (height, width, 3 or 4) uint8 R'G'B' and alpha.

    Raises:
        SegmentError: it cannot be read.
    """
    import numpy as np

    from seedvr2_core.video.picture.pixels import upright_pixels
    from seedvr2_core.video.sequence.virtual import PictureBytes

    try:
        with zipfile.ZipFile(path) as folder:
            name = folder.namelist()[index]
            content = PictureBytes(folder.read(name))
        pixels = upright_pixels(content, name, kind_of_ours(content.getvalue())).pixels
    except (zipfile.BadZipFile, IndexError, *_UNREADABLE) as error:
        raise SegmentError(f"{path.name}: picture {index} cannot be read: {error}") from error
    return pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)


def is_sequence(path: Path) -> bool:
    """Whether a file of ours is such a zip."""
    return zipfile.is_zipfile(path)
