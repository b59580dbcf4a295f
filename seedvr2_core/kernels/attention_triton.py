"""`attention.py` in Triton: keys pass by in blocks, the softmax is corrected as they come.

The queries of a program and its sums stay on the chip, C = 512 wide; so few queries are taken at a
time, and few keys.

Legend: F frames, N tokens of a frame, C channels, M queries, K keys of a block.
"""

# Triton's stubs do not know that it turns plain numbers into compile-time constants at a launch.
# pyright: reportArgumentType=false, reportReturnType=false, reportCallIssue=false

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

LOG2_E = 1.4426950408889634


@triton.jit
def _attend(
    q,
    k,
    v,
    out,
    queries,
    keys,
    channels,
    q_stride_f,
    q_stride_n,
    k_stride_f,
    k_stride_n,
    v_stride_f,
    v_stride_n,
    o_stride_f,
    o_stride_n,
    scale,
    EXACT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """One block of queries of one frame. `scale` goes to powers of 2."""
    frame = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    channel = tl.arange(0, BLOCK_C)
    inside_c = channel[None, :] < channels
    q_mask = (row[:, None] < queries) & inside_c
    q_place = q + frame * q_stride_f + row.to(tl.int64)[:, None] * q_stride_n + channel[None, :]
    q_MC = tl.load(q_place, mask=q_mask, other=0.0)
    top_M = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    sum_M = tl.zeros((BLOCK_M,), tl.float32)
    sum_MC = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    precision: tl.constexpr = "ieee" if EXACT else "tf32"
    for start in range(0, keys, BLOCK_K):
        key = start + tl.arange(0, BLOCK_K)
        mask = (key[:, None] < keys) & inside_c
        k_place = k + frame * k_stride_f + key.to(tl.int64)[:, None] * k_stride_n + channel[None, :]
        k_KC = tl.load(k_place, mask=mask, other=0.0)
        v_place = v + frame * v_stride_f + key.to(tl.int64)[:, None] * v_stride_n + channel[None, :]
        v_KC = tl.load(v_place, mask=mask, other=0.0)
        score_MK = tl.dot(q_MC, tl.trans(k_KC), input_precision=precision) * scale
        score_MK = tl.where(key[None, :] < keys, score_MK, float("-inf"))
        new_top_M = tl.maximum(top_M, tl.max(score_MK, axis=1))
        weight_MK = tl.exp2(score_MK - new_top_M[:, None])
        keep_M = tl.exp2(top_M - new_top_M)
        sum_M = sum_M * keep_M + tl.sum(weight_MK, axis=1)
        sum_MC = sum_MC * keep_M[:, None]
        sum_MC = tl.dot(weight_MK.to(v_KC.dtype), v_KC, sum_MC, input_precision=precision)
        top_M = new_top_M
    o_place = out + frame * o_stride_f + row.to(tl.int64)[:, None] * o_stride_n + channel[None, :]
    tl.store(o_place, (sum_MC / sum_M[:, None]).to(out.dtype.element_ty), mask=q_mask)


def frame_attention(q_FNC: Tensor, k_FNC: Tensor, v_FNC: Tensor, *, out_FNC: Tensor) -> None:
    """See `attention.frame_attention`; channels must lie side by side."""
    frames, queries, channels = q_FNC.shape
    tensors = (q_FNC, k_FNC, v_FNC, out_FNC)
    assert all(tensor.stride(2) == 1 for tensor in tensors), "channels must lie side by side"
    exact = q_FNC.dtype == torch.float32
    # 512 channels: queries 64 kB, two blocks of keys and of values 32 kB each, sums in registers.
    block_m, block_k = (16, 16) if exact else (64, 32)
    _attend[(triton.cdiv(queries, block_m), frames)](
        *tensors,
        queries,
        k_FNC.shape[1],
        channels,
        *(stride for tensor in tensors for stride in tensor.stride()[:2]),
        LOG2_E * channels**-0.5,
        EXACT=exact,
        BLOCK_M=block_m,
        BLOCK_K=block_k,
        BLOCK_C=max(16, triton.next_power_of_2(channels)),
        num_warps=4 if exact else 8,
        num_stages=1 if exact else 2,
    )
