"""Subtitles that are pictures: a PGS stream is written here, and ffmpeg makes the other kinds."""

import struct
from collections.abc import Iterable
from pathlib import Path

from tests.kits.media import ffmpeg

_CLOCK = 90_000
"""Ticks a second of PGS."""
_COMPOSITION, _WINDOW, _PALETTE, _OBJECT, _END = 0x16, 0x17, 0x14, 0x15, 0x80
_BOX_AT, _BOX = (32, 20), (16, 8)


def pgs(shown: Iterable[tuple[float, float]]) -> bytes:
    """A PGS stream (Blu-ray): a small white box at each of these times, in seconds.

    Its segments are those of the format: composition, window, palette, object, end.
    """
    made = b""
    window = (_WINDOW, struct.pack(">BBHHHH", 1, 0, *_BOX_AT, *_BOX))
    for number, (start, end) in enumerate(shown):
        row = bytes([0x00, 0x80 | _BOX[0], 0x01, 0x00, 0x00])  # pixels of colour 1, end of the line
        data = struct.pack(">HH", *_BOX) + row * _BOX[1]
        box = struct.pack(">HBBHH", 0, 0, 0, *_BOX_AT)
        made += _set(
            start,
            (_COMPOSITION, struct.pack(">HHBHBBBB", 320, 180, 16, 2 * number, 0x80, 0, 0, 1) + box),
            window,
            (_PALETTE, bytes([0, 0, 1, 235, 128, 128, 255])),
            (_OBJECT, struct.pack(">HBB", 0, 0, 0xC0) + len(data).to_bytes(3, "big") + data),
        )
        gone = struct.pack(">HHBHBBBB", 320, 180, 16, 2 * number + 1, 0, 0, 0, 0)
        made += _set(end, (_COMPOSITION, gone), window)
    return made


def _set(seconds: float, *segments: tuple[int, bytes]) -> bytes:
    head = b"PG" + struct.pack(">II", round(seconds * _CLOCK), 0)
    ended = (*segments, (_END, b""))
    return b"".join(head + struct.pack(">BH", kind, len(body)) + body for kind, body in ended)


def pictured_text(path: Path, codec: str, shown: Iterable[tuple[float, float]]) -> Path:
    """A file with one track of subtitles, the same boxes, drawn by ffmpeg's encoder.

    Args:
        path: where; its ending says the container.
        codec: "dvdsub" (VobSub) or "dvbsub".
        shown: when, in seconds.
    """
    sup = path.with_suffix(".sup")
    sup.write_bytes(pgs(shown))
    ffmpeg("-i", sup, "-c:s", codec, path)
    return path


def packet_times(path: Path, stream: str) -> list[float]:
    """Seconds at which the packets of a stream ("s:0") begin, as ffmpeg reads them."""
    text = ffmpeg(
        *["-copyts", "-i", path, "-map", f"0:{stream}", "-c", "copy", "-f", "framemd5", "-"]
    ).decode()
    base = next(line.split()[-1] for line in text.splitlines() if line.startswith("#tb 0"))
    over, under = map(int, base.split("/"))
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return [int(line.split(",")[2]) * over / under for line in lines]
