"""The causal video VAE as one object: load, encode, decode, each slice by slice.

A shot is one stream. `state=None` starts it; the returned state goes into the next call, which
consumes it (clone it to keep it). Slices of any size give the same result up to the order of sums;
the same slices and level sizes give the same bits. To begin inside a shot, start a state at that
latent and drop the outputs of the warm-up, which must run on the same slices (budget.py says how
many latents or frames it takes).

Legend: B batch, C channels, T frames, H W pixels; Z latent frames, h w latent grid.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from seedvr2_core.config import VAEConfig
from seedvr2_core.errors import CheckpointError, PlanError
from seedvr2_core.vae.attention import FrameAttention, choose_way
from seedvr2_core.vae.blocks import Upsampler
from seedvr2_core.vae.conv import LAYOUT, at_least_float32
from seedvr2_core.vae.decoder import Decoder, DecoderState
from seedvr2_core.vae.encoder import Encoder, EncoderState

FramesPerLevel = Sequence[int | None]
"""For each level, encoder's or decoder's first to last, how many frames run at once (None: all)."""

LOGVAR_RANGE = (-30.0, 20.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Posterior:
    """The distribution of the latents that the encoder's moments stand for."""

    mean: Tensor
    """[B, 16, Z, h, w]."""
    logvar: Tensor
    """Clamped to LOGVAR_RANGE."""

    @classmethod
    def from_moments(cls, moments_BCZhw: Tensor) -> "Posterior":
        """Split [B, 32, Z, h, w] into mean and log-variance."""
        mean, logvar = moments_BCZhw.chunk(2, dim=1)
        return cls(mean=mean, logvar=logvar.clamp(*LOGVAR_RANGE))

    @property
    def std(self) -> Tensor:
        """Standard deviation."""
        return torch.exp(self.logvar / 2)

    def sample(self, noise_BCZhw: Tensor) -> Tensor:
        """The latent for that standard normal noise."""
        return self.mean + self.std * noise_BCZhw


def scale_latents(z: Tensor, config: VAEConfig) -> Tensor:
    """The VAE's own latents -> those the transformer sees, in float32 (float64 stays)."""
    # A factor in half precision would cost as much as the whole rounding budget of the latents.
    return (at_least_float32(z) - config.shifting_factor) * config.scaling_factor


def unscale_latents(latents: Tensor, config: VAEConfig) -> Tensor:
    """Inverse of `scale_latents`, in float32 (float64 stays)."""
    return at_least_float32(latents) / config.scaling_factor + config.shifting_factor


class VideoVAE(nn.Module):
    """Encoder and decoder under the names of the checkpoint."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def start_encoder(self, first_latent: int = 0, *, rings: bool = False) -> EncoderState:
        """A fresh state whose next frame is the first of that latent of the shot.

        With `rings` large frames pass one at a time and are not copied: part of what decides bits.
        """
        return self.encoder.start(first_latent, rings=rings)

    def start_decoder(self, first_latent: int = 0, *, rings: bool = False) -> DecoderState:
        """A fresh state whose next latent is that one of the shot; `rings` as for the encoder."""
        return self.decoder.start(first_latent, rings=rings)

    def encode(
        self,
        video_BCTHW: Tensor,
        state: EncoderState | None = None,
        *,
        max_frames: FramesPerLevel | None = None,
    ) -> tuple[Tensor, EncoderState]:
        """Encode the next frames of a shot.

        Args:
            video_BCTHW: [-1, 1], dtype and device of the weights; whole latents: 4n + 1 frames at
                the shot's start, 4n later; H and W should be multiples of 8 (the rest is lost).
            state: returned for the slice before, consumed here. None starts a shot.
            max_frames: bounds the memory at the large sizes; part of what decides the bits.

        Returns:
            Moments [B, 32, Z, h, w], unclamped, and the state for the next slice.

        Raises:
            PlanError: the frames do not make whole latents, or there is not one bound per level.
                The state is then unchanged; after any other error it must not be used again.
        """
        state = self.start_encoder() if state is None else state
        group, frames = self.config.temporal_factor, video_BCTHW.shape[2]
        first = 0 if state.next_latent else 1
        if frames < 1 or (frames - first) % group:
            raise PlanError(
                f"a slice must have {group}n{' + 1' if first else ''} frames at latent "
                f"{state.next_latent} of a shot, got {frames}; repeat the last frame"
            )
        bounds = self._bounds(max_frames)
        return self.encoder(_as_layout(video_BCTHW), state, bounds), state

    def decode(
        self,
        z_BCZhw: Tensor,
        state: DecoderState | None = None,
        *,
        max_frames: FramesPerLevel | None = None,
    ) -> tuple[Tensor, DecoderState]:
        """Decode the next latents of a shot.

        Args:
            z_BCZhw: [B, 16, Z, h, w], Z >= 1, unscaled, dtype and device of the weights.
            state: returned for the slice before, consumed here. None starts a shot.
            max_frames: as for `encode`; the last levels are the large ones here.

        Returns:
            Frames [B, 3, T, 8h, 8w], about [-1, 1] but not clamped, and the next state. A shot's
            first latent gives 1 frame, each later one 4.

        Raises:
            PlanError: no latent, or not one bound per level.
        """
        if z_BCZhw.shape[2] < 1:
            raise PlanError("a slice must have at least 1 latent, got 0")
        state = self.start_decoder() if state is None else state
        bounds = self._bounds(max_frames)
        return self.decoder(_as_layout(z_BCZhw), state, bounds), state

    def encode_latents(
        self,
        video_BCTHW: Tensor,
        state: EncoderState | None = None,
        *,
        noise_BCZhw: Tensor | None = None,
        max_frames: FramesPerLevel | None = None,
    ) -> tuple[Tensor, EncoderState]:
        """Frames -> the latents that the transformer sees.

        Args:
            video_BCTHW: as for `encode`, any floating dtype.
            state: as for `encode`.
            noise_BCZhw: draws a sample of the posterior; None takes its mean.
            max_frames: as for `encode`.

        Returns:
            [B, Z, h, w, 16] float32, and the next state.
        """
        moments_BCZhw, state = self.encode(video_BCTHW.to(self.dtype), state, max_frames=max_frames)
        posterior = Posterior.from_moments(at_least_float32(moments_BCZhw))
        z_BCZhw = posterior.mean if noise_BCZhw is None else posterior.sample(noise_BCZhw)
        return scale_latents(z_BCZhw, self.config).permute(0, 2, 3, 4, 1), state

    def decode_latents(
        self,
        latents_BZhwC: Tensor,
        state: DecoderState | None = None,
        *,
        max_frames: FramesPerLevel | None = None,
    ) -> tuple[Tensor, DecoderState]:
        """The transformer's latents -> frames.

        Args:
            latents_BZhwC: [B, Z, h, w, 16], any floating dtype.
            state: as for `decode`.
            max_frames: as for `decode`.

        Returns:
            [B, 3, T, 8h, 8w] float32, not clamped, and the next state.
        """
        z_BCZhw = unscale_latents(latents_BZhwC, self.config).permute(0, 4, 1, 2, 3)
        video_BCTHW, state = self.decode(z_BCZhw.to(self.dtype), state, max_frames=max_frames)
        return at_least_float32(video_BCTHW), state

    def fold(self) -> None:
        """Give every up-sampler its folded weights (fold.py), from the weights as they are now.

        Loading other weights or casting up later needs a new call; a decoder state from before
        does not fit after.
        """
        for module in self.decoder.modules():
            if isinstance(module, Upsampler):
                module.fold()

    def choose_attention(self, tokens: int) -> str:
        """Choose how frames of so many latent pixels attend, on the device of the weights.

        Returns:
            The way (attention.py).
        """
        layers = [module for module in self.modules() if isinstance(module, FrameAttention)]
        device, channels = layers[0].to_q.weight.device, self.config.block_out_channels[-1]
        way = choose_way(tokens, channels, self.dtype, device)
        for layer in layers:
            layer.way = way
        return way

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.encoder.conv_in.weight.dtype

    def _bounds(self, max_frames: FramesPerLevel | None) -> FramesPerLevel:
        levels = self.config.num_levels
        if max_frames is None:
            return [None] * levels
        if len(max_frames) != levels or any(n is not None and n < 1 for n in max_frames):
            raise PlanError(
                f"max_frames must hold {levels} bounds >= 1 (or None), got {list(max_frames)}"
            )
        return max_frames


def _as_layout(x_BCTHW: Tensor) -> Tensor:
    return x_BCTHW.contiguous(memory_format=LAYOUT)


def build_vae(
    config: VAEConfig,
    weights: Mapping[str, Tensor],
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    fold: bool = True,
) -> VideoVAE:
    """A VAE with these weights, ready to run.

    Args:
        config: the graph.
        weights: exactly the graph's names and shapes, floating; not changed.
        dtype: of weights and activations. Folding comes first, in float32, and is rounded once.
        device: where it runs.
        fold: run the up-samplers folded (about a fifth less work); False: as trained.

    Raises:
        CheckpointError: names or shapes are not the graph's.
    """
    with torch.device("meta"):
        vae = VideoVAE(config)
    _check_weights(vae.state_dict(), weights)
    vae.load_state_dict({k: v.detach() for k, v in weights.items()}, strict=True, assign=True)
    vae = vae.requires_grad_(False).eval().to(device=device)
    if fold:
        vae.fold()
    vae = vae.to(dtype=dtype)
    for tensor in itertools.chain(vae.parameters(), vae.buffers()):
        if tensor.dim() == 5:
            tensor.data = tensor.data.contiguous(memory_format=LAYOUT)
    return vae


def _check_weights(expected: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> None:
    problems = [f"missing {name}" for name in expected.keys() - got.keys()]
    problems += [f"unexpected {name}" for name in got.keys() - expected.keys()]
    problems += [
        f"{name} is {list(got[name].shape)}, expected {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in got and got[name].shape != tensor.shape
    ]
    if problems:
        shown = "; ".join(sorted(problems)[:5])
        raise CheckpointError(
            f"these are not the VAE's weights: {len(problems)} problems with {len(expected)} "
            f"tensors: {shown}; use the file that goes with this configuration"
        )


def random_weights(config: VAEConfig, *, seed: int) -> dict[str, Tensor]:
    """Weights of a working but meaningless VAE, float32: for tests and the engine `tiny`.

    Scaled so that activations keep their size; biases and norms are non-trivial on purpose.
    """
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in VideoVAE(config).state_dict().items()}
    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            weights[name] = noise / shape[1:].numel() ** 0.5
        elif "norm" in name and name.endswith("weight"):
            weights[name] = 1 + 0.1 * noise
        else:
            weights[name] = 0.1 * noise
    return weights
