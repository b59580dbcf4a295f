"""Reads a source's other streams once and tries each alone, before the output is written.

Whatever the container refuses is found here, and belongs to one stream: a packet that is no AAC, a
rate that it has no place for, sound whose format changes on the way.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import av
import av.error
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Stream

from seedvr2_core.files.reading import OnBytes, no_bytes
from seedvr2_core.video._container import demux_all, open_source
from seedvr2_core.video.carry.copier import Copier
from seedvr2_core.video.carry.nothing import NullFile
from seedvr2_core.video.carry.sound import SoundFormat
from seedvr2_core.video.carry.transcoder import decoded_sound
from seedvr2_core.video.carry.way import CarryWay, Cut
from seedvr2_core.video.info import StreamInfo, VideoInfo

K = TypeVar("K")

_CHANGE_PACKETS = 3
"""So many packets of another format are a change; fewer are damage."""
_REFUSED_SHARE = 20
"""One packet in so many may be left out of a copy; a stream with more is encoded anew."""
_ADTS_SYNC = 0xFFF0
_ADTS_PROFILE_AND_RATE = 0xFD
_ADTS_CHANNELS = 0x01C0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult:
    """What became of a stream that was tried alone."""

    copies: bool = False
    """The container takes its packets as they are, but for those that are `refused`."""
    refused: frozenset[int] = frozenset()
    """Packets, counted from the stream's first one, that it does not take or nobody can decode."""
    changes: bool = False
    """The format of the sound changes on the way."""
    formats: tuple[SoundFormat, ...] = ()
    """Of the sound, in the order of their first packets; empty: none can be decoded."""


@dataclass(slots=True)
class _Trial:
    """One stream, while it is tried."""

    name: str
    template: Stream
    output: OutputContainer
    copies: bool
    """Whether its packets are to be copied, if that is possible."""
    cut: Cut | None = None
    copier: Copier | None = None
    count: int = 0
    refused: set[int] = field(default_factory=set)
    formats: Counter[SoundFormat] = field(default_factory=Counter)
    settings: Counter[bytes] = field(default_factory=Counter)

    def begin(self, zero: Fraction) -> None:
        """Open the copy, if there is to be one."""
        if not self.copies:
            return
        try:
            self.copier = Copier(
                self.output, self.template, zero=zero, name=self.name, cut=self.cut
            )
            self.output.start_encoding()
        except MemoryError:
            raise
        except (av.error.FFmpegError, ValueError):
            self.copier = None

    def feed(self, packet: Packet) -> None:
        """Try a packet."""
        position, self.count = self.count, self.count + 1
        if self.name == "aac" and (settings := _aac_settings(packet)):
            self.settings[settings] += 1
        if isinstance(self.template, AudioStream) and self._is_heard():
            frames, failed = decoded_sound(packet)
            self.formats.update(SoundFormat.of(frame) for frame in frames)
            if failed:  # players stop at such a packet
                self.refused.add(position)
        if self.copier is None:
            return
        for copied in self.copier.feed(packet):
            if position in self.refused:
                continue
            try:
                self.output.mux(copied)
            except MemoryError:
                raise
            except (av.error.FFmpegError, ValueError):
                self.refused.add(position)

    def _is_heard(self) -> bool:
        """Whether a packet is decoded: of PCM only the first ones, the others are as they are."""
        return self.formats.total() < _CHANGE_PACKETS or not self.name.startswith("pcm_")

    def finish(self) -> TrialResult:
        """Close the copy."""
        copies = self.copier is not None and len(self.refused) * _REFUSED_SHARE <= self.count
        try:
            self.output.close()
        except MemoryError:
            raise
        except (av.error.FFmpegError, ValueError):
            copies = False
        changes = len(_frequent(self.settings)) > 1
        formats = tuple(_frequent(self.formats))
        if self.name != "aac":
            changes = len({(f.rate, f.layout) for f in formats}) > 1
        return TrialResult(
            copies=copies and not changes,
            refused=frozenset(self.refused),
            changes=changes,
            formats=formats,
        )


def try_streams(
    path: Path, info: VideoInfo, way: CarryWay, *, on_bytes: OnBytes = no_bytes
) -> dict[int, TrialResult]:
    """Try every stream that may be carried.

    Args:
        path: the source that `info` describes.
        info: of the source.
        way: how they are carried.
        on_bytes: called before every read of the file.

    Returns:
        Results by index of the source's stream; only of streams that could be opened.

    Raises:
        FileReadError: the machine failed to read the file.
    """
    wanted = [stream for stream in info.streams if _may_be_carried(stream, way)]
    if not wanted:
        return {}
    with open_source(path, on_bytes=on_bytes) as source, contextlib.ExitStack() as outputs:
        zero = Fraction(*info.zero_offset)
        trials = dict(_trials(source, wanted, way, zero, outputs))
        streams = [source.streams[index] for index in trials]
        for packet in demux_all(source, *streams, timeline=info.timeline) if streams else ():
            if way.cut is None or way.cut.touches(packet, zero):
                trials[packet.stream_index].feed(packet)
        return {index: trial.finish() for index, trial in trials.items()}


def _may_be_carried(stream: StreamInfo, way: CarryWay) -> bool:
    if not stream.num_packets or not way.wants(stream):
        return False
    return stream.kind == "audio" or way.may_copy(stream)


def _trials(
    source: InputContainer,
    wanted: list[StreamInfo],
    way: CarryWay,
    zero: Fraction,
    outputs: contextlib.ExitStack,
) -> Iterator[tuple[int, _Trial]]:
    for stream in wanted:
        if stream.index >= len(source.streams):
            continue
        template = source.streams[stream.index]
        if template.codec_context is None:  # no decoder, whatever the stubs say
            continue
        output = av.open(NullFile(), "w", format=way.container.muxer)
        outputs.callback(_close, output)
        copies = way.may_copy(stream)
        trial = _Trial(
            name=stream.codec, template=template, output=output, copies=copies, cut=way.cut
        )
        trial.begin(zero)
        yield stream.index, trial


def _close(output: OutputContainer) -> None:
    with contextlib.suppress(av.error.FFmpegError, ValueError):
        output.close()


def _frequent(counts: Counter[K]) -> list[K]:
    """What was met often enough, or at all if nothing was."""
    return [key for key, count in counts.items() if count >= _CHANGE_PACKETS] or list(counts)[:1]


def _aac_settings(packet: Packet) -> bytes:
    """What decides how AAC is decoded, where a packet says it; else b"".

    In ADTS each packet has it; mp4 and FLV give it with the first packet that it holds for.
    """
    if packet.has_sidedata("new_extradata"):
        return bytes(packet.get_sidedata("new_extradata"))
    head = bytes(memoryview(packet)[:4])
    if len(head) < 4 or int.from_bytes(head[:2]) & 0xFFF6 != _ADTS_SYNC:
        return b""
    channels = int.from_bytes(head[2:]) & _ADTS_CHANNELS
    return bytes([head[2] & _ADTS_PROFILE_AND_RATE, channels >> 6])
