"""Presets and engines: numbers that follow from each other do, and every row leads somewhere."""

import dataclasses
import importlib.util
import math

import pytest

from seedvr2_core.config import (
    DEFAULT_ENGINE,
    DIT_1_4B,
    DIT_CONFIGS,
    ENGINES,
    PATCH,
    VAE_CONFIGS,
    DiTConfig,
    EngineSpec,
    VAEConfig,
    find_engine,
    swiglu_hidden,
)
from seedvr2_core.dit.model import ROPE_BUFFER, expected_keys
from seedvr2_core.errors import InvalidRequestError
from seedvr2_core.frames import FRAMES_PER_LATENT, SIZE_MULTIPLE
from seedvr2_core.weights.table import MODEL_PARTS

EACH_DIT = pytest.mark.parametrize("config", DIT_CONFIGS.values(), ids=DIT_CONFIGS.keys())
EACH_VAE = pytest.mark.parametrize("config", VAE_CONFIGS.values(), ids=VAE_CONFIGS.keys())
EACH_ENGINE = pytest.mark.parametrize("spec", ENGINES.values(), ids=ENGINES.keys())


@EACH_DIT
def test_the_heads_fill_the_width(config: DiTConfig) -> None:
    assert config.inner_width == config.width
    assert config.head_dim % 2 == 0, "channels turn in pairs"


@EACH_DIT
def test_layers_alternate_and_some_keep_video_and_text_apart(config: DiTConfig) -> None:
    assert 1 <= config.num_separate_layers <= config.num_layers
    assert config.shifted[0] is False
    assert all(a != b for a, b in zip(config.shifted, config.shifted[1:], strict=False))


@EACH_DIT
def test_the_input_is_noise_condition_and_mask(config: DiTConfig) -> None:
    assert config.condition_channels == config.latent_channels + 1
    assert config.in_channels == 2 * config.latent_channels + 1


@pytest.mark.parametrize("width", [64, 1000, 2560, 3072])
def test_the_gated_mlp_is_as_large_as_a_plain_one(width: int) -> None:
    """Its three matrices hold about as many numbers as the two of a plain MLP of 4 x the width."""
    hidden = swiglu_hidden(width)
    assert hidden % 256 == 0
    assert 0 <= 3 * hidden - 2 * 4 * width < 3 * 256 + 3


@EACH_VAE
def test_strides_multiply_to_the_factors(config: VAEConfig) -> None:
    levels = range(config.num_levels)
    down = math.prod(config.encoder_time_stride(level) for level in levels)
    up = math.prod(config.decoder_time_stride(level) for level in levels)
    assert down == up == config.temporal_factor
    assert config.encoder_time_stride(levels[-1]) == config.decoder_time_stride(levels[-1]) == 1


@EACH_VAE
def test_the_vae_makes_what_the_rest_of_the_core_counts_on(config: VAEConfig) -> None:
    assert config.temporal_factor == FRAMES_PER_LATENT
    assert config.spatial_factor * PATCH == SIZE_MULTIPLE
    assert {dit.latent_channels for dit in DIT_CONFIGS.values()} == {config.latent_channels}
    assert all(width % config.norm_groups == 0 for width in config.block_out_channels)


@pytest.mark.parametrize("preset", [*DIT_CONFIGS.values(), *VAE_CONFIGS.values()], ids=str)
def test_presets_cannot_be_changed(preset: DiTConfig | VAEConfig) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        preset.latent_channels = 4  # type: ignore[misc]


@EACH_ENGINE
def test_every_engine_has_a_module_and_its_presets(spec: EngineSpec) -> None:
    assert find_engine(spec.name) is spec
    assert importlib.util.find_spec(spec.module) is not None
    assert (spec.dit in DIT_CONFIGS, spec.vae in VAE_CONFIGS) == (spec.has_latents,) * 2


@EACH_ENGINE
def test_engines_whose_weights_are_in_the_folder_are_the_models_of_the_table(
    spec: EngineSpec,
) -> None:
    assert (spec.weights == "folder") == (spec.name in MODEL_PARTS)
    if spec.weights == "folder":
        assert MODEL_PARTS[spec.name][0] == f"dit-{spec.dit}"


def test_the_default_is_no_test_engine() -> None:
    assert not ENGINES[DEFAULT_ENGINE].test_only


def test_an_unknown_engine_is_refused_with_the_choices_of_users() -> None:
    with pytest.raises(InvalidRequestError, match="seedvr2-9b") as caught:
        find_engine("seedvr2-9b")
    assert all((name in str(caught.value)) is not spec.test_only for name, spec in ENGINES.items())


def test_the_distilled_model_is_a_slice_of_the_7b() -> None:
    """Its published file has 2,885,236,568 bytes: 16 bits a number, and a header."""
    numbers = sum(
        math.prod(shape)
        for name, shape in expected_keys(DIT_1_4B).items()
        if not name.endswith(ROPE_BUFFER)
    )
    assert 0 < 2_885_236_568 - 2 * numbers < 100_000
    assert DIT_1_4B.shifted == (False, True) * 3
    assert ENGINES["seedvr2-1.4b"].meant_for == "stills"
