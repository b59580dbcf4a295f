"""Film with 3:2 pulldown: its pictures are put together from the fields they were spread over.

Of a picture's two fields, one may belong to the film's picture before or after. So each picture is
put together in three ways (its own fields; its top with the bottom of the one before, or of the one
after), and the way with the least comb is taken. Where all are combed (a cut between fields, titles
that were added as video), bwdif makes the frame. Of every five, the one that repeats the frame
before it is left out.

libavfilter's fieldmatch does this for 8 bits alone, so it is done here for any depth. Nothing is
carried from frame to frame.

Shape legend: H lines, W pixels; levels are those of 8 bits, 0 to 255.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np
from av.video.frame import VideoFrame

from seedvr2_core.video.fields.graph import (
    Pictures,
    bwdif_steps,
    filtered,
    shape_of_picture,
    take_pixel_shape,
)
from seedvr2_core.video.info import Reading
from seedvr2_core.video.picture.color import bit_depth
from seedvr2_core.video.wanted import CYCLE, KEPT

WHOLE = "one"
"""Of `Matched.fields`: both fields were taken at once."""
_COMB_LEVELS = 9
"""Least step from a line to both of its neighbours that counts as a comb, as fieldmatch has it."""
_LESS, _MUCH_LESS = 0.9, 0.5
"""Shares of the comb of a picture's own fields: with which another way is taken, and with which
they surely belong to two moments. Measured on film: 0.05 to 0.2; on interlaced video: 0.6 to 1."""
_TEXTURE, _NOISE_LEVELS = 5, 0.1
"""What a whole picture may have of comb: so many times what bwdif leaves, and so much a pixel.
Measured: whole pictures have 1 to 3.5 times as much, interlaced ones 7 and more."""
_BLOCK = 32
"""Pictures are compared by blocks of this side: something small that moves counts."""
_WIDE = 960
"""Of wider pictures, every other column is looked at."""
_COMBED_SHARES = (0.15, 0.7)
"""Of film's pictures, two of five have fields of two moments; still pictures have none."""
_UNMATCHED_SHARE = 0.2
_REPEATED_SHARE = 0.5
"""Largest share of the other pictures' difference that the repeated one of five may have."""
_BESIDE = 2
_LEAST_MOTION = 0.005
"""Levels a pixel of comb that come and go; with less, nothing moves."""
_FITS = 0.7
"""Share of another way's comb below which a way of putting fields together is surely better."""
_LEAST_PICTURES = 3 * CYCLE


@dataclass(frozen=True, slots=True)
class Matched:
    """A picture of the film, put together; some repeat the one before."""

    index: int
    """Of the picture of the file that it stands for."""
    picture: VideoFrame
    was_combed: bool
    """Whether that picture's own fields belong to two moments."""
    combed: bool
    """Whether all ways of putting fields together are combed."""
    fields: str
    """"one" where its own fields were taken at once, "top" or "bottom" where they were not and that
    one is the earlier; "" where nothing moves enough to tell."""
    difference: float
    """From the one before, in levels of the block that differs most; infinite for the first."""


def film_frames(
    pictures: Pictures, reading: Reading, start: int, stop: int
) -> Iterator[tuple[int, VideoFrame]]:
    """(index, frame) of the frames [start, stop) of the film; each cycle is for itself."""
    total = len(reading.pts)
    begin = min(start // KEPT, total // CYCLE) * CYCLE
    frames = matched(pictures, reading, begin, total)
    while cycle := list(itertools.islice(frames, CYCLE)):
        place = cycle[0].index // CYCLE * KEPT
        kept = _without_repetition(cycle) if len(cycle) == CYCLE else cycle
        for index, frame in enumerate(kept, place):
            if start <= index < stop:
                yield index, frame.picture
        if place + len(kept) >= stop:
            return


def _without_repetition(cycle: Sequence[Matched]) -> list[Matched]:
    """The cycle without the picture that differs least from the one before it."""
    dropped = min(range(CYCLE), key=lambda place: cycle[place].difference)
    return [frame for place, frame in enumerate(cycle) if place != dropped]


def is_film(frames: Sequence[Matched]) -> bool | None:
    """Whether pictures that follow each other have the 3:2 cadence; None: it does not show."""
    if len(frames) < _LEAST_PICTURES:
        return None
    differences = np.array([frame.difference for frame in frames[1:]])
    if differences.max() < 1:
        return None
    combed = sum(frame.was_combed for frame in frames) / len(frames)
    unmatched = sum(frame.combed for frame in frames) / len(frames)
    by_place = [differences[place::CYCLE].mean() for place in range(CYCLE)]
    repeated, *others = sorted(by_place)
    least, most = _COMBED_SHARES
    if repeated > _REPEATED_SHARE * others[0] or unmatched > _UNMATCHED_SHARE or combed > most:
        return False
    return True if combed >= least else None  # soft pictures that hardly move show no comb


def matched(pictures: Pictures, reading: Reading, start: int, stop: int) -> Iterator[Matched]:
    """The pictures [start, stop) of the file, put together."""
    first = max(0, start - 1)  # the first difference is from the picture before
    seen: dict[int, VideoFrame] = {}

    def noted() -> Iterator[tuple[int, VideoFrame]]:
        for index, picture in pictures(max(0, first - 1), stop):
            seen[index] = picture
            yield index, picture

    before: np.ndarray | None = None
    for index, smooth in filtered(noted(), 1, bwdif_steps(reading, each_field=False)):
        if index >= first:
            near = [seen.get(index + step) for step in (-1, 1)]
            frame, was_combed, combed, fields = _put_together(seen[index], near, smooth)
            luma_HW = _luma(frame)
            difference = _difference(before, luma_HW)
            before = luma_HW
            if index >= start:
                yield Matched(index, frame, was_combed, combed, fields, difference)
        seen.pop(index - 1, None)


def fields_of(own: VideoFrame, near: Sequence[VideoFrame | None]) -> str:
    """What the fields of a picture are, as `Matched.fields` has it; "" if one beside it is missing.

    Args:
        own: the picture.
        near: the one before and the one after.
    """
    own_HW = _luma(own)
    combs_HW = [_comb(_crossed(own_HW, other)) for other in near if _fits(other, own)]
    return _fields_of(_comb(own_HW), combs_HW)


def _fits(other: VideoFrame | None, own: VideoFrame) -> TypeGuard[VideoFrame]:
    return other is not None and shape_of_picture(other) == shape_of_picture(own)


def _crossed(own_HW: np.ndarray, other: VideoFrame) -> np.ndarray:
    """Luma of a picture's top field with another one's bottom field."""
    woven_HW = own_HW.copy()
    woven_HW[1::2] = _luma(other)[1::2]
    return woven_HW


def _put_together(
    own: VideoFrame, near: Sequence[VideoFrame | None], smooth: VideoFrame
) -> tuple[VideoFrame, bool, bool, str]:
    """(frame, whether the picture's own fields are combed, whether every way is, `fields`)."""
    own_HW = _luma(own)
    own_comb_HW = _comb(own_HW)
    mine = least = _amount(own_comb_HW)
    best: VideoFrame | None = None
    combs_HW: list[np.ndarray] = []
    for other in near:
        if not _fits(other, own):
            continue
        combs_HW.append(_comb(_crossed(own_HW, other)))
        comb = _amount(combs_HW[-1])
        if comb < least and comb < _LESS * mine:
            least, best = comb, other
    fields = _fields_of(own_comb_HW, combs_HW)
    if least > _TEXTURE * _amount(_comb(_luma(smooth))) + _NOISE_LEVELS * own_HW.size:
        return smooth, True, True, fields
    if best is None:
        return own, False, False, fields
    return _woven(own, best), least < _MUCH_LESS * mine, False, fields


def _fields_of(own_comb_HW: np.ndarray, combs_HW: Sequence[np.ndarray]) -> str:
    """What the comb tells of a picture's own fields, and of its top field with those beside it.

    Of three fields in a row, the outer ones are further apart. So of interlaced video, the top
    field with the bottom field on one side has as little comb as the own fields, and with the one
    on the other side much more. Of whole pictures, the own fields have least. What all
    three have is texture and does not count.
    """
    if len(combs_HW) < _BESIDE:
        return ""
    before_HW, after_HW = combs_HW
    still = _amount(np.minimum(own_comb_HW, np.minimum(before_HW, after_HW)))
    own, before, after = (_amount(x) - still for x in (own_comb_HW, before_HW, after_HW))
    if max(before, after) < _LEAST_MOTION * own_comb_HW.size:
        return ""
    less, more = sorted((before, after))
    if own < _FITS * less:
        return WHOLE
    if more < max(own, less) / _FITS:
        return ""
    return "top" if before < after else "bottom"


def _woven(top: VideoFrame, bottom: VideoFrame) -> VideoFrame:
    """The odd lines of one picture in another."""
    made = VideoFrame(top.width, top.height, top.format.name)
    for plane, one, other in zip(made.planes, top.planes, bottom.planes, strict=True):
        lines, width = _lines(plane), min(plane.line_size, one.line_size, other.line_size)
        lines[::2, :width] = _lines(one)[::2, :width]
        lines[1::2, :width] = _lines(other)[1::2, :width]
    for name in ("pts", "time_base", "colorspace", "color_range", "color_primaries", "color_trc"):
        setattr(made, name, getattr(top, name))
    take_pixel_shape(made, top)
    return made


def _lines(plane: object) -> np.ndarray:
    """(H, bytes of a line) uint8, sharing the plane's memory."""
    content = np.frombuffer(plane, np.uint8)  # type: ignore[call-overload]
    return content.reshape(-1, plane.line_size)  # type: ignore[attr-defined]


def _luma(picture: VideoFrame) -> np.ndarray:
    """(H, W) int16: the first plane in levels of 8 bits; of wide pictures every other column."""
    plane, bits = picture.planes[0], bit_depth(picture.format.name)
    lines = _lines(plane)[: picture.height]
    levels = lines if bits <= 8 else lines.view(np.uint16) >> (bits - 8)
    step = 2 if picture.width > _WIDE else 1
    return levels[:, : picture.width : step].astype(np.int16)


def _comb(luma_HW: np.ndarray) -> np.ndarray:
    """(H - 2, W): by how much each line but two stands out from both of its neighbours."""
    up, down = luma_HW[1:-1] - luma_HW[:-2], luma_HW[1:-1] - luma_HW[2:]
    comb_HW = np.maximum(np.minimum(up, down), -np.maximum(up, down))
    comb_HW[comb_HW <= _COMB_LEVELS] = 0
    return comb_HW


def _amount(comb_HW: np.ndarray) -> int:
    return int(comb_HW.sum(dtype=np.int64))


def _difference(before_HW: np.ndarray | None, luma_HW: np.ndarray) -> float:
    """Mean difference in levels, of the block where it is largest."""
    if before_HW is None or before_HW.shape != luma_HW.shape:
        return math.inf
    blocks = _blocks(np.abs(luma_HW - before_HW), _BLOCK)
    return float(blocks.mean(axis=(1, 3)).max(initial=0))


def _blocks(values_HW: np.ndarray, side: int) -> np.ndarray:
    """(rows, side, columns, side) of the largest part that can be divided; smaller ones whole."""
    height, width = values_HW.shape
    tall, wide = min(side, height), min(side, width)
    cut = values_HW[: height // tall * tall, : width // wide * wide]
    return cut.reshape(height // tall, tall, width // wide, wide)
