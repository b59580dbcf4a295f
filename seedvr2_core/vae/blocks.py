"""The parts that encoder and decoder are built of, each with its streaming state.

States are named as the modules they belong to. A module's `forward` updates the state given to it.

Legend: B batch, C channels, T frames, H W pixels of the level.
"""

from dataclasses import dataclass, field

from torch import Tensor, nn

from seedvr2_core.config import VAEConfig
from seedvr2_core.kernels.norm import add_bias
from seedvr2_core.kernels.switches import switches, takes_gpu_path
from seedvr2_core.vae.attention import FrameAttention
from seedvr2_core.vae.causal_conv import CausalConv3d, ConvState, join_frames
from seedvr2_core.vae.conv import at_least_float32
from seedvr2_core.vae.fold import FoldedUpsampler, depth_to_space_time, fold_weights
from seedvr2_core.vae.norm import FrameGroupNorm, NormSiLU
from seedvr2_core.vae.stream import StreamState

UPSAMPLED_PLAIN_FRAMES = 2
"""A shot's first low-res frames that a temporal up-sampler never folds: high-res frame 1 is
dropped and high-res frame 0 replicated there, which no conv on the low-res frames expresses."""


@dataclass(slots=True)
class ResBlockState(StreamState):
    """State of a residual block."""

    conv1: ConvState = field(default_factory=ConvState)
    conv2: ConvState = field(default_factory=ConvState)


@dataclass(slots=True)
class MidBlockState(StreamState):
    """State of a mid block."""

    resnets: list[ResBlockState]


@dataclass(slots=True)
class DownsamplerState(StreamState):
    """State of a down-sampler; it stays empty where frames are not mixed."""

    conv: ConvState


@dataclass(slots=True)
class UpsamplerState(StreamState):
    """State of an up-sampler: high-res frames for the plain way, low-res frames for the folded."""

    seen: int
    """Low-res frames since the shot's start."""
    time_stride: int
    """Frames made of one; of a shot's first frame one is kept."""
    conv: ConvState = field(default_factory=ConvState)
    folded: ConvState = field(default_factory=ConvState)

    def use_rings(self, seen: int) -> None:
        """See `StreamState.use_rings`; `seen` are low-res frames."""
        self.folded.use_rings(seen)
        self.conv.use_rings(seen * self.time_stride - (self.time_stride - 1) * min(seen, 1))


class ResBlock(nn.Module):
    """shortcut(x) + conv2(silu(norm2(conv1(silu(norm1(x))))))."""

    def __init__(self, in_channels: int, out_channels: int, config: VAEConfig) -> None:
        super().__init__()
        self.norm1 = build_norm(in_channels, config)
        self.conv1 = CausalConv3d(in_channels, out_channels)
        self.norm2 = build_norm(out_channels, config)
        self.conv2 = CausalConv3d(out_channels, out_channels)
        self.conv_shortcut = (
            CausalConv3d(in_channels, out_channels, kernel=(1, 1, 1))
            if in_channels != out_channels
            else None
        )

    def forward(self, x_BCTHW: Tensor, state: ResBlockState) -> Tensor:
        """[B, C, T, H, W] -> [B, C', T, H, W]."""
        if switches().absorbed_bias and takes_gpu_path(x_BCTHW.device):
            return self._forward_without_bias(x_BCTHW, state)
        h_BCTHW = self.conv1(x_BCTHW, state.conv1, NormSiLU(self.norm1))
        h_BCTHW = self.conv2(h_BCTHW, state.conv2, NormSiLU(self.norm2))
        if self.conv_shortcut is not None:
            x_BCTHW = self.conv_shortcut(x_BCTHW, ConvState())
        return h_BCTHW.add_(x_BCTHW)

    def _forward_without_bias(self, x_BCTHW: Tensor, state: ResBlockState) -> Tensor:
        """The same; each bias is added by what reads the convolution's result anyway."""
        after_conv1 = NormSiLU(self.norm2, input_bias=self.conv1.bias)
        h_BCTHW = self.conv1(x_BCTHW, state.conv1, NormSiLU(self.norm1), with_bias=False)
        h_BCTHW = self.conv2(h_BCTHW, state.conv2, after_conv1, with_bias=False)
        bias_C = self.conv2.bias
        if self.conv_shortcut is not None:
            x_BCTHW = self.conv_shortcut(x_BCTHW, ConvState(), with_bias=False)
            bias_C = at_least_float32(bias_C) + self.conv_shortcut.bias
        add_bias(h_BCTHW, bias_C, residual_BCTHW=x_BCTHW, out_BCTHW=h_BCTHW)
        return h_BCTHW


class MidBlock(nn.Module):
    """Residual block, attention inside frames, residual block."""

    def __init__(self, channels: int, config: VAEConfig) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResBlock(channels, channels, config) for _ in range(2))
        attention = FrameAttention(channels, num_groups=config.norm_groups, eps=config.norm_eps)
        self.attentions = nn.ModuleList([attention])

    @staticmethod
    def start() -> MidBlockState:
        """A fresh state."""
        return MidBlockState(resnets=[ResBlockState() for _ in range(2)])

    def forward(self, x_BCTHW: Tensor, state: MidBlockState) -> Tensor:
        """Shape is kept."""
        x_BCTHW = self.resnets[0](x_BCTHW, state.resnets[0])
        x_BCTHW = self.attentions[0](x_BCTHW)
        return self.resnets[1](x_BCTHW, state.resnets[1])


class Downsampler(nn.Module):
    """Halves height and width, and time where time_stride is 2."""

    def __init__(self, channels: int, *, time_stride: int) -> None:
        super().__init__()
        kernel, stride = (2 * time_stride - 1, 3, 3), (time_stride, 2, 2)
        self.conv = CausalConv3d(channels, channels, kernel=kernel, stride=stride)

    def forward(self, x_BCTHW: Tensor, state: DownsamplerState) -> Tensor:
        """[B, C, T, H, W] -> [B, C, about T / time_stride, H // 2, W // 2]."""
        return self.conv(x_BCTHW, state.conv)


class Upsampler(nn.Module):
    """Doubles height and width, and time where time_stride is 2 (a shot's first frame stays one).

    Two ways to the same result. Plain: a 1x1x1 conv, depth to space-time, a causal conv that keeps
    two high-res frames. Folded (after `fold`): see fold.py; it keeps low-res frames only. A shot's
    first two low-res frames take the plain way where time doubles, whatever slices they come in;
    so which way a frame takes, and with it every bit, depends on the frame and the slices only.
    Where time does not double, replicating low-res frames is the same: all frames are folded.
    """

    def __init__(self, channels: int, *, time_stride: int) -> None:
        super().__init__()
        self.time_stride = time_stride
        self.upscale_conv = CausalConv3d(channels, 4 * time_stride * channels, kernel=(1, 1, 1))
        self.conv = CausalConv3d(channels, channels)
        self.folded: FoldedUpsampler | None = None

    def fold(self) -> None:
        """Derive the folded weights from the present ones, in their dtype or better."""
        up, conv = self.upscale_conv, self.conv
        weights = fold_weights(up.weight, up.bias, conv.weight, time_stride=self.time_stride)
        self.folded = FoldedUpsampler(weights, conv.bias, time_stride=self.time_stride)

    def start(self, *, seen: int) -> UpsamplerState:
        """A fresh state whose next frame is low-res frame `seen` of the shot."""
        # What the folded conv lacks in front of the first frame: 1 frame for Z = 2, 2 for Z = 1.
        folded = ConvState(lead=3 - self.time_stride)
        return UpsamplerState(seen=seen, time_stride=self.time_stride, folded=folded)

    def forward(self, x_BCTHW: Tensor, state: UpsamplerState) -> Tensor:
        """[B, C, T, H, W] -> [B, C, T or 2T (2T - 1 at a shot's start), 2H, 2W]."""
        frames = x_BCTHW.shape[2]
        plain = frames if self.folded is None else self._frames_before_fold(frames, state.seen)
        parts: list[Tensor] = []
        if plain:
            parts.append(self._upsample_plain(x_BCTHW[:, :, :plain], state))
        if plain < frames:
            assert self.folded is not None
            assert state.conv.frames is None, "the state comes from a model that was not folded"
            parts.append(self.folded(x_BCTHW[:, :, plain:], state.folded))
            state.seen += frames - plain
        return join_frames(parts)

    def _frames_before_fold(self, frames: int, seen: int) -> int:
        if self.time_stride == 1:
            return 0
        return min(frames, max(0, UPSAMPLED_PLAIN_FRAMES - seen))

    def _upsample_plain(self, x_BCTHW: Tensor, state: UpsamplerState) -> Tensor:
        y_BCTHW = depth_to_space_time(self.upscale_conv(x_BCTHW, ConvState()), self.time_stride)
        if state.seen == 0 and self.time_stride == 2:
            y_BCTHW = join_frames([y_BCTHW[:, :, :1], y_BCTHW[:, :, 2:]])
        y_BCTHW = self.conv(y_BCTHW, state.conv)
        state.seen += x_BCTHW.shape[2]
        if self.folded is not None and state.seen >= UPSAMPLED_PLAIN_FRAMES:
            # Hand-over: from here on only the last low-res frame is needed.
            state.conv = ConvState()
            with state.folded.keeping(x_BCTHW[:, :, -1:]):
                pass
            state.folded.seen = state.seen
        return y_BCTHW


def build_norm(channels: int, config: VAEConfig) -> FrameGroupNorm:
    """The config's group norm."""
    return FrameGroupNorm(channels, num_groups=config.norm_groups, eps=config.norm_eps)
