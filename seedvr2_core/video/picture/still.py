"""Which files are pictures, and how large they may be; their pixels are read by `pixels.py`."""

from dataclasses import dataclass
from typing import Protocol

MAX_PIXELS = 8192 * 8192
"""Most pixels of a picture; 8k has half as many. A file of a few bytes can claim to hold more."""
EXR_START = b"\x76\x2f\x31\x01"
_MAGIC = {
    b"\x89PNG\r\n\x1a\n": "png",
    b"\xff\xd8\xff": "jpeg",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
    EXR_START: "exr",
}
_HEADER_BYTES = 64
"""Behind them a picture has samples, and among samples any word may stand by chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StillFacts:
    """What a picture says of itself, before it is decoded."""

    kind: str
    """A name in `info.STILL_FORMATS`."""
    notes: tuple[str, ...]
    """Sentences for the user: what is changed or lost."""


class WholeFile(Protocol):
    """The bytes of a picture, to be read from the beginning."""

    num_bytes: int

    def read(self, size: int = -1, /) -> bytes:
        """Some of the bytes; none at the end."""
        ...


def still_kind(head: bytes) -> str:
    """The format of a picture, by its first bytes; "" for all else, and for what moves.

    Args:
        head: the first 4096 bytes.
    """
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "" if b"ANIM" in head else "webp"
    kind = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), "")
    return "" if kind == "png" and b"acTL" in head else kind


def kind_of_ours(content: bytes) -> str:
    """The format of a picture that we have made, by all of its bytes; none of these moves."""
    return still_kind(content[:_HEADER_BYTES])
