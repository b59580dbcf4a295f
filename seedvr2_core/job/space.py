"""Predicts how much a job will write to the disk.

For a while a job holds its packets twice, in the segments and in the joined file. An engine with
latents also writes the latents of shots that are divided. How well a video compresses is known only
from segments that are finished; before that it is guessed.
"""

from collections.abc import Sequence

from seedvr2_core.config import VAE_CONFIGS, find_engine
from seedvr2_core.frames import padded_size
from seedvr2_core.job.sidecar import leaves_latents
from seedvr2_core.planning.outline import PlanOutline, SegmentOutline
from seedvr2_core.planning.windows import num_latents
from seedvr2_core.video.output.formats import CODECS, depth_of, holds_alpha

_GUESSED_CRF, _HALVING_CRF = 18, 6
"""The CRF that the codecs' guesses hold for, and by how much it rises where the bytes halve."""
_EIGHT_BITS = 8
_WITH_ALPHA = 1.5
"""Times the bits of a pixel without alpha: ProRes 4444 and 422 HQ, four samples and three."""
_MASTER_BITS = {False: 6.5, True: 31.0}
"""Bits of a master's pixel, of frames of 8 and of 16 bits. Measured on clips that three engines
have doubled (`benchmarks/media/masters.py`): 4.7 in the mean and 6.9 at the most, and with 16 bits
25 and 32. The guess is near the most: a disk that is full is worse than room that is left."""
_FLOAT16_BYTES, _FLOAT32_BYTES = 2, 4


def bytes_per_frame(plan: PlanOutline, finished: Sequence[tuple[int, int]] = ()) -> float:
    """Bytes of an output frame's packets: the mean of the finished segments, or a guess.

    Args:
        plan: of the job.
        finished: (frames, bytes) of each segment on disk.
    """
    frames = sum(num_frames for num_frames, _ in finished)
    if frames:
        return sum(num_bytes for _, num_bytes in finished) / frames
    codec = CODECS[plan.encoder.codec]
    bits = codec.bits_per_pixel
    if codec.deep_bits_per_pixel and depth_of(plan.encoder) > _EIGHT_BITS:
        bits = codec.deep_bits_per_pixel
    if holds_alpha(plan.encoder):
        bits *= _WITH_ALPHA
    if codec.by_quality:
        bits *= 2 ** ((_GUESSED_CRF - plan.encoder.crf) / _HALVING_CRF)
    return plan.width * plan.height * bits / 8


def master_bytes(plan: PlanOutline, num_frames: int) -> int:
    """Bytes of the masters of so many frames, a guess."""
    return round(plan.width * plan.height * _MASTER_BITS[plan.deep] / 8 * num_frames)


def latent_bytes(plan: PlanOutline, segment: SegmentOutline) -> int:
    """Bytes of the segment's final latents and tail; 0 for whole shots and small engines.

    The last segment of a shot has no tail, because no piece follows it.
    """
    if not leaves_latents(plan, segment) or segment.shot is None:
        return 0
    vae = VAE_CONFIGS[find_engine(plan.engine.name).vae]
    height, width = (side // vae.spatial_factor for side in padded_size(plan.height, plan.width))
    values = height * width * vae.latent_channels
    start, stop = segment.shot
    before = num_latents(segment.start - start) if segment.start > start else 0
    owned = num_latents(segment.stop - start) - before
    tail = plan.engine.overlap if segment.stop < stop else 0
    return values * (owned * _FLOAT16_BYTES + tail * _FLOAT32_BYTES)


def bytes_needed(
    plan: PlanOutline, pending: Sequence[SegmentOutline], finished: Sequence[tuple[int, int]] = ()
) -> int:
    """Bytes that the job will still write: its pending segments and the joined file.

    Args:
        plan: of the job.
        pending: segments that are not on disk.
        finished: (frames, bytes) of each segment that is.
    """
    rate = bytes_per_frame(plan, finished)
    frames = sum(segment.num_frames for segment in pending) + plan.num_frames
    return round(rate * frames) + sum(latent_bytes(plan, segment) for segment in pending)
