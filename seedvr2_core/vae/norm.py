"""Group norm over single frames, with SiLU on the way out.

Legend: B batch, C channels, T frames, H W pixels of the level.
"""

import torch
from torch import Tensor, nn

from seedvr2_core.kernels.norm import norm_moments, norm_rows, norm_silu
from seedvr2_core.kernels.switches import switches, takes_gpu_path
from seedvr2_core.vae.bands.rows import RowsPrologue
from seedvr2_core.vae.conv import LAYOUT


class FrameGroupNorm(nn.Module):
    """Normalises every frame by the statistics of its own channel groups, in float32."""

    def __init__(self, channels: int, *, num_groups: int, eps: float) -> None:
        super().__init__()
        self.num_groups = num_groups
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(
        self,
        x_BCTHW: Tensor,
        *,
        silu: bool = False,
        input_bias_C: Tensor | None = None,
        out_BCTHW: Tensor | None = None,
    ) -> Tensor:
        """See `kernels.norm.norm_silu`.

        Returns:
            [B, C, T, H, W] of x's dtype: out_BCTHW where given, else new, in channels_last_3d.
        """
        if out_BCTHW is None:
            out_BCTHW = torch.empty_like(x_BCTHW, memory_format=LAYOUT)
        (norm_silu if _is_fused(x_BCTHW) else norm_silu.reference)(
            x_BCTHW,
            self.weight,
            self.bias,
            out_BCTHW=out_BCTHW,
            input_bias_C=input_bias_C,
            num_groups=self.num_groups,
            eps=self.eps,
            silu=silu,
        )
        return out_BCTHW

    def moments(self, x_BCTHW: Tensor, *, input_bias_C: Tensor | None = None) -> Tensor:
        """The statistics of whole frames, for `rows`: see `kernels.norm.norm_moments`."""
        frames, wide = x_BCTHW.shape[0] * x_BCTHW.shape[2], torch.float32
        moments_F2C = torch.empty(
            (frames, 2, x_BCTHW.shape[1]),
            dtype=torch.promote_types(x_BCTHW.dtype, wide),
            device=x_BCTHW.device,
        )
        (norm_moments if _is_fused(x_BCTHW) else norm_moments.reference)(
            x_BCTHW,
            self.weight,
            moments_F2C=moments_F2C,
            input_bias_C=input_bias_C,
            num_groups=self.num_groups,
            eps=self.eps,
        )
        return moments_F2C

    def rows(
        self,
        x_BCTHW: Tensor,
        moments_F2C: Tensor,
        *,
        silu: bool = False,
        input_bias_C: Tensor | None = None,
        out_BCTHW: Tensor,
    ) -> None:
        """What `forward` makes of some rows of the frames, bit by bit."""
        (norm_rows if _is_fused(x_BCTHW) else norm_rows.reference)(
            x_BCTHW,
            moments_F2C,
            self.bias,
            out_BCTHW=out_BCTHW,
            input_bias_C=input_bias_C,
            silu=silu,
        )


def _is_fused(x_BCTHW: Tensor) -> bool:
    return switches().fused_norm and takes_gpu_path(x_BCTHW.device)


class NormSiLU:
    """A `Prologue`: the norm, then SiLU, written into a conv's input buffer."""

    def __init__(self, norm: FrameGroupNorm, *, input_bias: Tensor | None = None) -> None:
        self._norm = norm
        self._input_bias = input_bias

    def __call__(self, x_BCTHW: Tensor, *, out_BCTHW: Tensor) -> Tensor:
        return self._norm(x_BCTHW, silu=True, input_bias_C=self._input_bias, out_BCTHW=out_BCTHW)

    def by_rows(self, x_BCTHW: Tensor) -> RowsPrologue:
        """See `Prologue.by_rows`."""
        bias = self._input_bias
        moments_F2C = self._norm.moments(x_BCTHW, input_bias_C=bias)

        def write(rows: slice, out_BCTHW: Tensor) -> None:
            self._norm.rows(
                x_BCTHW[..., rows, :],
                moments_F2C,
                silu=True,
                input_bias_C=bias,
                out_BCTHW=out_BCTHW,
            )

        return write
