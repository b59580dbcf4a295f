"""Self-attention inside single frames: one head as wide as all channels.

Legend: B batch, C channels, T frames, H W latent grid, N = H*W tokens of a frame.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seedvr2_core.kernels.attention import frame_attention
from seedvr2_core.kernels.kernel import uses_triton
from seedvr2_core.kernels.switches import switches, takes_gpu_path
from seedvr2_core.vae.norm import FrameGroupNorm

SCORE_BYTES = 1 << 28
"""Bound on the float32 scores held at once where no fused kernel takes the head width (512)."""


class FrameAttention(nn.Module):
    """x + to_out(softmax(q k^T / sqrt(C)) v) with q, k, v of the normalised frame."""

    def __init__(self, channels: int, *, num_groups: int, eps: float) -> None:
        super().__init__()
        self.group_norm = FrameGroupNorm(channels, num_groups=num_groups, eps=eps)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Attend inside every frame; frames never mix."""
        batch, channels, frames, height, width = x_BCTHW.shape
        norm_BTHWC = self.group_norm(x_BCTHW).permute(0, 2, 3, 4, 1)
        norm_FNC = norm_BTHWC.reshape(batch * frames, height * width, channels)
        q_FNC, k_FNC, v_FNC = self.to_q(norm_FNC), self.to_k(norm_FNC), self.to_v(norm_FNC)
        mixed_FNC = _attend(q_FNC, k_FNC, v_FNC)
        y_FNC = self.to_out[0](mixed_FNC)
        y_BTHWC = y_FNC.reshape(batch, frames, height, width, channels)
        return x_BCTHW + y_BTHWC.permute(0, 4, 1, 2, 3)


def _attend(q_FNC: Tensor, k_FNC: Tensor, v_FNC: Tensor) -> Tensor:
    """Exact attention inside each frame, in the way that the switches say."""
    way = switches().frame_attention if takes_gpu_path(q_FNC.device) else "chunks"
    if way == "own" and uses_triton(q_FNC.device):
        mixed_FNC = torch.empty_like(q_FNC)
        frame_attention(q_FNC, k_FNC, v_FNC, out_FNC=mixed_FNC)
        return mixed_FNC
    if way != "chunks":
        # The kernel that takes this width stores no scores and needs the queries of all frames to
        # keep a GPU busy.
        return F.scaled_dot_product_attention(q_FNC[:, None], k_FNC[:, None], v_FNC[:, None])[:, 0]
    mixed_FNC = torch.empty_like(q_FNC)
    for frame in range(q_FNC.shape[0]):
        attend_by_chunks(q_FNC[frame], k_FNC[frame], v_FNC[frame], out_NC=mixed_FNC[frame])
    return mixed_FNC


def attend_by_chunks(q_NC: Tensor, k_NC: Tensor, v_NC: Tensor, *, out_NC: Tensor) -> None:
    """Exact attention of one frame, some queries at a time, written into out.

    Each query's softmax runs over all keys, so chunks change nothing; they bound the scores to
    SCORE_BYTES in the backend that writes them to memory. All backends sum in float32.
    """
    keys = k_NC.shape[0]
    rows = max(1, SCORE_BYTES // (4 * keys))
    for start in range(0, keys, rows):
        mixed_11NC = F.scaled_dot_product_attention(
            q_NC[None, None, start : start + rows], k_NC[None, None], v_NC[None, None]
        )
        out_NC[start : start + rows] = mixed_11NC[0, 0]
