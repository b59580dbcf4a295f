"""Offers our VAE through the interface of the golden cases (see check_vae.py's docstring).

`build` gives the model as trained; `build_folded` the one with folded up-samplers, which has no
per-conv caches to compare there. Tensors are float32 on the CPU.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from seedvr2_core.config import VAEConfig
from seedvr2_core.vae.causal_conv import CausalConv3d
from seedvr2_core.vae.model import Posterior, VideoVAE, build_vae
from seedvr2_core.vae.norm import FrameGroupNorm
from seedvr2_core.vae.stream import StreamState


def read_config(config: Mapping[str, Any]) -> VAEConfig:
    """The golden set's description of a network -> ours."""
    assert config["act"] == "silu"
    assert not config["use_quant_conv"]
    assert not config["use_post_quant_conv"]
    ours = VAEConfig(
        block_out_channels=tuple(config["block_out_channels"]),
        layers_per_block=config["layers_per_block"],
        temporal_levels=config["temporal_scale_num"],
        latent_channels=config["latent_channels"],
        in_channels=config["in_channels"],
        out_channels=config["out_channels"],
        norm_groups=config["norm_num_groups"],
        norm_eps=config["norm_eps"],
        scaling_factor=config["scaling_factor"],
        shifting_factor=config["shifting_factor"],
    )
    assert ours.spatial_factor == config["spatial_downsample_factor"]
    assert ours.temporal_factor == config["temporal_downsample_factor"]
    return ours


def build(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> "GoldenVAE":
    """The model as trained."""
    return GoldenVAE(build_vae(read_config(config), state_dict, dtype=torch.float32, fold=False))


def build_folded(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> "GoldenVAE":
    """The model as it runs in production."""
    return GoldenVAE(build_vae(read_config(config), state_dict, dtype=torch.float32))


class GoldenVAE:
    """The operations of the golden cases."""

    def __init__(self, vae: VideoVAE) -> None:
        self.vae = vae

    def encode(self, x: Tensor, split_size: int | None) -> Tensor:
        return torch.cat([out for out, _ in self.stream_encode(x, split_size)], dim=2)

    def decode(self, z: Tensor, split_size: int | None) -> Tensor:
        return torch.cat([out for out, _ in self.stream_decode(z, split_size)], dim=2)

    def posterior(self, moments: Tensor, eps: Tensor) -> dict[str, Tensor]:
        posterior = Posterior.from_moments(moments)
        return {
            "mean": posterior.mean,
            "logvar": posterior.logvar,
            "std": posterior.std,
            "sample": posterior.sample(eps),
        }

    def stream_encode(
        self, x: Tensor, split_size: int | None
    ) -> list[tuple[Tensor, dict[str, Tensor]]]:
        state, outputs = None, []
        for part in _slices(x, split_size):
            out, state = self.vae.encode(part, state)
            outputs.append((out, _caches("encoder", state)))
        return outputs

    def stream_decode(
        self, z: Tensor, split_size: int | None
    ) -> list[tuple[Tensor, dict[str, Tensor]]]:
        latents = None if split_size is None else split_size // self.vae.config.temporal_factor
        state, outputs = None, []
        for part in _slices(z, latents):
            out, state = self.vae.decode(part, state)
            outputs.append((out, _caches("decoder", state)))
        return outputs

    def trace_encode(self, x: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        return self._trace(lambda: self.vae.encode(x), names)

    def trace_decode(self, z: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        return self._trace(lambda: self.vae.decode(z), names)

    def pipeline_encode(
        self, x: Tensor, eps: Tensor, split_size: int, scale: float, shift: float
    ) -> Tensor:
        self._check_scale(scale, shift)
        # Slices as the reference makes them; the noise is drawn for the whole clip.
        state, latents, start = None, [], 0
        for part in _slices(x[None], split_size):
            count = (part.shape[2] - 1) // self.vae.config.temporal_factor + 1
            noise = eps.reshape(1, *eps.shape[-4:])[:, :, start : start + count]
            latent, state = self.vae.encode_latents(part, state, noise_BCZhw=noise)
            latents.append(latent)
            start += count
        return torch.cat(latents, dim=1)[0]

    def pipeline_decode(
        self, latent: Tensor, split_size: int, scale: float, shift: float
    ) -> Tensor:
        self._check_scale(scale, shift)
        state, videos = None, []
        groups = split_size // self.vae.config.temporal_factor
        for part in _slices(latent[None].movedim(-1, 1), groups):
            video, state = self.vae.decode_latents(part.movedim(1, -1), state)
            videos.append(video)
        return torch.cat(videos, dim=2)[0]

    def to_uint8(self, y: Tensor) -> Tensor:
        """The rule of the reference's script; the product's own lives in frames.py."""
        levels = (y.float().clamp(-1, 1) * 0.5 + 0.5) * 255
        return levels.round().to(torch.uint8).permute(1, 2, 3, 0)

    def _check_scale(self, scale: float, shift: float) -> None:
        config = self.vae.config
        assert (scale, shift) == (config.scaling_factor, config.shifting_factor)

    def _trace(self, run: Callable[[], object], names: Iterable[str]) -> dict[str, Tensor]:
        modules = dict(self.vae.named_modules())
        found: dict[str, Tensor] = {}
        handles = [
            modules[name].register_forward_hook(_recorder(name, found), with_kwargs=True)
            for name in names
        ]
        run()
        for handle in handles:
            handle.remove()
        return found


def _recorder(name: str, found: dict[str, Tensor]) -> Callable[..., None]:
    def record(module: Any, args: Any, kwargs: Mapping[str, Any], output: Tensor) -> None:
        if isinstance(module, FrameGroupNorm) and kwargs.get("silu"):
            # Ours runs norm and SiLU in one; the case wants the norm.
            output = module.forward(*args, input_bias_C=kwargs.get("input_bias_C"))
        if isinstance(module, CausalConv3d) and not kwargs.get("with_bias", True):
            output = output + module.bias[:, None, None, None]  # which the next kernel adds
        found[name] = output.clone()

    return record


def _slices(x: Tensor, split_size: int | None) -> list[Tensor]:
    """One slice of split_size + 1 frames, then split_size each (None: all at once)."""
    frames = x.shape[2]
    if split_size is None or frames - 1 <= split_size:
        return [x]
    starts = [0, *range(split_size + 1, frames, split_size), frames]
    return [x[:, :, a:b] for a, b in itertools.pairwise(starts)]


def _caches(prefix: str, state: StreamState) -> dict[str, Tensor]:
    """What each conv keeps, by its path; down-samplers' with the pad they add after joining."""
    caches: dict[str, Tensor] = {}
    for path, tensor in state.named_tensors():
        name = f"{prefix}.{path.removesuffix('.frames')}"
        caches[name] = F.pad(tensor, (0, 1, 0, 1)) if "downsamplers" in name else tensor.clone()
    return caches
