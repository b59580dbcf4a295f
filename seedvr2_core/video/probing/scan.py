"""Reads every packet of a file once and counts what it finds; nothing is decoded."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from seedvr2_core.errors import InvalidVideoError, UnsupportedFormatError
from seedvr2_core.files.mp4_index import too_many_frames
from seedvr2_core.files.reading import OnBytes
from seedvr2_core.video._container import (
    demux_all,
    is_cover,
    main_video,
    open_source,
    time_base_of,
)
from seedvr2_core.video._reasons import encrypted, is_encrypted_tag
from seedvr2_core.video.headers.read import refuse_dolby_vision
from seedvr2_core.video.info import Timeline
from seedvr2_core.video.picture.changes import PacketWatch
from seedvr2_core.video.picture.color import refuse_unsupported
from seedvr2_core.video.picture.facts import tags
from seedvr2_core.video.probing.ending import Extent, Promise, promise_of
from seedvr2_core.video.probing.joints import Joints

_UNTIMED_CONTAINERS = ("avi", "asf")
_VP8_SHOWN = 0x10
"""Bit of a VP8 packet's first byte: the frame is shown (others only serve as references)."""
_TINY_BYTES = 24
"""An MPEG-4 packet of this size may be an N-VOP, which shows nothing."""
_AS_IT_IS = Timeline()


@dataclass(slots=True)
class Scan:
    """What demuxing found; times in the video stream's ticks, on the file's one clock."""

    stream: int
    """Index of the video stream."""
    timeline: Timeline = _AS_IT_IS
    """What the packets' times were moved by."""
    times: list[int] = field(default_factory=list)
    """Presentation times of the video's packets that have one, sorted."""
    order: list[int] = field(default_factory=list)
    """The packets' own times, in file order, in such a container."""
    before_key: int = 0
    """Packets of the video before its first key frame."""
    first_time: int = 2**63
    last_time: int = -(2**63)
    last_duration: int = 0
    untimed: int = 0
    """Video packets without a pts."""
    num_bytes: int = 0
    """Of the video's packets that are presented."""
    corrupt: int = 0
    silent: bool = False
    """Some packets may show nothing."""
    unordered: bool = False
    """The container has one time a packet and does not say which one."""
    guessed: bool = False
    """And it matters: the demuxer guesses presentation times, which may be wrong."""
    late: bool = False
    """Streams appeared after the start of the file; nobody reads them."""
    counts: Counter[int] = field(default_factory=Counter)
    promise: Promise = field(default_factory=Promise)
    """What the file says about its end."""
    extent: Extent = field(default_factory=Extent)
    watch: PacketWatch | None = None
    """What the packets tell about the pictures."""
    of_pictures: bool = False
    """The times were not found in packets: they are known, and every packet is a picture."""

    @property
    def num_packets(self) -> int:
        """Packets of the video that are presented."""
        return len(self.times) + self.untimed

    def note_late(self) -> None:
        """Note that there are streams which the container did not know at its start."""
        self.late = True

    def add(self, packet: "Packet[Stream]") -> None:
        """Count a packet of the video that is presented."""
        self.corrupt += packet.is_corrupt
        self.num_bytes += packet.size
        if self.before_key == self.num_packets and not packet.is_keyframe:
            self.before_key += 1
        if packet.pts is None:
            self.untimed += 1
            return
        self.times.append(packet.pts)
        if self.unordered and packet.dts is not None:
            self.order.append(packet.dts)
            self.guessed = self.guessed or packet.dts != packet.pts
        self.first_time = min(self.first_time, packet.pts)
        if packet.pts > self.last_time:
            self.last_time, self.last_duration = packet.pts, packet.duration or 0


class Most:
    """The longest video that is taken; None: any.

    Args:
        path: of the file.
        frames: most frames.
        seconds: most seconds from the first to the last frame.
    """

    def __init__(self, path: Path, frames: int | None, seconds: float | None) -> None:
        self._name = path.name
        self._frames = frames
        self._seconds = seconds

    def check(self, num_frames: int, seconds: float = 0) -> None:
        """Refuse a video that is known to have so many frames, and to last so long.

        Raises:
            UnsupportedFormatError: that is too much.
        """
        if self._frames is not None and num_frames > self._frames:
            raise too_many_frames(self._name, self._frames)
        if self._seconds is not None and seconds > self._seconds:
            raise UnsupportedFormatError(
                f"{self._name}: the video lasts longer than {self._seconds:g} s, the most that is "
                "taken here (SEEDVR2_MAX_VIDEO_SECONDS); cut it into parts"
            )


def scan_file(path: Path, most: Most, on_bytes: OnBytes) -> Scan:
    """Demux a whole file, once more where its clock or the choice of its video needs that.

    Raises:
        InvalidVideoError: not a video, no video stream, encrypted.
        UnsupportedFormatError: a kind of video that is refused, or too long.
        FileReadError: the machine failed to read the file.
    """
    stills: set[int] = set()
    while True:
        scan, rivals = _scan(path, most, on_bytes, stills=stills)
        # A cover that nothing marks shows only now: it is one picture beside a film.
        if scan.num_packets > 1 or not any(scan.counts[rival] > 1 for rival in rivals):
            break
        stills.add(scan.stream)
    if scan.timeline.shifts:
        scan, _ = _scan(path, most, on_bytes, stills=stills, timeline=scan.timeline)
    return scan


def _scan(
    path: Path,
    most: Most,
    on_bytes: OnBytes,
    *,
    stills: Collection[int],
    timeline: Timeline | None = None,
) -> tuple[Scan, list[int]]:
    """Demux a whole file; also the other streams that might be the video.

    Args:
        path: the file.
        most: what is taken.
        on_bytes: called while it is read.
        stills: streams that are covers.
        timeline: of the file; None: it is not known yet, and the scan finds it.
    """
    with open_source(path, on_bytes=on_bytes) as container:
        stream = main_video(container, path, stills=stills)
        refuse_unsupported(path.name, tags(stream.codec_context))
        refuse_encrypted(path, stream)
        refuse_dolby_vision(path, container, stream)
        most.check(len(stream.index_entries))
        rivals = [
            other.index
            for other in container.streams.video
            if other.index not in {stream.index, *stills} and not is_cover(other)
        ]
        scan = Scan(
            stream.index, timeline or _AS_IT_IS, promise=promise_of(container, stream, path)
        )
        joints = None if timeline else Joints(container, stream.index)
        scan.watch = PacketWatch(stream)
        _read(container, stream, scan, joints, path, most)
    scan.times.sort()
    if joints:
        scan.timeline = joints.timeline()
    return scan, rivals


def refuse_encrypted(path: Path, stream: VideoStream) -> None:
    """Refuse a video whose header says that it is encrypted.

    Raises:
        InvalidVideoError: it is.
    """
    if is_encrypted_tag(stream.codec_context.codec_tag) or "enc_key_id" in stream.metadata:
        raise encrypted(path.name)


def _read(
    container: InputContainer,
    stream: VideoStream,
    scan: Scan,
    joints: Joints | None,
    path: Path,
    most: Most,
) -> None:
    """Take note of every packet."""
    context = stream.codec_context
    codec, tick = context.codec.canonical_name, float(time_base_of(stream))
    scan.unordered = container.format.name in _UNTIMED_CONTAINERS
    scan.guessed = scan.unordered and bool(context.has_b_frames)
    for packet in demux_all(container, timeline=scan.timeline, on_late=scan.note_late):
        scan.counts[packet.stream_index] += 1
        scan.extent.add(packet)
        if joints:
            joints.add(packet)
        if packet.stream_index != stream.index or packet.is_discard or not packet.size:
            continue
        if packet.has_sidedata("encryption_info"):
            raise encrypted(path.name)
        if codec == "vp8" and not bytes(packet)[0] & _VP8_SHOWN:
            continue
        scan.silent = scan.silent or (codec == "mpeg4" and packet.size <= _TINY_BYTES)
        scan.add(packet)
        if scan.watch:
            scan.watch.add(packet)
        # Before the timeline is known, the time between parts says nothing.
        known = joints is None or joints.num_parts == 1
        most.check(scan.num_packets, (scan.last_time - scan.first_time) * tick if known else 0)


def no_frames(path: Path) -> InvalidVideoError:
    """The error for a video stream without packets."""
    return InvalidVideoError(
        f"{path.name}: the video stream has no frames; the file is empty or cut off"
    )
