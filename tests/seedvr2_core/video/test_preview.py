"""The before/after picture."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seedvr2_core.errors import InvalidVideoError
from seedvr2_core.video.preview import write_preview
from seedvr2_core.video.probe import probe_video


def test_shows_the_same_part_twice(demo_clip: Path, tmp_path: Path) -> None:
    """With the source as its own output both sides are the same picture."""
    picture = tmp_path / "preview.jpg"
    beats: list[int] = []
    info = probe_video(demo_clip)
    write_preview(demo_clip, info, demo_clip, picture, beat=lambda _, done, __: beats.append(done))
    assert beats == [1, 2, 3], "there is a sign of life after each step"
    with Image.open(picture) as image:
        assert image.size == (160 + 4 + 160, 180)
        pixels = np.asarray(image.convert("RGB")).astype(float)
    before, after = pixels[:, :156], pixels[:, 164:320]
    assert np.abs(before - after)[40:].mean() < 12
    for label in (before[:20, :40], after[:20, :40]):  # white letters on black
        assert (label.min(), label.max()) < (40, 255)
        assert label.max() > 180
        assert (label < 60).mean() > 0.4
    assert np.abs(before - after)[:20, :40].mean() > 3, "they are two different words"
    assert pixels[:, 161:163].min() > 200
    assert list(tmp_path.iterdir()) == [picture]


def test_unreadable_output_is_told(demo_clip: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"nothing")
    with pytest.raises(InvalidVideoError, match=r"no frame of broken\.mp4"):
        write_preview(demo_clip, probe_video(demo_clip), broken, tmp_path / "preview.jpg")
