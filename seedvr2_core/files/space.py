"""Room on the disk: what a job will take, and one sentence when there is none.

A job keeps its packets twice for a moment (segments and the joined file) and, for engines with
latents, the latents of shots that are divided. What a video takes is known only from what is
finished; before that it is guessed.
"""

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

from seedvr2_core.errors import ResourceError

FULL = (errno.ENOSPC, errno.EDQUOT)
RESERVE_BYTES = 16 * 2**20
"""Left free for logs, sidecars and whoever else writes there."""


def check_room(folder: Path, need: int, *, doing: str) -> None:
    """Refuse to begin what does not fit.

    Raises:
        ResourceError: with both numbers.
    """
    free = shutil.disk_usage(folder).free
    if free < need + RESERVE_BYTES:
        raise ResourceError(
            f"{doing} needs about {_amount(need + RESERVE_BYTES)} of disk and {folder} has "
            f"{_amount(free)} free; finished segments are kept: make room and run again"
        )


def is_full(error: BaseException) -> bool:
    """Whether the system (or a library that only passes its words on) said: no space left."""
    if isinstance(error, OSError):
        return error.errno in FULL
    return "No space left on device" in str(error) or "os error 28" in str(error)


@contextlib.contextmanager
def full_disk_told(doing: str) -> Iterator[None]:
    """Turn a full disk into one sentence; other errors pass.

    Raises:
        ResourceError: the disk is full.
    """
    try:
        yield
    except ResourceError:
        raise
    except Exception as error:
        if not is_full(error):
            raise
        raise ResourceError(
            f"the disk is full while {doing}; finished segments are kept: make room and run again"
        ) from error


def _amount(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.1f} MB"
