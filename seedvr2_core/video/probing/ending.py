"""Tells whether a file ends before its header or index says that it does.

A cut file looks like a short one: the demuxers read what is there and report the end. What should
be there is told by the index (mp4, QuickTime), by the count or the duration in the header
(Matroska, AVI, FLV, ASF, MXF, IVF), or by nothing at all: a live recording without a duration and a
fragmented mp4 that is still growing promise nothing. MPEG streams have no header; there the sound
is asked, and it may well go on for a few seconds after the last picture.
"""

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

_SMALL_SECONDS = Fraction(1, 4)
"""Headers are rounded, and a last packet need not say how long it lasts."""
_MOST_SECONDS = Fraction(1, 2)
_MOST_SHARE = Fraction(1, 20)
"""A file that lacks more than one of these two is refused; one that lacks less gets a note. The
reader mends as large a share of damaged frames."""
_LOOSE_SECONDS = Fraction(3, 2)
"""In FLV and ASF many writers round the duration up to whole seconds."""
_SOUND_SECONDS = 5
_SOUND_SHARE = Fraction(1, 5)
"""By how much sound may outlast the pictures of an MPEG stream."""

_INDEXED = "mov"
_BY_COUNT = ("avi", "ivf")
_BY_DURATION = ("mov", "matroska", "flv", "mxf")
_LOOSE = ("flv", "asf")
_BY_SOUND = ("mpegts", "mpeg")
_PACKET_BYTES = (188, 192, 204)
"""Of MPEG-TS: plain, with the time stamps of Blu-ray, with error correction."""
_TORN = "the file stops in the middle of a packet; its end may be missing"
_TAGGED_DURATION = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_ASF_HEAD_BYTES = 2**16
_ASF_BROADCAST = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What the header and the index of a file say, read before any packet."""

    frames: int = 0
    """Frames of the video in the index; 0 where there is no complete index."""
    frames_there: int = 0
    """Those of them whose bytes lie in the file."""
    end: Fraction | None = None
    """Seconds, in the container's own counting, at which its last stream ends; None: unknown."""
    video_end: Fraction | None = None
    """The same of the video, where it is known by itself."""
    loose: bool = False
    """Such headers are known to be rounded."""
    by_sound: bool = False
    """The container has no header: only its sound can tell."""
    torn: bool = False
    """The file stops in the middle of a packet of fixed size."""


@dataclass(slots=True)
class Extent:
    """How far the packets of a file reach; filled while they are read."""

    ends: dict[int, Fraction] = field(default_factory=dict)
    """Stream -> where its last packet ends, in seconds."""
    starts: dict[int, Fraction] = field(default_factory=dict)

    def add(self, packet: "Packet[Stream]") -> None:
        """Take note of a packet."""
        ticks = packet.dts if packet.pts is None else packet.pts
        if ticks is None or not packet.time_base:
            return
        index, start = packet.stream_index, ticks * packet.time_base
        end = start + (packet.duration or 0) * packet.time_base
        if end > self.ends.get(index, end - 1):
            self.ends[index] = end
        if start < self.starts.get(index, start + 1):
            self.starts[index] = start


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a file ends."""

    sentence: str = ""
    """"the file ends early: 19 of about 75 frames"; "" if it is whole."""
    refused: bool = False
    """So much is missing that nobody wants it without having been asked."""


def promise_of(container: InputContainer, video: VideoStream, path: Path) -> Promise:
    """What a file says about its own end.

    Args:
        container: open, before its first packet is read.
        video: the stream to be restored.
        path: the file.
    """
    kind = container.format.name.partition(",")[0]
    if kind == _INDEXED and not _is_fragmented(video):
        return _indexed(video, path.stat().st_size)
    if kind == "asf":
        return Promise(end=_asf_end(path), loose=True)
    if kind in _BY_SOUND:
        return Promise(by_sound=True, torn=kind == "mpegts" and _is_torn(path.stat().st_size))
    if kind in _BY_COUNT and video.frames and video.time_base:
        end = (video.start_time or 0) + video.frames
        return Promise(end=end * video.time_base, video_end=end * video.time_base)
    if kind not in _BY_DURATION:
        return Promise()
    end = None if container.duration is None else Fraction(container.duration, 10**6)
    own = _tagged_duration(video.metadata) or end
    if kind == _INDEXED:  # fragments: the segment index tells the stream's length, if there is one
        end = own = None
        if video.duration is not None and video.time_base:
            end = own = video.duration * video.time_base
    return Promise(end=end, video_end=own, loose=kind in _LOOSE)


def ending_of(
    promise: Promise, extent: Extent, video: int, times: Sequence[Fraction], rate: Fraction
) -> Ending:
    """Compare what a file holds with what it promised.

    Args:
        promise: of the file.
        extent: of its packets.
        video: index of the video stream.
        times: when its frames are shown, in seconds, rising; not empty.
        rate: nominal frames per second.
    """
    found = len(times)
    if promise.frames:
        return by_index(promise, rate)
    if promise.by_sound:
        ending = _by_sound(extent, video, found, rate)
        return Ending(sentence=_TORN) if promise.torn and not ending.sentence else ending
    if promise.end is None or not extent.ends:
        return Ending()
    missing = promise.end - max(extent.ends.values())
    floor = max(_SMALL_SECONDS, 2 / rate)
    if missing <= (max(floor, _LOOSE_SECONDS) if promise.loose else floor):
        return Ending()
    end = min(promise.video_end or promise.end, promise.end)
    expected = max(found + 1, round((end - times[0]) * rate))
    return _ending(found, expected, rate)


def by_index(promise: Promise, rate: Fraction) -> Ending:
    """Whether frames of a complete index lie behind the end of the file."""
    if promise.frames_there >= promise.frames:
        return Ending()
    return _ending(promise.frames_there, promise.frames, rate)


def _by_sound(extent: Extent, video: int, found: int, rate: Fraction) -> Ending:
    """Whether the pictures of an MPEG stream end long before its sound."""
    others = [end for index, end in extent.ends.items() if index != video]
    if not others or video not in extent.ends:
        return Ending()
    start, end = min(extent.starts.values()), max(others)
    missing = end - extent.ends[video]
    if missing <= max(_SOUND_SECONDS, _SOUND_SHARE * (end - start)):
        return Ending()
    return _ending(found, found + round(missing * rate), rate)


def _ending(found: int, expected: int, rate: Fraction) -> Ending:
    missing = expected - found
    return Ending(
        sentence=f"the file ends early: {found} of about {expected} frames",
        refused=missing / rate > _MOST_SECONDS or missing > _MOST_SHARE * expected,
    )


def _is_torn(num_bytes: int) -> bool:
    """Whether a transport stream of this length does not end with a whole packet."""
    return all(num_bytes % size for size in _PACKET_BYTES)


def _is_fragmented(video: VideoStream) -> bool:
    """Whether an mp4's index is spread over the file: then it grows with it and promises nothing.

    `frames` is what the file's own header counts; fragments add to the entries.
    """
    return video.frames < len(video.index_entries)


def _indexed(video: VideoStream, num_bytes: int) -> Promise:
    """What a complete index says about the frames that are shown."""
    frames = there = 0
    for entry in video.index_entries:
        if not entry.is_discard:
            frames += 1
            there += entry.pos + entry.size <= num_bytes
    return Promise(frames=frames, frames_there=there)


def _tagged_duration(metadata: Mapping[str, str]) -> Fraction | None:
    """The stream's own end, as Matroska writers note it: "00:00:03.000000000"."""
    match = _TAGGED_DURATION.match(metadata.get("DURATION", ""))
    if match is None:
        return None
    hours, minutes, seconds = match.groups()
    return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)


def _asf_end(path: Path) -> Fraction | None:
    """The play duration in an ASF header; libav guesses another one where a file is cut."""
    with path.open("rb") as file:
        head = file.read(_ASF_HEAD_BYTES)
    place = head.find(_ASF_PROPERTIES) + len(_ASF_PROPERTIES) + 8 + 16 + 8 + 8 + 8
    if place < len(_ASF_PROPERTIES) + 48 or len(head) < place + 28:
        return None
    duration, _, preroll, flags = struct.unpack_from("<QQQI", head, place)
    if flags & _ASF_BROADCAST or not duration:
        return None
    return Fraction(duration, 10**7) - Fraction(preroll, 1000)
