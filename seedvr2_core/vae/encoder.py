"""The causal encoder: frames in, moments of the latents out, slice by slice.

Legend: B batch, C channels, T frames, H W pixels of the level.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from seedvr2_core.config import VAEConfig
from seedvr2_core.vae.blocks import (
    Downsampler,
    DownsamplerState,
    MidBlock,
    MidBlockState,
    ResBlock,
    ResBlockState,
    build_norm,
)
from seedvr2_core.vae.causal_conv import (
    CausalConv3d,
    ConvState,
    join_frames,
    split_frames,
)
from seedvr2_core.vae.norm import NormSiLU
from seedvr2_core.vae.stream import StreamState


@dataclass(slots=True)
class DownBlockState(StreamState):
    """State of one level."""

    resnets: list[ResBlockState]
    downsamplers: list[DownsamplerState]


@dataclass(slots=True)
class EncoderState(StreamState):
    """What one slice leaves for the next."""

    next_latent: int
    """Index in the shot of the latent that comes next."""
    conv_in: ConvState
    down_blocks: list[DownBlockState]
    mid_block: MidBlockState
    conv_out: ConvState
    bands: bool = False
    """Whether large frames are worked in bands of rows, and given back as soon as can be."""

    def use_bands(self) -> None:
        """See `StreamState.use_bands`."""
        self.bands = True
        for part in self._parts():
            part.use_bands()


class DownBlock(nn.Module):
    """Residual blocks of a level, then its down-sampler (the last level has none)."""

    def __init__(self, level: int, config: VAEConfig) -> None:
        super().__init__()
        channels = config.block_out_channels
        widths = [channels[max(level - 1, 0)], *[channels[level]] * config.layers_per_block]
        self.resnets = nn.ModuleList(
            ResBlock(width, channels[level], config) for width in widths[:-1]
        )
        self.downsamplers = nn.ModuleList()
        if level < config.num_levels - 1:
            stride = config.encoder_time_stride(level)
            self.downsamplers.append(Downsampler(channels[level], time_stride=stride))

    def start(self, *, mid_shot: bool) -> DownBlockState:
        """A fresh state."""
        return DownBlockState(
            resnets=[ResBlockState() for _ in self.resnets],
            # Inside a shot frames come in pairs, so one frame less is missing before the first.
            downsamplers=[
                DownsamplerState(conv=ConvState(lead=1 if mid_shot else 2))
                for _ in self.downsamplers
            ],
        )

    def forward(self, x_BCTHW: Tensor, state: DownBlockState) -> Tensor:
        """Takes T >= 1 frames; may give none, where a stride waits for its pair."""
        return self.run([x_BCTHW], state)

    def run(self, given: list[Tensor], state: DownBlockState) -> Tensor:
        """The same of the one tensor in a list, which goes with the first block if it is nowhere
        else."""
        x_BCTHW = given.pop()
        for resnet, resnet_state in zip(self.resnets, state.resnets, strict=True):
            x_BCTHW = resnet(x_BCTHW, resnet_state)
        for downsampler, down_state in zip(self.downsamplers, state.downsamplers, strict=True):
            x_BCTHW = downsampler(x_BCTHW, down_state)
        return x_BCTHW


class Encoder(nn.Module):
    """Frames -> moments (mean and log-variance of the latents)."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self._config = config
        channels = config.block_out_channels
        self.conv_in = CausalConv3d(config.in_channels, channels[0])
        self.down_blocks = nn.ModuleList(
            DownBlock(level, config) for level in range(config.num_levels)
        )
        self.mid_block = MidBlock(channels[-1], config)
        self.conv_norm_out = build_norm(channels[-1], config)
        self.conv_out = CausalConv3d(channels[-1], 2 * config.latent_channels)

    def start(self, first_latent: int = 0, *, rings: bool = False) -> EncoderState:
        """A fresh state whose next frame is the first of that latent of the shot.

        Args:
            first_latent: counted from the shot's first.
            rings: keep large frames in rings (see ring.py).
        """
        mid_shot = first_latent > 0
        state = EncoderState(
            next_latent=first_latent,
            conv_in=ConvState(),
            down_blocks=[block.start(mid_shot=mid_shot) for block in self._levels()],
            mid_block=self.mid_block.start(),
            conv_out=ConvState(),
        )
        if rings:
            rate = self._config.temporal_factor
            state.conv_in.use_rings(_frames_before(first_latent, rate))
            for level, block in enumerate(state.down_blocks):
                block.use_rings(_frames_before(first_latent, rate))
                if level < len(state.down_blocks) - 1:
                    rate //= self._config.encoder_time_stride(level)
            state.mid_block.use_rings(first_latent)
            state.conv_out.use_rings(first_latent)
        return state

    def forward(
        self, x_BCTHW: Tensor, state: EncoderState, max_frames: Sequence[int | None]
    ) -> Tensor:
        """Encode the next frames.

        Level by level over the whole slice, each at most `max_frames[level]` of its input frames
        at a time. Pictures shrink from level to level, so what is kept between levels is small.
        """
        h_BCTHW = x_BCTHW
        last = len(self.down_blocks) - 1
        for level, block in enumerate(self._levels()):
            parts: list[Tensor] = []
            for part_BCTHW in split_frames(h_BCTHW, max_frames[level]):
                if level == 0:
                    part_BCTHW = self.conv_in(part_BCTHW, state.conv_in)
                if state.bands:
                    given = [part_BCTHW]
                    del part_BCTHW
                    part_BCTHW = block.run(given, state.down_blocks[level])
                else:
                    part_BCTHW = block(part_BCTHW, state.down_blocks[level])
                if level == last:
                    part_BCTHW = self._finish(part_BCTHW, state)
                parts.append(part_BCTHW)
            h_BCTHW = join_frames(parts)
        state.next_latent += h_BCTHW.shape[2]
        return h_BCTHW

    def _finish(self, h_BCTHW: Tensor, state: EncoderState) -> Tensor:
        h_BCTHW = self.mid_block(h_BCTHW, state.mid_block)
        return self.conv_out(h_BCTHW, state.conv_out, NormSiLU(self.conv_norm_out))

    def _levels(self) -> list[DownBlock]:
        return [block for block in self.down_blocks if isinstance(block, DownBlock)]


def _frames_before(latent: int, rate: int) -> int:
    """Frames of the shot before a latent's, at a level with `rate` frames for a latent."""
    # Latent 0 is one frame at every level.
    return max(0, (latent - 1) * rate + 1)
