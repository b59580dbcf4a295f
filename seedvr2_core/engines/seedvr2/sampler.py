"""One sampling step, as the distilled model wants it, and the noise it starts from.

The path from noise to picture is a straight line, x_t = (1 - t/T) x_0 + (t/T) x_T with T = 1000;
the model predicts v = x_T - x_0. One step starts at t = 1000, so x_0 = noise - v. No guidance.
The model is seen as a Callable only.

Shape legend: T H W latent frames, rows, columns; C channels (16 latent, 17 condition).
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

TIMESTEP = 1000.0
"""The only timestep."""
_T = 1000.0

Velocity = Callable[[Tensor], Tensor]
"""(T, H, W, 33) -> (T, H, W, 16), with text and timestep already bound (a `FoldedDiT`)."""


def latent_noise(
    seed: int, first_frames: Sequence[int], latent_hw: tuple[int, int], *, channels: int = 16
) -> Tensor:
    """Standard normal noise of each latent frame from a stream of its own.

    A latent has the same noise in every window, preview, resume and process.

    Args:
        seed: 0 <= seed < 2**64.
        first_frames: for each latent frame, the index of its first frame among the presented
            frames of the source.
        latent_hw: H and W of the latent.
        channels: of the latent.

    Returns:
        (T, H, W, channels) float32 on the CPU.
    """
    shape = (*latent_hw, channels)
    noise_THWC = np.empty((len(first_frames), *shape), dtype=np.float32)
    for noise_HWC, frame in zip(noise_THWC, first_frames, strict=True):
        key = np.array([seed, frame], dtype=np.uint64)
        generator = np.random.Generator(np.random.Philox(key=key))
        generator.standard_normal(out=noise_HWC, dtype=np.float32)
    return torch.from_numpy(noise_THWC)


def condition(latents_THWC: Tensor) -> Tensor:
    """Encoded latents and a channel of ones, (T, H, W, 17)."""
    return torch.cat([latents_THWC, torch.ones_like(latents_THWC[..., :1])], dim=-1)


def predict_x0(x_THWC: Tensor, velocity_THWC: Tensor, *, timestep: float = TIMESTEP) -> Tensor:
    """The clean latent at the end of the line, float32: x_t - (t/T) v."""
    return x_THWC.float() - (timestep / _T) * velocity_THWC.float()


def one_step(velocity: Velocity, noise_THWC: Tensor, condition_THWC: Tensor) -> Tensor:
    """From noise to clean latents in one step, (T, H, W, 16) float32."""
    vid_THWC = torch.cat([noise_THWC, condition_THWC], dim=-1)
    return predict_x0(noise_THWC, velocity(vid_THWC))


def restore_latents(velocity: Velocity, latents_THWC: Tensor, noise_THWC: Tensor) -> Tensor:
    """Restore the latents of one window.

    Args:
        velocity: the model; a plain `DiT` is bound to its text first.
        latents_THWC: encoded source, scaled; float32 (T, H, W, 16).
        noise_THWC: from `latent_noise`, same shape and device.

    Returns:
        Restored latents (T, H, W, 16) float32.
    """
    return one_step(velocity, noise_THWC.float(), condition(latents_THWC.float()))
