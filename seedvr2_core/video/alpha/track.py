"""The alpha of a job's frames on its way past the engine, which restores colours alone.

It is read from the source once more when frames are encoded. So nothing has to wait while an engine
holds frames back, and a segment's alpha is the same whoever makes it: an engine or a master, at
once or later, here or on another worker.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from seedvr2_core.errors import SegmentError
from seedvr2_core.files.reading import OnBytes, no_bytes
from seedvr2_core.frames import Frame
from seedvr2_core.video.info import VideoInfo
from seedvr2_core.video.reader import read_alphas

Resize = Callable[[np.ndarray], np.ndarray]
"""(H, W) of the source -> (H, W) of the output."""


class AlphaTrack:
    """Gives restored frames their alpha.

    Args:
        source: the video.
        info: of the plan.
        resize: to the output's size.
        deep: whether frames are uint16.
        on_bytes: called before every read of the source.
    """

    def __init__(
        self,
        source: Path,
        info: VideoInfo,
        resize: Resize,
        *,
        deep: bool,
        on_bytes: OnBytes = no_bytes,
    ) -> None:
        self._source, self._info, self._resize = source, info, resize
        self._deep, self._on_bytes = deep, on_bytes
        self._planes: Iterator[np.ndarray] = iter(())
        self._next: int | None = None

    def joined(self, frame: Frame) -> Frame:
        """A restored frame with its alpha; frames in order are read in one go.

        Raises:
            InvalidVideoError: the source cannot be decoded there.
            FileReadError: the machine failed to read it.
        """
        if frame.index != self._next:
            count = self._info.num_frames
            self._planes = read_alphas(
                *(self._source, self._info, frame.index, count),
                deep=self._deep,
                on_bytes=self._on_bytes,
            )
        plane = next(self._planes, None)
        if plane is None:
            raise SegmentError(f"the source gives no alpha for frame {frame.index}")
        self._next = frame.index + 1
        return replace(frame, alpha=self._resize(plane))
