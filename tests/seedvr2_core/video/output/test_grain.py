"""Grain: as strong as it says, in brightness alone, without a mean, and the same for a frame."""

import hashlib

import numpy as np
import pytest

from seedvr2_core.video.output.grain import Grain

HEIGHT, WIDTH = 240, 320


def flat(level: int, dtype: type = np.uint8) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), level, dtype)


def grain_of(rgb: np.ndarray, strength: float, *, seed: int = 100, number: int = 7) -> np.ndarray:
    """What is added to the red samples of a picture."""
    height, width, _ = rgb.shape
    made = Grain(strength, seed, height=height, width=width).on(rgb, number)
    assert made.dtype == rgb.dtype
    change = made.astype(np.int64) - rgb
    assert (change == change[..., :1]).all(), "all three samples change alike: colour stays"
    return change[..., 0]


@pytest.mark.parametrize(("dtype", "white"), [(np.uint8, 255), (np.uint16, 65535)])
@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_it_is_as_strong_as_documented_and_has_no_mean(
    dtype: type, white: int, strength: float
) -> None:
    level = white / 255
    for y in (0.25, 0.5, 0.8):
        change = grain_of(flat(round(y * white), dtype), strength)
        expected = strength * 10 * level * np.sqrt(4 * y * (1 - y))
        rounding = 1 / 12 if dtype is np.uint8 else 0
        assert change.std() == pytest.approx(np.sqrt(expected**2 + rounding), rel=0.03)
        # Neighbours are alike, so some five of them count as one.
        assert abs(change.mean()) < 4 * expected * np.sqrt(5 / change.size)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_black_and_white_stay_and_next_to_them_the_mean_stays(dtype: type) -> None:
    white = np.iinfo(dtype).max
    for level in (0, int(white)):
        assert not grain_of(flat(level, dtype), 1.0).any()
    near = round(white * 3 / 255)
    for level in (near, int(white) - near):
        change = grain_of(flat(level, dtype), 1.0)
        assert abs(change).max() == near, "it goes as far as black or white, and no farther"
        assert abs(change.mean()) < 0.03 * white / 255
        assert change.std() > 0


def test_a_saturated_colour_keeps_its_hue() -> None:
    picture = flat(0)
    picture[:] = (200, 5, 90)
    change = grain_of(picture, 1.0)
    assert abs(change).max() == 5


def test_it_depends_on_seed_and_frame_alone() -> None:
    picture = np.random.default_rng(1).integers(60, 190, (HEIGHT, WIDTH, 3), np.uint8)
    before = picture.copy()
    film = Grain(0.8, 100, height=HEIGHT, width=WIDTH)
    in_order = [film.on(picture, number) for number in range(6)]
    other = Grain(0.8, 100, height=HEIGHT, width=WIDTH)
    for number in (5, 2, 4, 0, 3, 1):
        assert np.array_equal(other.on(picture, number), in_order[number])
    assert np.array_equal(picture, before), "it is not changed"
    turned = np.asfortranarray(picture)
    assert np.array_equal(film.on(turned, 3), in_order[3]), "however it lies in memory"

    grey = flat(128)
    drawn = [grain_of(grey, 1.0, seed=seed, number=k) for seed in (100, 101) for k in range(5)]
    flattened = np.stack([change.ravel() for change in drawn])
    likeness = np.corrcoef(flattened) - np.eye(len(drawn))
    assert abs(likeness).max() < 0.03, "no frame has the grain of another"


@pytest.mark.long
def test_grains_are_larger_in_larger_pictures() -> None:
    def reach(height: int, width: int) -> float:
        change = grain_of(np.full((height, width, 3), 128, np.uint8), 1.0)
        beside, further = change[:, 1:], change[:, 2:]
        near = np.corrcoef(change[:, :-1].ravel(), beside.ravel())[0, 1]
        far = np.corrcoef(change[:, :-2].ravel(), further.ravel())[0, 1]
        return float(near + far)

    small, full_hd, uhd = reach(480, 640), reach(1080, 640), reach(2160, 2160)
    assert small == pytest.approx(4 / 6 + 1 / 6, abs=0.05), "once by [1, 2, 1] along each axis"
    assert full_hd == pytest.approx(small, abs=0.03)
    assert uhd > small + 0.5


def test_its_bits_are_known() -> None:
    """A version of numpy, or of ours, that draws other grain changes finished halves of films."""
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    picture = np.stack([np.tile(ramp, (48, 1))] * 3, axis=2)
    made = Grain(0.5, 2**63 + 1, height=48, width=64).on(picture, 123_456)
    digest = hashlib.sha256(np.ascontiguousarray(made).tobytes()).hexdigest()
    assert digest == "d95e789ffde03e365a287eb66ddd2bf66048ff27acae59548f5ba0fd0f6dac26"
