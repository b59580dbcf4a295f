"""Which small engine a source gets, by the bits that its coding left it."""

import itertools
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from seedvr2_core.engines import small_engine
from seedvr2_core.video.probe import probe_video

RunFfmpeg = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.mark.parametrize(
    ("codec", "bits", "engine"),
    [
        pytest.param("h264", 0.06, "waifu2x", id="crf-32"),
        pytest.param("h264", 0.4, "waifu2x", id="crf-23-of-much-detail"),
        pytest.param("h264", 1.1, "span", id="crf-10"),
        pytest.param("mpeg2video", 0.4, "waifu2x", id="dvd"),
        pytest.param("mjpeg", 0.8, "waifu2x", id="webcam"),
        pytest.param("mjpeg", 3.0, "span", id="fine-jpeg"),
        pytest.param("dvvideo", 2.4, "span", id="dv"),
        pytest.param("ffv1", 0.2, "span", id="lossless-cartoon"),
        pytest.param("h264", 0.0, "span", id="not-counted"),
    ],
)
def test_engine_by_bits(codec: str, bits: float, engine: str) -> None:
    name, why = small_engine(codec, bits)
    assert name == engine
    assert (codec in why) is (bits > 0)


def test_more_bits_never_lead_back_to_waifu2x() -> None:
    for codec in ("h264", "mjpeg", "hevc"):
        names = [small_engine(codec, bits / 20)[0] for bits in range(1, 100)]
        assert [name for name, _ in itertools.groupby(names)] == ["waifu2x", "span"]


def coded(ffmpeg: RunFfmpeg, clip: Path, out: Path, *options: object) -> Path:
    """The clip's pictures, a quarter as many pixels, coded again."""
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        "sine=d=0.8",
        "-i",
        clip,
        "-vf",
        "scale=160:90",
        "-frames:v",
        "20",
        *options,
        out,
    )
    return out


@pytest.mark.parametrize(
    ("quality", "engine"), [((4,), "span"), ((32,), "waifu2x")], ids=["crf-4", "crf-32"]
)
def test_sign_is_measured_on_the_file(
    ffmpeg: RunFfmpeg, demo_clip: Path, tmp_path: Path, quality: tuple[int], engine: str
) -> None:
    """The bits are those of the pictures: neither sound nor the container counts."""
    options = ("-c:v", "libx264", "-crf", *quality)
    clip = coded(ffmpeg, demo_clip, tmp_path / "clip.mp4", *options, "-an")
    info = probe_video(clip)
    raw = coded(ffmpeg, demo_clip, tmp_path / "clip.h264", *options, "-an").stat().st_size
    assert info.bits_per_pixel == pytest.approx(8 * raw / (160 * 90 * 20), rel=0.05)
    assert (info.outline.codec, info.outline.bits_per_pixel) == ("h264", info.bits_per_pixel)
    assert small_engine(info.codec, info.bits_per_pixel)[0] == engine
    sound = ("-map", "1:v", "-map", "0:a", "-c:a", "pcm_s16le")
    loud = coded(ffmpeg, demo_clip, tmp_path / "loud.mkv", *sound, *options)
    assert probe_video(loud).bits_per_pixel == pytest.approx(info.bits_per_pixel, rel=0.05)
