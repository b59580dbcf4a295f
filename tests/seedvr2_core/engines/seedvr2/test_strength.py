"""Less strength: detail of the source in the session's pictures, and nothing else of its work."""

import numpy as np
import pytest
import torch

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
