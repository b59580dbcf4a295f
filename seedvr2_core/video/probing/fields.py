"""Finds out how the fields of a video's pictures lie: by what the file says, and by looking.

Pictures from the start, the middle and the end are looked at, first by libavfilter's idet, which is
cheap. Where it or the file speaks of interlacing, we measure how well fields fit together: idet
takes fine diagonal lines that move for a comb. Marks in the file count only where nothing moves,
because they are often wrong: tape that was captured as progressive, and progressive film that was
marked as interlaced.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction

import av.error
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from seedvr2_core.video._container import decode_pictures
from seedvr2_core.video.fields.facts import Fields
from seedvr2_core.video.fields.graph import filtered
from seedvr2_core.video.info import Reading, VideoInfo

_log = logging.getLogger(__name__)

_PLACES = (0.0, 0.5, 0.95)
"""Where pictures are looked at, as shares of the video's length."""
_PICTURES = 26
"""At each of these places."""
_LINES, _MOST_RATE = range(200, 1089), 31
"""No video of other heights, or of more pictures a second, was ever interlaced."""
_MEASURED_PICTURES = 14
"""Of these, where it is no film; large ones take long."""
_LEAST_MOVING, _LEAST_MOVING_SHARE = 5, 0.2
"""Pictures that move, in number and of those that were looked at, below which marks count."""
_COMBED_SHARE = 0.1
"""Of moving pictures, so many are combed at least in interlaced video that is marked as such."""
_UNMARKED_SHARE = 0.35
"""And where nothing says so. Film with 3:2 pulldown has 0.5, other interlaced video more."""
_WHOLE_SHARE, _PART_SHARE = 0.05, 0.6
"""Of a place's moving pictures, so many at the most are combed where a part of a video is whole,
and at least where it is interlaced."""
_FILM_RATES = (29, 31)
_ONE_ORDER = 3
"""So many times as often must one order be found as the other."""
_VERDICT = "lavfi.idet.multiple.current_frame"


def may_be_interlaced(info: VideoInfo) -> bool:
    """Whether a video's size and rate are such as interlaced video has."""
    return info.decoded_size[1] in _LINES and Fraction(*info.nominal_rate) <= _MOST_RATE


def find_fields(container: InputContainer, stream: VideoStream, info: VideoInfo) -> Fields:
    """Look at a video's fields.

    Args:
        container: before its first packet.
        stream: the video, of which `may_be_interlaced` says so.
        info: what is known of it.
    """
    places: list[Counter[str]] = []
    marked, film = False, list[bool]()
    try:
        for pictures in _looked_at(container, stream, info):
            is_marked = any(picture.interlaced_frame for picture in pictures)
            marked = marked or is_marked
            if not is_marked and not _idet_sees_fields(pictures):
                places.append(Counter(one=len(pictures)))
                continue
            kinds, is_film = _measured(pictures, rate=Fraction(*info.nominal_rate))
            places.append(kinds)
            film += [] if is_film is None else [is_film]
    except MemoryError:
        raise
    except av.error.FFmpegError as error:  # a kind of pixels that filters do not take
        _log.info("the fields of the video are not looked at: %s", error)
        return Fields()
    found = sum(places, Counter[str]())
    fields = replace(_judged(found, marked=marked), film=sum(film) * 2 > len(film))
    return _in_parts(fields, places, found)


def _idet_sees_fields(pictures: Sequence[VideoFrame]) -> bool:
    """Whether idet takes any picture for interlaced."""
    made = filtered(iter(enumerate(pictures)), 1, [("idet", None)])
    return any(picture.metadata[_VERDICT] in ("tff", "bff") for _, picture in made)


def _measured(
    pictures: Sequence[VideoFrame], *, rate: Fraction
) -> tuple[Counter[str], bool | None]:
    """How many pictures have fields of which kind (`Matched.fields`), and whether it is film."""
    from seedvr2_core.video.fields.film import is_film, matched  # loads numpy

    def near(start: int, stop: int) -> Iterator[tuple[int, VideoFrame]]:
        yield from list(enumerate(pictures))[start:stop]

    may_be_film = _FILM_RATES[0] <= rate <= _FILM_RATES[1]
    count = len(pictures) if may_be_film else min(len(pictures), _MEASURED_PICTURES)
    frames = list(matched(near, Reading(), 0, count))
    kinds = Counter(frame.fields for frame in frames)
    return kinds, is_film(frames) if may_be_film else None


def _judged(found: Counter[str], *, marked: bool) -> Fields:
    """What the counts of `Matched.fields` say."""
    orders = sorted((found["top"], found["bottom"]))
    combed = sum(orders)
    moving = combed + found["one"]
    enough = moving >= max(_LEAST_MOVING, _LEAST_MOVING_SHARE * found.total())
    if not enough or (combed and orders[1] < _ONE_ORDER * orders[0]):
        # No order: then most of what moves must be combed for the mark to be believed.
        interlaced = marked and not (enough and found["one"] > combed)
        return Fields(interlaced=interlaced, marked=marked, moving=moving, combed=combed)
    interlaced = combed >= (_COMBED_SHARE if marked else _UNMARKED_SHARE) * moving
    return Fields(
        interlaced=interlaced,
        top_first=found["top"] > found["bottom"] if interlaced else None,
        marked=marked,
        moving=moving,
        combed=combed,
    )


def _in_parts(fields: Fields, places: Sequence[Counter[str]], found: Counter[str]) -> Fields:
    """The same where all places are of one kind; else the video is interlaced, in parts."""
    shares = [
        (kinds["top"] + kinds["bottom"]) / moving
        for kinds in places
        if (moving := kinds["top"] + kinds["bottom"] + kinds["one"]) >= _LEAST_MOVING
    ]
    if fields.film or not shares or min(shares) > _WHOLE_SHARE or max(shares) < _PART_SHARE:
        return fields
    return replace(fields, interlaced=True, mixed=True, top_first=found["top"] > found["bottom"])


def _looked_at(
    container: InputContainer, stream: VideoStream, info: VideoInfo
) -> Iterator[list[VideoFrame]]:
    """Pictures that follow each other, from each place; from the start alone where nobody seeks."""
    short = info.num_frames <= len(_PLACES) * _PICTURES
    alone = short or not info.seekable or info.timeline.shifts or info.pix_fmt == "pal8"
    count = len(_PLACES) * _PICTURES if short else _PICTURES
    for share in _PLACES[:1] if alone else _PLACES:
        frame = round(share * (info.num_frames - 1))
        if frame and not _seek(container, stream, info, frame):
            continue
        pictures: list[VideoFrame] = []
        for picture in decode_pictures(container, stream, from_key=frame > 0):
            pictures.append(picture)
            if len(pictures) == count:
                break
        if pictures:
            yield pictures


def _seek(container: InputContainer, stream: VideoStream, info: VideoInfo, frame: int) -> bool:
    """Go to a key frame near a frame; whether that is possible."""
    seconds = info.pts[frame] * Fraction(*info.time_base) + Fraction(*info.zero_offset)
    assert stream.time_base is not None
    try:
        container.seek(round(seconds / stream.time_base), stream=stream)
    except av.error.FFmpegError:
        return False
    return True
