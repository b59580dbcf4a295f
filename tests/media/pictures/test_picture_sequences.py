"""Sequences of pictures through whole jobs: an ffmpeg process and numpy know what comes out."""

import zipfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seedvr2_core.video.probe import probe_video
from seedvr2_core.video.reader import read_frames
from seedvr2_core.video.sequence.names import pictures_in_folder
from seedvr2_core.video.sequence.pack import pack_files
from seedvr2_core.video.wanted import WantedFrames
from tests.kits.clips.cases import make_video
from tests.kits.media import ffmpeg, shown_times
from tests.media.conftest import GetSource

RATE = Fraction(24000, 1001)


def written(made: GetSource, folder: Path, name: str, pix_fmt: str) -> Path:
    """Six pictures of a clip, by ffmpeg."""
    folder.mkdir()
    source = made("ntsc.mp4")
    filters = f"scale=160:90,format={pix_fmt}"
    ffmpeg("-i", source, "-vf", filters, "-start_number", "8", folder / name)
    return folder


def packed(folder: Path, rate: Fraction = RATE) -> Path:
    return pack_files(pictures_in_folder(folder), rate, folder.parent / "packed").path


def as_ffmpeg_sees(folder: Path, name: str, *, deep: bool) -> np.ndarray:
    pix_fmt, dtype = ("rgb48le", np.uint16) if deep else ("rgb24", np.uint8)
    content = ffmpeg(
        *["-start_number", "8", "-i", folder / name, "-f", "rawvideo", "-pix_fmt", pix_fmt, "-"]
    )
    return np.frombuffer(content, dtype).reshape(-1, 90, 160, 3)


@pytest.mark.parametrize(
    ("name", "pix_fmt", "codec", "deep"),
    [
        ("f%d.png", "rgb24", "png", False),
        ("f%d.png", "rgb48be", "png", True),
        ("f%d.tif", "rgb24", "png", False),
        ("f%d.tif", "rgb48le", "tiff", True),
    ],
)
def test_pixels_are_ffmpegs_own(
    made: GetSource, tmp_path: Path, name: str, pix_fmt: str, codec: str, deep: bool
) -> None:
    folder = written(made, tmp_path / "in", name, pix_fmt)
    source = packed(folder)
    job = make_video(source, tmp_path, codec=codec, container="folder", resolution="1x")
    with zipfile.ZipFile(job.output) as archive:
        archive.extractall(tmp_path / "out")
    ending = Path(name).suffix
    kind = {"png": ".png", "tiff": ".tif"}[codec]
    theirs = as_ffmpeg_sees(folder, name, deep=deep)
    out = tmp_path / "out" / f"%06d{kind}"
    pixels = ("rgb48le", np.uint16) if deep else ("rgb24", np.uint8)
    content = ffmpeg("-i", out, "-f", "rawvideo", "-pix_fmt", pixels[0], "-")
    ours = np.frombuffer(content, pixels[1]).reshape(theirs.shape)
    assert (ours == theirs).all(), ending


def test_a_lossless_video_has_the_exact_times(made: GetSource, tmp_path: Path) -> None:
    folder = written(made, tmp_path / "in", "f%d.png", "rgb24")
    job = make_video(packed(folder), tmp_path, codec="h264", container="mp4", resolution="1x")
    assert shown_times(job.output, 0) == [index / RATE for index in range(6)]
    assert job.plan.output.container == "mp4"
    plain = probe_video(job.output)
    assert (plain.num_frames, plain.nominal_rate) == (6, (24000, 1001))
    assert (plain.color.primaries, plain.color.transfer, plain.color.matrix) == (1, 1, 1)


def test_a_piece_of_a_sequence(made: GetSource, tmp_path: Path) -> None:
    folder = written(made, tmp_path / "in", "f%d.png", "rgb24")
    wanted = WantedFrames(start="frame:2", end="frame:5")
    job = make_video(
        packed(folder), tmp_path, wanted, codec="png", container="folder", resolution="1x"
    )
    theirs = as_ffmpeg_sees(folder, "f%d.png", deep=False)[2:5]
    frames = list(read_frames(job.output, probe_video(job.output), 0, 3))
    assert (np.stack([frame.rgb for frame in frames]) == theirs).all()


@pytest.mark.long
def test_what_we_write_is_a_source_again(made: GetSource, tmp_path: Path) -> None:
    """Pictures of a video: the same times and pixels go through twice."""
    video = made("ntsc.mp4")
    folder = tmp_path / "1"
    folder.mkdir()
    first = make_video(video, folder, codec="png", container="folder", resolution="1x").output
    folder = tmp_path / "2"
    folder.mkdir()
    second = make_video(first, folder, codec="png", container="folder", resolution="1x")
    assert second.plan.video.pts == tuple(
        time - probe_video(video).pts[0] for time in probe_video(first).pts
    )
    with zipfile.ZipFile(first) as one, zipfile.ZipFile(second.output) as two:
        pictures = [name for name in one.namelist() if name.endswith(".png")]
        assert pictures
        for name in pictures:
            with one.open(name) as file, two.open(name) as again:
                a, b = np.asarray(Image.open(file)), np.asarray(Image.open(again))
            assert (a == b).all()


def test_jpegs_become_a_video(made: GetSource, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    ffmpeg("-i", made("ntsc.mp4"), "-vf", "scale=160:90", "-q:v", "2", folder / "%04d.jpg")
    source = packed(folder, Fraction(25))
    job = make_video(source, tmp_path, codec="ffv1", container="mkv", resolution="1x")
    info = probe_video(job.output)
    for frame in read_frames(job.output, info, 0, info.num_frames):
        with Image.open(folder / f"{frame.index + 1:04}.jpg") as picture:
            off = np.abs(frame.rgb.astype(int) - np.asarray(picture.convert("RGB")))
            assert off.max() <= 2  # the way to Y'CbCr and back


def test_exr_becomes_a_deep_picture(tmp_path: Path) -> None:
    """A grey ramp of half floats, by ffmpeg; its own decoder and IEC 61966-2-1 say what comes."""
    path = tmp_path / "a.exr"
    ramp = "nullsrc=s=160x90,format=gray16le,geq=lum=X*400,format=grayf32le"
    ffmpeg("-f", "lavfi", "-i", ramp, "-frames:v", "1", "-c:v", "exr", path)
    light = np.frombuffer(
        ffmpeg("-i", path, "-f", "rawvideo", "-pix_fmt", "grayf32le", "-"), np.float32
    ).reshape(90, 160)
    job = make_video(path, tmp_path, codec="auto", container="auto", resolution="1x")
    assert (job.output.suffix, job.plan.encoder.pix_fmt) == (".png", "rgb48be")
    (frame,) = read_frames(job.output, probe_video(job.output), 0, 1, deep=True)
    coded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    assert np.ptp(light) > 0.9
    assert np.abs(frame.rgb - 65535.0 * coded[:, :, None]).max() <= 1
