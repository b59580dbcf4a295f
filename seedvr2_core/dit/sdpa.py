"""Which of the GPU's attention kernels a group of windows goes through.

cuDNN has the fastest kernels of a Hopper GPU (which others take it is in kernels/devices.py), but
it builds a plan, for tenths of a second, for every shape that it meets. A window of 25 latents has
about 40 shapes, and the last windows of shots have others. So only the few shapes that hold nearly
all of the work go to cuDNN; the rest go to the flash kernel of torch, which needs no plan. The
choice is a function of the job's plan, so a job that is resumed makes it again.

Torch itself never takes cuDNN's attention in deterministic mode, because of its backward pass. The
forward pass adds up in a fixed order; it is called by its own name here.

Shape legend: W windows, H heads, S tokens of a window with the text, K channels of a head.
"""

import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from seedvr2_core.config import PATCH, DiTConfig
from seedvr2_core.dit.window import batches, window_runs
from seedvr2_core.kernels.devices import ability_of
from seedvr2_core.kernels.switches import switches, takes_gpu_path

logger = logging.getLogger(__name__)

MAX_CUDNN_SHAPES = 13
"""Plans of cuDNN that a job builds at most."""
CUDNN_SHARE = 0.95
"""Of the operations of attention: no further shape is given to cuDNN once it has this much."""
_HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallShape:
    """What cuDNN's plan depends on; heads, channels and layout are a model's own."""

    num_windows: int
    length: int
    """Queries, and as many keys: a window's tokens and the text's."""

    @property
    def work(self) -> int:
        """Proportional to the operations of a call."""
        return self.num_windows * self.length**2


def call_shapes(
    config: DiTConfig, latent_size: tuple[int, int, int], text_len: int, chunk_tokens: int | None
) -> dict[CallShape, int]:
    """Every shape of a `FoldedDiT` call, and its share of the work over all layers.

    Args:
        config: architecture.
        latent_size: (T, H, W) of the window.
        text_len: tokens of the text.
        chunk_tokens: as given to `make_tables`.
    """
    num_frames, height, width = latent_size
    grid = (num_frames, height // PATCH, width // PATCH)
    work: dict[CallShape, int] = {}
    for shifted in config.shifted:
        for batch in batches(
            window_runs(grid, config.window_counts, shifted=shifted), chunk_tokens
        ):
            for run in batch.runs:
                shape = CallShape(num_windows=run.num_windows, length=run.window_len + text_len)
                work[shape] = work.get(shape, 0) + shape.work
    return work


def cudnn_shapes(work: dict[CallShape, int]) -> frozenset[CallShape]:
    """The shapes that are worth a plan: the largest, to `CUDNN_SHARE` or `MAX_CUDNN_SHAPES`."""
    total, covered = sum(work.values()), 0
    chosen: list[CallShape] = []
    by_work = sorted(work, key=lambda shape: (-work[shape], shape.length, shape.num_windows))
    for shape in by_work[:MAX_CUDNN_SHAPES]:
        if covered >= CUDNN_SHARE * total:
            break
        chosen.append(shape)
        covered += work[shape]
    return frozenset(chosen)


class Sdpa:
    """Attention over equal windows, by the kernel that their shape is meant for."""

    def __init__(self, cudnn: Collection[CallShape] = ()) -> None:
        """Nothing is built yet; `cudnn` are the shapes that go to cuDNN, on a GPU."""
        self._cudnn = frozenset(cudnn)

    def __call__(self, q_WHSK: Tensor, k_WHSK: Tensor, v_WHSK: Tensor) -> Tensor:
        """Full attention, scaled by 1 / sqrt(K); (W, H, S, K)."""
        if (
            q_WHSK.dtype not in _HALF
            or q_WHSK.device.type == "cpu"
            or not keeps_text(q_WHSK.device)
            or ability_of(q_WHSK.device).attention == "default"
        ):
            return F.scaled_dot_product_attention(q_WHSK, k_WHSK, v_WHSK)
        num_windows, _, length, _ = q_WHSK.shape
        shape = CallShape(num_windows=num_windows, length=length)
        wanted = ability_of(q_WHSK.device).attention == switches().dit_attention == "cudnn"
        if wanted and shape in self._cudnn:
            try:
                return _through_cudnn(q_WHSK, k_WHSK, v_WHSK)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                logger.warning("cuDNN does not take attention of %s: %s", shape, error)
                self._cudnn = frozenset()
        return _through_flash(q_WHSK, k_WHSK, v_WHSK)


def keeps_text(device: torch.device) -> bool:
    """Whether the last layer, too, has queries for the text, whose result nobody reads.

    Then a group of windows has one shape in all layers.
    """
    return takes_gpu_path(device) and switches().dit_attention != "default"


def job_sdpa(
    config: DiTConfig,
    latent_size: tuple[int, int, int],
    text_len: int,
    *,
    chunk_tokens: int | None,
) -> Sdpa:
    """For all windows of a job.

    Args:
        config: architecture.
        latent_size: (T, H, W) of the window that the job is planned with. Shorter and longer ones
            at the ends of shots use no shapes but those of this one.
        text_len: tokens of the text.
        chunk_tokens: of the memory plan. On a lower rung, too, no other shapes go to cuDNN.
    """
    return Sdpa(cudnn_shapes(call_shapes(config, latent_size, text_len, chunk_tokens)))


def _through_cudnn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    attend: Any = torch.ops.aten._scaled_dot_product_cudnn_attention
    return attend(q, k, v, None, False)[0]


def _through_flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    attend: Any = torch.ops.aten._scaled_dot_product_flash_attention
    return attend(q, k, v)[0]
