"""One step along a straight line, and noise that belongs to a latent rather than to a window."""

import numpy as np
import pytest
import torch
from torch import Tensor

from seedvr2_core.engines.seedvr2.sampler import (
    TIMESTEP,
    condition,
    latent_noise,
    one_step,
    predict_x0,
    restore_latents,
)

SIZE = (6, 8)


def test_noise_is_the_documented_stream() -> None:
    noise = latent_noise(100, [17], SIZE)
    generator = np.random.Generator(np.random.Philox(key=[100, 17]))
    want = generator.standard_normal((*SIZE, 16), dtype=np.float32)
    assert noise.dtype == torch.float32
    assert np.array_equal(noise[0].numpy(), want)


def test_a_latent_has_the_same_noise_in_every_window() -> None:
    firsts = [0, 1, 5, 9, 13, 17]
    whole = latent_noise(3, firsts, SIZE)
    for start, stop in ((0, 3), (2, 6), (5, 6)):
        assert torch.equal(latent_noise(3, firsts[start:stop], SIZE), whole[start:stop])


@pytest.mark.parametrize("seed", [0, 2**63, 2**64 - 1])
def test_every_seed_and_frame_has_noise_of_its_own(seed: int) -> None:
    noise = latent_noise(seed, [0, 1], (32, 32))
    other = latent_noise(seed ^ 1, [0, 1], (32, 32))
    assert not torch.equal(noise[0], noise[1])
    assert not torch.equal(noise[0], other[0])
    assert abs(float(noise.mean())) < 0.05
    assert abs(float(noise.std()) - 1) < 0.05


def test_no_latents_no_noise() -> None:
    assert latent_noise(1, [], SIZE).shape == (0, *SIZE, 16)


def test_condition_appends_ones() -> None:
    latents = torch.randn(2, 3, 4, 16)
    cond = condition(latents)
    assert torch.equal(cond[..., :16], latents)
    assert torch.equal(cond[..., 16], torch.ones(2, 3, 4))


def test_the_step_ends_where_the_line_ends() -> None:
    clean, noise = torch.randn(2, 3, 4, 16), torch.randn(2, 3, 4, 16)
    torch.testing.assert_close(predict_x0(noise, noise - clean), clean)
    halfway = 0.5 * clean + 0.5 * noise
    torch.testing.assert_close(predict_x0(halfway, noise - clean, timestep=TIMESTEP / 2), clean)


def test_restore_feeds_noise_latent_and_mask_and_subtracts_in_float32() -> None:
    seen: list[Tensor] = []

    def velocity(vid: Tensor) -> Tensor:
        seen.append(vid)
        return torch.full((*vid.shape[:3], 16), 0.25, dtype=torch.bfloat16)

    latents, noise = torch.randn(2, 4, 6, 16).half(), torch.randn(2, 4, 6, 16)
    restored = restore_latents(velocity, latents, noise)
    assert torch.equal(restored, noise - 0.25)
    assert restored.dtype == torch.float32
    (vid,) = seen
    assert torch.equal(vid, torch.cat([noise, latents.float(), torch.ones(2, 4, 6, 1)], dim=-1))
    assert torch.equal(restored, one_step(velocity, noise, condition(latents.float())))
