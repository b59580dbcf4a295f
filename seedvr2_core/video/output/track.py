"""Decode times and durations of the joined video track.

Packet i (file order) gets the (i - D)-th presentation time, D = reorder depth, and the first D lie
before the first picture at the nominal distance.

libav's muxer counts how far the film begins behind zero from the least time between decoding and
presentation among all packets that are decoded at zero or before, and takes that for the first
packet's. So where frames at the start follow each other faster than usual, the first D lie closer
together.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from seedvr2_core.video.info import VideoInfo


@dataclass(frozen=True, slots=True)
class TrackClock:
    """Decode times and durations of the whole track, in the source's ticks."""

    pts: tuple[int, ...]
    ahead: tuple[int, ...]
    """Decode times of the first D packets."""
    last_duration: int
    latest: tuple[int, ...] = ()
    """Decode times of all packets where the usual ones would lose frames; else empty."""

    @classmethod
    def of(cls, times: Sequence[int], info: VideoInfo) -> "TrackClock":
        """From the packets' presentation times in file order."""
        rank = {pts: position for position, pts in enumerate(info.pts)}
        depth = max(i - rank[pts] for i, pts in enumerate(times))
        step = max(1, round(1 / (Fraction(*info.nominal_rate) * Fraction(*info.time_base))))
        ahead = _times_before(info.pts[0], depth, step)
        if _offset_is_misread(times, ahead):
            gaps = [(times[i] - info.pts[0]) // i for i in range(1, depth)]
            ahead = _times_before(info.pts[0], depth, max(1, min(gaps)))
        usual = cls(info.pts, ahead, info.last_duration)
        if not usual.loses_frames():
            return usual
        return cls(info.pts, ahead, info.last_duration, tuple(_latest_decode_times(times)))

    def dts(self, i: int) -> int:
        """Decode time of packet i in file order."""
        if self.latest:
            return self.latest[i]
        depth = len(self.ahead)
        return self.ahead[i] if i < depth else self.pts[i - depth]

    def loses_frames(self) -> bool:
        """Whether players on libav would leave out frames after a long one near the end.

        They stop reading at a key frame that seems to reach to the end of the edit list, and how
        long it lasts they take from the decode times, where the long frame comes D packets later.
        """
        end = self.pts[-1] + self.last_duration
        return any(
            pts + self.dts(i + 1) - self.dts(i) >= end for i, pts in enumerate(self.pts[:-1])
        )

    def durations(self) -> dict[int, int]:
        """Presentation time -> how long the frame is shown."""
        ends = itertools.chain(self.pts[1:], [self.pts[-1] + self.last_duration])
        return {pts: end - pts for pts, end in zip(self.pts, ends, strict=True)}


def _times_before(start: int, depth: int, step: int) -> tuple[int, ...]:
    """So many times before the first picture's."""
    return tuple(start - (depth - i) * step for i in range(depth))


def _offset_is_misread(times: Sequence[int], ahead: Sequence[int]) -> bool:
    """Whether the muxer would take another packet's wait for presentation for the first one's."""
    waits = [pts - dts for pts, dts in zip(times, ahead, strict=False) if dts <= 0]
    return times[0] > 0 and bool(waits) and min(waits) < waits[0]


def _latest_decode_times(times: Sequence[int]) -> list[int]:
    """The latest times that rise and lie before the presentation of all packets that follow.

    Args:
        times: presentation times in file order.
    """
    latest: list[int] = []
    limit = max(times) + 1
    for pts in reversed(times):
        limit = min(pts, limit - 1)
        latest.append(limit)
    return latest[::-1]
