"""Frames that are made of the fields of pictures, by index: deinterlaced, or film put together.

A frame depends on its picture and that one's neighbours alone. So wherever reading begins, the
pictures before are read too, and the frames are the same bit by bit.
"""

import itertools
from collections.abc import Iterator

from av.video.frame import VideoFrame

from seedvr2_core.video.fields.graph import Pictures, bwdif_steps, filtered
from seedvr2_core.video.info import Reading
from seedvr2_core.video.wanted import BOB, BWDIF, FILM

_FIELDS = 2


def frames_of_fields(
    pictures: Pictures, reading: Reading, start: int, stop: int
) -> Iterator[tuple[int, VideoFrame]]:
    """(index, frame) of the frames [start, stop) of the whole film, as `reading` makes them."""
    if reading.method == FILM:
        from seedvr2_core.video.fields.film import film_frames  # loads numpy

        yield from film_frames(pictures, reading, start, stop)
        return
    if reading.mixed:
        from seedvr2_core.video.fields.mixed import mixed_frames  # loads numpy

        yield from mixed_frames(pictures, reading, start, stop)
        return
    per = {BWDIF: 1, BOB: _FIELDS}[reading.method]
    wanted = range(start // per, -(-stop // per))
    near = pictures(max(0, wanted.start - 1), min(len(reading.pts), wanted.stop + 1))
    made = filtered(near, per, bwdif_steps(reading, each_field=per > 1))
    for index, fields in itertools.groupby(made, key=lambda item: item[0]):
        for place, (_, frame) in enumerate(fields, index * per):
            if start <= place < stop:
                yield place, frame
        if index + 1 >= wanted.stop:
            return
