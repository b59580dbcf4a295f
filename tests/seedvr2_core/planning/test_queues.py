"""What waits between the stages: whole slices, and never more than is allowed."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from seedvr2_core.child import pipeline
from seedvr2_core.child.channel import Channel
from seedvr2_core.frames import Frame
from seedvr2_core.planning.plan import Plan
from seedvr2_core.planning.queues import FEWEST_FRAMES, MOST_BYTES, queue_bytes, slice_frames
from tests.kits.restorer import make_plan

SIZES = {"720p": (720, 1280), "1080p": (1080, 1920), "2k": (1440, 2560), "4k": (2160, 3840)}


def plan_of(size: tuple[int, int], slices: int) -> Plan:
    plan = make_plan(9, memory={"encoder_slice": slices, "decoder_slice": slices})
    return dataclasses.replace(plan, height=size[0], width=size[1])


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("slices", [1, 8])
def test_a_slice_fits_beside_the_one_that_is_being_encoded(
    size: tuple[int, int], slices: int
) -> None:
    plan = plan_of(size, slices)
    source, restored = queue_bytes(plan)
    frame_bytes = 3 * size[0] * size[1]
    burst = slice_frames(plan.memory)[1]
    assert burst == 4 * slices
    assert restored >= burst * frame_bytes
    assert restored >= min(2 * burst * frame_bytes, MOST_BYTES)
    assert restored <= MOST_BYTES
    assert source >= 2 * burst * 3 * plan.video.height * plan.video.width


def test_engines_that_work_frame_by_frame_keep_eight() -> None:
    plan = dataclasses.replace(plan_of(SIZES["4k"], 8), memory=None)
    assert queue_bytes(plan)[1] == FEWEST_FRAMES * 3 * 2160 * 3840


def test_an_engine_hands_over_a_slice_without_waiting_for_the_encoder() -> None:
    """32 frames at once, of which nobody takes any: no put waits. One slice more does."""
    plan = plan_of((36, 64), 8)
    rgb = np.zeros((36, 64, 3), np.uint8)
    channel: Channel[Frame] = Channel(queue_bytes(plan)[1], size_of=pipeline._frame_bytes)
    with ThreadPoolExecutor() as pool:
        pool.submit(lambda: [channel.put(Frame(rgb, i, i)) for i in range(64)]).result(timeout=30)
        late = pool.submit(channel.put, Frame(rgb, 64, 64))
        assert channel.get().index == 0
        late.result(timeout=30)
    assert channel._held == 64 * rgb.nbytes
