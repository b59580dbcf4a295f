"""How many bytes of frames wait between the stages of a pass; arithmetic without torch."""

from seedvr2_core.frames import FRAMES_PER_LATENT
from seedvr2_core.planning.plan import MemoryPlan, Plan

FEWEST_FRAMES = 8
"""That wait before and behind an engine which takes and gives them one by one."""
SLICES = 2
"""That fit before and behind an engine which works by slices: one that is handed over, and one that
the stage behind it is still at."""
MOST_BYTES = 1 << 30
"""Of a queue; a slice at 4k has 0.8 GB."""
_COLORS = 3


def queue_bytes(plan: Plan) -> tuple[int, int]:
    """What the queues before and behind the engine may hold: source frames, restored frames."""
    item = 2 if plan.deep else 1
    source = _COLORS * item * plan.video.width * plan.video.height
    restored = _COLORS * item * plan.width * plan.height
    encoder, decoder = slice_frames(plan.memory)
    return bytes_waiting(encoder, source), bytes_waiting(decoder, restored)


def slice_frames(memory: MemoryPlan | None) -> tuple[int, int]:
    """Frames that the engine takes and gives at once."""
    if memory is None:
        return 1, 1
    return FRAMES_PER_LATENT * memory.encoder_slice, FRAMES_PER_LATENT * memory.decoder_slice


def bytes_waiting(at_once: int, frame_bytes: int) -> int:
    """Of frames in a queue beside an engine that takes or gives so many at once."""
    wanted = max(FEWEST_FRAMES, SLICES * at_once) * frame_bytes
    return max(min(wanted, MOST_BYTES), at_once * frame_bytes)
