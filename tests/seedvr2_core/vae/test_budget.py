"""Arithmetic against the specification's tables and against real states."""

import subprocess
import sys

import pytest
import torch

from seedvr2_core.config import VAE_PRODUCTION, VAE_TINY, VAEConfig
from seedvr2_core.vae import budget
from seedvr2_core.vae.model import build_vae, random_weights

CACHES_GB = [
    pytest.param(720, 1280, 8.0, 3.6, id="720p"),
    pytest.param(1088, 1920, 18.1, 8.1, id="1080p"),
    pytest.param(1440, 2560, 31.9, 14.3, id="2k"),
    pytest.param(2160, 3840, 71.7, 32.2, id="4k"),
]


@pytest.mark.parametrize("config", [VAE_PRODUCTION, VAE_TINY], ids=["production", "tiny"])
def test_warm_up_reaches_over_the_receptive_field(config: VAEConfig) -> None:
    assert budget.encoder_warm_up_frames(config) == 112
    assert budget.decoder_warm_up_latents(config) == 37


@pytest.mark.parametrize(("height", "width", "decoder_gb", "encoder_gb"), CACHES_GB)
def test_cache_bytes_of_the_production_config(
    height: int, width: int, decoder_gb: float, encoder_gb: float
) -> None:
    decoder = budget.decoder_cache_bytes(VAE_PRODUCTION, height, width, 2)
    encoder = budget.encoder_cache_bytes(VAE_PRODUCTION, height, width, 2)
    assert round(decoder / 1e9, 1) == pytest.approx(decoder_gb, abs=0.06)
    assert round(encoder / 1e9, 1) == pytest.approx(encoder_gb, abs=0.06)


@pytest.mark.parametrize(
    ("height", "width", "saved_gb"), [(1088, 1920, 2.8), (2160, 3840, 11.0)], ids=["1080p", "4k"]
)
def test_fold_saves_cache(height: int, width: int, saved_gb: float) -> None:
    plain = budget.decoder_cache_bytes(VAE_PRODUCTION, height, width, 2)
    folded = budget.decoder_cache_bytes(VAE_PRODUCTION, height, width, 2, folded=True)
    assert (plain - folded) / 1e9 == pytest.approx(saved_gb, abs=0.06)


@pytest.mark.parametrize("fold", [False, True], ids=["plain", "folded"])
def test_cache_bytes_are_those_of_a_state(*, fold: bool) -> None:
    vae = build_vae(VAE_TINY, random_weights(VAE_TINY, seed=1), dtype=torch.float32, fold=fold)
    _, decoder = vae.decode(torch.zeros(1, 16, 3, 2, 4))
    _, encoder = vae.encode(torch.zeros(1, 3, 9, 16, 32))
    assert decoder.num_bytes() == budget.decoder_cache_bytes(VAE_TINY, 16, 32, 4, folded=fold)
    assert encoder.num_bytes() == budget.encoder_cache_bytes(VAE_TINY, 16, 32, 4)


def frame_bytes(widths: tuple[int, ...], levels: range) -> tuple[int, ...]:
    """Of each level in a 1088p fp16 picture, the largest activation of one frame.

    Args:
        widths: channels of each level.
        levels: how often each level has been halved in space.
    """
    before = (widths[0], *widths[:-1])
    return tuple(
        2 * max(pair) * (1088 >> halvings) * (1920 >> halvings)
        for *pair, halvings in zip(before, widths, levels, strict=True)
    )


def test_frame_bytes_of_the_production_config() -> None:
    widths, levels = VAE_PRODUCTION.block_out_channels, range(VAE_PRODUCTION.num_levels)
    decoder, encoder = frame_bytes(widths[::-1], levels[::-1]), frame_bytes(widths, levels)
    assert decoder[-1] / 1e9 == pytest.approx(1.07, abs=0.005)  # 256 channels, full resolution
    assert 5 * encoder[0] / 1e9 == pytest.approx(2.7, abs=0.03)  # 128 channels, full resolution
    assert decoder[0] == 512 * 136 * 240 * 2
    assert encoder == (encoder[0], encoder[0] // 2, encoder[0] // 4, encoder[0] // 16)


def test_operations_of_the_production_config() -> None:
    size = VAE_PRODUCTION, 1088, 1920
    assert budget.decoder_flops(*size, 6) / 1e12 == pytest.approx(1057, abs=1)
    assert budget.decoder_flops(*size, 26) / 1e12 == pytest.approx(5037, abs=1)
    assert budget.encoder_flops(*size, 6) / 1e12 == pytest.approx(411, abs=1)
    assert budget.encoder_flops(*size, 26) / 1e12 == pytest.approx(1946, abs=1)
    saved = 1 - budget.decoder_flops(*size, 26, folded=True) / budget.decoder_flops(*size, 26)
    assert saved == pytest.approx(0.21, abs=0.005)


GRAPHS = [
    pytest.param(VAE_TINY, id="tiny"),
    pytest.param(VAEConfig(block_out_channels=(4, 4, 8), norm_groups=2, temporal_levels=1), id="3"),
    pytest.param(
        VAEConfig(
            block_out_channels=(8, 8, 12, 16), norm_groups=4, layers_per_block=1, latent_channels=4
        ),
        id="1_layer",
    ),
]


@pytest.mark.parametrize("config", GRAPHS)
def test_listed_convs_are_the_models(config: VAEConfig) -> None:
    weights = random_weights(config, seed=1)
    listed = [*budget.encoder_convs(config), *budget.decoder_convs(config)]
    expected = {
        f"{spec.path}.weight": (spec.out_channels, spec.in_channels, *spec.kernel)
        for spec in listed
    }
    got = {name: tuple(tensor.shape) for name, tensor in weights.items() if tensor.dim() == 5}
    assert got == expected


@pytest.mark.parametrize("config", GRAPHS)
def test_context_is_exact_to_a_latent(config: VAEConfig) -> None:
    """Latents older than the warm-up change nothing; the oldest inside it does."""
    weights = {k: v.double() for k, v in random_weights(config, seed=1).items()}
    vae = build_vae(config, weights, dtype=torch.float64)
    context = budget.decoder_warm_up_latents(config)
    shape = (1, config.latent_channels, context + 2, 1, 1)
    z = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    last = vae.decode(z)[0][:, :, -config.temporal_factor :]
    for changed, same in ((0, True), (1, False)):
        other = z.clone()
        other[:, :, changed] += 100
        got = vae.decode(other)[0][:, :, -config.temporal_factor :]
        assert torch.equal(got, last) == same


def test_arithmetic_loads_no_torch() -> None:
    code = "import seedvr2_core.vae.budget, sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
