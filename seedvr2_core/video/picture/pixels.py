"""Pictures as sources: a PNG, JPEG, TIFF, WebP or EXR becomes a video of one frame.

libav would ignore colour profiles and CMYK, and take a picture's claimed size before anything can
be said about it. So each picture is made into one plain form, in memory: an upright PNG of R'G'B'
with the colours of sRGB, 8 or 16 bits a sample, and with alpha where it shows something through.
All that reads a source reads that.
"""

import io
import logging
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import av
import av.error
import numpy as np
from av.video.frame import VideoFrame
from PIL import Image, ImageCms, ImageOps, TiffImagePlugin, UnidentifiedImageError

from seedvr2_core.errors import InvalidVideoError, SeedVR2Error, UnsupportedFormatError
from seedvr2_core.video.picture.exr import ExrPicture
from seedvr2_core.video.picture.plain_png import plain_png
from seedvr2_core.video.picture.still import MAX_PIXELS, StillFacts, WholeFile

T = TypeVar("T")

_MAX_BYTES = 2**30
"""Of the file; the largest picture that is taken has half as many, uncompressed."""
PILLOW_KINDS = {
    "png": ["PNG"],
    "jpeg": ["JPEG", "MPO"],
    "tiff": ["TIFF"],
    "webp": ["WEBP"],
}
"""Kind -> what Pillow calls it. Phones put a second picture behind the first one: MPO."""
_PNG_START, _PNG_BITS_AT, _CHUNK_HEAD = 8, 24, struct.Struct(">I4s")
_HDR_CHUNKS = (b"cICP", b"mDCV", b"cLLI")
"""What a PNG says of colours that are not sRGB's; it wins over a colour profile."""
_SRGB_CHUNK = {b"sRGB": b"\0"}
_ORIENTATION, _TIFF_BITS, _TIFF_FORMAT = 0x0112, 258, 339
_TIFF_STRIPS, _TIFF_TILES = (273, 279), (324, 325)
"""Tags of where strips or tiles begin, and of how many bytes they have."""
_EXIF_MARKS = (b"eXIf", b"Raw profile type")
"""What a PNG has before EXIF; the second one is how programs wrote it before there was a chunk."""
_WHOLE_NUMBERS = 1
_SPACE_AT = slice(16, 20)
"""Where a profile says what colours it is of."""
_DEEP_BITS = 16
_GREY_AND_ALPHA, _RGBA = 2, 4
"""Channels."""
_TIFF_EXTRA_SAMPLES, _ASSOCIATED = 338, 1
_JPEG_AFTER_JPEG = b"\xff\xd9\xff\xd8\xff"
_TURNS: Mapping[int, Callable[[np.ndarray], np.ndarray]] = {
    2: np.fliplr,
    3: lambda rgb: np.rot90(rgb, 2),
    4: np.flipud,
    5: lambda rgb: rgb.transpose(1, 0, 2),
    6: lambda rgb: np.rot90(rgb, -1),
    7: lambda rgb: np.rot90(rgb.transpose(1, 0, 2), 2),
    8: np.rot90,
}
"""EXIF's orientation -> what makes the picture upright."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class UprightPixels:
    """The samples of a picture, and what they mean."""

    pixels: np.ndarray
    """(height, width, 3 or 4) uint8 or uint16 R'G'B' and alpha, upright, full range."""
    chunks: Mapping[bytes, bytes]
    """Chunks of a PNG that say what its colours are."""

    def as_png(self) -> bytes:
        """A plain PNG of it."""
        return plain_png(self.pixels, self.chunks)


def look_at_still(file: WholeFile, name: str, kind: str) -> StillFacts:
    """Read a picture's header.

    Raises:
        InvalidVideoError: it cannot be read.
        UnsupportedFormatError: it is too large, or has samples that are not taken.
    """
    return _open_still(file, name, kind).facts()


def upright_pixels(
    file: WholeFile, name: str, kind: str, *, keep_alpha: bool = False
) -> UprightPixels:
    """The pixels of a picture.

    Args:
        file: at its beginning.
        name: of the file, for messages.
        kind: from `still_kind`.
        keep_alpha: give alpha also where it is opaque everywhere, as a sequence needs it.

    Raises:
        InvalidVideoError: it is damaged or cut off.
        UnsupportedFormatError: it is too large, or has samples that are not taken.
    """
    still = _open_still(file, name, kind)
    pixels = still.upright()
    pixels = pixels if keep_alpha else _without_opaque(pixels)
    return UprightPixels(pixels=pixels, chunks=still.colour_chunks or _SRGB_CHUNK)


def _open_still(file: WholeFile, name: str, kind: str) -> "_Still | ExrPicture":
    if file.num_bytes > _MAX_BYTES:
        raise UnsupportedFormatError(
            f"{name}: a picture's file has at most {_MAX_BYTES} bytes, this one has "
            f"{file.num_bytes}; save it with compression or make it smaller"
        )
    content = b"".join(iter(lambda: file.read(), b""))
    return ExrPicture(content, name) if kind == "exr" else _Still(content, name, kind)


class _Still:
    """A picture whose header is read and checked."""

    def __init__(self, content: bytes, name: str, kind: str) -> None:
        self._content, self._name, self._kind = content, name, kind
        self._image = self._told(
            lambda: Image.open(io.BytesIO(self._content), "r", PILLOW_KINDS[kind])
        )
        self._refuse_size()
        self._space = b""
        self._bits = self._told(self._depth)
        self._profile = self._told(self._usable_profile)
        self.colour_chunks = colour_chunks_of(self._content) if kind == "png" else {}
        self._exif = self._told(self._read_exif)
        self._orientation = self._exif.get(_ORIENTATION, 1)

    def _told(self, read: Callable[[], T]) -> T:
        """What `read` returns; Pillow and libav raise anything for a damaged file."""
        try:
            return read()
        except (SeedVR2Error, MemoryError):
            raise
        except Image.DecompressionBombError as error:  # before we could look at its size
            raise UnsupportedFormatError(
                f"{self._name}: the picture is too large ({error}); at most {MAX_PIXELS} pixels "
                "are taken; make it smaller first"
            ) from error
        except Exception as error:
            _log.info("%s: a picture cannot be read", self._name, exc_info=True)
            said = " ".join(str(error).split()) or type(error).__name__
            if isinstance(error, UnidentifiedImageError):
                said = "its header is broken"
            kind = PILLOW_KINDS[self._kind][0]
            raise InvalidVideoError(
                f"{self._name}: this {kind} picture cannot be read ({said}); it is damaged, "
                "cut off, or of a rare kind: save it as PNG, 8 or 16 bits"
            ) from error

    def _refuse_size(self) -> None:
        """Refuse what would not fit into memory, by its header."""
        width, height = self._image.size
        if width * height > MAX_PIXELS:
            raise UnsupportedFormatError(
                f"{self._name}: the picture has {width}x{height} = {width * height} pixels, at "
                f"most {MAX_PIXELS} are taken; make it smaller first"
            )
        if self._image.format == "JPEG" and _JPEG_AFTER_JPEG in self._content:
            raise InvalidVideoError(
                f"{self._name}: this is JPEG behind JPEG (motion JPEG without a container), not a "
                "picture; put it into an mkv first"
            )

    def _depth(self) -> int:
        """Bits a sample: 8 (or fewer) and 16 are taken."""
        bits = 8
        if self._kind == "png":
            bits = self._content[_PNG_BITS_AT]
        elif isinstance(self._image, TiffImagePlugin.TiffImageFile):
            tags = self._image.tag_v2
            if (need := tiff_end(self._image)) > len(self._content):
                raise ValueError(f"{len(self._content)} of at least {need} bytes are there")
            bits = max(tags.get(_TIFF_BITS, (1,)))
            kinds = tags.get(_TIFF_FORMAT, (_WHOLE_NUMBERS,))
            if bits not in (1, 2, 4, 8, _DEEP_BITS) or set(kinds) != {_WHOLE_NUMBERS}:
                raise UnsupportedFormatError(
                    f"{self._name}: this TIFF has samples of {bits} bits that are not taken (whole "
                    "numbers of 8 or 16 bits are); save it with 16 bits a sample"
                )
        return max(8, bits)

    def _read_exif(self) -> Image.Exif:
        """What the camera wrote. Pillow decodes a PNG without any, to look behind its pixels."""
        if self._kind == "png" and not any(mark in self._content for mark in _EXIF_MARKS):
            return Image.Exif()
        return self._image.getexif()

    def _usable_profile(self) -> ImageCms.ImageCmsProfile | None:
        """The colour profile that has to be converted from; None where it is sRGB or there is none.

        Raises:
            Exception: it is broken.
        """
        content = self._image.info.get("icc_profile")
        if not content:
            return None
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
            self._space = content[_SPACE_AT].strip().upper()
            named = ImageCms.getProfileDescription(profile)
        except (OSError, ImageCms.PyCMSError) as error:
            raise InvalidVideoError(
                f"{self._name}: its colour profile (ICC) is damaged, so its colours are not known; "
                "save the picture as sRGB"
            ) from error
        return None if "srgb" in named.lower() else profile

    def facts(self) -> StillFacts:
        """What it says of itself."""
        notes: list[str] = []
        if self._profile is not None and not self.colour_chunks:
            named = ImageCms.getProfileDescription(self._profile).strip() or "without a name"
            bits = " at 8 bits a sample" if self._bits == _DEEP_BITS else ""
            notes.append(f"the colours are converted from their profile ({named}) to sRGB{bits}")
        elif self._image.mode == "CMYK":
            notes.append("the picture is CMYK without a profile; its colours are approximate")
        pages = getattr(self._image, "n_frames", 1)
        if pages > 1:
            notes.append(f"the file holds {pages} pictures; only the first one is restored")
        if set(self._exif) - {_ORIENTATION} and self._kind != "tiff":
            notes.append("what the camera wrote beside the picture (EXIF) is not carried over")
        return StillFacts(kind=self._kind, notes=tuple(notes))

    def upright(self) -> np.ndarray:
        """Its pixels: (height, width, 3) uint8 or uint16, sRGB unless it says otherwise.

        There is a fourth channel, straight alpha, where the file has one.
        """
        converted = self._profile is not None and not self.colour_chunks
        if self._bits == _DEEP_BITS and not converted:
            pixels = self._told(self._deep_samples)
            if (channels := pixels.shape[2]) <= _GREY_AND_ALPHA:
                pixels = pixels[:, :, [0, 0, 0, *range(1, channels)]]
            if pixels.shape[2] == _RGBA and self._is_premultiplied:
                pixels = _straight(pixels)
            return _TURNS.get(self._orientation, lambda same: same)(pixels)
        return self._told(self._eight_bits)

    @property
    def _is_premultiplied(self) -> bool:
        """Whether a TIFF's colours were multiplied by its alpha; Pillow divides those of 8 bits."""
        if not isinstance(self._image, TiffImagePlugin.TiffImageFile):
            return False
        kinds = self._image.tag_v2.get(_TIFF_EXTRA_SAMPLES, ())
        return _ASSOCIATED in (kinds if isinstance(kinds, tuple) else (kinds,))

    def _deep_samples(self) -> np.ndarray:
        """(height, width, channels) uint16 as coded; Pillow knows no colours of 16 bits."""
        with av.open(io.BytesIO(self._content), "r", format=f"{self._kind}_pipe") as container:
            stream = container.streams.video[0]
            stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
            frame = next(container.decode(stream))
        assert isinstance(frame, VideoFrame)
        plain = frame.format.name.removesuffix("le").removesuffix("be")
        if plain not in ("gray16", "ya16", "rgb48", "rgba64"):
            raise UnsupportedFormatError(
                f"{self._name}: pictures of 16 bits a sample in the form {frame.format.name} are "
                "not taken; save it as RGB"
            )
        samples = frame.reformat(format=f"{plain}le").to_ndarray()
        return samples.reshape(frame.height, frame.width, -1)

    def _eight_bits(self) -> np.ndarray:
        """(height, width, 3 or 4) uint8, upright."""
        # Both would copy a picture that stays as it is.
        turned = self._orientation in _TURNS
        image = ImageOps.exif_transpose(self._image) if turned else self._image
        alpha = None
        if image.mode.startswith("I;16"):
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            alpha = np.asarray(image)[:, :, 3]
            image = image.convert("RGB")
        if self._profile is not None and not self.colour_chunks:
            image = self._as_srgb(image)
        rgb = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
        return rgb if alpha is None else np.dstack([rgb, alpha])

    def _as_srgb(self, image: Image.Image) -> Image.Image:
        """The picture with the colours of sRGB."""
        assert self._profile is not None
        modes = {b"GRAY": "L", b"CMYK": "CMYK", b"LAB": "LAB"}
        mode = modes.get(self._space, "RGB")
        image = image if image.mode == mode else image.convert(mode)
        wanted = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(
            image,
            self._profile,
            wanted,
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        assert converted is not None
        return converted


def _without_opaque(pixels: np.ndarray) -> np.ndarray:
    """The pixels without alpha that is opaque everywhere: it says nothing."""
    if pixels.shape[2] < _RGBA or int(pixels[:, :, 3].min()) < np.iinfo(pixels.dtype).max:
        return pixels
    return pixels[:, :, :3]


def _straight(pixels: np.ndarray) -> np.ndarray:
    """uint16 colours divided by their alpha; black where that is 0."""
    alpha = np.maximum(pixels[:, :, 3:], 1).astype(np.uint32)
    colours = (pixels[:, :, :3] * np.uint32(65535) + alpha // 2) // alpha
    return np.dstack([np.minimum(colours, 65535).astype(np.uint16), pixels[:, :, 3]])


def tiff_end(image: TiffImagePlugin.TiffImageFile) -> int:
    """How many bytes the file has at least, if the picture is whole; libav shows what is there."""
    tags = image.tag_v2
    ends = [0]
    for places, sizes in (_TIFF_STRIPS, _TIFF_TILES):
        both = zip(tags.get(places, ()), tags.get(sizes, ()), strict=False)
        ends += [at + size for at, size in both]
    return max(ends)


def colour_chunks_of(content: bytes) -> dict[bytes, bytes]:
    """The chunks of a PNG that say that its colours are not sRGB's; none if they are."""
    found: dict[bytes, bytes] = {}
    at = _PNG_START
    while at + _CHUNK_HEAD.size <= len(content):
        length, kind = _CHUNK_HEAD.unpack_from(content, at)
        if kind == b"IDAT":
            break
        if kind in _HDR_CHUNKS:
            found[kind] = content[at + _CHUNK_HEAD.size :][:length]
        at += _CHUNK_HEAD.size + length + 4
    return found if b"cICP" in found else {}
