"""How the latents of neighbouring windows are joined where the windows overlap.

The transformer restores each window by itself, so both windows have an output of their own on the
latents that they share. What the older window made of them is carried on as the tail.

Shape legend: Z latents of a window, K latents that it shares with the window before, h w latent
grid, C 16 channels.
"""

import math
from typing import TYPE_CHECKING, Literal

from seedvr2_core.errors import PlanError

if TYPE_CHECKING:
    from torch import Tensor


StitchMode = Literal["crossfade", "later"]
"""On the shared latents: a mix of both windows' outputs, or that of the window before alone."""


def join_weights(overlap: int) -> tuple[float, ...]:
    """Share of the newer window on each shared latent: a raised cosine, never quite 0 or 1."""
    return tuple(0.5 - 0.5 * math.cos(math.pi * (j + 1) / (overlap + 1)) for j in range(overlap))


def join_windows(
    tail_KhwC: "Tensor | None",
    output_ZhwC: "Tensor",
    *,
    num_final: int,
    mode: StitchMode,
) -> "tuple[Tensor, Tensor]":
    """Join a window's output to the window before and split off what the next one needs.

    Args:
        tail_KhwC: float32, the previous window's own output on the first K latents of this one;
            None for a shot's first window.
        output_ZhwC: this window's output, any floating dtype.
        num_final: latents that become final now; the rest is shared with the next window.
        mode: crossfade: raised-cosine mix of tail and output; later: the tail is kept.

    Returns:
        Final latents (num_final, h, w, C), mixed in float32 and rounded once to float16, and the
        new tail: the rest of this window's own output, float32.

    Raises:
        PlanError: the tail reaches beyond what becomes final.
    """
    output_ZhwC = output_ZhwC.float()
    final_ZhwC = output_ZhwC[:num_final].clone()
    tail_len = 0 if tail_KhwC is None else len(tail_KhwC)
    if tail_len > num_final:
        raise PlanError(f"a tail of {tail_len} latents does not fit into {num_final} final ones")
    if tail_KhwC is not None and tail_len:
        if mode == "later":
            final_ZhwC[:tail_len] = tail_KhwC
        else:
            weights = output_ZhwC.new_tensor(join_weights(tail_len)).view(-1, 1, 1, 1)
            final_ZhwC[:tail_len] = tail_KhwC + weights * (output_ZhwC[:tail_len] - tail_KhwC)
    return final_ZhwC.half(), output_ZhwC[num_final:].clone()
