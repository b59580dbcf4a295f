"""What the engines are, as plain data: model architectures with their presets, and one row for
each engine. Imports neither torch nor an engine, so the flow process can read it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from seedvr2_core.errors import InvalidRequestError

PATCH = 2
"""Rows and columns of latent pixels in a token of the transformer."""
DEFAULT_CHUNK_TOKENS = 65_536
"""Token rows that attention and MLP work on at once: enough to fill any GPU; more costs memory."""
PERMUTE_COLUMNS = 512
"""Columns of the residual stream that a permutation moves at once, which bounds its copy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiTConfig:
    """The diffusion transformer. Defaults are what all public models share."""

    width: int
    """Channels of the residual stream, for video and text alike (D)."""
    num_heads: int
    head_dim: int
    num_separate_layers: int
    """Leading layers with own weights for video and text; the others share one set."""
    shifted: tuple[bool, ...]
    """For each layer: are its attention windows shifted by half a window?"""
    mlp: Literal["swiglu", "gelu"]
    mlp_hidden: int
    rope: Literal["lang", "pixel"]
    """lang: video and text rotate by integer positions (3B); pixel: video only, in [-1, 1] (7B)."""
    output_modulation: bool
    """Whether a norm and a modulation come before the output (3B). In such a model the last layer
    takes its text unmodulated and updates the video only."""
    window_counts: tuple[int, int, int] = (4, 3, 3)
    """Attention windows along time, height and width of a 720p picture."""
    latent_channels: int = 16
    condition_channels: int = 17
    text_dim: int = 5120
    time_dim: int = 256
    """Sinusoids of the time embedding."""
    norm_eps: float = 1e-5

    @property
    def num_layers(self) -> int:
        """Transformer blocks."""
        return len(self.shifted)

    @property
    def inner_width(self) -> int:
        """Heads times head width."""
        return self.num_heads * self.head_dim

    @property
    def in_channels(self) -> int:
        """Channels of the input latent: noise, condition latent, mask."""
        return self.latent_channels + self.condition_channels


def swiglu_hidden(width: int, *, expand: int = 4) -> int:
    """Hidden width of the gated MLP: two thirds of `expand` times the width, up to 256s."""
    return -(-int(2 * width * expand / 3) // 256) * 256


def alternating_windows(num_layers: int) -> tuple[bool, ...]:
    """For each layer, whether its windows are shifted: those of odd layers are."""
    return tuple(layer % 2 == 1 for layer in range(num_layers))


DIT_3B = DiTConfig(
    width=2560,
    num_heads=20,
    head_dim=128,
    num_separate_layers=10,
    shifted=alternating_windows(32),
    mlp="swiglu",
    mlp_hidden=swiglu_hidden(2560),
    rope="lang",
    output_modulation=True,
)
DIT_7B = DiTConfig(
    width=3072,
    num_heads=24,
    head_dim=128,
    num_separate_layers=36,
    shifted=alternating_windows(36),
    mlp="gelu",
    mlp_hidden=4 * 3072,
    rope="pixel",
    output_modulation=False,
)
DIT_1_4B = replace(DIT_7B, num_separate_layers=6, shifted=alternating_windows(6))
"""A distillation of the sharp 7B into six of its layers, not by ByteDance. Source: its author's
configuration, as public projects pass it on: that of the 7B with another number of layers, from
which the windows follow."""
DIT_TINY_3B = DiTConfig(
    width=64,
    num_heads=2,
    head_dim=32,
    num_separate_layers=2,
    shifted=alternating_windows(4),
    mlp="swiglu",
    mlp_hidden=swiglu_hidden(64),
    rope="lang",
    output_modulation=True,
    text_dim=48,
)
DIT_TINY_7B = DiTConfig(
    width=64,
    num_heads=2,
    head_dim=32,
    num_separate_layers=4,
    shifted=alternating_windows(4),
    mlp="gelu",
    mlp_hidden=4 * 64,
    rope="pixel",
    output_modulation=False,
    text_dim=48,
)

DIT_CONFIGS: Mapping[str, DiTConfig] = {
    "3b": DIT_3B,
    "7b": DIT_7B,
    "7b-sharp": DIT_7B,
    "1.4b": DIT_1_4B,
    "tiny-3b": DIT_TINY_3B,
    "tiny-7b": DIT_TINY_7B,
}
"""Presets by name. The sharp 7B has the shapes of the 7B and other weights; the
tiny ones are for tests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VAEConfig:
    """The causal video VAE. Defaults are those of the public weights, which all models share."""

    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    """Channels of each level, full resolution first. Every level but the last halves height and
    width."""
    layers_per_block: int = 2
    """Residual blocks of an encoder level; a decoder level has one more."""
    temporal_levels: int = 2
    """Levels that also halve time."""
    latent_channels: int = 16
    in_channels: int = 3
    out_channels: int = 3
    norm_groups: int = 32
    norm_eps: float = 1e-6
    scaling_factor: float = 0.9152
    """The transformer sees (z - shifting_factor) * scaling_factor."""
    shifting_factor: float = 0.0

    @property
    def num_levels(self) -> int:
        """Resolutions the pictures pass through."""
        return len(self.block_out_channels)

    @property
    def spatial_factor(self) -> int:
        """How many pixels, in height and in width, become one latent pixel."""
        return 2 ** (self.num_levels - 1)

    @property
    def temporal_factor(self) -> int:
        """Frames of a latent after a shot's first latent, which holds one frame."""
        return 2**self.temporal_levels

    def encoder_time_stride(self, level: int) -> int:
        """Temporal stride of an encoder level's down-sampler."""
        return 2 if self.num_levels - 1 - self.temporal_levels <= level < self.num_levels - 1 else 1

    def decoder_time_stride(self, level: int) -> int:
        """Frames that a decoder level's up-sampler makes of one."""
        return 2 if level < self.temporal_levels else 1


VAE_PRODUCTION = VAEConfig()
VAE_TINY = VAEConfig(block_out_channels=(8, 16, 24, 24), norm_groups=4)

VAE_CONFIGS: Mapping[str, VAEConfig] = {"production": VAE_PRODUCTION, "tiny": VAE_TINY}
"""Presets by name. tiny is the production graph with few channels, for tests."""
PIXEL_VERSION = 1
"""Part of every job key. It is raised by hand when the same request gives other pixels, so that
results of older code are not taken for new ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSpec:
    """One engine: what it is called, where its code is and what it needs."""

    name: str
    module: str
    """Dotted name of the module that has `open_session` (`engines.protocol.EngineModule`)."""
    label: str
    """Its name for people, also written into the metadata of the output."""
    dit: str = ""
    vae: str = ""
    """Names of presets in this module; "" for engines without latents."""
    needs_gpu: bool = False
    test_only: bool = False
    """Offered only where the setting TEST_ENGINES is on."""
    meant_for: str = ""
    """What its author means it for, where that is not all videos; plans say so."""
    weights: Literal["none", "packaged", "folder"] = "none"
    """Where its weights are: there are none, a Python package brings them, or the weights folder
    holds them."""

    @property
    def has_latents(self) -> bool:
        """Whether it works on shots and windows of latents.

        Only then are cuts detected, and segments end where windows begin.
        """
        return bool(self.dit)


def _seedvr2(name: str, label: str, dit: str, *, meant_for: str = "") -> EngineSpec:
    return EngineSpec(
        name=name,
        module="seedvr2_core.engines.seedvr2.load",
        label=label,
        dit=dit,
        vae="production",
        needs_gpu=True,
        meant_for=meant_for,
        weights="folder",
    )


def _tiny(name: str, dit: str) -> EngineSpec:
    return EngineSpec(
        name=name,
        module="seedvr2_core.engines.seedvr2.tiny",
        label="tiny test network (random weights, restores nothing)",
        dit=dit,
        vae="tiny",
        test_only=True,
    )


ENGINES: dict[str, EngineSpec] = {
    spec.name: spec
    for spec in (
        _seedvr2("seedvr2-7b", "SeedVR2 7B", "7b"),
        _seedvr2("seedvr2-7b-sharp", "SeedVR2 7B sharp", "7b-sharp"),
        _seedvr2("seedvr2-3b", "SeedVR2 3B", "3b"),
        _seedvr2("seedvr2-1.4b", "SeedVR2 1.4B", "1.4b", meant_for="stills"),
        EngineSpec(
            name="span",
            module="seedvr2_core.engines.span",
            label="SPAN (small CNN, not SeedVR2)",
            weights="packaged",
        ),
        EngineSpec(
            name="waifu2x",
            module="seedvr2_core.engines.waifu2x",
            label="waifu2x photo, denoise 2 (small CNN, not SeedVR2)",
            weights="packaged",
        ),
        EngineSpec(
            name="lanczos",
            module="seedvr2_core.engines.lanczos",
            label="Lanczos resize (no restoration)",
        ),
        _tiny("tiny", "tiny-7b"),
        _tiny("tiny-3b", "tiny-3b"),
        EngineSpec(
            name="sleep",
            module="seedvr2_core.engines.sleep",
            label="test engine that takes 50 ms a frame (restores nothing)",
            test_only=True,
        ),
    )
}
DEFAULT_ENGINE = "seedvr2-7b"


def find_engine(name: str) -> EngineSpec:
    """The table row of that name.

    Raises:
        InvalidRequestError: no such engine.
    """
    if name not in ENGINES:
        usual = ", ".join(engine for engine, spec in ENGINES.items() if not spec.test_only)
        raise InvalidRequestError(f"unknown model {name!r}; choose one of: {usual}")
    return ENGINES[name]
