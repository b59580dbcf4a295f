"""Chooses the clock of the output: the source's own, so that its times stay exact, where mp4 can.

mp4 keeps what lies between a packet's decoding and its presentation, and how long it lasts, as
whole ticks in 32 bits. A clock of nanoseconds has room for two seconds.
"""

import dataclasses
import itertools
from fractions import Fraction

from seedvr2_core.errors import PlanError
from seedvr2_core.video.info import VideoInfo
from seedvr2_core.video.wanted import rises

_MOST_TICKS = 2**31 - 1
_MOST_TIME = 2**62
"""Times themselves have 64 bits."""
_REORDERED_FRAMES = 20
"""A packet is decoded at most so many frames before it is shown: 16 B-frames and their order."""
_COARSER = (10**6, 90_000, 48_000, 10_000, 1000, 100, 10, 1)
"""Ticks a second of the clocks that are tried, finest first."""


def fit_clock(video: VideoInfo) -> tuple[VideoInfo, str]:
    """The video with times that mp4 can hold, and a note about that; "" if they are its own.

    Raises:
        PlanError: no clock holds both its shortest and its longest frame.
    """
    if _fits(video):
        return video, ""
    base = Fraction(*video.time_base)
    for ticks in _COARSER:
        clock = Fraction(1, ticks)
        if clock <= base:
            continue
        scale = base / clock
        times = tuple(round(time * scale) for time in video.pts)
        changed = dataclasses.replace(
            video,
            time_base=(1, ticks),
            pts=times,
            last_duration=max(1, round(video.last_duration * scale)),
            reading=dataclasses.replace(
                video.reading,
                pts=tuple(round(time * scale) for time in video.reading.pts),
                began=round(video.reading.began * scale),
            ),
        )
        if rises(times) and rises(changed.reading.pts) and _fits(changed):
            note = (
                f"mp4 cannot hold frames this long on a clock of 1/{1 / base} s; the output's "
                f"clock counts in 1/{ticks} s"
            )
            return changed, note
    raise PlanError(
        f"the frames last from {float(_shortest(video) * base):.3g} to "
        f"{float(_longest(video) * base):.3g} s, and mp4 has no clock that counts both; cut the "
        "video where nothing happens"
    )


def _fits(video: VideoInfo) -> bool:
    """Whether mp4 can write the times as they are."""
    num, den = video.time_base
    far = max(abs(video.pts[0]), abs(video.pts[-1] + video.last_duration))
    return (
        0 < den <= _MOST_TICKS
        and _span(video) * num <= _MOST_TICKS
        and far * num <= _MOST_TIME
        and rises(video.pts)
    )


def _span(video: VideoInfo) -> int:
    """Most ticks that any so many frames in a row last together."""
    ends = [*video.pts[1:], video.pts[-1] + video.last_duration]
    spans = zip(video.pts, ends[min(_REORDERED_FRAMES, len(ends)) - 1 :], strict=False)
    return max(end - start for start, end in spans)


def _shortest(video: VideoInfo) -> int:
    return min((b - a for a, b in itertools.pairwise(video.pts)), default=video.last_duration)


def _longest(video: VideoInfo) -> int:
    steps = (b - a for a, b in itertools.pairwise(video.pts))
    return max([video.last_duration, *steps])
