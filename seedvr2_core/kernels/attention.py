"""Attention inside single frames with one very wide head, which fused kernels are not made for.

Legend: F frames, N tokens of a frame, C channels, R rows (queries) at once.
"""

import torch
from torch import Tensor

from seedvr2_core.kernels.kernel import Cost, Kernel, num_bytes

TILES = ("own", "own halves")
"""Those of attention_triton.py."""
REFERENCE_BYTES = 1 << 26
"""Bound on the scores that the reference holds at once."""


def _frame_attention(
    q_FNC: Tensor, k_FNC: Tensor, v_FNC: Tensor, *, out_FNC: Tensor, tile: str = "own"
) -> None:
    """softmax(q k^T / sqrt(C)) v of each frame.

    Args:
        q_FNC: queries.
        k_FNC: keys.
        v_FNC: values.
        out_FNC: of their shape and dtype.
        tile: how the work is divided in Triton, one of `TILES`.

    Numerics: scores, softmax and sums in float32 (float64 stays); in half precision the weights are
    rounded before they are multiplied with the values. Scores are never all in memory.
    """
    wide = torch.float64 if q_FNC.dtype == torch.float64 else torch.float32
    scale = q_FNC.shape[-1] ** -0.5
    rows = max(1, REFERENCE_BYTES // (wide.itemsize * k_FNC.shape[1]))
    for frame in range(q_FNC.shape[0]):
        k_CN, v_NC = k_FNC[frame].to(wide).T * scale, v_FNC[frame].to(wide)
        for start in range(0, q_FNC.shape[1], rows):
            q_RC = q_FNC[frame, start : start + rows].to(wide)
            out_FNC[frame, start : start + rows] = torch.softmax(q_RC @ k_CN, dim=-1) @ v_NC


def _frame_attention_cost(
    q_FNC: Tensor, k_FNC: Tensor, v_FNC: Tensor, *, out_FNC: Tensor, tile: str = "own"
) -> Cost:
    """Keys and values of a frame stay in the cache while its queries pass."""
    frames, queries, channels = q_FNC.shape
    return Cost(
        read=num_bytes(q_FNC, k_FNC, v_FNC),
        written=num_bytes(out_FNC),
        flops=4 * frames * queries * k_FNC.shape[1] * channels,
    )


frame_attention = Kernel(_frame_attention, cost=_frame_attention_cost)
