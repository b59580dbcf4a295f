"""One sampling step, as the distilled model wants it, and the noise it starts from.

The path from picture to noise is a straight line, x_t = (1 - t/T) x_0 + (t/T) x_T with T = 1000;
the model predicts v = x_T - x_0. The one step starts at t = 1000, so x_0 = noise - v. There is no
guidance. The model is a Callable here, so that any network and any test can stand in for it.

Shape legend: Z latents, h w latent grid, C channels (16 latent, 17 condition).
"""

from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

TIMESTEP = 1000.0
"""Where the one step starts: the model was distilled for this timestep alone."""
_T = 1000.0

Velocity = Callable[[Tensor], Tensor]
"""(Z, h, w, 33) -> (Z, h, w, 16), with text and timestep already bound (a `FoldedDiT`)."""


def latent_noise(
    seed: int,
    first_frames: Sequence[int],
    latent_hw: tuple[int, int],
    *,
    channels: int = 16,
    out: Tensor | None = None,
) -> Tensor:
    """Standard normal noise for each latent, from a stream of its own.

    So a latent has the same noise in every window and every process, after a resume too.

    Args:
        seed: 0 <= seed < 2**64.
        first_frames: for each latent, the file index of its first frame in the source.
        latent_hw: h and w.
        channels: of the latent.
        out: where to write, of the result's shape; None: new memory.

    Returns:
        (Z, h, w, channels) float32 on the CPU.
    """
    if out is None:
        out = torch.empty((len(first_frames), *latent_hw, channels))
    for noise_hwC, frame in zip(out.numpy(), first_frames, strict=True):
        key = np.array([seed, frame], dtype=np.uint64)
        generator = np.random.Generator(np.random.Philox(key=key))
        generator.standard_normal(out=noise_hwC, dtype=np.float32)
    return out


class NoiseAhead:
    """Makes the noise of the next window in a thread, while the device works on this one."""

    def __init__(self, *, pin_memory: bool) -> None:
        """No thread runs yet.

        Args:
            pin_memory: into page-locked memory, from which a copy to a GPU does not wait.
        """
        self._pin_memory = pin_memory
        self._pool: ThreadPoolExecutor | None = None
        self._next: tuple[Hashable, Future[Tensor]] | None = None

    def prepare(
        self, seed: int, first_frames: Sequence[int], latent_hw: tuple[int, int], channels: int
    ) -> None:
        """Begin to make what `take` will be asked for next."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="noise")
        wanted = (seed, tuple(first_frames), latent_hw, channels)
        self._next = wanted, self._pool.submit(self._make, *wanted)

    def take(
        self, seed: int, first_frames: Sequence[int], latent_hw: tuple[int, int], channels: int
    ) -> Tensor:
        """As `latent_noise`; waits if it was prepared and is not ready, else makes it here."""
        wanted = (seed, tuple(first_frames), latent_hw, channels)
        prepared, self._next = self._next, None
        if prepared is not None and prepared[0] == wanted:
            return prepared[1].result()
        return self._make(*wanted)

    def close(self) -> None:
        """End the thread."""
        self._next = None
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def _make(
        self, seed: int, first_frames: Sequence[int], latent_hw: tuple[int, int], channels: int
    ) -> Tensor:
        noise_ZhwC = torch.empty(
            (len(first_frames), *latent_hw, channels), pin_memory=self._pin_memory
        )
        return latent_noise(seed, first_frames, latent_hw, channels=channels, out=noise_ZhwC)


def condition(latents_ZhwC: Tensor) -> Tensor:
    """What the model restores from: the encoded latents and a channel of ones, (Z, h, w, 17)."""
    return torch.cat([latents_ZhwC, torch.ones_like(latents_ZhwC[..., :1])], dim=-1)


def predict_x0(x_ZhwC: Tensor, velocity_ZhwC: Tensor, *, timestep: float = TIMESTEP) -> Tensor:
    """The clean latent at the end of the line, float32: x_t - (t/T) v."""
    return x_ZhwC.float() - (timestep / _T) * velocity_ZhwC.float()


def one_step(velocity: Velocity, noise_ZhwC: Tensor, condition_ZhwC: Tensor) -> Tensor:
    """From noise to clean latents in one step, (Z, h, w, 16) float32."""
    vid_ZhwC = torch.cat([noise_ZhwC, condition_ZhwC], dim=-1)
    return predict_x0(noise_ZhwC, velocity(vid_ZhwC))


def restore_latents(velocity: Velocity, latents_ZhwC: Tensor, noise_ZhwC: Tensor) -> Tensor:
    """Restore the latents of one window.

    Args:
        velocity: the model; a plain `DiT` is bound to its text first.
        latents_ZhwC: encoded source, scaled; float32 (Z, h, w, 16).
        noise_ZhwC: from `latent_noise`, same shape and device.

    Returns:
        Restored latents (Z, h, w, 16) float32.
    """
    return one_step(velocity, noise_ZhwC.float(), condition(latents_ZhwC.float()))
