"""Looks whether a video whose pixel format has alpha lets anything show through.

Many do not: ProRes 4444 and PNG are often written with alpha that is opaque everywhere. Short
videos are looked at whole. Of longer ones the beginning and places all over are looked at, because
to decode them whole would take as long as to restore some of them.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from av.video.frame import VideoFrame

from seedvr2_core.files.reading import OnBytes
from seedvr2_core.video.alpha.facts import AlphaFacts
from seedvr2_core.video.alpha.planes import alpha_of
from seedvr2_core.video.info import VideoInfo
from seedvr2_core.video.reader import read_pictures

_WHOLE_FRAMES = 300
"""Up to so many frames all are looked at."""
_FIRST_FRAMES = 16
_PLACES = 48
"""Of a longer video, evenly spread."""
_BYTE = np.dtype(np.uint8)


def find_alpha(path: Path, info: VideoInfo, on_bytes: OnBytes) -> AlphaFacts:
    """What a video's alpha is like.

    Args:
        path: the video.
        info: what else is known of it; its pixel format has alpha, and each picture of the file is
            a frame.
        on_bytes: called before every read.

    Raises:
        InvalidVideoError: its pictures cannot be decoded.
    """
    looked_at = 0
    for picture in _looked_at(path, info, on_bytes):
        looked_at += 1
        if is_transparent(picture):
            return AlphaFacts(transparent=True, looked_at=looked_at)
    return AlphaFacts(looked_at=looked_at)


def is_transparent(picture: VideoFrame) -> bool:
    """Whether a picture shows what is behind it, anywhere."""
    # What libav rounds is still opaque: of 16 bits only the upper 8 count.
    alpha = alpha_of(picture, _BYTE)
    return alpha is not None and bool(alpha.size) and int(alpha.min()) < np.iinfo(_BYTE).max


def _looked_at(path: Path, info: VideoInfo, on_bytes: OnBytes) -> Iterator[VideoFrame]:
    """The pictures that are looked at, one after another."""
    count = info.num_frames
    # Where a place can be reached only by decoding up to it, one way through sees all.
    if count <= _WHOLE_FRAMES or not info.seekable or info.pix_fmt == "pal8":
        for _, picture in read_pictures(path, info, 0, count, on_bytes):
            yield picture
        return
    for _, picture in read_pictures(path, info, 0, _FIRST_FRAMES, on_bytes):
        yield picture
    for place in range(1, _PLACES + 1):
        index = place * (count - 1) // _PLACES
        for _, picture in read_pictures(path, info, index, index + 1, on_bytes):
            yield picture
