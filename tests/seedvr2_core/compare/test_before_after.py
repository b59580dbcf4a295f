"""The before/after picture."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seedvr2_core.compare.before_after import STEPS, write_before_after
from seedvr2_core.errors import InvalidVideoError
from seedvr2_core.video.probe import probe_video
from seedvr2_core.video.reader import read_frames
from tests.kits.media import DecodedPictures, ffmpeg


def test_shows_the_same_part_twice(demo_clip: Path, tmp_path: Path) -> None:
    """With the source as its own output both sides are the same picture."""
    picture = tmp_path / "preview.jpg"
    steps: list[int] = []
    info = probe_video(demo_clip)

    def told(_: str, done: int, total: int) -> None:
        if total == STEPS:
            steps.append(done)

    write_before_after(demo_clip, info, demo_clip, picture, beat=told)
    assert steps == [1, 2, 3], "there is a sign of life after each step"
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


def test_a_single_picture_is_shown_whole(tmp_path: Path) -> None:
    """Both halves are exactly where the page looks for them, also where it is made smaller."""
    rng = np.random.default_rng(5)
    for size, expected in (
        ((90, 60), (90, 60)),
        ((7680, 96), (3840, 48)),
        ((400, 4320), (200, 2160)),
    ):
        width, height = size
        noise = rng.integers(0, 255, (height // 4, width // 4, 3), np.uint8)
        still, picture = tmp_path / "a.png", tmp_path / "a.jpg"
        Image.fromarray(noise).resize(size).save(still)
        write_before_after(still, probe_video(still), still, picture)
        with Image.open(picture) as image:
            pixels = np.asarray(image.convert("RGB")).astype(float)
        assert pixels.shape[1::-1] == (2 * expected[0] + 4, expected[1])
        half = expected[0]
        before, after = pixels[:, :half], pixels[:, half + 4 :]
        below = slice(max(12, height // 24) + 20, None)  # the labels are above
        if before[below].size:
            apart = np.abs(before - after)[below].mean()
            assert apart < 6
            assert np.abs(before[:, 1:] - after[:, :-1])[below].mean() > 2 * apart, "a pixel counts"
        assert pixels[:, half + 1 : half + 3].min() > 200, "no label lies on the line"


def test_a_high_frame_is_made_smaller_and_its_halves_stay_alike(
    demo_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seedvr2_core.compare.before_after.MAX_HEIGHT", 101)
    picture = tmp_path / "preview.jpg"
    write_before_after(demo_clip, probe_video(demo_clip), demo_clip, picture)
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB")).astype(float)
    assert pixels.shape == (101, 90 + 4 + 90, 3)
    assert np.abs(pixels[30:, :90] - pixels[30:, 94:]).mean() < 6


def test_unreadable_output_is_told(demo_clip: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"nothing")
    with pytest.raises(InvalidVideoError, match=r"no frame of broken\.mp4"):
        write_before_after(demo_clip, probe_video(demo_clip), broken, tmp_path / "preview.jpg")


def test_the_way_to_a_frame_far_from_a_key_frame_is_not_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 4k a decoder takes seconds for a hundred frames."""
    clip = tmp_path / "long.mp4"
    noise = "nullsrc=s=320x180:r=25:d=3,geq=random(1)*255:128:128"
    ffmpeg("-f", "lavfi", "-i", noise, "-preset", "ultrafast", "-g", "250", "-crf", "20", clip)
    info = probe_video(clip)
    (frame,) = read_frames(clip, info, 74, 75)
    decoded = DecodedPictures(monkeypatch)
    write_before_after(
        clip, info, clip, tmp_path / "a.jpg", restored=(74, frame), beat=decoded.beat
    )
    assert decoded.count >= 75
    assert decoded.longest_silence <= 15
