"""The program map of a transport stream (ISO/IEC 13818-1)."""

from collections.abc import Iterator
from pathlib import Path

from seedvr2_core.files.reading import FileReader
from seedvr2_core.video.headers.facts import DolbyVision, TrackHeader

_SEARCHED_BYTES = 2**20
"""The map comes every 0.1 s or so."""
_SYNC = 0x47
_PACKET = 188
_PACKET_STEPS = (188, 192, 204)
_MAP_TABLE, _PROGRAM_TABLE = 2, 0
_DOLBY_VISION = 0xB0


def read_programs(path: Path) -> list[TrackHeader]:
    """What the program maps say about the streams; their id is the stream's PID.

    Raises:
        FileReadError: the machine failed to read the file.
    """
    content = b""
    with FileReader(path) as file:
        while len(content) < _SEARCHED_BYTES and (piece := file.read(_SEARCHED_BYTES)):
            content += piece
    maps: set[int] = set()
    found: dict[int, TrackHeader] = {}
    for pid, table in _tables(content):
        if pid == 0 and table[:1] == bytes([_PROGRAM_TABLE]):
            programs = table[8:-4]
            maps |= {_pid(programs[i + 2 : i + 4]) for i in range(0, len(programs) - 3, 4)}
        elif pid in maps and table[:1] == bytes([_MAP_TABLE]):
            found |= {header.id: header for header in _streams(table)}
    return list(found.values())


def _pid(two: bytes) -> int:
    return int.from_bytes(two) & 0x1FFF


def _tables(content: bytes) -> Iterator[tuple[int, bytes]]:
    """(PID, section) of every table; of a section that is torn, nothing."""
    begun: dict[int, bytes] = {}
    for packet in _packets(content):
        pid, starts, control = _pid(packet[1:3]), packet[1] & 0x40, packet[3]
        if not control & 0x10:
            continue
        payload = packet[5 + packet[4] if control & 0x20 else 4 :]
        if starts and payload:
            payload = payload[1 + payload[0] :]
            begun[pid] = b""
        if pid not in begun:
            continue
        section = begun[pid] = begun[pid] + payload
        size = 3 + (int.from_bytes(section[1:3]) & 0xFFF)
        if len(section) >= size:
            yield pid, section[:size]
            del begun[pid]


def _packets(content: bytes) -> Iterator[bytes]:
    """The packets of 188 bytes, whatever lies between them."""
    for step in _PACKET_STEPS:
        for start in range(step):
            marks = content[start : start + 5 * step : step]
            if len(marks) == 5 and set(marks) == {_SYNC}:
                for at in range(start, len(content) - _PACKET + 1, step):
                    if content[at] == _SYNC:
                        yield content[at : at + _PACKET]
                return


def _streams(table: bytes) -> Iterator[TrackHeader]:
    """The streams of a program map: type, PID, descriptors."""
    position = 12 + (int.from_bytes(table[10:12]) & 0xFFF)
    while position + 5 <= len(table) - 4:
        length = int.from_bytes(table[position + 3 : position + 5]) & 0xFFF
        told = table[position + 5 : position + 5 + length]
        yield TrackHeader(id=_pid(table[position + 1 : position + 3]), dolby_vision=_record(told))
        position += 5 + length


def _record(descriptors: bytes) -> DolbyVision | None:
    """Dolby Vision's descriptor: as the record in mp4, with a PID between if there is no base."""
    position = 0
    while position + 2 <= len(descriptors):
        tag, length = descriptors[position : position + 2]
        content = descriptors[position + 2 : position + 2 + length]
        if tag == _DOLBY_VISION and len(content) >= 5:
            has_base = content[3] & 1
            return DolbyVision.read(content if has_base else content[:4] + content[6:] + bytes(1))
        position += 2 + length
    return None
