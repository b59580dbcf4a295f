"""A picture goes through a job as a video of one frame, and comes out as a picture."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seedvr2_core.compare.before_after import write_before_after
from seedvr2_core.engines import small_engine
from seedvr2_core.errors import SegmentError
from seedvr2_core.video.output.formats import CONTAINERS
from seedvr2_core.video.output.gate import Expected
from seedvr2_core.video.output.sequence import check_still
from seedvr2_core.video.probe import probe_video
from seedvr2_core.video.reader import read_frames
from seedvr2_core.video.wanted import WantedFrames
from tests.kits.clips.cases import make_video
from tests.media.conftest import GetSource

AUTO = {"codec": "auto", "container": "auto"}


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A JPEG of 320x180 that lies on its side, as a camera writes it."""
    down, across = np.mgrid[0:320, 0:180]
    rgb = np.stack([across * 255 // 180, down * 255 // 320, (down + across) % 256], axis=2)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "photo.jpg"
    Image.fromarray(rgb.astype(np.uint8)[:, ::-1].transpose(1, 0, 2)).save(
        path, exif=exif, quality=95
    )
    return path


def pixels(path: Path, *, deep: bool = False) -> np.ndarray:
    (frame,) = read_frames(path, probe_video(path), 0, 1, deep=deep)
    return frame.rgb.astype(np.int32)


@pytest.mark.parametrize(
    ("container", "ending", "bits"), [("auto", ".png", 8), ("tiff", ".tif", 16)]
)
def test_a_photo_becomes_a_picture(
    photo: Path, tmp_path: Path, container: str, ending: str, bits: int
) -> None:
    job = make_video(photo, tmp_path, codec="auto", container=container, resolution="1x")
    assert (job.output.suffix, job.plan.output.container) == (
        ending,
        container.replace("auto", "png"),
    )
    with Image.open(job.output) as made:
        assert (made.size, made.getexif().get(0x0112, 1)) == ((180, 320), 1)
    info = probe_video(job.output)
    assert (info.bit_depth, info.color.primaries, info.color.transfer) == (bits, 1, 13)
    source = pixels(photo)
    off = np.abs(pixels(job.output) - source)
    assert off.max() <= 1  # lanczos at the source's own size
    write_before_after(photo, probe_video(photo), job.output, tmp_path / "preview.jpg")
    assert (tmp_path / "preview.jpg").is_file()


@pytest.mark.long
def test_a_frame_of_a_video_can_be_a_picture(made: GetSource, tmp_path: Path) -> None:
    """Its sound is named as left behind; HDR stays HDR."""
    wanted = WantedFrames(start="frame:3", end="frame:4")
    job = make_video(made("sdr.mp4"), tmp_path, wanted, codec="auto", container="png")
    assert any("a picture has none" in note for note in job.notes)
    with Image.open(job.output) as picture:
        assert (picture.format, picture.size) == ("PNG", (job.plan.width, job.plan.height))
    hdr = tmp_path / "hdr"
    hdr.mkdir()
    job = make_video(made("hdr10.mp4"), hdr, wanted, codec="auto", container="png")
    info = probe_video(job.output)
    assert (info.color.hdr, info.bit_depth, info.hdr) == ("PQ", 16, job.plan.video.hdr)


def test_what_differs_is_named(photo: Path, tmp_path: Path) -> None:
    job = make_video(photo, tmp_path, **AUTO)
    right = Expected(info=job.plan.video, settings=job.plan.encoder, container=CONTAINERS["png"])
    check_still(job.output, right)
    settings = right.settings
    for wrong, words in (
        (replace(settings, width=322), "width, height and bits"),
        (replace(settings, color=replace(settings.color, transfer=8)), "colour transfer"),
    ):
        with pytest.raises(SegmentError, match=words):
            check_still(job.output, replace(right, settings=wrong))
    whole = job.output.read_bytes()
    spoiled = bytearray(whole)
    spoiled[len(whole) // 2] ^= 1
    for content in (whole[:-20], bytes(spoiled), whole[:20]):
        job.output.write_bytes(content)
        with pytest.raises(SegmentError):
            check_still(job.output, right)


def test_the_same_picture_gives_the_same_bytes(photo: Path, tmp_path: Path) -> None:
    twice: list[bytes] = []
    for folder in (tmp_path / "1", tmp_path / "2"):
        folder.mkdir()
        twice.append(make_video(photo, folder, **AUTO).output.read_bytes())
    assert twice[0] == twice[1]


def test_the_bits_of_a_photo_are_those_of_its_file(photo: Path, tmp_path: Path) -> None:
    """They tell which of the small engines suits it, and it is decoded into other bytes."""
    info = probe_video(photo)
    assert info.bits_per_pixel == pytest.approx(8 * photo.stat().st_size / (320 * 180), abs=1e-4)
    poor = tmp_path / "poor.jpg"
    with Image.open(photo) as picture:
        picture.save(poor, quality=20)
    assert small_engine("jpeg", probe_video(poor).bits_per_pixel)[0] == "waifu2x"
