"""Video that is interlaced in parts: whole pictures stay as they are, the others become bwdif's.

Broadcasts and discs mix film, studio and tape. bwdif would soften what is whole, and without it the
rest would keep its comb. What a picture is, is measured on it and on those beside it, so that a
shot is not changed from picture to picture, and wherever reading begins a frame is the same.
"""

from collections import deque
from collections.abc import Iterator, Sequence

from av.video.frame import VideoFrame

from seedvr2_core.video.fields.film import WHOLE, fields_of
from seedvr2_core.video.fields.graph import Pictures, bwdif_steps, filtered
from seedvr2_core.video.info import Reading

BESIDE = 6
"""Pictures before and after one that speak for it. One of them that is combed is enough for bwdif:
beside a cut a picture is rather made a little softer than left with a comb."""

_Made = tuple[int, VideoFrame, VideoFrame, str]
"""(index, the picture itself, bwdif's, what its fields are)."""


def mixed_frames(
    pictures: Pictures, reading: Reading, start: int, stop: int
) -> Iterator[tuple[int, VideoFrame]]:
    """(index, frame) of the frames [start, stop)."""
    end = min(len(reading.pts), stop + BESIDE)
    near: deque[_Made] = deque()
    waiting = start
    for made in _measured(pictures, reading, max(0, start - BESIDE), end):
        near.append(made)
        while waiting < stop and (made[0] >= waiting + BESIDE or made[0] == end - 1):
            while near[0][0] < waiting - BESIDE:
                near.popleft()
            yield waiting, _chosen(near, waiting)
            waiting += 1


def _chosen(near: Sequence[_Made], index: int) -> VideoFrame:
    """The picture itself where it and those beside it are whole, else bwdif's."""
    beside = [made for made in near if abs(made[0] - index) <= BESIDE]
    kinds = {kind for *_, kind in beside if kind}
    _, own, smooth, _ = next(made for made in beside if made[0] == index)
    return own if kinds == {WHOLE} else smooth


def _measured(pictures: Pictures, reading: Reading, start: int, stop: int) -> Iterator[_Made]:
    """The pictures [start, stop) of the file."""
    first = max(0, start - 1)
    seen: dict[int, VideoFrame] = {}

    def noted() -> Iterator[tuple[int, VideoFrame]]:
        for index, picture in pictures(first, min(len(reading.pts), stop + 1)):
            seen[index] = picture
            yield index, picture

    for index, smooth in filtered(noted(), 1, bwdif_steps(reading, each_field=False)):
        if start <= index < stop:
            beside = [seen.get(index + step) for step in (-1, 1)]
            yield index, seen[index], smooth, fields_of(seen[index], beside)
        seen.pop(index - 1, None)
