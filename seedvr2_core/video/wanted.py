"""Which frames of a video a job makes: of its pictures or its fields, and of which part of it.

Arithmetic on times only; `reader.py` makes the frames. Nothing here imports av.
"""

import bisect
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from seedvr2_core.errors import InvalidRequestError
from seedvr2_core.video.alpha.wish import treated
from seedvr2_core.video.info import Reading, VideoInfo

AUTO, OFF, BOB, FILM = "auto", "off", "bob", "film"
BWDIF = "bwdif"
CYCLE, KEPT = 5, 4
"""Of so many pictures of film at 30 a second, so many are different ones."""
_TIME = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d+)?)")
_FRAME = re.compile(r"frame:(\d+)")
_SIXTY = 60
_SURE_PICTURES = 10
"""Moving pictures without a comb that speak against interlacing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedFrames:
    """What a request wants of a video's frames; the defaults take all of them."""

    deinterlace: str = AUTO
    """"auto" (a frame of each picture, where the video is interlaced), "off", "bob" (a frame of
    each field) or "film" (3:2 pulldown is undone)."""
    start: str = ""
    """A place, as `place_of` reads it; "": the video's beginning."""
    end: str = ""
    """The first place that is left out; "": the video's end."""
    alpha: str = AUTO
    """What becomes of alpha, as `alpha.wish.parse_alpha` takes it."""


ALL_FRAMES = WantedFrames()


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A point in a video: a time, or one of its pictures."""

    seconds: Fraction = Fraction(0)
    frame: int | None = None


def place_of(text: str) -> Place:
    """What a person has written: seconds ("90", "1.5"), h:m:s ("1:02:03.5"), or "frame:1500".

    Raises:
        InvalidRequestError: it is none of these.
    """
    text = text.strip()
    if found := _FRAME.fullmatch(text):
        return Place(frame=int(found[1]))
    found = _TIME.fullmatch(text)
    parts = [Fraction(part or 0) for part in found.groups()] if found else []
    given = found.groups() if found else ()
    too_large = any(
        part >= _SIXTY and larger is not None
        for part, larger in zip(parts[1:], given, strict=False)
    )
    if not found or too_large:
        raise InvalidRequestError(
            f"{text[:40]!r} is no place in a video; write seconds (90 or 1.5), h:m:s (1:02:03.5) "
            "or a frame (frame:1500)"
        )
    hours, minutes, seconds = parts
    return Place(seconds=(hours * _SIXTY + minutes) * _SIXTY + seconds)


def wanted_frames(video: VideoInfo, wanted: WantedFrames) -> VideoInfo:
    """The video with the frames that are wanted of it: their times, and how they are read.

    Args:
        video: from the probe, each picture a frame.
        wanted: by the request.

    Raises:
        InvalidRequestError: the part has no frames, the video is not what `deinterlace` needs, or
            it has alpha and that is refused.
    """
    begin, end = _place_in(video, wanted.start), _place_in(video, wanted.end)
    made = treated(_made_of_fields(video, wanted.deinterlace), wanted.alpha)
    return made if begin is None and end is None else _excerpt(made, wanted, begin, end)


def _made_of_fields(video: VideoInfo, deinterlace: str) -> VideoInfo:
    """The video with the frames that are made of its pictures' fields."""
    fields = video.fields
    if deinterlace == FILM:
        return _film(video)
    # Where little moves, nobody can tell, and who asks for bob knows.
    if deinterlace == BOB and (fields.interlaced or fields.moving < _SURE_PICTURES):
        return _bob(video)
    if not fields.interlaced:
        told = _not_interlaced(video, deinterlace)
        return _with(video, told) if told else video
    if deinterlace == OFF:
        return _with(video, "the video is interlaced; it is restored as it is (deinterlace off)")
    return _bwdif(video)


def _not_interlaced(video: VideoInfo, deinterlace: str) -> str:
    """What to say of a video that is not deinterlaced; "" where there is nothing to say."""
    if video.fields.marked:
        return (
            "the video is marked as interlaced, but both fields of its pictures were taken at "
            "once; nothing is deinterlaced"
        )
    if deinterlace == BOB:
        return "no sign of interlacing was found; deinterlace bob changes nothing"
    return ""


def _with(video: VideoInfo, note: str, **changes: object) -> VideoInfo:
    """The video with a sentence for the user, and changed."""
    return replace(video, warnings=(*video.warnings, note), **changes)  # type: ignore[arg-type]


def _order(video: VideoInfo) -> str:
    if video.fields.top_first is None:
        return "its fields in the order that each picture says"
    return "top field first" if video.fields.top_first else "bottom field first"


def _bwdif(video: VideoInfo) -> VideoInfo:
    told = f"the video is interlaced, {_order(video)}; each picture becomes one frame (bwdif)"
    if video.fields.mixed:
        told = (
            f"parts of the video are interlaced, {_order(video)}; their pictures become one frame "
            "each (bwdif), those of the other parts stay as they are"
        )
    elif video.fields.film:
        told += "; it looks like film (3:2 pulldown), which deinterlace film restores"
    reading = Reading(
        method=BWDIF,
        top_first=video.fields.top_first,
        pts=video.pts,
        began=video.pts[0],
        mixed=video.fields.mixed,
    )
    return _with(video, told, reading=reading)


def _bob(video: VideoInfo) -> VideoInfo:
    """Each field at its own time: the second one in the middle of its picture's time."""
    fine = _finer(video, 2)
    ends = [*fine.pts[1:], fine.pts[-1] + fine.last_duration]
    times = [time for a, b in zip(fine.pts, ends, strict=True) for time in (a, (a + b) // 2)]
    rate = Fraction(*video.nominal_rate) * 2
    return _with(
        fine,
        f"the video is interlaced, {_order(video)}; each field becomes one frame (bwdif)",
        pts=tuple(times),
        last_duration=ends[-1] - times[-1],
        nominal_rate=rate.as_integer_ratio(),
        reading=Reading(
            method=BOB, top_first=video.fields.top_first, pts=fine.pts, began=fine.pts[0]
        ),
    )


def _film(video: VideoInfo) -> VideoInfo:
    """Four frames, evenly spread, of every five pictures; what is left at the end stays as it is.

    Raises:
        InvalidRequestError: the video's fields have no 3:2 cadence.
    """
    if not video.fields.film:
        raise InvalidRequestError(
            "deinterlace film undoes 3:2 pulldown, and no such cadence was found at the start, in "
            "the middle and at the end of the video; choose auto, bob or off"
        )
    fine = _finer(video, KEPT)
    ends = [*fine.pts, fine.pts[-1] + fine.last_duration]
    times: list[int] = []
    for first in range(0, video.num_frames - CYCLE + 1, CYCLE):
        start, stop = ends[first], ends[first + CYCLE]
        times += [start + (stop - start) * index // KEPT for index in range(KEPT)]
    times += fine.pts[video.num_frames - video.num_frames % CYCLE :]
    rate = Fraction(*video.nominal_rate) * KEPT / CYCLE
    return _with(
        fine,
        "the video is film with 3:2 pulldown; its own pictures are put together again, "
        f"{float(rate):.5g} a second",
        pts=tuple(times),
        last_duration=ends[-1] - times[-1],
        nominal_rate=rate.as_integer_ratio(),
        reading=Reading(
            method=FILM, top_first=video.fields.top_first, pts=fine.pts, began=fine.pts[0]
        ),
    )


def _finer(video: VideoInfo, factor: int) -> VideoInfo:
    """The same times on a clock that counts so much faster."""
    base = Fraction(*video.time_base) / factor
    return replace(
        video,
        time_base=base.as_integer_ratio(),
        pts=tuple(time * factor for time in video.pts),
        last_duration=video.last_duration * factor,
    )


def _place_in(video: VideoInfo, text: str) -> Fraction | None:
    """Seconds of a place, as the video's times count; None: it was not given."""
    if not text:
        return None
    place = place_of(text)
    base = Fraction(*video.time_base)
    if place.frame is None:
        return place.seconds
    if place.frame >= video.num_frames:
        return (video.pts[-1] + video.last_duration) * base
    return video.pts[place.frame] * base


def _excerpt(
    video: VideoInfo, wanted: WantedFrames, begin: Fraction | None, end: Fraction | None
) -> VideoInfo:
    """The frames that begin at `begin` or later and before `end`; the first one's time becomes 0.

    Raises:
        InvalidRequestError: there are none.
    """
    base = Fraction(*video.time_base)
    first = 0 if begin is None else bisect.bisect_left(video.pts, begin / base)
    stop = video.num_frames if end is None else bisect.bisect_left(video.pts, end / base)
    if first >= stop:
        length = float((video.pts[-1] + video.last_duration) * base)
        raise InvalidRequestError(
            f"no frame begins between start {wanted.start or '0'} and end "
            f"{wanted.end or f'{length:g}'}; the video has {video.num_frames} frames and ends at "
            f"{length:.3f} s"
        )
    if (first, stop) == (0, video.num_frames):
        return video
    cut = excerpt(video, first, stop)
    return _with(
        cut,
        f"frames {first} to {stop - 1} of {video.num_frames} are made, "
        f"{float(video.pts[first] * base):.3f} s to {float(_end_of(video, stop) * base):.3f} s",
    )


def excerpt(video: VideoInfo, first: int, stop: int) -> VideoInfo:
    """Frames `first` to `stop - 1` of a video, which may be a part of a film itself.

    The first one's time becomes 0.
    """
    zero, base, reading = video.pts[first], Fraction(*video.time_base), video.reading
    ends = stop < video.num_frames
    began = reading.began if reading.is_excerpt else video.pts[0]
    film = reading.film if reading.is_excerpt else video.pts
    return replace(
        video,
        pts=_moved(video.pts[first:stop], zero),
        last_duration=video.pts[stop] - video.pts[stop - 1] if ends else video.last_duration,
        zero_offset=(Fraction(*video.zero_offset) + zero * base).as_integer_ratio(),
        reading=replace(
            reading,
            pts=_moved(reading.pts, zero),
            first=reading.first + first,
            began=began - zero,
            ends=ends or reading.ends,
            film=_moved(film, zero),
        ),
    )


def _end_of(video: VideoInfo, stop: int) -> int:
    """When the frame before `stop` ends, in ticks."""
    return video.pts[stop] if stop < video.num_frames else video.pts[-1] + video.last_duration


def _moved(times: Sequence[int], zero: int) -> tuple[int, ...]:
    return tuple(time - zero for time in times)


def rises(times: Sequence[int]) -> bool:
    """Whether each time comes after the one before."""
    return all(a < b for a, b in itertools.pairwise(times))
