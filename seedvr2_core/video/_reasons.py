"""Says in one sentence why a file is no video that can be read, from its first bytes."""

from pathlib import Path

from seedvr2_core.errors import InvalidVideoError
from seedvr2_core.files.reading import FileReader

HEAD_BYTES = 4096
_HEIF_PICTURES = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"mif2", b"avif", b"miaf")
_HEIF_SEQUENCES = (b"hevc", b"hevx", b"hevm", b"hevs", b"msf1", b"avis", b"avcs", b"avci")
_ENCRYPTED_TAGS = ("encv", "drmi")
"""Names that an mp4 gives to an encrypted track instead of its codec's."""
_TS_BYTES = 188
_TS_SYNC = 0x47
_TS_SCRAMBLED = 0xC0
_ASF_ENCRYPTION = (
    bytes.fromhex("fbb3112223bdd211b4b700a0c955fc6e"),
    bytes.fromhex("14e68a292226174cb935dae07ee9289c"),
)
"""ids of the ASF header objects Content Encryption and Extended Content Encryption."""


def refuse_pictures(name: str, head: bytes) -> None:
    """Refuse pictures in a container that libav would open as a video of one frame.

    Args:
        name: of the file.
        head: its first bytes.

    Raises:
        InvalidVideoError: it is a picture or a sequence of pictures.
    """
    if head[4:8] == b"ftyp" and head[8:12] in (*_HEIF_PICTURES, *_HEIF_SEQUENCES):
        kind = "an image sequence" if head[8:12] in _HEIF_SEQUENCES else "a picture"
        raise InvalidVideoError(
            f"{name}: this is {kind} (HEIF/AVIF, brand {head[8:12].decode()}), which is not taken; "
            f"save it as {'a video' if 'sequence' in kind else 'PNG'} first"
        )


def why_not_opened(path: Path, error: Exception) -> str:
    """Why libav cannot open a file."""
    try:
        with FileReader(path) as file:
            head = file.read(HEAD_BYTES)
    except FileNotFoundError:  # another request has found that the same bytes are no video
        return "the file was removed while it was read; send it again"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith(b"#EXTM3U"):
        return "this is an HLS playlist, not a video; give the video file itself"
    if text.startswith(b"ffconcat"):
        return "this is an FFmpeg concat script, not a video; give the video file itself"
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free"):
        return "the MP4 index (moov) is missing or broken; the file is probably cut off"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "the Matroska/WebM headers are incomplete; the file is probably cut off"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "this is an animated WebP, for which no decoder is there; save it as a video"
    if head.startswith(b"BM"):
        return "this is a BMP picture, which is not taken; save it as PNG"
    if _is_text(head):
        return "this is text, not a video"
    if looks_encrypted(path):
        return "the file is encrypted (DRM), so it cannot be read; give a copy that is not"
    return f"this is not a video in a known container ({error.__class__.__name__})"


def _is_text(head: bytes) -> bool:
    """Whether the bytes look like text: no NUL, decodable, hardly any control characters."""
    if b"\0" in head:
        return False
    text = head.decode("utf-8", errors="replace")
    strange = sum(char == "\ufffd" or (char < " " and char not in "\t\r\n\f") for char in text)
    return strange * 50 <= len(text)


def encrypted(name: str) -> InvalidVideoError:
    """The error for a video that only its owner's player can decode."""
    return InvalidVideoError(
        f"{name}: the video is encrypted (DRM), so its pictures cannot be read; give a copy that "
        "is not"
    )


def is_encrypted_tag(tag: str) -> bool:
    """Whether a stream's codec tag says that it is encrypted."""
    return tag in _ENCRYPTED_TAGS


def looks_encrypted(path: Path) -> bool:
    """Whether the first bytes of a file that cannot be decoded say that it is encrypted."""
    try:
        with FileReader(path) as file:
            head = file.read(_TS_BYTES * HEAD_BYTES)
    except FileNotFoundError:
        return False
    if any(guid in head[:HEAD_BYTES] for guid in _ASF_ENCRYPTION):
        return True
    packets = [head[at : at + 4] for at in range(0, len(head) - 3, _TS_BYTES)]
    if not packets or any(packet[0] != _TS_SYNC for packet in packets):
        return False
    scrambled = sum(packet[3] & _TS_SCRAMBLED != 0 for packet in packets)
    return scrambled * 2 > len(packets)
