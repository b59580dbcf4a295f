"""Pictures of a sequence, and the archive that is made of them."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seedvr2_core.video.sequence.names import pictures_in_folder
from seedvr2_core.video.sequence.pack import pack_files

Pack = Callable[..., Path]
HEIGHT, WIDTH = 30, 40


def moving(count: int, *, height: int = HEIGHT, width: int = WIDTH) -> list[np.ndarray]:
    """Noise that is another in each picture."""
    random = np.random.default_rng(7)
    return [random.integers(0, 256, (height, width, 3), np.uint8) for _ in range(count)]


def save_all(folder: Path, pictures: Sequence[np.ndarray], ending: str = "png") -> Path:
    """The pictures as f0.png, f1.png ... f10.png, which do not sort as texts."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(folder / f"f{index}.{ending}")
    return folder


@pytest.fixture
def pack(tmp_path: Path) -> Pack:
    """Packs a folder's pictures at a rate."""

    def call(folder: Path, rate: Fraction = Fraction(24)) -> Path:
        return pack_files(pictures_in_folder(folder), rate, tmp_path / "packed").path

    return call
