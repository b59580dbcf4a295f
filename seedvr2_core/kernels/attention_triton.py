"""`attention.py` in Triton: keys pass by in blocks, the softmax is corrected as they come.

The sums of a program stay in registers, which is what bounds it: 64 queries of 512 channels fill
half of a multiprocessor's. Keys and values come from the second-level cache once for each block of
queries, and that bandwidth bounds the speed (about 5.5 TB/s on an H100: 350 TFLOP/s with 64
queries). In the second tile a program makes half of the channels for 128 queries: it calculates the
scores twice, half as much again in all, and reads three quarters of the bytes. Which of them is
faster is measured on the device (choice.py).

Legend: F frames, N tokens of a frame, C channels, M queries, K keys of a block, V channels of the
values that a program sums.
"""

# Triton's stubs do not know that it turns plain numbers into compile-time constants at a launch.
# pyright: reportArgumentType=false, reportReturnType=false, reportCallIssue=false

from typing import NamedTuple

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

LOG2_E = 1.4426950408889634


class Tile(NamedTuple):
    """What one program takes."""

    queries: int
    keys: int
    """Of a block."""
    parts: int
    """Programs that share the channels of the values."""
    warps: int
    stages: int
    """Blocks of keys and values on their way at once."""


TILES = {
    # 512 channels: queries 64 kB, two blocks of keys and of values 32 kB each.
    "own": Tile(queries=64, keys=32, parts=1, warps=8, stages=2),
    # Queries 128 kB, two blocks of keys (32 kB) and of half the values (16 kB).
    "own halves": Tile(queries=128, keys=32, parts=2, warps=8, stages=2),
}


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
    BLOCK_V: tl.constexpr,
):
    """One block of queries of one frame, and some channels. `scale` goes to powers of 2."""
    frame = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    channel = tl.arange(0, BLOCK_C)
    inside_c = channel[None, :] < channels
    value = tl.program_id(2) * BLOCK_V + tl.arange(0, BLOCK_V)
    inside_v = value[None, :] < channels
    q_mask = (row[:, None] < queries) & inside_c
    q_place = q + frame * q_stride_f + row.to(tl.int64)[:, None] * q_stride_n + channel[None, :]
    q_MC = tl.load(q_place, mask=q_mask, other=0.0)
    top_M = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    sum_M = tl.zeros((BLOCK_M,), tl.float32)
    sum_MV = tl.zeros((BLOCK_M, BLOCK_V), tl.float32)
    precision: tl.constexpr = "ieee" if EXACT else "tf32"
    for start in range(0, keys, BLOCK_K):
        key = start + tl.arange(0, BLOCK_K)
        mask = key[:, None] < keys
        k_place = k + frame * k_stride_f + key.to(tl.int64)[:, None] * k_stride_n + channel[None, :]
        k_KC = tl.load(k_place, mask=mask & inside_c, other=0.0)
        v_place = v + frame * v_stride_f + key.to(tl.int64)[:, None] * v_stride_n + value[None, :]
        v_KV = tl.load(v_place, mask=mask & inside_v, other=0.0)
        score_MK = tl.dot(q_MC, tl.trans(k_KC), input_precision=precision) * scale
        score_MK = tl.where(key[None, :] < keys, score_MK, float("-inf"))
        new_top_M = tl.maximum(top_M, tl.max(score_MK, axis=1))
        weight_MK = tl.exp2(score_MK - new_top_M[:, None])
        keep_M = tl.exp2(top_M - new_top_M)
        sum_M = sum_M * keep_M + tl.sum(weight_MK, axis=1)
        sum_MV = sum_MV * keep_M[:, None]
        sum_MV = tl.dot(weight_MK.to(v_KV.dtype), v_KV, sum_MV, input_precision=precision)
        top_M = new_top_M
    o_place = out + frame * o_stride_f + row.to(tl.int64)[:, None] * o_stride_n + value[None, :]
    o_mask = (row[:, None] < queries) & inside_v
    tl.store(o_place, (sum_MV / sum_M[:, None]).to(out.dtype.element_ty), mask=o_mask)


def frame_attention(
    q_FNC: Tensor, k_FNC: Tensor, v_FNC: Tensor, *, out_FNC: Tensor, tile: str = "own"
) -> None:
    """See `attention.frame_attention`; channels must lie side by side."""
    frames, queries, channels = q_FNC.shape
    tensors = (q_FNC, k_FNC, v_FNC, out_FNC)
    assert all(tensor.stride(2) == 1 for tensor in tensors), "channels must lie side by side"
    exact = q_FNC.dtype == torch.float32
    way = TILES[tile]
    if exact:  # twice the bytes, and products in plain float32
        way = Tile(queries=16, keys=16, parts=way.parts, warps=4, stages=1)
    block_c = max(16 * way.parts, triton.next_power_of_2(channels))
    block_v = block_c // way.parts
    _attend[(triton.cdiv(queries, way.queries), frames, triton.cdiv(channels, block_v))](
        *tensors,
        queries,
        k_FNC.shape[1],
        channels,
        *(stride for tensor in tensors for stride in tensor.stride()[:2]),
        LOG2_E * channels**-0.5,
        EXACT=exact,
        BLOCK_M=way.queries,
        BLOCK_K=way.keys,
        BLOCK_C=block_c,
        BLOCK_V=block_v,
        num_warps=way.warps,
        num_stages=way.stages,
    )
