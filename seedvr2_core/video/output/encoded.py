"""A file that an encoder writes: whole where its `with` block ends well, else not there."""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import av
import av.error
from av.container.core import Flags
from av.packet import Packet
from av.video.frame import VideoFrame

from seedvr2_core.errors import SegmentError
from seedvr2_core.video.output.encoders import Encoding

_TICKS_PER_SECOND = "1000000"
"""Of what an mp4 says about its length. By the usual 1000, frames that follow each other within
half a millisecond would last for nothing, and the first would be read at another time."""


class EncodedFile:
    """Context manager: leaving it normally finishes the file, by an exception removes it.

    Args:
        path: where to write, usually `*.part`; renamed by the caller once checked.
        muxer: FFmpeg's name of what writes it.
    """

    _encoding: Encoding
    """Set by the class that knows the codec."""

    def __init__(self, path: Path, muxer: str) -> None:
        self._path = path
        options = {"movie_timescale": _TICKS_PER_SECOND} if muxer in ("mp4", "mov") else {}
        self._container = av.open(f"file:{path}", mode="w", format=muxer, container_options=options)
        self._container.flags |= Flags.bitexact.value

    def _packets(self, picture: VideoFrame | None) -> Iterator[Packet]:
        """What comes out of the encoder for a picture; each is written before the next is asked."""
        return self._encoding.packets(picture)

    def _encode(self, picture: VideoFrame | None) -> None:
        """Encode and write what comes out; None drains the encoder.

        Raises:
            SegmentError: the encoder failed.
        """
        try:
            for packet in self._packets(picture):
                self._container.mux(packet)
        except MemoryError:  # libav's is an FFmpegError as well
            raise
        except av.error.FFmpegError as error:
            raise SegmentError(f"{self._path.name}: the encoder failed: {error}") from error

    def _finish(self) -> None:
        """Write what is left and close the file."""
        self._encode(None)
        self._container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._discard()
            return
        try:
            self._finish()
        except BaseException:
            self._discard()
            raise
        del self._encoding, self._container  # frees the encoder, which closing does not

    def _discard(self) -> None:
        """Close what is open and remove the file."""
        try:
            self._container.close()
        except av.error.FFmpegError:
            # The end of a file that is thrown away: nothing to save.
            pass
        finally:
            self._path.unlink(missing_ok=True)
