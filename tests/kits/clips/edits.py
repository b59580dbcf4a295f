"""Changes to the bytes of clips that no ffmpeg option makes."""

import struct
from collections.abc import Callable
from pathlib import Path

_TS_BYTES = 188
_PES_TIMES = 0xC0


def untimed(clip: bytes, keep: Callable[[int], bool]) -> bytes:
    """A transport stream whose video has a time only where `keep` is true of the picture's number.

    Args:
        clip: made by ffmpeg, one picture a PES packet.
        keep: called with 0, 1, ... in file order.
    """
    data, number = bytearray(clip), 0
    for at in range(0, len(data), _TS_BYTES):
        if not data[at + 1] & 0x40:
            continue
        body = at + 4 + (data[at + 4] + 1 if data[at + 3] & 0x20 else 0)
        if bytes(data[body : body + 3]) != b"\0\0\1" or not 0xE0 <= data[body + 3] <= 0xEF:
            continue
        if not keep(number):
            data[body + 7] &= ~_PES_TIMES & 0xFF
            times = data[body + 8]
            data[body + 9 : body + 9 + times] = b"\xff" * times
        number += 1
    return bytes(data)


def scrambled(clip: bytes) -> bytes:
    """A transport stream whose media packets say that they are encrypted, and are noise."""
    data = bytearray(clip)
    for at in range(0, len(data), _TS_BYTES):
        pid = struct.unpack_from(">H", data, at + 1)[0] & 0x1FFF
        if 0x100 <= pid < 0x200:
            data[at + 3] |= 0xC0
            body = at + 4 + (data[at + 4] + 1 if data[at + 3] & 0x20 else 0)
            data[body : at + _TS_BYTES] = bytes(b ^ 0xA5 for b in data[body : at + _TS_BYTES])
    return bytes(data)


def joined(*parts: Path) -> bytes:
    """Files put behind each other; of FLV files the later ones lose their header, as in a live
    recording that went on after a reconnection."""
    whole = [part.read_bytes() for part in parts]
    head = 13 if whole[0].startswith(b"FLV") else 0
    return whole[0] + b"".join(part[head:] for part in whole[1:])
