"""How long an engine that gives its frames by slices waits for the stage behind it.

Run `python benchmarks/bursts.py`. A stand-in for the engine computes for a while, then hands over a
slice of 32 frames at once; a stand-in for the encoder takes frame after frame and just keeps up.
The queue between them is the pipeline's own, with the bytes that a plan for 1080p gives it; the
reference is one that holds 8 frames. What the engine waits is a loss, as the GPU then has no work.
"""

import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from seedvr2_core.child.channel import Channel
from seedvr2_core.frames import Frame
from seedvr2_core.planning.queues import bytes_waiting

SLICE, SLICES = 32, 12
SLICE_SECONDS = 0.4
"""Of the engine; a slice at 1080p is predicted to take ten times as long."""
ENCODER_LOAD = 0.9
"""Share of its time that the encoder is at work."""
FRAME = (1080, 1920, 3)


def main() -> int:
    """Measure, print."""
    frame = Frame(np.zeros(FRAME, np.uint8), 0, 0)
    share = waiting_share(frame, bytes_waiting(SLICE, frame.rgb.nbytes))
    reference = waiting_share(frame, 8 * frame.rgb.nbytes)
    print(f"engine waits {share:7.2%} of its time with the queue of the pipeline")
    print(f"             {reference:7.2%} with a queue of 8 frames")
    return 0


def waiting_share(frame: Frame, limit: int) -> float:
    """Share of the engine's time that it waits for room in a queue of `limit` bytes."""
    channel: Channel[Frame] = Channel(limit, size_of=lambda item: item.rgb.nbytes)
    frame_seconds = ENCODER_LOAD * SLICE_SECONDS / SLICE

    def encode() -> None:
        for _ in range(SLICE * SLICES):
            channel.get()
            time.sleep(frame_seconds)

    encoder = threading.Thread(target=encode)
    encoder.start()
    began = time.monotonic()
    for _ in range(SLICES):
        time.sleep(SLICE_SECONDS)
        for _ in range(SLICE):
            channel.put(frame)
    spent = time.monotonic() - began
    encoder.join()
    return channel.blocked_seconds / spent


if __name__ == "__main__":
    sys.exit(main())
