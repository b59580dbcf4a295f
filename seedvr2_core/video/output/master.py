"""Masters on disk: restored R'G'B' frames without any loss, as FFV1 in Matroska.

A codec gets R'G'B' of 8 or 16 bits, so that is what a master keeps; any Y'CbCr would round. What is
read is what was written, bit for bit. The frames have no times of their own: they are counted, and
the plan knows the times.
"""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av.error
import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from seedvr2_core.errors import SegmentError
from seedvr2_core.files.reading import OnBytes, no_bytes
from seedvr2_core.video._segments import open_segment
from seedvr2_core.video.output.encoded import EncodedFile
from seedvr2_core.video.output.encoders import Encoding
from seedvr2_core.video.picture.levels import rgb_planes

_PIX_FMTS = {False: "bgr0", True: "gbrp16le"}
"""FFV1's R'G'B' of 8 and of 16 bits."""
_RATE = 25
"""Frames a second of its clock: milliseconds, in which Matroska counts, tell them apart."""
_THREADS = 8
_OPTIONS = {"level": "3", "slices": "16", "slicecrc": "1"}


class MasterWriter(EncodedFile):
    """Context manager that writes the frames of one segment.

    Args:
        path: as `EncodedFile` has it.
        width: of the frames.
        height: of the frames.
        deep: whether they are uint16.
    """

    def __init__(self, path: Path, width: int, height: int, *, deep: bool) -> None:
        super().__init__(path, "matroska")
        self._deep, self._width, self._height = deep, width, height
        self._num_frames = 0
        stream = self._container.add_stream("ffv1", rate=_RATE, options=_OPTIONS)
        assert isinstance(stream, VideoStream)
        context = stream.codec_context
        self._encoding = Encoding(stream, context)
        context.width, context.height = width, height
        context.pix_fmt = _PIX_FMTS[deep]
        context.time_base = Fraction(1, _RATE)
        context.gop_size = 1
        context.thread_count = _THREADS

    def write(self, rgb: np.ndarray) -> None:
        """Write the next frame.

        Args:
            rgb: (height, width, 3), uint8, or uint16 if the master is deep; any strides.

        Raises:
            SegmentError: size or type is another one, or the encoder failed.
        """
        wanted = (self._height, self._width, 3)
        if rgb.shape != wanted or rgb.dtype != (np.uint16 if self._deep else np.uint8):
            raise SegmentError(
                f"frame {self._num_frames} of a master is {rgb.dtype} {rgb.shape}, expected "
                f"{'uint16' if self._deep else 'uint8'} {wanted}"
            )
        picture = self._filled(rgb)
        picture.pts, picture.time_base = self._num_frames, Fraction(1, _RATE)
        self._num_frames += 1
        self._encode(picture)

    def _filled(self, rgb: np.ndarray) -> VideoFrame:
        """A picture with these samples."""
        if not self._deep:
            return VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24").reformat(
                format=_PIX_FMTS[False]
            )
        picture = VideoFrame(self._width, self._height, _PIX_FMTS[True])
        for channel, plane_HW in enumerate(rgb_planes(picture)):
            plane_HW[:] = rgb[:, :, channel]
        return picture


def read_master(path: Path, *, deep: bool, on_bytes: OnBytes = no_bytes) -> Iterator[np.ndarray]:
    """The frames of a master, in order: (H, W, 3), uint8, or uint16 if it is deep.

    `on_bytes` is called with the position and the file's length before every read.

    Raises:
        SegmentError: it cannot be read, a frame does not decode, or it has another depth.
    """
    try:
        with open_segment(path, demuxer="matroska", on_bytes=on_bytes) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for picture in container.decode(stream):
                if picture.format.name != _PIX_FMTS[deep]:
                    raise SegmentError(
                        f"{path.name} has pictures of {picture.format.name}, expected "
                        f"{_PIX_FMTS[deep]}"
                    )
                yield _samples(picture, deep=deep)
    except MemoryError:
        raise
    except (av.error.FFmpegError, IndexError) as error:
        raise SegmentError(f"{path.name}: not a readable master: {error}") from error


def count_master(path: Path, *, deep: bool, on_bytes: OnBytes = no_bytes) -> int:
    """Frames that decode from a master.

    Raises:
        SegmentError: as `read_master`.
    """
    return sum(1 for _ in read_master(path, deep=deep, on_bytes=on_bytes))


def _samples(picture: VideoFrame, *, deep: bool) -> np.ndarray:
    """The samples of a decoded picture, in memory of their own."""
    if not deep:
        return picture.to_ndarray(format="rgb24")
    rgb_CHW = np.empty((3, picture.height, picture.width), np.uint16)
    for plane_HW, out_HW in zip(rgb_planes(picture), rgb_CHW, strict=True):
        out_HW[:] = plane_HW
    return rgb_CHW.transpose(1, 2, 0)
