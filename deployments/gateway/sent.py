"""Which requests have sent a video that is not accepted or refused yet.

Videos are named by their digest, so requests at the same time may send the same one. A refused
request removes its video unless another request has it as well.
"""

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class Publishable(Protocol):
    """A whole video that has no name yet. Both methods may raise OSError."""

    def sync(self) -> None:
        """Bring it to the disk."""
        ...

    def publish(self, target: Path) -> int:
        """Give it this name, replacing any file of it; returns its inode."""
        ...


@dataclass(slots=True)
class _Claims:
    """The requests that have named a video and are not judged yet."""

    kept: bool
    """Whether the video stays when all of them are refused."""
    num_open: int = 0
    """How many they are."""
    inode: int = 0
    """Of the file that the last of them put there."""


class SentVideos:
    """The videos that requests of this process have sent. One object serves all requests."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._claims: dict[Path, _Claims] = {}

    def publish(self, part: Publishable, target: Path) -> None:
        """Give a part its name; `keep` or `retract` must follow. May raise OSError."""
        part.sync()
        with self._lock:
            claims = self._claims.get(target) or _Claims(kept=target.exists())
            claims.inode = part.publish(target)
            claims.num_open += 1
            self._claims[target] = claims

    def keep(self, target: Path) -> None:
        """A request was accepted: its video stays."""
        with self._lock:
            self._claims[target].kept = True
            self._close(target)

    def retract(self, target: Path) -> None:
        """A request was refused: its video goes with the last request that has it."""
        with self._lock:
            self._close(target)

    def _close(self, target: Path) -> None:
        """One request less has the video."""
        claims = self._claims[target]
        claims.num_open -= 1
        if claims.num_open == 0:
            del self._claims[target]
            if not claims.kept and _inode(target) == claims.inode:  # else it is another process's
                target.unlink(missing_ok=True)


def _inode(path: Path) -> int | None:
    """The inode of a file; None if there is none."""
    try:
        return os.stat(path).st_ino
    except FileNotFoundError:
        return None
