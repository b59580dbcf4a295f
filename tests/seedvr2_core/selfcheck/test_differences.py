"""Properties of what is measured: units, symmetry, invariance; whatever depth pictures have."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from seedvr2_core.selfcheck import differences

SHAPE = (12, 10, 3)


def pictures(seed: int, number: int = 6) -> list[np.ndarray]:
    """Noise in the middle of the range, uint8."""
    rng = np.random.default_rng(seed)
    return [rng.integers(60, 190, SHAPE, dtype=np.uint8) for _ in range(number)]


def deeper(shown: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The same pictures in 16 bits: 255 becomes 65535."""
    return [picture.astype(np.uint16) * 257 for picture in shown]


@pytest.mark.parametrize("seed", range(3))
def test_measures_do_not_depend_on_the_depth(seed: int) -> None:
    a, b = pictures(seed), pictures(seed + 10)
    for x, y in ((deeper(a), b), (a, deeper(b)), (deeper(a), deeper(b))):
        assert differences.psnr(x, y) == pytest.approx(differences.psnr(a, b), abs=1e-3)
        assert differences.mean_shift(x, y) == pytest.approx(differences.mean_shift(a, b), abs=1e-3)
        assert differences.drift(x, y) == pytest.approx(differences.drift(a, b), abs=1e-3)
        assert differences.largest_difference(x[0], y[0]) == pytest.approx(
            differences.largest_difference(a[0], b[0]), abs=1e-3
        )
        assert differences.change_at_join(x, y, range(2, 4)) == pytest.approx(
            differences.change_at_join(a, b, range(2, 4)), abs=1e-3
        )
    assert differences.psnr(deeper(a), a) == float("inf")


def test_one_step_of_sixteen_bits_is_a_difference() -> None:
    deep = deeper(pictures(1, 1))[0]
    other = deep.copy()
    other[0, 0, 0] += 1
    assert differences.largest_difference(deep, other) == pytest.approx(1 / 257, rel=1e-3)
    assert differences.largest_difference(deep, deep) == 0
    dark, light = np.zeros(SHAPE, np.uint16), np.full(SHAPE, 65535, np.uint16)
    assert (
        differences.largest_difference(dark, light)
        == differences.largest_difference(light, dark)
        == 255
    )


def test_pictures_for_people_have_eight_bits() -> None:
    shown = pictures(2, 1)[0]
    assert differences.to_eight_bits(shown) is shown
    there_and_back = differences.to_eight_bits(deeper([shown])[0])
    assert there_and_back.dtype == np.uint8
    assert np.array_equal(there_and_back, shown)
    white = differences.to_eight_bits(np.full(SHAPE, 65535 - 128, np.uint16))
    assert (white == 255).all(), "rounded, not cut off"


@pytest.mark.parametrize("seed", range(3))
def test_psnr_is_symmetric_and_falls_with_noise(seed: int) -> None:
    a = pictures(seed)
    rng = np.random.default_rng(seed + 20)
    noisy = [[(p + rng.normal(0, s, SHAPE)).astype(np.uint8) for p in a] for s in (1, 4, 16)]
    values = [differences.psnr(a, other) for other in noisy]
    assert values == sorted(values, reverse=True)
    assert values == [differences.psnr(other, a) for other in noisy]
    # Noise of deviation s has the PSNR 20 log10(255 / s), but for rounding and chance.
    assert values[2] == pytest.approx(20 * np.log10(255 / 16), abs=0.5)


@pytest.mark.parametrize("shift", [(5, 5, 5), (-7, 0, 3)], ids=str)
def test_a_constant_shift_is_a_shift_and_no_drift(shift: tuple[int, int, int]) -> None:
    sources = pictures(4)
    shifted = [(p + np.array(shift)).astype(np.uint8) for p in sources]
    assert differences.mean_shift(shifted, sources) == pytest.approx(list(shift), abs=1e-3)
    assert differences.mean_shift(sources, shifted) == pytest.approx([-s for s in shift], abs=1e-3)
    assert differences.drift(shifted, sources) == pytest.approx(0, abs=1e-3)


def test_drift_counts_green_most_and_blue_least() -> None:
    sources = pictures(5)
    drifts = []
    for channel in range(3):
        wandering = [p.copy() for p in sources]
        for t, picture in enumerate(wandering):
            picture[..., channel] += np.uint8(10 * (t % 2))
        drifts.append(differences.drift(wandering, sources))
    red, green, blue = drifts
    assert green > red > blue > 0
    assert sum(drifts) == pytest.approx(5, abs=1e-3)  # the weights sum to 1; 0 and 10 deviate by 5


@pytest.mark.parametrize("where", [1, 3, 5])
def test_a_step_is_found_where_it_is(where: int) -> None:
    """A step inside the zone is the join's; outside the zone the median passes over it."""
    reference = pictures(6)
    joined = [p if t < where else p + np.uint8(9) for t, p in enumerate(reference)]
    numbers = differences.change_at_join(joined, reference, range(where, where + 1))
    assert numbers["change_at_join"] == pytest.approx(9)
    assert numbers["change_elsewhere"] == pytest.approx(0)
    other = range(2, 3) if where != 2 else range(4, 5)
    assert differences.change_at_join(joined, reference, other)["change_at_join"] == pytest.approx(
        0
    )


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("number", [1, 2, 4])
def test_each_picture_stands_unchanged_beside_the_others(axis: int, number: int) -> None:
    shown = pictures(7, number)
    wide = differences.side_by_side(shown, axis=axis)
    side = SHAPE[axis]
    assert wide.shape[axis] == number * side + (number - 1) * differences.DIVIDER_PX
    step = side + differences.DIVIDER_PX
    for index, picture in enumerate(shown):
        part = np.take(wide, range(index * step, index * step + side), axis=axis)
        assert np.array_equal(part, picture)
        divider = np.take(
            wide, range(index * step + side, (index + 1) * step), axis=axis, mode="clip"
        )
        assert index == number - 1 or (divider == 255).all()


def test_an_amplified_difference_changes_its_sign_with_the_order() -> None:
    """Mirrored at grey, as far as it is not clipped."""
    rng = np.random.default_rng(8)
    a = pictures(8, 1)[0]
    b = (a + rng.integers(-15, 16, SHAPE)).astype(np.uint8)
    there, back = differences.amplified(a, b).astype(int), differences.amplified(b, a).astype(int)
    assert np.array_equal(there - 128, 128 - back)
    assert set(np.unique(differences.amplified(a, a))) == {128}


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("encoder.conv_in", "encoder.conv_in"),
        ("encoder.down_blocks.2.resnets.1.conv1", "encoder.down_blocks.2"),
        ("encoder.mid_block.attentions.0.to_q", "encoder.mid_block"),
        ("encoder.conv_norm_out", "encoder.conv_out"),
        ("decoder.up_blocks.3.upsamplers.0.conv", "decoder.up_blocks.3"),
        ("decoder.conv_act", "decoder.conv_out"),
    ],
)
def test_every_module_belongs_to_a_level(name: str, level: str) -> None:
    assert differences.level_of(name) == level


def test_the_watch_sees_negative_values_and_lets_go_of_the_model() -> None:
    vae = torch.nn.ModuleDict({"decoder": torch.nn.ModuleDict({"conv_in": torch.nn.Identity()})})
    part = vae.get_submodule("decoder.conv_in")
    watch = differences.ActivationWatch(vae)
    for values in ([3.0, -8.0], [7.0, -1.0]):
        with watch:  # entered twice, as check_activations does
            part(torch.tensor(values))
    assert watch.levels == {"decoder.conv_in": 8}
    assert watch.overflowed == []
    with watch:
        part(torch.tensor([-float("inf")]))
        part(torch.empty(0))
    assert watch.overflowed == ["decoder.conv_in"]
    assert not part._forward_hooks
