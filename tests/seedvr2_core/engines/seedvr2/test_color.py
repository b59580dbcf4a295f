"""Colour transfer: what it must leave alone, what it must repair."""

import itertools

import pytest
import torch
from torch import Tensor

from seedvr2_core.engines.seedvr2.color import (
    ColorMethod,
    blur,
    needs_whole_shot,
    rank_match,
    toward_source,
    transfer_color,
    wavelet_radii,
)
from seedvr2_core.errors import InvalidRequestError

ACTIVE: list[ColorMethod] = ["wavelet", "wavelet_rgb", "adain", "lab"]
STREAMING: list[ColorMethod] = ["wavelet", "wavelet_rgb", "adain", "none"]


def _picture(seed: int, frames: int = 2, height: int = 72, width: int = 90) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(frames, 3, 6, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    grain = torch.randn(frames, 3, height, width, generator=generator)
    return (smooth * 1.4 - 0.7 + 0.05 * grain).clamp(-0.95, 0.95)


@pytest.mark.parametrize("method", [*ACTIVE, "none"])
def test_source_as_restored_stays_as_it_is(method: ColorMethod) -> None:
    picture = _picture(1)
    torch.testing.assert_close(transfer_color(picture, picture, method), picture, atol=2e-5, rtol=0)


@pytest.mark.parametrize("method", ACTIVE)
def test_a_constant_shift_is_repaired(method: ColorMethod) -> None:
    source = _picture(2) * 0.8
    shift = torch.tensor([0.04, -0.03, 0.02]).view(3, 1, 1)
    repaired = transfer_color(source + shift, source, method)
    torch.testing.assert_close(repaired, source, atol=1e-4 if method != "lab" else 5e-3, rtol=0)


def test_none_changes_nothing() -> None:
    restored = _picture(3)
    assert torch.equal(transfer_color(restored, _picture(4), "none"), restored)


@pytest.mark.parametrize("method", STREAMING)
def test_frame_by_frame_equals_all_at_once(method: ColorMethod) -> None:
    restored, source = _picture(5), _picture(6)
    whole = transfer_color(restored, source, method)
    single = [
        transfer_color(c[None], s[None], method) for c, s in zip(restored, source, strict=True)
    ]
    assert torch.equal(torch.cat(single), whole)
    assert not needs_whole_shot(method)


def _luma(picture_CHW: Tensor) -> Tensor:
    return torch.einsum("chw,c->hw", picture_CHW, torch.tensor([0.2126, 0.7152, 0.0722]))


def _coarse(x_HW: Tensor) -> Tensor:
    return blur(x_HW[None], wavelet_radii(5))[0]


def test_strength_goes_from_the_source_s_detail_to_the_restored_one() -> None:
    restored, source = _picture(11)[0], _picture(12)[0]
    assert torch.equal(toward_source(restored, source, 1.0), restored)
    none = toward_source(restored, source, 0.0)
    detail = [y - _coarse(y) for y in map(_luma, (none, source))]
    torch.testing.assert_close(*detail, atol=2e-6, rtol=0)
    for strength in (0.0, 0.3):
        made = toward_source(restored, source, strength)
        y, was = _luma(made), _luma(restored)
        torch.testing.assert_close(_coarse(y), _coarse(was), atol=0.02, rtol=0)
        torch.testing.assert_close(made - y, restored - was, atol=2e-6, rtol=0)  # chroma


def test_no_frequency_comes_nearer_to_the_source_with_more_strength() -> None:
    """On a picture that repeats itself, where the edges say nothing; by its spectrum."""
    restored, source = _picture(13, height=64, width=64)[0], _picture(14, height=64, width=64)[0]
    strengths = [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0]
    inside = (slice(None), slice(96, 160), slice(96, 160))
    tiled = [picture.repeat(1, 4, 4) for picture in (restored, source)]
    distances = []
    for strength in strengths:
        made = toward_source(*tiled, strength)[inside]
        distances.append(torch.fft.rfft2(_luma(made - tiled[1][inside]).double()).abs())
    for nearer, farther in itertools.pairwise(distances):
        assert (farther - nearer).min() > -1e-3
    # Structure follows the source before texture does.
    half, whole = distances[3], distances[-1]
    fine, coarse = (half[size] / whole[size] for size in ((32, 32), (0, 3)))
    assert coarse < fine < 1


def test_lab_looks_at_the_whole_shot() -> None:
    assert needs_whole_shot("lab")
    restored, source = _picture(5), _picture(6)
    first = transfer_color(restored[:1], source[:1], "lab")
    assert not torch.equal(transfer_color(restored, source, "lab")[:1], first)


@pytest.mark.parametrize("method", ["wavelet", "wavelet_rgb"])
def test_fine_detail_is_kept(method: ColorMethod) -> None:
    """Away from the edges a checkerboard is invisible to the blur, so it stays."""
    source = _picture(7)
    rows, columns = torch.arange(72)[:, None], torch.arange(90)
    checks = 0.05 * ((rows + columns) % 2 * 2 - 1)
    got = transfer_color(source + checks, source, method)
    torch.testing.assert_close(
        got[..., 32:-32, 32:-32], (source + checks)[..., 32:-32, 32:-32], atol=1e-5, rtol=0
    )


def test_wavelet_is_the_split_in_luma_and_chroma() -> None:
    """Against the definition: luma over five scales, both chroma differences over three."""
    restored, source = _picture(8), _picture(9)
    weights = torch.tensor([0.2126, 0.7152, 0.0722]).view(3, 1, 1)

    def split(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        luma = (x * weights).sum(1, keepdim=True)
        return luma, x[:, 2:] - luma, x[:, :1] - luma

    (c_y, c_b, c_r), (s_y, s_b, s_r) = split(restored), split(source)
    y = c_y - blur(c_y, wavelet_radii(5)) + blur(s_y, wavelet_radii(5))
    b = c_b - blur(c_b, wavelet_radii(3)) + blur(s_b, wavelet_radii(3)) + y
    r = c_r - blur(c_r, wavelet_radii(3)) + blur(s_r, wavelet_radii(3)) + y
    g = (y - 0.2126 * r - 0.0722 * b) / 0.7152
    want = torch.cat([r, g, b], dim=1)
    torch.testing.assert_close(transfer_color(restored, source, "wavelet"), want, atol=1e-5, rtol=0)


def test_blur_equals_the_two_dimensional_kernel() -> None:
    x = _picture(10, frames=1)
    kernel = torch.tensor([1.0, 2.0, 1.0]) / 4
    kernel = (kernel[:, None] * kernel).expand(3, 1, 3, 3)
    want = x
    for radius in (1, 2, 4, 8, 16):
        padded = torch.nn.functional.pad(want, (radius,) * 4, mode="replicate")
        want = torch.nn.functional.conv2d(padded, kernel, groups=3, dilation=radius)
    torch.testing.assert_close(blur(x[0], wavelet_radii(5)), want[0])


@pytest.mark.parametrize("method", ACTIVE)
@pytest.mark.parametrize("size", [(2, 2), (3, 40)], ids=str)
def test_tiny_pictures(method: ColorMethod, size: tuple[int, int]) -> None:
    restored = _picture(11, 1, *size)
    out = transfer_color(restored, _picture(12, 1, *size), method)
    assert out.shape == restored.shape
    assert out.isfinite().all()


def test_rank_match_takes_over_the_values_and_keeps_the_order() -> None:
    content, style = torch.randn(4, 50), torch.randn(4, 50)
    matched = rank_match(content, style)
    assert torch.equal(matched.flatten().sort().values, style.flatten().sort().values)
    assert torch.equal(matched.flatten().argsort(), content.flatten().argsort())


def test_inputs_are_left_alone() -> None:
    restored, source = _picture(13), _picture(14)
    before = restored.clone(), source.clone()
    for method in ACTIVE:
        transfer_color(restored, source, method)
    assert torch.equal(restored, before[0])
    assert torch.equal(source, before[1])


def test_wrong_requests_are_refused() -> None:
    picture = _picture(15)
    with pytest.raises(InvalidRequestError, match="unknown colour method 'hsv'"):
        transfer_color(picture, picture, "hsv")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="one shape"):
        transfer_color(picture, picture[..., :-1], "wavelet")


def test_adain_gives_a_flat_picture_the_mean_of_the_source() -> None:
    source = _picture(16)
    got = transfer_color(torch.full_like(source, 0.3), source, "adain")
    want = source.mean((-2, -1), keepdim=True).expand_as(source)
    torch.testing.assert_close(got, want, atol=1e-3, rtol=0)
