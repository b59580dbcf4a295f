"""Finds where the times of a file begin anew, while its packets are read, and makes its timeline.

A new part is where the decode times of a stream go back. In containers whose clock may start
anywhere (MPEG-TS and MPEG-PS) it is also where all streams jump ahead together: nobody films
nothing for an hour, and a stream that merely pauses has others that go on beside it. The parts are
those of the video; each begins where the video before it ends, and the other streams follow.
"""

import itertools
from dataclasses import dataclass, field
from fractions import Fraction

from av.container import InputContainer
from av.format import Flags
from av.packet import Packet
from av.stream import Stream

from seedvr2_core.video.info import Shift, Timeline

_STREAM_FORMATS = ("mpegts", "mpeg", "flv")
"""Containers of live streams. Their decode times are the writer's and rise; others' are guessed by
the demuxer, which may err by some frames."""
_BACK_SECONDS = Fraction(1, 10)
_BACK_SECONDS_GUESSED = Fraction(1)
_BACK_PACKETS_GUESSED = 16
_AHEAD_SECONDS = Fraction(10)
_NEAR_SECONDS = Fraction(2)
"""How far a stream may begin before, or end behind, the video of its part."""
_LOST_SECONDS = Fraction(2)
"""A stream that goes back this far by itself is moved; one that goes back less repeats itself."""
_HEAD_PACKETS = 32
"""The first picture of a part is among so many of its packets."""
_JOINED_KINDS = ("video", "audio", "subtitle")


@dataclass(slots=True)
class _Run:
    """Packets of a stream whose times belong to one clock; times in its ticks."""

    packet: int
    """How many packets of the stream come before it."""
    seen: dict[int, int]
    """Packets of every stream that were read before it."""
    first: int
    """Decode time of its first packet."""
    last: int
    """Decode time of its last packet."""
    shown_from: int
    """Earliest presentation time of its first packets."""
    shown_to: int
    """Where its last presented packet ends."""
    timed: int = 0
    untimed: int = 0
    length: int = 0
    """Durations of all its packets."""

    def add(self, dts: int, pts: int, duration: int) -> None:
        """Take note of a packet with times."""
        self.last = dts
        if self.timed < _HEAD_PACKETS:
            self.shown_from = min(self.shown_from, pts)
        self.shown_to = max(self.shown_to, pts + duration)
        self.timed += 1
        self.length += duration

    @property
    def end(self) -> int:
        """Where it ends; packets without times count by their durations."""
        return max(self.shown_to, self.shown_from + self.length if self.untimed else 0)


@dataclass(slots=True)
class _Track:
    """A stream of the file as far as it is read."""

    kind: str
    time_base: Fraction
    packets: int = 0
    step: int = 0
    """From the last packet's decode time to the one before it."""
    runs: list[_Run] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of the file, as its video tells; in seconds."""

    added: Fraction
    starts: Fraction
    """By the part's own clock."""
    ends: Fraction
    seen: dict[int, int]


class Joints:
    """Takes note of all packets and says how their times become one clock.

    Args:
        container: open, before its first packet.
        video: index of the stream that is restored.
    """

    def __init__(self, container: InputContainer, video: int) -> None:
        self._video = video
        self._live = container.format.name in _STREAM_FORMATS
        self._jumps = bool(container.format.flags & Flags.ts_discont.value)
        self._tracks = {
            stream.index: _Track(stream.type, stream.time_base)
            for stream in container.streams
            if stream.type in _JOINED_KINDS and stream.time_base is not None
        }

    @property
    def num_parts(self) -> int:
        """Parts of the file that have begun."""
        track = self._tracks.get(self._video)
        return max(1, len(track.runs)) if track else 1

    def add(self, packet: "Packet[Stream]") -> None:
        """Take note of the next packet of the file."""
        track = self._tracks.get(packet.stream_index)
        if track is None:
            return
        duration = packet.duration or track.step
        dts = packet.dts if packet.dts is not None else packet.pts
        if dts is None:
            if track.runs:
                track.runs[-1].untimed += 1
                track.runs[-1].length += duration
        else:
            pts = dts if packet.pts is None else packet.pts
            if not track.runs or self._is_joint(track, dts):
                seen = {index: other.packets for index, other in self._tracks.items()}
                track.runs.append(_Run(track.packets, seen, dts, dts, pts, pts))
            else:
                track.step = max(0, dts - track.runs[-1].last)
            track.runs[-1].add(dts, pts, duration)
        track.packets += 1

    def _is_joint(self, track: _Track, dts: int) -> bool:
        """Whether a packet with this decode time begins a new run of its stream."""
        run = track.runs[-1]
        if dts < run.last:
            back = _BACK_SECONDS / track.time_base
            if not self._live:
                guessed = _BACK_SECONDS_GUESSED / track.time_base
                back = max(guessed, Fraction(_BACK_PACKETS_GUESSED * track.step))
            return run.last - dts > back
        if not self._jumps or track.kind == "subtitle":
            return False
        ahead = dts - run.end > _AHEAD_SECONDS / track.time_base
        return ahead and not self._others_were_there(track, dts)

    def _others_were_there(self, track: _Track, dts: int) -> bool:
        """Whether another stream has gone on from where this one stops to where it goes on."""
        left = track.runs[-1].end * track.time_base + _AHEAD_SECONDS
        arrived = dts * track.time_base - _AHEAD_SECONDS
        return any(
            other.runs
            and other.runs[-1].first * other.time_base <= left
            and other.runs[-1].last * other.time_base >= arrived
            for other in self._tracks.values()
            if other is not track and other.kind in ("video", "audio")
        )

    def timeline(self) -> Timeline:
        """How the times of all packets that were read become one clock."""
        parts = self._parts()
        shifts: list[Shift] = []
        for index, track in self._tracks.items():
            if index == self._video:
                starts = [(run.packet, part) for run, part in zip(track.runs, parts, strict=True)]
                moved = [(packet, part.added) for packet, part in starts[1:]]
            else:
                moved = _moved(index, track, parts)
            shifts += [
                Shift(stream=index, packet=packet, seconds=added.as_integer_ratio())
                for packet, added in moved
            ]
        return Timeline(shifts=tuple(shifts))

    def _parts(self) -> list[_Part]:
        """The file's parts: the runs of its video, each moved behind the one before it."""
        track = self._tracks.get(self._video)
        parts: list[_Part] = []
        added, end = 0, 0
        for run in track.runs if track else ():
            if parts:
                added = end - run.shown_from
            end = run.end + added
            base = track.time_base if track else Fraction(0)
            parts.append(_Part(added * base, run.shown_from * base, run.end * base, run.seen))
        return parts


def _moved(index: int, track: _Track, parts: list[_Part]) -> list[tuple[int, Fraction]]:
    """(packet, seconds) of every shift of a stream that is not the video."""
    own = _places(index, track, parts)
    begun = {part: track.runs[number].packet for number, part in own.items()}
    for part in range(1, len(parts)):  # in some parts it has no new run of its own
        begun.setdefault(part, parts[part].seen[index])
    places = [(packet, part, Fraction(0)) for part, packet in begun.items()]
    for number, (before, run) in enumerate(itertools.pairwise(track.runs), 1):
        back = (before.end - run.shown_from) * track.time_base
        if number not in own and abs(back) >= _LOST_SECONDS:
            places.append((run.packet, 0, back))
    moved: list[tuple[int, Fraction]] = []
    added, at = Fraction(0), 0
    for packet, part, back in sorted(places):
        if part > at:
            added, at = parts[part].added, part
        else:
            added += back
        moved.append((packet, added))
    return moved


def _places(index: int, track: _Track, parts: list[_Part]) -> dict[int, int]:
    """Run of a stream -> the part that begins with it; a run that begins none is left out.

    Streams do not change to a new part at the same moment: a demuxer gives a packet when it is
    whole. So the part is taken whose clock the run follows, and which is nearest in the file.
    """
    places: dict[int, int] = {}
    at = 0
    for number, run in enumerate(track.runs[1:], 1):
        time = run.first * track.time_base
        following = [
            part
            for part in range(at + 1, len(parts))
            if parts[part].starts - _NEAR_SECONDS <= time <= parts[part].ends + _NEAR_SECONDS
        ]
        if following:
            at = min(following, key=lambda part: abs(parts[part].seen[index] - run.packet))
            places[number] = at
    return places
