"""The colour kernel: its reference against the chain of blurs, and Triton against its reference."""

import itertools

import pytest
import torch
from torch import Tensor

from seedvr2_core.engines.seedvr2.color import blur, transfer_color, wavelet_radii
from seedvr2_core.frames import rounded
from seedvr2_core.kernels.color import blur_band, wavelet_color
from tests.kits.gpu.interpreter import interpreted

LUMA_RADII, CHROMA_RADII = (1, 2, 4, 8, 16), (1, 2, 4)
SMALL = [(40, 70), (1, 1), (3, 200), (65, 2)]
LARGE = (82, 140)
"""Has blocks without an edge of the frame, and takes the interpreter 15 s."""
SIZES = pytest.mark.parametrize("size", [*SMALL, LARGE])
DTYPES = [torch.float32, torch.uint8, torch.uint16]


def frames(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Restored and source; the restored one is a part of a padded frame, and leaves the range."""
    generator = torch.Generator().manual_seed(size[0])
    padded = 1.5 * torch.randn(size[0] + 5, size[1] + 9, 3, generator=generator)
    return padded[: size[0], : size[1]].permute(2, 0, 1), torch.rand(
        3, *size, generator=generator
    ) * 2 - 1


def bands(length: int) -> tuple[Tensor, Tensor]:
    return blur_band(length, LUMA_RADII), blur_band(length, CHROMA_RADII)


@pytest.mark.parametrize("length", [1, 2, 7, 31, 64, 200])
@pytest.mark.parametrize("radii", [LUMA_RADII, CHROMA_RADII, (1,)])
def test_a_band_is_the_chain_of_blurs(length: int, radii: tuple[int, ...]) -> None:
    """Edges included: each blur repeats its own."""
    reach = sum(radii)
    band = blur_band(length, radii)
    x_L = torch.randn(length, generator=torch.Generator().manual_seed(length))
    wanted = blur(x_L[None, None].expand(1, 1, length), radii)[0, 0]
    padded = torch.cat([torch.full((reach,), torch.nan), x_L, torch.full((reach,), torch.nan)])
    windows = padded.unfold(0, 2 * reach + 1, 1).nan_to_num(0.0)
    torch.testing.assert_close((band * windows).sum(1), wanted, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(band.sum(1), torch.ones(length))
    outside = padded.unfold(0, 2 * reach + 1, 1).isnan()
    assert not band[outside].any(), "nothing outside is needed"


@SIZES
def test_the_reference_is_the_wavelet_method(size: tuple[int, int]) -> None:
    content, source = frames(size)
    wanted = transfer_color(content[None], source[None], "wavelet")[0]
    made = torch.empty((*size, 3))
    args = (content, source, torch.empty(3, *size), bands(size[0]), bands(size[1]))
    wavelet_color.reference(made, *args)
    torch.testing.assert_close(made.permute(2, 0, 1), wanted, atol=3e-6, rtol=1e-5)
    assert tuple(wavelet_radii(5)) == LUMA_RADII
    assert tuple(wavelet_radii(3)) == CHROMA_RADII
    for dtype, kind in ((torch.uint8, "uint8"), (torch.uint16, "uint16")):
        integers = torch.empty((*size, 3), dtype=dtype)
        wavelet_color.reference(integers, *args)
        expected = rounded(wanted, kind)  # pyright: ignore[reportArgumentType]
        off = (integers.to(torch.int64) - expected.to(torch.int64)).abs()
        assert off.max() <= 1
        assert off.float().mean() < 0.02


@pytest.mark.parametrize(
    ("size", "dtype"),
    [
        *itertools.product(SMALL, DTYPES),
        pytest.param(LARGE, torch.float32, marks=pytest.mark.long),  # dtypes differ at the end only
    ],
)
def test_kernel_in_the_interpreter(size: tuple[int, int], dtype: torch.dtype) -> None:
    _compare(size, dtype, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("size", [(40, 70), (1, 1), (3, 200), (1080, 1920)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_kernel_on_a_gpu(size: tuple[int, int], dtype: torch.dtype) -> None:
    _compare(size, dtype, "cuda:0")


def _compare(size: tuple[int, int], dtype: torch.dtype, device: str) -> None:
    content, source = (x.to(device) for x in frames(size))
    tables = [tuple(band.to(device) for band in bands(length)) for length in size]
    made, wanted = (torch.zeros((*size, 3), dtype=dtype, device=device) for _ in range(2))
    args = (content, source, torch.empty((3, *size), device=device), *tables)
    with interpreted():
        wavelet_color.in_triton(made, *args)
    wavelet_color.reference(wanted, *args)
    if dtype == torch.float32:
        torch.testing.assert_close(made, wanted, atol=3e-6, rtol=1e-5)
        return
    off = (made.to(torch.int64) - wanted.to(torch.int64)).abs()
    assert off.max() <= 1
    assert off.float().mean() < 0.02


def test_halves_are_rounded_to_even() -> None:
    """As torch rounds: a source like the restored frame changes nothing but that."""
    levels = torch.linspace(-1.2, 1.2, 511)[None, None].expand(3, 1, 511).contiguous()
    halves = (torch.arange(0, 510) + 0.5) * (2 / 255) / 2 - 1
    levels[:, :, :510] = halves
    made = torch.empty((1, 511, 3), dtype=torch.uint8)
    args = (levels, levels.clone(), torch.empty_like(levels), bands(1), bands(511))
    with interpreted():
        wavelet_color.in_triton(made, *args)
    assert torch.equal(made, rounded(levels, "uint8"))
