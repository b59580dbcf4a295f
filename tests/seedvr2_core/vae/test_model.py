"""Loading, names, the posterior and the scale of the latents."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from seedvr2_core.config import VAE_CONFIGS, VAE_PRODUCTION, VAE_TINY
from seedvr2_core.errors import CheckpointError
from seedvr2_core.vae.conv import LAYOUT
from seedvr2_core.vae.model import (
    Posterior,
    VideoVAE,
    build_vae,
    random_weights,
    scale_latents,
    unscale_latents,
)

pytestmark = pytest.mark.usefixtures("either_path")

KEYS_SHA256 = "6e3c65fd0f1c277df50f41cf3238502cc4e192322a9d13ee8a46bfb667398226"
"""Of the production file's names and shapes, as JSON with sorted keys."""


def _shapes() -> dict[str, list[int]]:
    with torch.device("meta"):
        vae = VideoVAE(VAE_PRODUCTION)
    return {name: list(tensor.shape) for name, tensor in vae.state_dict().items()}


def test_production_names_and_shapes() -> None:
    shapes = _shapes()
    assert len(shapes) == 250
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 250_648_227
    text = json.dumps(shapes, sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest() == KEYS_SHA256


def test_production_names_are_those_of_the_list(shared: Path) -> None:
    assert _shapes() == json.loads((shared / "seedvr2" / "keys_vae.json").read_text())


def test_tiny_is_the_production_graph() -> None:
    production, tiny = _shapes(), random_weights(VAE_TINY, seed=1)
    assert production.keys() == tiny.keys()
    assert all(len(production[name]) == tensor.dim() for name, tensor in tiny.items())
    assert VAE_CONFIGS["tiny"] is VAE_TINY


@pytest.mark.parametrize("fold", [False, True], ids=["plain", "folded"])
def test_weights_are_loaded_as_they_are(*, fold: bool) -> None:
    weights = random_weights(VAE_TINY, seed=1)
    kept = {name: tensor.clone() for name, tensor in weights.items()}
    vae = build_vae(VAE_TINY, weights, dtype=torch.float32, fold=fold)
    state = vae.state_dict()
    assert state.keys() == weights.keys()
    for name, tensor in state.items():
        assert torch.equal(tensor, kept[name])
        assert torch.equal(weights[name], kept[name])
        assert not tensor.requires_grad
        assert tensor.dim() < 5 or tensor.is_contiguous(memory_format=LAYOUT)


def test_wrong_weights_are_refused() -> None:
    weights = random_weights(VAE_TINY, seed=1)
    weights["decoder.conv_in.bias"] = torch.zeros(3)
    weights["quant_conv.bias"] = weights.pop("encoder.conv_out.bias")
    with pytest.raises(CheckpointError) as caught:
        build_vae(VAE_TINY, weights, dtype=torch.float32)
    message = str(caught.value)
    assert "3 problems with 250 tensors" in message
    assert "missing encoder.conv_out.bias" in message
    assert "unexpected quant_conv.bias" in message
    assert "decoder.conv_in.bias is [3], expected [24]" in message


def test_random_weights_repeat() -> None:
    first, again = (random_weights(VAE_TINY, seed=5) for _ in range(2))
    other = random_weights(VAE_TINY, seed=6)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["encoder.conv_in.weight"], other["encoder.conv_in.weight"])


def test_posterior_clamps_and_samples() -> None:
    moments = torch.tensor([1.0, 2.0, -100.0, 100.0]).reshape(1, 4, 1, 1, 1)
    posterior = Posterior.from_moments(moments)
    assert posterior.logvar.flatten().tolist() == [-30.0, 20.0]
    torch.testing.assert_close(posterior.std, torch.exp(posterior.logvar / 2))
    sample = posterior.sample(torch.full((1, 2, 1, 1, 1), 0.5))
    torch.testing.assert_close(sample, posterior.mean + 0.5 * posterior.std)


def test_scale_is_the_configs_and_keeps_float32() -> None:
    z = torch.tensor([1.0, -2.0], dtype=torch.float16)
    scaled = scale_latents(z, VAE_PRODUCTION)
    assert scaled.dtype == torch.float32
    torch.testing.assert_close(scaled, torch.tensor([0.9152, -1.8304]))
    torch.testing.assert_close(unscale_latents(scaled, VAE_PRODUCTION), z.float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_latents_round_trip_in_shape_and_dtype(dtype: torch.dtype) -> None:
    vae = build_vae(VAE_TINY, random_weights(VAE_TINY, seed=1), dtype=dtype)
    video = torch.randn(1, 3, 5, 16, 16, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)
    latents, state = vae.encode_latents(video)
    moments, _ = vae.encode(video.to(dtype))
    assert latents.shape == (1, 2, 2, 2, 16)
    assert latents.dtype == torch.float32
    assert state.next_latent == 2
    expected = moments[:, :16].float().permute(0, 2, 3, 4, 1) * 0.9152
    torch.testing.assert_close(latents, expected)
    noise = torch.ones(1, 16, 2, 2, 2)
    assert not torch.equal(vae.encode_latents(video, noise_BCZhw=noise)[0], latents)
    frames, decoder = vae.decode_latents(latents)
    plain, _ = vae.decode((latents / 0.9152).permute(0, 4, 1, 2, 3).to(dtype))
    assert frames.dtype == torch.float32
    assert torch.equal(frames, plain.float())
    assert decoder.next_latent == 2


def test_input_is_left_as_it_is() -> None:
    vae = build_vae(VAE_TINY, random_weights(VAE_TINY, seed=1), dtype=torch.float32)
    video = torch.randn(1, 3, 5, 16, 16, generator=torch.Generator().manual_seed(1))
    z = torch.randn(1, 16, 2, 2, 2, generator=torch.Generator().manual_seed(2))
    kept = video.clone(), z.clone()
    vae.encode(video)
    vae.decode(z)
    assert torch.equal(video, kept[0])
    assert torch.equal(z, kept[1])


@pytest.mark.gpu
@pytest.mark.parametrize("fold", [False, True], ids=["plain", "folded"])
def test_gpu_agrees_with_cpu(*, fold: bool) -> None:
    weights = random_weights(VAE_TINY, seed=1)
    z = torch.randn(1, 16, 4, 4, 6, generator=torch.Generator().manual_seed(1))
    frames, _ = build_vae(VAE_TINY, weights, dtype=torch.float32).decode(z)
    gpu = build_vae(VAE_TINY, weights, dtype=torch.float16, device="cuda", fold=fold)
    got, state = gpu.decode(z.half().cuda(), max_frames=(None, 2, 2, 1))
    error = (got.cpu().float() - frames).square().mean().sqrt() / frames.square().mean().sqrt()
    assert error <= 0.003
    assert all(t.is_contiguous(memory_format=LAYOUT) for _, t in state.named_tensors())
