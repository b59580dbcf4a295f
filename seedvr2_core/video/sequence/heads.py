"""What the header of a picture says, so that all pictures of a sequence can be compared.

No pixel is decoded: a sequence has thousands of pictures.
"""

import io
import struct
from dataclasses import dataclass
from typing import BinaryIO

from PIL import Image, TiffImagePlugin

from seedvr2_core.errors import InvalidVideoError, SeedVR2Error, UnsupportedFormatError
from seedvr2_core.video.picture.exr_header import num_bytes_of, read_exr_header
from seedvr2_core.video.picture.pixels import PILLOW_KINDS, colour_chunks_of, tiff_end
from seedvr2_core.video.picture.still import MAX_PIXELS, still_kind

_HEAD_BYTES = 2**16
_EXR_HEAD_BYTES = 2**20
_TAIL_BYTES = 2**12
_PNG_BITS_AT = 24
_ORIENTATION, _TURNED = 0x0112, 5
"""From this orientation on width and height change places."""
_TIFF_BITS = 258
_LONG = struct.Struct("<I")


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureHead:
    """What must be the same in all pictures of a sequence."""

    kind: str
    """From `still_kind`."""
    width: int
    """Upright."""
    height: int
    bits: int
    """8 or 16; fewer than 8 count as 8."""
    colours: str = ""
    """What a PNG says of colours that are not sRGB's; "" for all else."""

    def __str__(self) -> str:
        """In words."""
        colours = " in other colours than sRGB" if self.colours else ""
        return f"{self.kind.upper()}, {self.width}x{self.height}, {self.bits} bits{colours}"


def read_head(file: BinaryIO, name: str) -> PictureHead:
    """Read a picture's header.

    Args:
        file: its file, at the beginning.
        name: for messages.

    Raises:
        InvalidVideoError: it is no picture that is taken, or its header is broken.
    """
    start = file.read(_HEAD_BYTES)
    kind = still_kind(start[:4096])
    if not kind:
        raise InvalidVideoError(
            f"{name} is no picture that is taken (PNG, JPEG, TIFF, WebP or EXR, one in a file); "
            "save it as one of these, or take it out"
        )
    if kind == "exr":
        header = read_exr_header(start + file.read(_EXR_HEAD_BYTES), name)
        return PictureHead(kind=kind, width=header.width, height=header.height, bits=16)
    file.seek(0)
    try:
        return _by_pillow(file, kind, start)
    except (SeedVR2Error, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise UnsupportedFormatError(
            f"{name}: the picture is too large ({error}); at most {MAX_PIXELS} pixels are taken"
        ) from error
    except Exception as error:  # Pillow raises anything for a damaged file
        raise InvalidVideoError(
            f"{name}: this {kind.upper()} picture cannot be read "
            f"({' '.join(str(error).split())[:200]}); it is damaged or cut off"
        ) from error


def _by_pillow(file: BinaryIO, kind: str, start: bytes) -> PictureHead:
    with Image.open(file, "r", PILLOW_KINDS[kind]) as image:
        width, height = image.size
        bits = start[_PNG_BITS_AT] if kind == "png" else 8
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            bits = max(image.tag_v2.get(_TIFF_BITS, (1,)))
        # Pillow would decode a PNG to look for EXIF behind its pixels, where hardly any has it.
        exif = image.getexif() if kind != "png" or "exif" in image.info else {}
        if exif.get(_ORIENTATION, 1) >= _TURNED:
            width, height = height, width
    colours = colour_chunks_of(start) if kind == "png" else {}
    told = "".join(f"{key!r}{value.hex()}" for key, value in sorted(colours.items()))
    return PictureHead(kind=kind, width=width, height=height, bits=max(8, bits), colours=told)


def refuse_difference(first: PictureHead, name: str, head: PictureHead, other: str) -> None:
    """Refuse a picture that is not like the first one.

    Raises:
        InvalidVideoError: it is not.
    """
    if head != first:
        raise InvalidVideoError(
            f"all pictures of a sequence have one kind, size and depth: {name} is {first}, but "
            f"{other} is {head}; make them alike, or leave it out"
        )


def looks_whole(file: BinaryIO, kind: str) -> bool:
    """Whether a picture ends as one does; False: it may be cut off, decode it to know.

    Args:
        file: its file.
        kind: from `still_kind`.
    """
    num_bytes = file.seek(0, io.SEEK_END)
    file.seek(max(0, num_bytes - _TAIL_BYTES))
    tail = file.read(_TAIL_BYTES)
    if kind == "png":
        return tail.endswith(b"\0\0\0\0IEND\xaeB`\x82")
    if kind == "jpeg":
        return tail.rstrip(b"\0").endswith(b"\xff\xd9")
    if kind == "webp":
        file.seek(4)
        return _LONG.unpack(file.read(4))[0] + 8 <= num_bytes
    if kind == "exr":
        return _is_whole_exr(file, num_bytes)
    return _is_whole_tiff(file, num_bytes)


def _is_whole_exr(file: BinaryIO, num_bytes: int) -> bool:
    def read_at(at: int, count: int) -> bytes:
        file.seek(at)
        return file.read(count)

    try:
        header = read_exr_header(read_at(0, _EXR_HEAD_BYTES), "")
        return num_bytes_of(header, read_at) <= num_bytes
    except (struct.error, ValueError):
        return False


def _is_whole_tiff(file: BinaryIO, num_bytes: int) -> bool:
    file.seek(0)
    try:
        with Image.open(file, "r", PILLOW_KINDS["tiff"]) as image:
            return isinstance(image, TiffImagePlugin.TiffImageFile) and (
                tiff_end(image) <= num_bytes
            )
    except Exception:  # noqa: BLE001 - the decoder will say what is wrong
        return False
