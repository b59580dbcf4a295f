"""Packets of carried streams in the order of their decode times, each stream's failure its own."""

from collections.abc import Iterator
from fractions import Fraction

import av.error
from av.packet import Packet

from seedvr2_core.errors import SeedVR2Error
from seedvr2_core.files.space import is_full


class RefusedStreamError(Exception):
    """A carried stream failed although it had not in the trial."""

    def __init__(self, index: int) -> None:
        super().__init__(f"stream {index}")
        self.index = index


def timed(index: int, packets: Iterator[Packet]) -> "Iterator[tuple[Fraction, Packet]]":
    """(decode time in seconds, packet) of the source's stream `index`.

    Raises:
        RefusedStreamError: the stream cannot be converted.
    """
    try:
        for packet in packets:
            assert packet.dts is not None
            yield packet.dts * packet.time_base, packet
    except (av.error.FFmpegError, ValueError) as error:
        if is_full(error) or isinstance(error, (SeedVR2Error, MemoryError)):
            raise
        raise RefusedStreamError(index) from error


def decode_order(item: tuple[Fraction, Packet]) -> Fraction:
    """Decode time of an item: the key by which streams are merged."""
    return item[0]
