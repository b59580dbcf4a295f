"""Self-attention inside single frames: one head as wide as all channels.

Legend: B batch, C channels, T frames, H W latent grid, N = H*W tokens of a frame.
"""

import functools
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seedvr2_core.kernels.attention import TILES, frame_attention
from seedvr2_core.kernels.choice import choices
from seedvr2_core.kernels.devices import on_gpu
from seedvr2_core.kernels.kernel import uses_triton
from seedvr2_core.kernels.switches import switches, takes_gpu_path
from seedvr2_core.vae.norm import FrameGroupNorm

SCORE_BYTES = 1 << 28
"""Bound on the float32 scores held at once where no fused kernel takes the head width (512)."""


ONE_CALL = "one call"
"""torch's kernel on all frames of a slice; other ways are tiles of our own kernel."""
MEASURED_QUERIES = 1 << 14
"""Of one frame: enough to fill a GPU, and few enough for a 4k frame to take half a second."""


class FrameAttention(nn.Module):
    """x + to_out(softmax(q k^T / sqrt(C)) v) with q, k, v of the normalised frame."""

    def __init__(self, channels: int, *, num_groups: int, eps: float) -> None:
        super().__init__()
        self.group_norm = FrameGroupNorm(channels, num_groups=num_groups, eps=eps)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])
        self.way = ONE_CALL
        """On a GPU, where the switch leaves it open; see `choose_way`."""

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Attend inside every frame; frames never mix."""
        batch, channels, frames, height, width = x_BCTHW.shape
        norm_BTHWC = self.group_norm(x_BCTHW).permute(0, 2, 3, 4, 1)
        norm_FNC = norm_BTHWC.reshape(batch * frames, height * width, channels)
        q_FNC, k_FNC, v_FNC = self.to_q(norm_FNC), self.to_k(norm_FNC), self.to_v(norm_FNC)
        mixed_FNC = _attend(q_FNC, k_FNC, v_FNC, way=self.way)
        y_FNC = self.to_out[0](mixed_FNC)
        y_BTHWC = y_FNC.reshape(batch, frames, height, width, channels)
        return x_BCTHW + y_BTHWC.permute(0, 4, 1, 2, 3)


def choose_way(tokens: int, channels: int, dtype: torch.dtype, device: torch.device) -> str:
    """The fastest way for frames of that size on that device, as the job has chosen it.

    Args:
        tokens: of a frame.
        channels: width of the one head.
        dtype: of queries, keys and values.
        device: where it is measured; only a GPU has a choice.
    """
    if not on_gpu(device) or dtype == torch.float32 or not uses_triton(device):
        return ONE_CALL
    kind = torch.cuda.get_device_name(device)
    key = f"attention of {tokens} tokens, {str(dtype).removeprefix('torch.')}, on {kind}"
    measures = {
        way: functools.partial(_seconds, way, tokens, channels, dtype, device)
        for way in (ONE_CALL, *TILES)
    }
    return choices().choose(key, measures)


@torch.inference_mode()
def _seconds(
    way: str, tokens: int, channels: int, dtype: torch.dtype, device: torch.device
) -> float:
    """The fastest of three calls on some queries of a frame and all its keys, after a warm one."""
    k_1NC = torch.zeros((1, tokens, channels), dtype=dtype, device=device)
    q_1NC = k_1NC[:, :MEASURED_QUERIES]
    seconds: list[float] = []
    for _ in range(4):
        torch.cuda.synchronize(device)
        began = time.perf_counter()
        _attend_in(way, q_1NC, k_1NC, k_1NC)
        torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])


def _attend(q_FNC: Tensor, k_FNC: Tensor, v_FNC: Tensor, *, way: str) -> Tensor:
    """Exact attention inside each frame, in the way that the switch says, or else this one."""
    device = q_FNC.device
    switch = switches().frame_attention if takes_gpu_path(device) else "chunks"
    if switch == "auto":
        # "meta" stands for a GPU on which our own kernel is the faster one.
        switch = TILES[0] if device.type == "meta" else way
    if switch in TILES and not uses_triton(device):
        switch = ONE_CALL
    if switch != "chunks":
        return _attend_in(switch, q_FNC, k_FNC, v_FNC)
    mixed_FNC = torch.empty_like(q_FNC)
    for frame in range(q_FNC.shape[0]):
        attend_by_chunks(q_FNC[frame], k_FNC[frame], v_FNC[frame], out_NC=mixed_FNC[frame])
    return mixed_FNC


def _attend_in(way: str, q_FNC: Tensor, k_FNC: Tensor, v_FNC: Tensor) -> Tensor:
    if way in TILES:
        mixed_FNC = torch.empty_like(q_FNC)
        frame_attention(q_FNC, k_FNC, v_FNC, out_FNC=mixed_FNC, tile=way)
        return mixed_FNC
    # The kernel that takes this width stores no scores and needs the queries of all frames to keep
    # a GPU busy.
    return F.scaled_dot_product_attention(q_FNC[:, None], k_FNC[:, None], v_FNC[:, None])[:, 0]


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
