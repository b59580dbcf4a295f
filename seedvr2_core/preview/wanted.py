"""Which frames a preview shows: read from what a person has written, and found in a plan.

Arithmetic on times only; the request's schema reads this too.
"""

import bisect
import re
from dataclasses import dataclass
from fractions import Fraction

from seedvr2_core.errors import InvalidRequestError
from seedvr2_core.planning import Plan
from seedvr2_core.video.wanted import Place, place_of

_LENGTH = re.compile(r"(\d+(?:\.\d+)?)(s|f)")
_WHOLE = re.compile(r"\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedExcerpt:
    """How long an excerpt is, in seconds or in frames, and where it begins."""

    seconds: Fraction | None = None
    frames: int | None = None
    place: Place | None = None
    """None: the plan chooses one."""


def wanted_excerpt(text: str) -> WantedExcerpt:
    """What LENGTH@PLACE asks for: "3s@0:42", "3s@frame:1200", "90f@1200", or "3s" alone.

    A place is written as that of `start`; behind a length in frames, a number alone is a frame.

    Raises:
        InvalidRequestError: it is none of these.
    """
    length, at, place = text.strip().partition("@")
    found = _LENGTH.fullmatch(length)
    number = Fraction(found[1]) if found else Fraction(0)
    in_frames = bool(found) and found[2] == "f" if found else False
    if number <= 0 or (in_frames and number.denominator != 1) or (at and not place.strip()):
        raise InvalidRequestError(
            f"{text[:40]!r} is no preview; write a length and a place, such as 3s@0:42 or "
            "90f@1200, or a length alone, such as 3s"
        )
    if in_frames and _WHOLE.fullmatch(place.strip()):
        place = f"frame:{place.strip()}"
    where = place_of(place) if at else None
    if in_frames:
        return WantedExcerpt(frames=int(number), place=where)
    return WantedExcerpt(seconds=number, place=where)


def find_excerpt(plan: Plan, wanted: WantedExcerpt) -> range:
    """The frames of the job's film that an excerpt shows.

    Without a place it lies in the middle of one segment, as near to the film's middle as can be, so
    that no more than this segment must be made for it.

    Raises:
        InvalidRequestError: the place lies behind the film's end.
    """
    film = _Film(plan)
    if wanted.place is not None:
        return film.from_frame(film.first_at(wanted.place), wanted)
    middle = plan.video.num_frames / 2
    inside = [
        frames
        for segment in plan.segments
        for frames in [film.centred(segment.start, segment.stop, wanted)]
        if segment.start <= frames.start and frames.stop <= segment.stop
    ]
    return min(
        inside or [film.centred(0, plan.video.num_frames, wanted)],
        key=lambda frames: abs((frames.start + frames.stop) / 2 - middle),
    )


class _Film:
    """The times of a job's frames."""

    def __init__(self, plan: Plan) -> None:
        self._pts, self._last = plan.video.pts, plan.video.last_duration
        self._base = Fraction(*plan.video.time_base)

    def first_at(self, place: Place) -> int:
        """The first frame that begins at a place or later; within the last frame, that one."""
        first, end = place.frame, self._pts[-1] + self._last
        if first is None:
            first = bisect.bisect_left(self._pts, place.seconds / self._base)
            if place.seconds / self._base < end:
                first = min(first, len(self._pts) - 1)
        if first >= len(self._pts):
            ends = float(end * self._base)
            raise InvalidRequestError(
                f"the preview would begin behind the end: the job has {len(self._pts)} frames and "
                f"ends at {ends:.3f} s; choose an earlier place"
            )
        return first

    def from_frame(self, first: int, wanted: WantedExcerpt) -> range:
        """An excerpt that begins with a frame; it ends with the film at the latest."""
        if wanted.frames is not None:
            stop = first + wanted.frames
        else:
            assert wanted.seconds is not None
            stop = bisect.bisect_left(self._pts, self._pts[first] + wanted.seconds / self._base)
        return range(first, min(max(stop, first + 1), len(self._pts)))

    def centred(self, start: int, stop: int, wanted: WantedExcerpt) -> range:
        """An excerpt around the middle of frames `start` to `stop - 1`."""
        if wanted.frames is not None:
            first = (start + stop - wanted.frames) // 2
        else:
            assert wanted.seconds is not None
            end = self._pts[stop] if stop < len(self._pts) else self._pts[-1] + self._last
            time = (self._pts[start] + end - wanted.seconds / self._base) / 2
            first = bisect.bisect_left(self._pts, time)
        return self.from_frame(min(max(first, 0), stop - 1), wanted)
