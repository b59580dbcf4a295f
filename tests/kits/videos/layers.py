"""HEVC's parameters of all layers and its messages, bit by bit as ITU-T H.265 has them.

An encoder of another maker (x265) writes one way of several; these are the others.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import av

from tests.kits.videos.members import parents_grown, unlike_a_start

PARAMETERS, SPS, PPS, MESSAGES = 32, 33, 34, 39
"""Kinds of units."""
DEPTH, VIEW, SCALE, AUXILIARY = range(4)
"""Ways in which layers differ (table F.1)."""
ALPHA_PICTURE, DEPTH_PICTURE = 1, 2
"""Auxiliary ids (table F.2)."""
PROFILE = f"{1:08b}{0x60000000:032b}{0x900000000000:048b}"
"""Main profile and its flags: 88 bits."""
LEVEL = f"{30:08b}"


def golomb(value: int) -> str:
    """ue(v)."""
    bits = f"{value + 1:b}"
    return "0" * (len(bits) - 1) + bits


def unit(kind: int, bits: str, *, layer: int = 0) -> bytes:
    """A unit: its header, these bits, a one and zeros, without anything like a start code."""
    whole = bits + "1"
    whole += "0" * (-len(whole) % 8)
    header = (kind << 9 | layer << 3 | 1).to_bytes(2)
    return header + unlike_a_start(int(whole, 2).to_bytes(len(whole) // 8))


def message(kind: int = 165, content: bytes = b"\x00\x00\x7f\x90", *, layer: int = 0) -> bytes:
    """A unit with one message; by default that there is alpha of 8 bits."""
    return unit(MESSAGES, "".join(f"{b:08b}" for b in (kind, len(content), *content)), layer=layer)


def parameters(
    layers: Sequence[Mapping[int, int]] = (),
    *,
    numbers: Sequence[int] = (),
    split: Sequence[tuple[int, int]] = (),
    sublayers: int = 1,
    timing: str = "0",
    base: str = "11",
) -> bytes:
    """The unit that describes all layers.

    Args:
        layers: of each layer beside the first its id in each way of differing.
        numbers: of the layers in their units' headers; () where they are counted.
        split: the ways and their bits, where numbers are made of ids; `layers` has then only to be
            as long as there are numbers.
        sublayers: in time.
        timing: bits of the part that says when pictures are shown.
        base: whether the first layer is in this stream, and whether it is there at all.
    """
    more = sublayers - 1
    bits = f"0000{base}{len(layers):06b}{more:03b}1{0xFFFF:016b}{PROFILE}{LEVEL}"
    if more:
        bits += "11" * more + "00" * (8 - more) + (PROFILE + LEVEL) * more
    bits += "1" + 3 * golomb(2) * sublayers
    bits += f"{len(layers):06b}" + golomb(1) + "1" * (len(layers) + 1) + timing
    if not layers:
        return unit(PARAMETERS, bits + "0")
    bits += "1"
    bits += "1" * (-len(bits) % 8)
    if base[0] == "1":
        bits += LEVEL
        if more:
            bits += "01" * more + "00" * (8 - more) + LEVEL * more
    return unit(PARAMETERS, bits + "".join(_extension(layers, numbers, split)) + "0" * 20)


def _extension(
    layers: Sequence[Mapping[int, int]],
    numbers: Sequence[int],
    split: Sequence[tuple[int, int]],
) -> Iterator[str]:
    """F.7.3.2.1.1 up to the ids of the layers."""
    ways = [way for way, _ in split] or sorted({way for layer in layers for way in layer})
    yield "1" if split else "0"
    yield "".join("1" if way in ways else "0" for way in range(16))
    lengths = [length for _, length in split[:-1]] if split else [4] * len(ways)
    yield "".join(f"{length - 1:03b}" for length in lengths)
    yield "1" if numbers else "0"
    for index, layer in enumerate(layers):
        if numbers:
            yield f"{numbers[index]:06b}"
        if not split:
            yield "".join(f"{layer.get(way, 0):04b}" for way in ways)


def timing_with_buffers() -> str:
    """Ticks, and two hypothetical decoders; the second shares what the first has in common."""
    common = "110" + f"{4:04b}{6:04b}" + f"{23:05b}" * 3
    buffers = "01" + golomb(0) + golomb(1) + 2 * 2 * (golomb(1000) + golomb(2000) + "1")
    second = "00" + "1" + 2 * (golomb(9) + golomb(9) + "0")
    first = golomb(0) + common + buffers
    return f"1{1:032b}{25:032b}1{golomb(0)}{golomb(2)}{first}{golomb(1)}0{second}"


def lists(units: Sequence[bytes]) -> bytes:
    """Units in the lists of a record, one list for each kind in a row."""
    kinds = list(dict.fromkeys(one[0] >> 1 & 63 for one in units))
    out = bytes([len(kinds)])
    for kind in kinds:
        same = [one for one in units if one[0] >> 1 & 63 == kind]
        out += bytes([0x80 | kind]) + len(same).to_bytes(2)
        out += b"".join(len(one).to_bytes(2) + one for one in same)
    return out


def layers_record(units: Sequence[bytes]) -> bytes:
    """The content of the box `lhvC` (ISO/IEC 14496-15)."""
    return bytes([1, 0xF0, 0, 0xFC, 0b11001111]) + lists(units)


def record_of(path: Path) -> bytes:
    """The record of a video of HEVC."""
    with av.open(str(path)) as container:
        return container.streams.video[0].codec_context.extradata or b""


def units_of(record: bytes) -> list[bytes]:
    """The units of a record, in their order."""
    found, at = [], 23
    for _ in range(record[22]):
        count, at = int.from_bytes(record[at + 1 : at + 3]), at + 3
        for _ in range(count):
            size = int.from_bytes(record[at : at + 2])
            found.append(record[at + 2 : at + 2 + size])
            at += 2 + size
    return found


def with_units(source: Path, path: Path, units: Sequence[bytes], more: bytes = b"") -> Path:
    """A copy of an mp4 or mov, index last, with other units in the record of its first track.

    Args:
        source: HEVC.
        path: of the copy.
        units: all that the record is to have.
        more: boxes behind it.
    """
    content = bytearray(source.read_bytes())
    at = content.index(b"hvcC") - 4
    size = int.from_bytes(content[at : at + 4])
    record = bytes(content[at + 8 : at + 30]) + lists(units)
    box = (8 + len(record)).to_bytes(4) + b"hvcC" + record + more
    parents_grown(content, len(box) - size)
    content[at : at + size] = box
    path.write_bytes(content)
    return path
