"""Small parts: norm, time embedding, MLPs, patches, and weights per stream.

Shape legend: M tokens, D width, F MLP hidden, T H W latent frames, rows, columns, C channels.
Linears run in the dtype of their weights; norms in float32.
"""

import math
from collections.abc import Callable
from typing import Generic, Literal, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seedvr2_core.config import PATCH, DiTConfig
from seedvr2_core.kernels.switches import switches

Stream = Literal["vid", "txt"]

_Part = TypeVar("_Part", bound=nn.Module)


class PerStream(nn.Module, Generic[_Part]):
    """A part that video and text own separately (`vid`, `txt`) or share (`all`)."""

    def __init__(self, streams: tuple[str, ...], make: Callable[[str], _Part]) -> None:
        super().__init__()
        for stream in streams:
            self.add_module(stream, make(stream))

    def of(self, stream: Stream) -> _Part:
        """The stream's own part, or the shared one."""
        name = stream if stream in self._modules else "all"
        return cast(_Part, self._modules[name])


class RMSNorm(nn.Module):
    """Learned weight of an RMS norm; applied in float32."""

    def __init__(self, width: int, *, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width, dtype=torch.float32))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Norm over the last axis, float32 in a new tensor."""
        return rms_norm(x, self.weight, eps=self.eps)


def rms_norm(x: Tensor, weight_D: Tensor | None = None, *, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) [* weight] over the last axis, float32 in a new tensor."""
    return F.rms_norm(x.float(), x.shape[-1:], weight_D, eps)


class Projection(nn.Module):
    """A Linear under the name `proj`; the first and the last of the model, always float32."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.proj = nn.Linear(in_features, out_features, dtype=torch.float32)

    def forward(self, x_MC: Tensor) -> Tensor:
        """(M, in) float32 -> (M, out) float32."""
        return self.proj(x_MC)


class TimeEmbedding(nn.Module):
    """Timestep -> the 6 D numbers that modulate every block."""

    def __init__(self, config: DiTConfig, *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.proj_in = nn.Linear(config.time_dim, config.width, dtype=dtype)
        self.proj_hid = nn.Linear(config.width, config.width, dtype=dtype)
        self.proj_out = nn.Linear(config.width, 6 * config.width, dtype=dtype)

    def forward(self, timesteps_B: Tensor) -> Tensor:
        """(B,) float32 in [0, 1000] -> (B, 6 D) in the dtype of the weights."""
        x = sinusoids(timesteps_B, self.proj_in.in_features).to(self.proj_in.weight.dtype)
        return self.proj_out(F.silu(self.proj_hid(F.silu(self.proj_in(x)))))


def sinusoids(timesteps_B: Tensor, width: int) -> Tensor:
    """(B,) -> (B, width) float32: sines of falling frequencies, then their cosines."""
    half = width // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timesteps_B.device) / half
    angles = timesteps_B.float()[:, None] * torch.exp(-math.log(10_000) * exponents)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class SwiGLU(nn.Module):
    """Gated MLP without biases (3B); folding gives its Linears biases."""

    def __init__(self, width: int, hidden: int, *, bias: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.proj_in_gate = nn.Linear(width, hidden, bias=bias, dtype=dtype)
        self.proj_in = nn.Linear(width, hidden, bias=bias, dtype=dtype)
        self.proj_out = nn.Linear(hidden, width, bias=False, dtype=dtype)

    def forward(self, x_MD: Tensor) -> Tensor:
        """(M, D) -> (M, D) in the dtype of the weights."""
        gate_MF = F.silu(self.proj_in_gate(x_MD), inplace=True)
        return self.proj_out(gate_MF.mul_(self.proj_in(x_MD)))


class GeluMLP(nn.Module):
    """Plain MLP with the tanh form of GELU (7B)."""

    def __init__(self, width: int, hidden: int, *, dtype: torch.dtype) -> None:
        super().__init__()
        self.proj_in = nn.Linear(width, hidden, dtype=dtype)
        self.proj_out = nn.Linear(hidden, width, dtype=dtype)

    def forward(self, x_MD: Tensor) -> Tensor:
        """(M, D) -> (M, D) in the dtype of the weights."""
        return self.proj_out(linear_gelu(x_MD, self.proj_in.weight, self.proj_in.bias))


def linear_gelu(x_MD: Tensor, weight_FD: Tensor, bias_F: Tensor) -> Tensor:
    """A Linear and the tanh form of GELU.

    On a GPU cuBLAS applies GELU, in its tanh form, before it rounds the product; the same function
    on a CPU would take the erf form.
    """
    if x_MD.device.type != "cpu" and switches().gelu_epilogue:
        return torch.ops.aten._addmm_activation(bias_F, x_MD, weight_FD.t(), use_gelu=True)
    return F.gelu(F.linear(x_MD, weight_FD, bias_F), approximate="tanh")


def make_mlp(config: DiTConfig, *, folded: bool, dtype: torch.dtype) -> SwiGLU | GeluMLP:
    """The MLP of a config; folded ones have a bias wherever a modulation shift goes in."""
    if config.mlp == "swiglu":
        return SwiGLU(config.width, config.mlp_hidden, bias=folded, dtype=dtype)
    return GeluMLP(config.width, config.mlp_hidden, dtype=dtype)


def patchify(vid_THWC: Tensor) -> Tensor:
    """Latent pixels to tokens (T * H/2 * W/2, 4 C): row-major; row, column, channel inside."""
    num_frames, height, width, channels = vid_THWC.shape
    split = vid_THWC.reshape(num_frames, height // PATCH, PATCH, width // PATCH, PATCH, channels)
    return split.permute(0, 1, 3, 2, 4, 5).reshape(-1, PATCH * PATCH * channels)


def unpatchify(tokens_NC: Tensor, latent_shape: tuple[int, int, int]) -> Tensor:
    """Inverse of `patchify` for a latent of (T, H, W)."""
    num_frames, height, width = latent_shape
    split = tokens_NC.reshape(num_frames, height // PATCH, width // PATCH, PATCH, PATCH, -1)
    return split.permute(0, 1, 3, 2, 4, 5).reshape(num_frames, height, width, -1)
