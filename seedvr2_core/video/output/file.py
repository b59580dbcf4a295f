"""The output file: where it is written, and, in mp4, room for its index at the front.

Players that fetch a file from a web server want the index before the media. libav can write the
media first and then move them all (`faststart`), which reads and writes the whole file once more,
or leave room for the index, which has to be known before. Small files are moved, so that no byte of
them is wasted; large ones get the room, of which a part stays unused.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path

import av
import av.error
from av.container import OutputContainer

from seedvr2_core.errors import SegmentError
from seedvr2_core.files.reading import FileReader, OnBytes
from seedvr2_core.files.space import is_full
from seedvr2_core.files.writing import FileWriter
from seedvr2_core.video.info import VideoInfo
from seedvr2_core.video.output.formats import ContainerSpec

_BUFFER_BYTES = 2**18
_LARGEST_TIMESCALE = 2**31 - 1
_MOVED_BYTES = 2**28
"""Files whose segments have fewer bytes are moved: seconds even on a slow disk, with beats."""
_HEADER_BYTES = 2**20
"""Headers of all tracks, tags, chapters."""
_FRAME_BYTES = 44
"""The index of one packet of video at most: its size (4), duration (8), offset (8), whether it is a
key frame (4), and its chunk (12 + 8)."""
_PACKET_BYTES = 32
"""Of another stream: without the offset and the key frame."""
_PACKETS_PER_SECOND = 100
"""Most packets a second of a track that becomes AAC: 96 kHz in packets of 1024 samples."""


class IndexRoomError(Exception):
    """The index does not fit into the room that was kept for it."""


def index_room(info: VideoInfo, container: ContainerSpec, num_bytes: int) -> int:
    """Bytes to keep for the index at the front; 0 if the media are to be moved instead.

    Args:
        info: of the source, whose other streams are carried over.
        container: that is written. Only mp4 and QuickTime have such an index.
        num_bytes: of all segments.
    """
    if num_bytes < _MOVED_BYTES or not container.has_index:
        return 0
    converted = round(info.duration_seconds * _PACKETS_PER_SECOND)
    packets = sum(
        max(stream.num_packets, converted)
        for stream in info.streams
        if stream.kind in ("audio", "subtitle")
    )
    return _HEADER_BYTES + _FRAME_BYTES * info.num_frames + _PACKET_BYTES * packets


def muxer_options(
    container: ContainerSpec, time_base: tuple[int, int], reserved: int
) -> dict[str, str]:
    """What a muxer is told.

    Args:
        container: that is written.
        time_base: of the video.
        reserved: bytes that are kept for the index.
    """
    if not container.has_index:
        return {}
    # Offsets at the start of a track are written in the movie's time scale. The usual 1/1000 s
    # would round them, so the movie gets the video's own scale.
    scale = Fraction(*time_base).denominator
    scale *= math.ceil(10_000 / scale)
    options = {"moov_size": str(reserved)} if reserved else {"movflags": "+faststart"}
    if scale <= _LARGEST_TIMESCALE:
        options |= {"movie_timescale": str(scale), "video_track_timescale": str(scale)}
    return options


@contextlib.contextmanager
def open_output(
    path: Path, *, muxer: str, options: Mapping[str, str], on_bytes: OnBytes
) -> Iterator[OutputContainer]:
    """Open a file for writing, for the length of a `with` block; an old file is replaced.

    Args:
        path: where it is written; the block must end it with `finish_output`.
        muxer: FFmpeg's name of what writes it.
        options: of that muxer.
        on_bytes: called before every write, and every read while media are moved.

    Raises:
        SegmentError: the machine failed to write it.
        OSError: the disk is full.
    """
    try:
        with (
            FileWriter(path, on_bytes=on_bytes) as file,
            av.open(
                file,
                mode="w",
                format=muxer,
                container_options=dict(options),
                buffer_size=_BUFFER_BYTES,
                io_open=lambda url, flags, given: FileReader(path, on_bytes=on_bytes),
            ) as container,
        ):
            yield container
    except av.error.FFmpegError:
        raise
    except OSError as error:
        if is_full(error):
            raise
        raise SegmentError(f"{path.name} cannot be written: {error.strerror}") from error


def finish_output(container: OutputContainer, *, reserved: int) -> None:
    """Write the index.

    Raises:
        IndexRoomError: it does not fit into the `reserved` bytes.
    """
    try:
        container.close()
    except av.error.ArgumentError as error:
        if not reserved:
            raise
        raise IndexRoomError(f"an index of more than {reserved} bytes") from error
