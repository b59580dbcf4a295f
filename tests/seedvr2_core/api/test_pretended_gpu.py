"""Frames in memory on a pretended GPU: those of the CPU, by every engine that a machine has."""

import numpy as np
import pytest
import torch

from seedvr2_core import ModelOptions, upscale_frames
from seedvr2_core.planning import sizes
from tests.kits.gpu.pretended import DEVICE, pretended

RNG = np.random.default_rng(5)
KINDS = (np.uint8, np.uint16, np.float32)
SMALL = [(model, kind) for model in ("lanczos", "span", "waifu2x") for kind in KINDS]
LARGE = [("tiny", np.uint16), ("tiny", np.float32), ("tiny-3b", np.uint8), ("tiny-3b", np.float32)]


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        *SMALL,
        ("tiny", np.uint8),
        *(pytest.param(*case, marks=pytest.mark.long) for case in LARGE),
    ],
)
def test_frames_are_those_of_the_cpu(
    monkeypatch: pytest.MonkeyPatch, model: str, kind: type[np.generic]
) -> None:
    monkeypatch.setattr(sizes, "BUDGETS_PX", {"720p": 64 * 36})
    white = 1.0 if kind is np.float32 else float(np.iinfo(kind).max)
    smooth = 0.2 + np.add.outer(np.arange(18), np.arange(32))[None, ..., None] / 100
    frames = (white * (smooth + 0.1 * RNG.random((5, 18, 32, 3)))).astype(kind)
    on_cpu = ModelOptions(model=model, device="cpu", batch_size=5)
    on_gpu = ModelOptions(model=model, device="auto", batch_size=5)
    wanted = upscale_frames(frames, resolution="720p", options=on_cpu)
    with pretended() as ledger:
        made = upscale_frames(frames, resolution="720p", options=on_gpu)
        given = torch.from_numpy(frames).to(DEVICE)
        there = upscale_frames(given, resolution="720p", options=on_gpu)
        assert there.device == DEVICE
        np.testing.assert_array_equal(there.cpu().numpy(), made)
    assert ledger.faults == []
    assert made.dtype == kind
    # Linears and GELU are one operation on a GPU alone, and 8 bits are resized by Pillow on a CPU.
    assert np.abs(made.astype(float) - wanted).max() <= 0.01 * white
