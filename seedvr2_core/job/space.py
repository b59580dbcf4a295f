"""What a job will take on the disk."""

from collections.abc import Sequence

from seedvr2_core.frames import padded_size
from seedvr2_core.job.sidecar import leaves_latents
from seedvr2_core.planning import Plan, Segment
from seedvr2_core.planning.windows import num_latents

GUESSED_BITS_PER_PIXEL = 0.15
"""Of a frame at CRF 18: assumed, until a segment is finished. Halves with every 6 of CRF."""
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
