"""Less strength: detail of the source in the session's pictures, and nothing else of its work."""

import math
from typing import get_args

import numpy as np
import pytest
import torch

from seedvr2_core.config import DIT_CONFIGS, VAE_TINY
from seedvr2_core.engines.seedvr2.color import ColorMethod
from seedvr2_core.engines.seedvr2.pictures import Pictures
from seedvr2_core.engines.seedvr2.transfer import Lanes
from seedvr2_core.frames import Frame, padded_size
from seedvr2_core.kernels.switches import takes_gpu_path
from seedvr2_core.planning.peaks import CONSTANTS, MemoryRequest, PhasePeaks, Residency
from seedvr2_core.planning.rungs.slices import SLICES
from tests.kits.gpu.live_bytes import LiveBytes
from tests.kits.restorer import (
    latents,
    make_frames,
    make_pieces,
    make_plan,
    open_tiny,
    pictures,
    run_shot,
    run_whole,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("either_path")]


@pytest.mark.long
@pytest.mark.parametrize("method", ["wavelet", "none"])
def test_less_strength_is_nearer_to_the_source_and_pieces_change_no_bit(method: str) -> None:
    """What is committed for the next piece is the same: detail is taken from the source last."""
    made, kept = [], []
    for strength in (1.0, 0.5, 0.0):
        plan = make_plan(61, window=8, color_correction=method, strength=strength)
        source = make_frames(plan)
        result = run_whole(plan, source)
        pieces = run_shot(open_tiny(plan), plan, source, make_pieces(plan))
        assert len(pieces) > 1
        assert np.array_equal(pictures(pieces), pictures([result]))
        assert torch.equal(latents(pieces), latents([result]))
        made.append(pictures([result]).astype(float))
        kept.append(latents([result]))
    default = make_plan(61, window=8, color_correction=method)
    assert np.array_equal(made[0], pictures([run_whole(default, make_frames(default))]))
    assert all(torch.equal(one, kept[0]) for one in kept)
    far, near = (np.abs(one - made[2]).mean() for one in made[:2])
    assert 0 < near < far


@pytest.mark.parametrize("method", get_args(ColorMethod))
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_the_memory_plan_counts_the_planes_that_it_holds(
    method: ColorMethod, strength: float
) -> None:
    """Of a slice that was drawn in half precision: on a GPU it is there all the time as well."""
    height, width, count = 96, 128, 4
    random = torch.Generator().manual_seed(1)
    content_TCHW = torch.rand((count, 3, height, width), generator=random).half() * 2 - 1
    sources = [
        Frame(rgb=np.full((48, 64, 3), 17 * index, np.uint8), pts=index, index=index)
        for index in range(count)
    ]
    device = torch.device("cpu")
    pictures = Pictures((height, width), method, Lanes(device), device, strength=strength)
    with torch.inference_mode(), LiveBytes(beside=[content_TCHW]) as seen:
        made = pictures.finished(content_TCHW, sources)
    plane = height * width * 4
    integers = sum(picture.nbytes for picture in made)
    held = (seen.peak - integers) / plane
    if method == "lab":
        copies = CONSTANTS.shot_copies + (strength < 1)
        assert held <= copies * 3 * count
        return
    by_kernel = takes_gpu_path(device)
    limit = CONSTANTS.picture_planes if by_kernel else CONSTANTS.plain_picture_planes
    limit += CONSTANTS.strength_planes if strength < 1 else 0
    print(f"{method}, strength {strength}: {held:.1f} planes, {limit} planned")
    assert held <= limit
    if by_kernel and method == "wavelet":
        assert held > limit - 2, "not much more is planned than it takes"


def test_a_plan_with_less_strength_leaves_room_for_it() -> None:
    def decode(strength: float, color: str) -> int:
        request = MemoryRequest(
            dit_config=DIT_CONFIGS["tiny-7b"],
            vae_config=VAE_TINY,
            width=640,
            height=512,
            num_latents_in_window=3,
            overlap=1,
            segment_latents=3,
            source_frame_bytes=100,
            device_bytes=None,
            device_kind="cpu",
            color_correction=color,
            strength=strength,
        )
        rung = SLICES[-1]
        return PhasePeaks.of(request).decode(rung, Residency(weights=False, caches=False))

    assert decode(0.5, "lab") - decode(1.0, "lab") == 12 * math.prod(padded_size(512, 640)) * 3 * 4
