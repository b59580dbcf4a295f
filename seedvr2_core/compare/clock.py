"""Which frames of two videos are shown together: matched by time, from the first frame of each."""

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from seedvr2_core.video.info import VideoInfo

_EARLY = Fraction(1, 4)
"""Of a frame's time: so much before its own time a frame counts as shown. Containers round times,
and a frame at 33 ms and one at 33.4 ms are the same moment."""


@dataclass(frozen=True, slots=True)
class MatchedFrames:
    """The frames of the video that leads, and what the other one shows at their times."""

    leads_a: bool
    """Whether A leads: the one with more frames a second, A of two that are equal."""
    others: Sequence[int]
    """For frame i of the leading video, the index of the other's; rising."""


def match(a: VideoInfo, b: VideoInfo) -> MatchedFrames:
    """Match two videos over the time that both have."""
    length = min(_length(a), _length(b))
    leads_a = _count(a, length) >= _count(b, length)
    lead, other = (a, b) if leads_a else (b, a)
    times = _times(other)
    steps = [after - before for before, after in itertools.pairwise(times)]
    early = sorted(steps)[len(steps) // 2] * _EARLY if steps else Fraction(0)
    shown = [bisect.bisect_right(times, time + early) - 1 for time in _times(lead) if time < length]
    return MatchedFrames(leads_a, shown)


def sheet_clock(lead: VideoInfo, sound: VideoInfo, num_frames: int) -> VideoInfo:
    """How the joined file is described: the leading video's times beside the other streams of the
    file whose sound is kept, whose first frame is shown when it was.

    Args:
        lead: its first `num_frames` frames are shown.
        sound: the file whose sound is kept; may be the same.
        num_frames: of the comparison.
    """
    base = Fraction(*lead.time_base)
    begin = round(sound.pts[0] * Fraction(*sound.time_base) / base)
    ends = [*lead.pts, lead.pts[-1] + lead.last_duration]
    pts = tuple(begin + time - lead.pts[0] for time in ends[:num_frames])
    last = ends[num_frames] - ends[num_frames - 1]
    end = (pts[-1] + last) * base
    whole = end >= sound.pts[0] * Fraction(*sound.time_base) + _length(sound)
    return replace(
        sound,
        time_base=lead.time_base,
        pts=pts,
        last_duration=last,
        nominal_rate=lead.nominal_rate,
        reading=sound.reading if whole else replace(sound.reading, ends=True),
    )


def _times(video: VideoInfo) -> list[Fraction]:
    """Seconds of all frames from the first one on."""
    base = Fraction(*video.time_base)
    return [(time - video.pts[0]) * base for time in video.pts]


def _length(video: VideoInfo) -> Fraction:
    return (video.pts[-1] + video.last_duration - video.pts[0]) * Fraction(*video.time_base)


def _count(video: VideoInfo, length: Fraction) -> int:
    """Frames that begin before this time."""
    limit = video.pts[0] + length / Fraction(*video.time_base)
    return bisect.bisect_left(video.pts, limit)
