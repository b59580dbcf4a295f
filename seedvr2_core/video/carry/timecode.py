"""The time code of a source: what a camera's or a tape's clock showed at the first frame.

It counts frames, so it is counted anew for a part of a film, and where a job makes more or fewer
frames a second than the source has. Some rates of film count drop-frame (SMPTE ST 12-1): the first
two numbers of each minute, or four at 60 a second, are left out but for every tenth minute.
"""

import re
from fractions import Fraction

from av.container import InputContainer, OutputContainer
from av.video.stream import VideoStream

from seedvr2_core.video.info import VideoInfo
from seedvr2_core.video.output.formats import ContainerSpec
from seedvr2_core.video.wanted import BOB, CYCLE, FILM, KEPT

_TIMECODE = "timecode"
_FORM = re.compile(r"(\d\d):(\d\d):(\d\d)([:;.])(\d\d)")
_RATES = frozenset({24, 25, 30, 48, 50, 60, 100, 120, 150})
"""Frames a second that a track of time code can count in libav."""
_DROPPED_RATES = (30, 60)
_DAY_HOURS = 24
_MOST = 16
"""Characters of what is shown of a time code that is none."""
_MINUTE, _TEN = 60, 10


def timecode_of(source: InputContainer, info: VideoInfo) -> str:
    """What the clock shows at the first frame of the output; "" if there is no time code.

    Args:
        source: open.
        info: of the source, or of the part of it that is made.
    """
    text = given_timecode(source, info)
    found = _FORM.fullmatch(text)
    rate = Fraction(*info.nominal_rate)
    count = round(rate)
    if not found or count not in _RATES:
        return ""
    before = rate / _factor(info)
    drops = found[4] != ":"
    if round(before) not in _RATES or int(found[5]) >= round(before):
        return ""
    frames = _number(found, round(before), drops=drops)
    frames = round(frames * _factor(info)) + info.reading.first
    return _shown(frames, count, drops=drops and count in _DROPPED_RATES)


def write_timecode(
    output: OutputContainer,
    video: VideoStream,
    text: str,
    info: VideoInfo,
    kind: ContainerSpec,
    *,
    chapters: bool,
) -> tuple[str, ...]:
    """Let an mp4 or QuickTime file get a track of time code, and others a tag.

    libav refers from the video to one such track only, and chapters have one as well: without the
    reference players would show their names as text.

    Args:
        output: before anything is written.
        video: of the output.
        text: from `timecode_of`; "" for none.
        info: of the source.
        kind: of the output.
        chapters: whether the output has some.

    Returns:
        Notes on what cannot be kept.
    """
    if not text:
        return ()
    if not kind.has_index:
        output.metadata[_TIMECODE.upper()] = text
        return ()
    if chapters:
        return (f"the time code {text} is not carried over: it does not go with chapters",)
    video.codec_context.framerate = Fraction(*info.nominal_rate)
    video.metadata[_TIMECODE] = text
    return ()


def given_timecode(source: InputContainer, info: VideoInfo) -> str:
    """The time code that a source says it begins with; "" for none."""
    video = source.streams[info.stream_index]
    tags = {key.lower(): value for key, value in (source.metadata | video.metadata).items()}
    return tags.get(_TIMECODE, "")[:_MOST]


def _factor(info: VideoInfo) -> Fraction:
    """Frames of the job for each picture of the source."""
    return {BOB: Fraction(2), FILM: Fraction(KEPT, CYCLE)}.get(info.reading.method, Fraction(1))


def _number(found: re.Match[str], count: int, *, drops: bool) -> int:
    """The number of a frame since midnight."""
    hours, minutes, seconds, frames = (int(found[group]) for group in (1, 2, 3, 5))
    minutes += hours * _MINUTE
    number = (minutes * _MINUTE + seconds) * count + frames
    return number - _dropped(count) * (minutes - minutes // _TEN) if drops else number


def _shown(number: int, count: int, *, drops: bool) -> str:
    """The time code of a frame, by its number since midnight."""
    if drops:
        tens, rest = divmod(number, count * _MINUTE * _TEN - 9 * _dropped(count))
        # The first of ten minutes is whole.
        minutes = max(0, rest - _dropped(count)) // (count * _MINUTE - _dropped(count))
        number += _dropped(count) * (9 * tens + minutes)
    seconds, frames = divmod(number, count)
    minutes, seconds = divmod(seconds, _MINUTE)
    hours, minutes = divmod(minutes, _MINUTE)
    sign = ";" if drops else ":"
    return f"{hours % _DAY_HOURS:02}:{minutes:02}:{seconds:02}{sign}{frames:02}"


def _dropped(count: int) -> int:
    """Numbers that a minute leaves out."""
    return count // 15
