"""The transformer's element-wise work, each piece of it as one kernel.

The residual stream stays in the order of the token grid. `rows_M` says which of its rows a batch of
windows consists of; each row appears once. So a layer's windows are gathered and scattered in
passing, in whole rows, and the stream is never permuted.

Shape legend: N video tokens of the grid, M rows of a batch, D width, W windows of one shape,
S video tokens of a window, L text tokens, J = S + L, H heads, K channels of a head, P = K / 2.
"""

import functools

import torch
from torch import Tensor
from torch.nn import functional as F

from seedvr2_core.kernels.kernel import Cost, Kernel, num_bytes


def _norm_cost(out_MD: Tensor, x_ND: Tensor, rows_M: Tensor, *, eps: float) -> Cost:
    return Cost(
        read=out_MD.numel() * x_ND.element_size() + num_bytes(rows_M), written=num_bytes(out_MD)
    )


@functools.partial(Kernel, cost=_norm_cost)
def norm_rows(out_MD: Tensor, x_ND: Tensor, rows_M: Tensor, *, eps: float) -> None:
    """out = x[rows] / sqrt(mean(x[rows]^2) + eps), computed in float32 and rounded once.

    Args:
        out_MD: written; any floating dtype, contiguous.
        x_ND: float32, contiguous.
        rows_M: int64.
        eps: added to the mean square.
    """
    rows_MD = x_ND.index_select(0, rows_M)
    out_MD.copy_(F.rms_norm(rows_MD, rows_MD.shape[-1:], None, eps))


def _add_cost(x_ND: Tensor, rows_M: Tensor, y_MD: Tensor) -> Cost:
    moved = y_MD.numel() * x_ND.element_size()
    return Cost(read=moved + num_bytes(y_MD, rows_M), written=moved)


@functools.partial(Kernel, cost=_add_cost)
def add_rows(x_ND: Tensor, rows_M: Tensor, y_MD: Tensor) -> None:
    """x[rows] += y, in float32.

    Args:
        x_ND: float32, contiguous; changed in place.
        rows_M: int64, each at most once.
        y_MD: any floating dtype, contiguous.
    """
    x_ND.index_copy_(0, rows_M, x_ND.index_select(0, rows_M).add_(y_MD))


def _add_norm_cost(
    out_MD: Tensor, x_ND: Tensor, rows_M: Tensor, y_MD: Tensor, *, eps: float
) -> Cost:
    added = _add_cost(x_ND, rows_M, y_MD)
    return Cost(read=added.read, written=added.written + num_bytes(out_MD))


@functools.partial(Kernel, cost=_add_norm_cost)
def add_norm_rows(
    out_MD: Tensor, x_ND: Tensor, rows_M: Tensor, y_MD: Tensor, *, eps: float
) -> None:
    """`add_rows`, then `norm_rows` of the same rows."""
    rows_MD = x_ND.index_select(0, rows_M).add_(y_MD)
    x_ND.index_copy_(0, rows_M, rows_MD)
    out_MD.copy_(F.rms_norm(rows_MD, rows_MD.shape[-1:], None, eps))


def _join_cost(
    joined_3WJHK: Tensor,
    qkv_M3HK: Tensor,
    text_3LHK: Tensor,
    weights_2K: Tensor,
    rotation_S2P: Tensor,
    *,
    eps: float,
) -> Cost:
    # The text and the table are read again for every window, out of the cache.
    return Cost(
        read=num_bytes(qkv_M3HK, text_3LHK, weights_2K, rotation_S2P),
        written=num_bytes(joined_3WJHK),
    )


@functools.partial(Kernel, cost=_join_cost)
def join_heads(
    joined_3WJHK: Tensor,
    qkv_M3HK: Tensor,
    text_3LHK: Tensor,
    weights_2K: Tensor,
    rotation_S2P: Tensor,
    *,
    eps: float,
) -> None:
    """Queries, keys and values of equal windows, ready for attention.

    Queries and keys of the video are normed for each head and rotated in float32; the text, of
    which that was done before, follows the video in every window.

    Args:
        joined_3WJHK: written; in the dtype of `qkv_M3HK`, contiguous.
        qkv_M3HK: the windows' video rows, W S of them; the last three axes contiguous.
        text_3LHK: the text's queries, keys and values; same dtype, contiguous.
        weights_2K: float32 weights of the norms of queries and keys.
        rotation_S2P: float32, cosines and sines of each pair of channels; 1 and 0 where none turns.
        eps: of the norms.
    """
    num_windows, joined_len = joined_3WJHK.shape[1:3]
    video_len = joined_len - text_3LHK.shape[1]
    video_WS3HK = qkv_M3HK.unflatten(0, (num_windows, video_len))
    joined_3WJHK[:, :, video_len:] = text_3LHK[:, None]
    joined_3WJHK[2, :, :video_len] = video_WS3HK[:, :, 2]
    cos_S1P, sin_S1P = rotation_S2P[:, :1], rotation_S2P[:, 1:]
    for part in (0, 1):
        x_WSHK = video_WS3HK[:, :, part].to(weights_2K.dtype)
        x_WSHK = F.rms_norm(x_WSHK, x_WSHK.shape[-1:], weights_2K[part], eps)
        a_WSHP, b_WSHP = x_WSHK.unflatten(-1, (-1, 2)).unbind(-1)
        turned = (a_WSHP * cos_S1P - b_WSHP * sin_S1P, a_WSHP * sin_S1P + b_WSHP * cos_S1P)
        joined_3WJHK[part, :, :video_len] = torch.stack(turned, dim=-1).flatten(-2)
