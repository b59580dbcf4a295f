"""Whether HEVC (ITU-T H.265) announces alpha in a layer beside the pictures.

Encoders announce it by a message (SEI "alpha channel information"), by the parameters of all
layers (VPS, annex F: the auxiliary id of a layer), or by both. Either is enough.
"""

from collections.abc import Iterator

_MESSAGES, _PARAMETERS = 39, 32
"""Kinds of units."""
_ALPHA_MESSAGE = 165
_HEADER_BYTES = 2
"""Of a unit."""
_RECORD_BYTES, _LAYERS_RECORD_BYTES = 23, 6
"""Of the records `hvcC` and `lhvC` (ISO/IEC 14496-15) before their lists of units."""
_RECORD = 1
"""How the record in mp4 and Matroska begins; other files have units alone."""
_START_CODE = b"\0\0\1"
_ESCAPED, _PLAIN = b"\0\0\3", b"\0\0"
_MOST_BYTES = 4096
"""Of a unit that are looked at."""
_AUXILIARY_WAY = 3
"""Of the sixteen ways in which layers may differ (table F.1)."""
_AUXILIARY_ALPHA = 1
_LAYER_ID_BITS = 6


def has_alpha_layer(header: bytes, packet: bytes, layers_record: bytes) -> bool:
    """Whether a video announces such a layer.

    Args:
        header: what its container says before the first packet: a record `hvcC`, or units.
        packet: the first one, or its beginning.
        layers_record: content of the box `lhvC`; b"" where there is none.
    """
    units = (
        *_of_header(header),
        *_of_lists(layers_record, _LAYERS_RECORD_BYTES),
        *_of_packet(packet, header),
    )
    return any(map(_announces_alpha, units))


def _is_record(header: bytes) -> bool:
    return header[:1] == bytes([_RECORD]) and len(header) >= _RECORD_BYTES


def _of_header(header: bytes) -> Iterator[bytes]:
    """The units of a record, or of a header that is units alone."""
    if _is_record(header):
        yield from _of_lists(header, _RECORD_BYTES)
    else:
        yield from header.split(_START_CODE)[1:]


def _of_lists(record: bytes, at: int) -> Iterator[bytes]:
    """The units of a record whose lists begin at a byte; strange ones are passed over."""
    if len(record) < at:
        return
    for _ in range(record[at - 1]):
        count, at = int.from_bytes(record[at + 1 : at + 3]), at + 3
        for _ in range(count):
            size = int.from_bytes(record[at : at + 2])
            yield record[at + 2 : at + 2 + size]
            at += 2 + size
            if at >= len(record):
                return


def _of_packet(packet: bytes, header: bytes) -> Iterator[bytes]:
    """The units of a packet, behind their lengths or behind start codes."""
    if not _is_record(header):
        yield from packet.split(_START_CODE)[1:]
        return
    at, length = 0, (header[_RECORD_BYTES - 2] & 3) + 1
    while at + length < len(packet):
        size = int.from_bytes(packet[at : at + length])
        yield packet[at + length : at + length + size]
        at += length + size


def _announces_alpha(unit: bytes) -> bool:
    """Whether a unit announces alpha."""
    if len(unit) <= _HEADER_BYTES:
        return False
    kind = unit[0] >> 1 & 63
    if kind not in (_MESSAGES, _PARAMETERS):
        return False
    content = unit[_HEADER_BYTES : _HEADER_BYTES + _MOST_BYTES].replace(_ESCAPED, _PLAIN)
    if kind == _MESSAGES:
        return _in_messages(content)
    try:
        return _in_parameters(_Bits(content))
    except EOFError:
        return False


def _in_messages(content: bytes) -> bool:
    """Whether one of the messages says that there is alpha."""
    at = 0
    while at + 2 < len(content):
        numbers = []
        for _ in ("kind", "size"):
            value = 0
            while at < len(content) and content[at] == 255:
                value, at = value + 255, at + 1
            numbers.append(value + (content[at] if at < len(content) else 0))
            at += 1
        kind, size = numbers
        if kind == _ALPHA_MESSAGE and at < len(content):
            return not content[at] & 0x80  # the first bit takes back what was said
        at += size
    return False


class _Bits:
    """Reads numbers of so many bits, and of Exp-Golomb code; past the end it raises EOFError."""

    def __init__(self, content: bytes) -> None:
        self._value, self._length, self._at = int.from_bytes(content), 8 * len(content), 0

    def take(self, count: int) -> int:
        """The next bits, as a number."""
        self._at += count
        if self._at > self._length:
            raise EOFError
        return self._value >> (self._length - self._at) & (1 << count) - 1

    def golomb(self) -> int:
        """The next number whose length stands before it, as zeros."""
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)

    def align(self) -> None:
        """Go on at the next byte."""
        self._at = -(-self._at // 8) * 8


def _in_parameters(bits: _Bits) -> bool:
    """Whether a layer is alpha by the parameters of all layers (7.3.2.1, F.7.3.2.1.1)."""
    bits.take(4)
    internal, _ = bits.take(1), bits.take(1)
    most_layers, most_sublayers = bits.take(6), bits.take(3)
    bits.take(17)
    _pass_profile(bits, most_sublayers, whole=True)
    for _ in range(most_sublayers + 1 if bits.take(1) else 1):
        _ = bits.golomb(), bits.golomb(), bits.golomb()
    most_layer_id = bits.take(6)
    for _ in range(bits.golomb()):
        bits.take(most_layer_id + 1)
    if bits.take(1):
        _pass_timing(bits, most_sublayers)
    if not bits.take(1):
        return False
    bits.align()
    if most_layers and internal:
        _pass_profile(bits, most_sublayers, whole=False)
    return any(_in_extension(bits, most_layers))


def _in_extension(bits: _Bits, most_layers: int) -> Iterator[bool]:
    """Of each layer whether it is alpha: by how it differs from the pictures."""
    is_split = bits.take(1)
    ways = [way for way in range(16) if bits.take(1)]
    lengths = [bits.take(3) + 1 for _ in ways[: len(ways) - is_split]]
    if is_split and ways:
        lengths.append(_LAYER_ID_BITS - sum(lengths))
    has_ids = bits.take(1)
    for layer in range(1, most_layers + 1):
        number = bits.take(_LAYER_ID_BITS) if has_ids else layer
        for way, length in zip(ways, lengths, strict=True):
            if is_split:  # the layer's number is made of them, the first in its lowest bits
                value, number = number & (1 << max(0, length)) - 1, number >> max(0, length)
            else:
                value = bits.take(length)
            yield way == _AUXILIARY_WAY and value == _AUXILIARY_ALPHA


def _pass_profile(bits: _Bits, most_sublayers: int, *, whole: bool) -> None:
    """Profile, tier and level (7.3.3); without the profile where not `whole`."""
    bits.take(96 if whole else 8)
    present = [(bits.take(1), bits.take(1)) for _ in range(most_sublayers)]
    if most_sublayers:
        bits.take(2 * (8 - most_sublayers))
    for profile, level in present:
        bits.take(88 * profile + 8 * level)


def _pass_timing(bits: _Bits, most_sublayers: int) -> None:
    """Clock ticks, and the buffers of a hypothetical decoder (annex E)."""
    bits.take(64)
    if bits.take(1):
        bits.golomb()
    common = (0, 0, 0)
    for index in range(bits.golomb()):
        bits.golomb()
        if not index or bits.take(1):
            common = _pass_common(bits)
        _pass_buffers(bits, most_sublayers, *common)


def _pass_common(bits: _Bits) -> tuple[int, int, int]:
    """What all sublayers share; returns three of its flags: NAL, VCL, parts of pictures."""
    nal, vcl, parts = bits.take(1), bits.take(1), 0
    if nal or vcl:
        parts = bits.take(1)
        bits.take(19 * parts + 8 + 4 * parts + 15)
    return nal, vcl, parts


def _pass_buffers(bits: _Bits, most_sublayers: int, nal: int, vcl: int, parts: int) -> None:
    for _ in range(most_sublayers + 1):
        is_fixed, count, is_late = bits.take(1), 0, 0
        if is_fixed or bits.take(1):
            bits.golomb()
        else:
            is_late = bits.take(1)
        if not is_late:
            count = bits.golomb()
        for _ in range((nal + vcl) * (count + 1)):
            for _ in range(2 + 2 * parts):
                bits.golomb()
            bits.take(1)
