"""The causal decoder: latents in, frames out, slice by slice.

Legend: B batch, C channels, T frames, H W pixels of the level.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from seedvr2_core.config import VAEConfig
from seedvr2_core.vae.blocks import (
    MidBlock,
    MidBlockState,
    ResBlock,
    ResBlockState,
    Upsampler,
    UpsamplerState,
    build_norm,
)
from seedvr2_core.vae.causal_conv import (
    CausalConv3d,
    ConvState,
    join_frames,
    split_frames,
)
from seedvr2_core.vae.conv import LAYOUT
from seedvr2_core.vae.norm import NormSiLU
from seedvr2_core.vae.stream import StreamState


@dataclass(slots=True)
class UpBlockState(StreamState):
    """State of one level."""

    resnets: list[ResBlockState]
    upsamplers: list[UpsamplerState]


@dataclass(slots=True)
class DecoderState(StreamState):
    """What one slice leaves for the next."""

    next_latent: int
    """Index in the shot of the latent that comes next."""
    conv_in: ConvState
    mid_block: MidBlockState
    up_blocks: list[UpBlockState]
    conv_out: ConvState
    bands: bool = False
    """Whether large frames are worked in bands of rows, and given back one by one."""

    def use_bands(self) -> None:
        """See `StreamState.use_bands`."""
        self.bands = True
        for part in self._parts():
            part.use_bands()


class UpBlock(nn.Module):
    """Residual blocks of a level and its up-sampler (the last level has none)."""

    def __init__(self, level: int, config: VAEConfig) -> None:
        super().__init__()
        channels = config.block_out_channels[::-1]
        widths = [channels[max(level - 1, 0)], *[channels[level]] * config.layers_per_block]
        self.resnets = nn.ModuleList(ResBlock(width, channels[level], config) for width in widths)
        self.upsamplers = nn.ModuleList()
        if level < config.num_levels - 1:
            stride = config.decoder_time_stride(level)
            self.upsamplers.append(Upsampler(channels[level], time_stride=stride))

    @property
    def upsampler(self) -> Upsampler | None:
        """The level's up-sampler."""
        upsampler = next(iter(self.upsamplers), None)
        assert upsampler is None or isinstance(upsampler, Upsampler)
        return upsampler

    def start(self, *, seen: int) -> UpBlockState:
        """A fresh state whose next frame is frame `seen` of the shot at this level."""
        return UpBlockState(
            resnets=[ResBlockState() for _ in self.resnets],
            upsamplers=[] if self.upsampler is None else [self.upsampler.start(seen=seen)],
        )

    def forward(self, x_BCTHW: Tensor, state: UpBlockState) -> Tensor:
        """Run the residual blocks; the decoder runs the up-sampler, with fewer frames at once."""
        return self.run([x_BCTHW], state)

    def run(self, given: list[Tensor], state: UpBlockState) -> Tensor:
        """The same of the one tensor in a list, which goes with the first block if it is nowhere
        else."""
        x_BCTHW = given.pop()
        for resnet, resnet_state in zip(self.resnets, state.resnets, strict=True):
            x_BCTHW = resnet(x_BCTHW, resnet_state)
        return x_BCTHW


class Decoder(nn.Module):
    """Latents -> frames, not clamped."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        channels = config.block_out_channels[::-1]
        self.conv_in = CausalConv3d(config.latent_channels, channels[0])
        self.mid_block = MidBlock(channels[0], config)
        self.up_blocks = nn.ModuleList(UpBlock(level, config) for level in range(config.num_levels))
        self.conv_norm_out = build_norm(channels[-1], config)
        self.conv_out = CausalConv3d(channels[-1], config.out_channels)

    def start(self, first_latent: int = 0, *, rings: bool = False) -> DecoderState:
        """A fresh state whose next latent is that one of the shot.

        Args:
            first_latent: counted from the shot's first.
            rings: keep large frames in rings (see ring.py).
        """
        blocks: list[UpBlockState] = []
        seen, rate = 0, 1
        for block in self.levels():
            # Latent 0 is one frame at every level, each later one `rate` frames.
            seen = max(0, (first_latent - 1) * rate + 1)
            blocks.append(block.start(seen=seen))
            if rings:
                blocks[-1].use_rings(seen)
            rate *= 1 if block.upsampler is None else block.upsampler.time_stride
        state = DecoderState(
            next_latent=first_latent,
            conv_in=ConvState(),
            mid_block=self.mid_block.start(),
            up_blocks=blocks,
            conv_out=ConvState(),
        )
        if rings:
            state.conv_in.use_rings(first_latent)
            state.mid_block.use_rings(first_latent)
            state.conv_out.use_rings(seen)
        return state

    def forward(
        self, z_BCTHW: Tensor, state: DecoderState, max_frames: Sequence[int | None]
    ) -> Tensor:
        """Decode the next latents.

        Depth first: each level hands at most `max_frames[level]` frames to the next and waits
        until they have become pixels, so no more are held at the large sizes. A temporal up-sampler
        makes at least two frames; these are split again before the next level's blocks.
        """
        parts: list[Tensor] = []
        for part_BCTHW in split_frames(z_BCTHW, max_frames[0]):
            h_BCTHW = self.conv_in(part_BCTHW, state.conv_in)
            given = [self.mid_block(h_BCTHW, state.mid_block)]
            del h_BCTHW
            parts.extend(self._run_level(0, given, state, max_frames))
        state.next_latent += z_BCTHW.shape[2]
        return join_frames(parts)

    def levels(self) -> list[UpBlock]:
        """The levels, latent resolution first."""
        return [block for block in self.up_blocks if isinstance(block, UpBlock)]

    def _run_level(
        self,
        level: int,
        given: list[Tensor],
        state: DecoderState,
        max_frames: Sequence[int | None],
    ) -> Iterator[Tensor]:
        """Decode the one tensor in the list `given` from this level on, and yield pixels.

        The list is emptied, so that this call holds the only reference. Every tensor is released
        as soon as its last part is processed, before the next level makes larger ones; at these
        sizes one extra reference does not fit.
        """
        block, block_state = self.levels()[level], state.up_blocks[level]
        upsampler = block.upsampler
        parts = split_frames(given.pop(), max_frames[level])
        waiting = deque(_apart(parts) if state.bands else parts)
        del parts
        while waiting:
            if state.bands:
                h_BCTHW = block.run([waiting.popleft()], block_state)
            else:
                h_BCTHW = block(waiting.popleft(), block_state)
            if upsampler is None:
                pixels_BCTHW = self.conv_out(h_BCTHW, state.conv_out, NormSiLU(self.conv_norm_out))
                del h_BCTHW
                yield pixels_BCTHW
                continue
            limit = max_frames[level + 1]
            low_limit = None if limit is None else max(1, limit // upsampler.time_stride)
            lows = deque(split_frames(h_BCTHW, low_limit))
            del h_BCTHW
            while lows:
                raised = [upsampler(lows.popleft(), block_state.upsamplers[0])]
                yield from self._run_level(level + 1, raised, state, max_frames)


def _apart(parts: Sequence[Tensor]) -> Sequence[Tensor]:
    """Copies that can be given back one by one; a single part is not copied."""
    if len(parts) == 1:
        return parts
    return [part.clone(memory_format=LAYOUT) for part in parts]
