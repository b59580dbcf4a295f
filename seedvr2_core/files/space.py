"""Room on the disk: what a job will take, and one sentence when there is none.

A job keeps its packets twice for a moment (segments and the joined file) and, for engines with
latents, the latents of shots that are divided. What a video takes is known only from what is
finished; before that it is guessed.
"""

import contextlib
import errno
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from seedvr2_core.errors import ResourceError
from seedvr2_core.frames import padded_size
from seedvr2_core.job.sidecar import leaves_latents
from seedvr2_core.planning.plan import Plan, Segment
from seedvr2_core.planning.windows import num_latents

FULL = (errno.ENOSPC, errno.EDQUOT)
GUESSED_BITS_PER_PIXEL = 0.15
"""Of a frame at CRF 18: assumed, until a segment is finished. Halves with every 6 of CRF."""
RESERVE_BYTES = 16 * 2**20
"""Left free for logs, sidecars and whoever else writes there."""
_LATENT_FACTOR, _LATENT_CHANNELS = 8, 16
_HALF, _FLOAT32 = 2, 4


def bytes_per_frame(plan: Plan, finished: Sequence[tuple[int, int]] = ()) -> float:
    """Packets of one output frame: as finished segments have it, else a guess.

    Args:
        plan: of the job.
        finished: (frames, bytes) of segments on disk.
    """
    frames = sum(count for count, _ in finished)
    if frames:
        return sum(size for _, size in finished) / frames
    bits = GUESSED_BITS_PER_PIXEL * 2 ** ((18 - plan.encoder.crf) / 6)
    return plan.width * plan.height * bits / 8


def latent_bytes(plan: Plan, segment: Segment) -> int:
    """What the segment's final latents and its tail take; 0 for whole shots and small engines."""
    if not leaves_latents(plan, segment):
        return 0
    height, width = (side // _LATENT_FACTOR for side in padded_size(plan.height, plan.width))
    values = height * width * _LATENT_CHANNELS
    owned = num_latents(segment.num_frames)
    return values * (owned * _HALF + plan.engine.overlap * _FLOAT32)


def bytes_needed(
    plan: Plan, pending: Sequence[Segment], finished: Sequence[tuple[int, int]] = ()
) -> int:
    """What the job will still write: pending segments, and the joined file.

    Args:
        plan: of the job.
        pending: segments that are not on disk.
        finished: (frames, bytes) of those that are.
    """
    rate = bytes_per_frame(plan, finished)
    frames = sum(segment.num_frames for segment in pending) + plan.video.num_frames
    return round(rate * frames) + sum(latent_bytes(plan, segment) for segment in pending)


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
