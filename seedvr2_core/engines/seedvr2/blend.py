"""The join of neighbouring windows."""

import math
from typing import TYPE_CHECKING, Literal

from seedvr2_core.errors import PlanError

if TYPE_CHECKING:
    from torch import Tensor


StitchMode = Literal["crossfade", "later"]


def join_weights(overlap: int) -> tuple[float, ...]:
    """Share of the newer window on each shared latent: a raised cosine, never quite 0 or 1."""
    return tuple(0.5 - 0.5 * math.cos(math.pi * (j + 1) / (overlap + 1)) for j in range(overlap))


def join_windows(
    tail_KHWC: "Tensor | None",
    output_NHWC: "Tensor",
    *,
    num_final: int,
    mode: StitchMode,
) -> "tuple[Tensor, Tensor]":
    """Join a window's output to the window before and split off what the next one needs.

    Args:
        tail_KHWC: float32, the previous window's own output on the first K latents of this one;
            None for a shot's first window.
        output_NHWC: this window's output, (N, H, W, C).
        num_final: latents that become final now; the rest is shared with the next window.
        mode: crossfade: raised-cosine mix of tail and output; later: the tail is kept.

    Returns:
        Final latents (num_final, H, W, C), mixed in float32 and rounded once to float16, and the
        new tail, float32, this window's own output.

    Raises:
        PlanError: the tail reaches beyond what becomes final.
    """
    output_NHWC = output_NHWC.float()
    final_NHWC = output_NHWC[:num_final].clone()
    tail_len = 0 if tail_KHWC is None else len(tail_KHWC)
    if tail_len > num_final:
        raise PlanError(f"a tail of {tail_len} latents does not fit into {num_final} final ones")
    if tail_KHWC is not None and tail_len:
        if mode == "later":
            final_NHWC[:tail_len] = tail_KHWC
        else:
            weights = output_NHWC.new_tensor(join_weights(tail_len)).view(-1, 1, 1, 1)
            final_NHWC[:tail_len] = tail_KHWC + weights * (output_NHWC[:tail_len] - tail_KHWC)
    return final_NHWC.half(), output_NHWC[num_final:].clone()
