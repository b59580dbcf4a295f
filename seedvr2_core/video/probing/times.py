"""Works out when each presented frame is shown.

The packets' times are believed where the first decoded pictures have the same ones. Otherwise the
whole file is decoded: known times are kept, and frames without a time of their own (a transport
stream needs one in 0.7 s only) are put between them, as long after each other as the codec says.
"""

import bisect
import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from av.video.stream import VideoStream

from seedvr2_core.errors import InvalidVideoError
from seedvr2_core.files.reading import OnBytes
from seedvr2_core.video._container import (
    UNSEEN,
    decode_pictures,
    open_source,
    thread_kind,
    video_of,
)
from seedvr2_core.video.probing.scan import Scan

_CHEAP_PIXELS = 2**28
"""Pixels of a whole clip that are decoded in about a second."""
_FINEST = 1000
"""Most parts into which a tick is divided for frames that share one."""
_PAUSE = Fraction(3, 2)
"""Frames without times are spread evenly over a gap that is up to this many times as long as they
should last; in a longer one the last of them stays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameTimes:
    """When all presented frames are shown."""

    times: list[int]
    """Strictly rising, not yet counted from the container's zero."""
    finer: int = 1
    """Their ticks are this many times as short as the stream's."""
    seekable: bool
    warnings: tuple[str, ...] = ()


def frame_times(
    path: Path,
    looked_at: Sequence[int | None],
    scan: Scan,
    step: Fraction,
    on_bytes: OnBytes,
    *,
    pixels: int,
) -> FrameTimes:
    """Times of the frames: from the packets if these can be believed, otherwise by decoding.

    Args:
        path: the source.
        looked_at: times of the first pictures that the decoder gives.
        scan: of the packets.
        step: ticks from frame to frame at the rate that the codec names.
        on_bytes: called while the file is read and decoded.
        pixels: of a picture. A short clip is decoded in any case, so that packets that show nothing
            are known before the job begins.

    Raises:
        InvalidVideoError: no frame can be decoded.
    """
    times = scan.times
    if scan.of_pictures:
        return FrameTimes(times=times, seekable=True)
    doubtful = scan.corrupt or scan.guessed or scan.untimed or scan.silent
    if doubtful or any(a == b for a, b in itertools.pairwise(times)):
        return _decoded_times(path, scan, step, on_bytes)
    # Packets are believed if the first decoded pictures have the same times. Frames at the start
    # that depend on a key frame outside the file are never decoded; they are left out.
    lost = 0 if looked_at[0] is None else bisect.bisect_left(times, looked_at[0])
    if list(looked_at) != times[lost : lost + len(looked_at)]:
        return _decoded_times(path, scan, step, on_bytes)
    if len(times) * pixels <= _CHEAP_PIXELS:
        decoded, _ = _decode(path, scan, on_bytes, told=False)
        if decoded != times[lost:]:
            return _decoded_times(path, scan, step, on_bytes, careful=True)
    note = f"{lost} frames at the start have no key frame before them and cannot be shown"
    return FrameTimes(times=times[lost:], seekable=True, warnings=(note,) if lost else ())


def _decode(
    path: Path, scan: Scan, on_bytes: OnBytes, *, careful: bool = False, told: bool = True
) -> tuple[list[int | None], list[int]]:
    """Times and durations of all pictures that the decoder gives, in their order.

    Args:
        path: the source.
        scan: of it.
        on_bytes: called while the file is read, and at every picture if `told`.
        careful: without frame threads, which lose pictures after a broken packet at the end (see
            reader.py).
        told: whether pictures count as signs of life; a short clip's reads are enough.
    """
    times: list[int | None] = []
    durations: list[int] = []
    with open_source(path, on_bytes=on_bytes) as container:
        stream = video_of(container, path, scan.stream)
        stream.thread_type = "SLICE" if careful else thread_kind(stream)
        stream.codec_context.options |= UNSEEN
        for picture in decode_pictures(container, stream, timeline=scan.timeline):
            times.append(picture.pts)
            durations.append(picture.duration or 0)
            if told:
                on_bytes(len(times), 0)
    return times, durations


def _decoded_times(
    path: Path, scan: Scan, step: Fraction, on_bytes: OnBytes, *, careful: bool = False
) -> FrameTimes:
    """Times from decoding the whole file, where a packet is not always one timed frame."""
    decoded, durations = _decode(path, scan, on_bytes, careful=careful or bool(scan.corrupt))
    if not decoded:
        raise InvalidVideoError(f"{path.name}: none of the video's frames can be decoded")
    if scan.guessed:
        decoded = _in_decode_order(scan, len(decoded)) or decoded
    elif len(scan.times) == len(decoded) and not all(map(_rises, decoded, decoded[1:])):
        decoded = [*scan.times]
    if all(map(_rises, decoded, decoded[1:])):
        known = [time for time in decoded if time is not None]
        lost = scan.num_packets - len(known)
        note = _silent_note(lost) if scan.silent or careful else ""
        return FrameTimes(times=known, seekable=not scan.guessed, warnings=(note,) if note else ())
    times, finer = on_clock(fill(decoded, durations, step))
    note = "the file's frame times are incomplete or repeated; they were mended in frame order"
    return FrameTimes(times=times, finer=finer, seekable=False, warnings=(note,))


def _rises(before: int | None, after: int | None) -> bool:
    """Whether both times are known and the later frame has the later one."""
    return before is not None and after is not None and before < after


def _silent_note(num_packets: int) -> str:
    """What is told about packets that show nothing; "" if there are none."""
    if num_packets <= 0:
        return ""
    if num_packets == 1:
        return (
            "a packet of the video shows nothing or cannot be decoded; the picture before it stays"
        )
    return (
        f"{num_packets} packets of the video show nothing or cannot be decoded; the picture before "
        "them stays"
    )


def _in_decode_order(scan: Scan, count: int) -> list[int | None]:
    """Times of `count` pictures where the file has but one time a packet, in no said order.

    The pictures in the order of presentation get these times in rising order. Empty if there are
    fewer of them than pictures.
    """
    times = sorted(scan.order)
    lost = min(scan.before_key, max(0, len(times) - count))
    return [*times[lost : lost + count]] if len(times) - lost >= count else []


def fill(times: Sequence[int | None], durations: Sequence[int], step: Fraction) -> list[Fraction]:
    """Strictly rising times of all frames; those that are known and rise are kept.

    Args:
        times: of the frames in the order of presentation, None where there is none.
        durations: how long each is shown, in ticks; 0: not known.
        step: how long a frame is shown that does not say so; > 0.
    """
    lengths = [Fraction(duration) if duration > 0 else step for duration in durations]
    known: list[tuple[int, int]] = []
    for index, time in enumerate(times):
        if time is not None and (not known or time > known[-1][1]):
            known.append((index, time))
    if not known:
        known = [(0, 0)]
    first, start = known[0]
    before = list(itertools.accumulate(reversed(lengths[:first])))
    filled = [start - length for length in reversed(before)]
    for (index, time), (following, limit) in itertools.pairwise(known):
        gap = Fraction(limit - time)
        whole = sum(lengths[index:following])
        scale = gap / whole if gap <= whole * _PAUSE else Fraction(1)
        filled += _laid(Fraction(time), [length * scale for length in lengths[index:following]])
    index, time = known[-1]
    return filled + _laid(Fraction(time), lengths[index:])


def _laid(start: Fraction, lengths: Sequence[Fraction]) -> list[Fraction]:
    """Where frames of these lengths begin, the first one at `start`."""
    return list(itertools.accumulate(lengths[:-1], initial=start))


def on_clock(exact: Sequence[Fraction]) -> tuple[list[int], int]:
    """Rising times as whole ticks, and how many times as short these are as those given.

    Ticks are divided only as far as it takes to tell all frames apart.
    """
    least = min((b - a for a, b in itertools.pairwise(exact)), default=Fraction(1))
    finer = min(_FINEST, max(1, math.ceil(1 / least)))
    ticks: list[int] = []
    for time in exact:
        ticks.append(max(math.floor(time * finer), ticks[-1] + 1 if ticks else -(2**63)))
    return ticks, finer


def named_rate(stream: VideoStream) -> Fraction:
    """Frames per second as the codec or the container names them; 25 where neither does."""
    context = stream.codec_context
    named = (context.framerate, stream.average_rate, stream.guessed_rate)
    return next((rate for rate in named if rate), Fraction(25))


def nominal_rate(stream: VideoStream, times: Sequence[int], time_base: Fraction) -> Fraction:
    """The header's frame rate if it is within a factor of 1.5 of the times' rate, else theirs."""
    steps = [b - a for a, b in itertools.pairwise(times) if b > a]
    named = [rate for rate in (stream.guessed_rate, stream.average_rate) if rate]
    if not steps:
        return named[0] if named else Fraction(25)
    measured = 1 / (Fraction(statistics.median(steps)) * time_base)
    for rate in named:
        if Fraction(2, 3) <= rate / measured <= Fraction(3, 2):
            return rate
    return measured.limit_denominator(1001) or Fraction(1, 1001)


def last_duration(scan: Scan, frames: FrameTimes, rate: Fraction, time_base: Fraction) -> int:
    """How many ticks the last frame is shown: as its packet says, else as the others are."""
    if scan.last_duration > 0 and not scan.untimed:
        return scan.last_duration * frames.finer
    steps = [b - a for a, b in itertools.pairwise(frames.times)]
    usual = statistics.median(steps) if steps else 1 / (rate * time_base)
    return max(1, round(usual))
