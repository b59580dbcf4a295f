"""Free space on the disk: a check before work begins, and one clear error when the disk is full.

How much a job will need is in `seedvr2_core/job/space.py`.
"""

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

from seedvr2_core.errors import ResourceError

_FULL = (errno.ENOSPC, errno.EDQUOT)
RESERVE_BYTES = 16 * 2**20
"""Left free for logs, sidecars and other programs that write there."""


def check_room(folder: Path, num_bytes: int, *, doing: str) -> None:
    """Refuse to begin what does not fit on the disk.

    Args:
        folder: where it will be written.
        num_bytes: how much will be written.
        doing: what needs the room, as the subject of the message: "the job".

    Raises:
        ResourceError: too little is free; the message has both numbers.
    """
    free = shutil.disk_usage(folder).free
    if free < num_bytes + RESERVE_BYTES:
        raise ResourceError(
            f"{doing} needs about {amount(num_bytes + RESERVE_BYTES)} of disk and {folder} has "
            f"{amount(free)} free; finished segments are kept: make room and run again"
        )


def is_full(error: BaseException) -> bool:
    """Whether an error says that the disk is full.

    Libraries such as safetensors pass the system's words on in errors of their own classes.
    """
    if isinstance(error, OSError):
        return error.errno in _FULL
    return "No space left on device" in str(error) or "os error 28" in str(error)


@contextlib.contextmanager
def full_disk_told(doing: str) -> Iterator[None]:
    """Turn the error of a full disk into one clear sentence; other errors pass unchanged.

    Args:
        doing: what is going on, for the message: "segment 3 is encoded".

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


def amount(num_bytes: int) -> str:
    """A number of bytes in words: "1.5 GB"."""
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.1f} MB"
