"""A file that keeps nothing: what is written to it was only tried."""

import io


class NullFile:
    """Takes what a muxer writes and forgets it; only the position is kept."""

    name = "trial.mp4"

    def __init__(self) -> None:
        self._position = 0
        self._end = 0

    def write(self, data: bytes) -> int:
        """Takes everything."""
        self._position += len(data)
        self._end = max(self._end, self._position)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As of any file."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._end}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """As of any file."""
        return self._position

    def seekable(self) -> bool:
        """The muxer goes back to write sizes."""
        return True

    def writable(self) -> bool:
        """Nothing else can be done with it."""
        return True
