"""JPEG, WebP and EXR as outputs: single pictures and folders, read back by others than us."""

import io
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from seedvr2_core.compare.before_after import write_before_after
from seedvr2_core.errors import PlanError, SegmentError
from seedvr2_core.planning import build_plan
from seedvr2_core.video.output.formats import CONTAINERS
from seedvr2_core.video.output.gate import Expected
from seedvr2_core.video.output.sequence import check_sequence, check_still
from seedvr2_core.video.picture.exr_header import read_exr_header
from seedvr2_core.video.probe import probe_video
from seedvr2_core.video.reader import read_frames
from seedvr2_core.video.wanted import WantedFrames
from tests.kits.clips.cases import Made, make_video
from tests.kits.clips.transparent import textured
from tests.kits.factories import make_options
from tests.kits.media import ffmpeg
from tests.media.conftest import GetSource
from tests.seedvr2_core.video.picture.test_exr import srgb

ENDINGS = {"jpeg": ".jpg", "webp": ".webp", "exr": ".exr"}
P3_D65 = (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, 0.3127, 0.3290)


def light_of(content: bytes) -> np.ndarray:
    """(H, W, 3 or 4) float32: what an ffmpeg process finds in an EXR, red first."""
    with av.open(io.BytesIO(content), "r", format="exr_pipe") as container:
        video = container.streams.video[0]
        channels = 4 if "gbrap" in video.codec_context.pix_fmt else 3
        width, height = video.width, video.height
    pix_fmt = {3: "gbrpf16le", 4: "gbrapf16le"}[channels]  # as it is coded
    with tempfile.NamedTemporaryFile(suffix=".exr") as file:
        file.write(content)
        file.flush()
        raw = ffmpeg("-i", file.name, "-pix_fmt", pix_fmt, "-f", "rawvideo", "-")
    planes = np.frombuffer(raw, np.float16).reshape(channels, height, width).astype(np.float32)
    return planes[[2, 0, 1, 3][:channels]].transpose(1, 2, 0)


def rgb_of(content: bytes, codec: str) -> np.ndarray:
    """(H, W, 3) levels of 255, float: what Pillow, or ffmpeg, finds in a picture."""
    if codec == "exr":
        return srgb(light_of(content)) / 257
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.format == codec.upper()
        return np.asarray(picture.convert("RGB")).astype(np.float64)


def pictures_of(job: Made) -> dict[str, bytes]:
    with zipfile.ZipFile(job.output) as archive:
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.long
@pytest.mark.parametrize(
    ("codec", "mean", "most"), [("jpeg", 3.5, 120), ("webp", 3.5, 120), ("exr", 0.5, 0.6)]
)
def test_a_folder_has_the_frames(
    made: GetSource, tmp_path: Path, codec: str, mean: float, most: float
) -> None:
    """The same pixels as the PNGs of the same job, as near as the format holds them."""
    source = made("sdr.mp4")
    found: dict[str, dict[str, bytes]] = {}
    for one in ("png", codec):
        folder = tmp_path / one
        folder.mkdir()
        job = make_video(source, folder, codec=one, container="auto", crf=12, segment_seconds=0.4)
        assert len(job.plan.segments) == 3
        assert (job.plan.output.container, job.output.suffix) == ("folder", ".zip")
        found[one] = pictures_of(job)
    *names, sound, times = found[codec]
    assert names == [f"{k:06}{ENDINGS[codec]}" for k in range(30)]
    assert (sound, times) == ("sound.mka", "sequence.json")
    for index in (0, 13, 29):
        wanted = rgb_of(found["png"][f"{index:06}.png"], "png")
        ours = rgb_of(found[codec][names[index]], codec)
        assert ours.shape == wanted.shape == (180, 320, 3)
        off = np.abs(ours - wanted)
        assert off.mean() < mean
        assert off.max() < most
        assert np.abs((ours - wanted).mean(axis=(0, 1))).max() < 0.6  # no tint
    picture = tmp_path / "preview.jpg"
    write_before_after(source, probe_video(source), job.output, picture)
    assert picture.stat().st_size > 1000


def photo(path: Path) -> np.ndarray:
    """A soft picture of 16 bits, saved as a PNG."""
    down, across = np.mgrid[0:96, 0:160]
    rgb = np.dstack([across * 400, down * 650, (across + down) * 250 + 300]).astype(np.uint16)
    raw = path.with_suffix(".raw")
    raw.write_bytes(rgb.tobytes())
    ffmpeg("-f", "rawvideo", "-pix_fmt", "rgb48le", "-s", "160x96", "-i", raw, path)
    return rgb


@pytest.mark.parametrize(("container", "most"), [("jpeg", 12), ("webp", 12), ("exr", 0.04)])
def test_a_picture_becomes_a_picture(tmp_path: Path, container: str, most: float) -> None:
    wanted = photo(tmp_path / "a.png") / 257
    job = make_video(
        tmp_path / "a.png", tmp_path, codec="auto", container=container, resolution="1x", crf=6
    )
    assert job.output.suffix == ENDINGS[container]
    assert (job.plan.encoder.codec, job.plan.output.container) == (container, container)
    off = rgb_of(job.output.read_bytes(), container) - wanted
    assert np.abs(off).max() < most
    assert np.abs(off.mean(axis=(0, 1))).max() < most / 10
    told = f"the source has 16 bits a sample; codec {container} writes 8"
    assert (told in job.notes) == (container != "exr")
    info = probe_video(job.output)
    assert (info.format_name, info.color.primaries, info.color.transfer) == (container, 1, 13)
    (frame,) = read_frames(job.output, info, 0, 1)  # it is a source as well
    assert np.abs(frame.rgb - wanted).max() < most + 1.6


def test_light_and_its_transfer_are_told(tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    job = make_video(tmp_path / "a.png", tmp_path, codec="exr", container="auto", resolution="1x")
    (told,) = [note for note in job.notes if "linear light" in note]
    assert "half float" in told
    assert told.endswith("by the transfer of sRGB")
    header = read_exr_header(job.output.read_bytes(), "a.exr")
    assert header.channels == {"R", "G", "B"}
    assert job.plan.deep


def test_other_primaries_are_said_in_an_exr(tmp_path: Path) -> None:
    source = tmp_path / "p3.mkv"
    ffmpeg(
        *["-f", "lavfi", "-i", "testsrc2=s=64x36:r=25:d=0.1", "-vf"],
        "setparams=color_primaries=smpte432:color_trc=bt470m:colorspace=bt709,format=yuv420p",
        *["-c:v", "ffv1", source],
    )
    wanted = WantedFrames(start="frame:0", end="frame:1")
    job = make_video(source, tmp_path, wanted, codec="exr", container="exr", resolution="1x")
    content = job.output.read_bytes()
    assert read_exr_header(content, "").chromaticities == pytest.approx(P3_D65)
    assert any(note.endswith("by the transfer with gamma 2.2") for note in job.notes)
    (frame,) = read_frames(source, job.plan.video, 0, 1, deep=True)
    off = np.abs(light_of(content) ** (1 / 2.2) * 65535 - frame.rgb)
    assert off.max() < 24  # the half float's last bit, which is coarse near black
    whole = Expected(info=job.plan.video, settings=job.plan.encoder, container=CONTAINERS["exr"])
    color = replace(job.plan.encoder.color, primaries=1)
    with pytest.raises(SegmentError, match="colour primaries"):
        check_still(job.output, replace(whole, settings=replace(whole.settings, color=color)))


def test_alpha_is_kept_where_the_format_holds_it(tmp_path: Path) -> None:
    pixels, source = textured(1)[0], tmp_path / "a.png"
    Image.fromarray(pixels).save(source)
    seen = pixels[..., 3] > 64
    for container in ("webp", "exr"):
        folder = tmp_path / container
        folder.mkdir()
        job = make_video(
            source,
            folder,
            WantedFrames(alpha="auto"),
            codec="auto",
            container=container,
            resolution="1x",
            crf=4,
        )
        content = job.output.read_bytes()
        if container == "webp":
            with Image.open(io.BytesIO(content)) as picture:
                ours = np.asarray(picture.convert("RGBA")).astype(np.float64)
            assert (ours[..., 3] == pixels[..., 3]).all()
            assert np.abs(ours - pixels)[seen][:, :3].mean() < 3
            continue
        light = light_of(content)
        assert np.abs(light[..., 3] * 255 - pixels[..., 3]).max() < 0.07
        straight = light[seen][:, :3] / light[seen][:, 3:]
        assert np.abs(srgb(straight) / 257 - pixels[seen][:, :3]).max() < 0.3
        assert any("multiplied by alpha" in note for note in job.notes)
        (frame,) = read_frames(job.output, probe_video(job.output), 0, 1, alpha=True)
        assert frame.alpha is not None
        assert np.abs(frame.alpha.astype(int) - pixels[..., 3]).max() <= 1
    with pytest.raises(
        PlanError, match=r"codec jpeg cannot hold alpha; choose codec .*webp or exr"
    ):
        make_video(source, tmp_path, WantedFrames(alpha="auto"), codec="jpeg", container="auto")


@pytest.mark.parametrize("codec", ENDINGS)
def test_hdr_is_refused(made: GetSource, codec: str) -> None:
    with pytest.raises(PlanError, match=f"codec {codec} cannot hold.*choose codec hevc or.*png"):
        build_plan(probe_video(made("hdr10.mp4")), "0" * 64, make_options(codec=codec))


def test_a_webp_has_a_largest_side(made: GetSource) -> None:
    info = replace(probe_video(made("sdr.mp4")), width=16384, height=64)
    with pytest.raises(PlanError, match="16384x64 pixels, and a side of codec webp has at most"):
        build_plan(info, "0" * 64, make_options(codec="webp", resolution="1x"))
    assert build_plan(info, "0" * 64, make_options(codec="jpeg", resolution="1x")).width == 16384


@pytest.mark.long
@pytest.mark.parametrize("codec", ENDINGS)
def test_the_same_frames_give_the_same_bytes(made: GetSource, tmp_path: Path, codec: str) -> None:
    twice: list[bytes] = []
    for folder in (tmp_path / "1", tmp_path / "2"):
        folder.mkdir()
        job = make_video(made("ntsc.mp4"), folder, codec=codec, container="folder")
        twice.append(job.output.read_bytes())
    assert twice[0] == twice[1]


@pytest.mark.parametrize("codec", ENDINGS)
def test_what_differs_is_named(made: GetSource, tmp_path: Path, codec: str) -> None:
    wanted = WantedFrames(start="frame:0", end="frame:1")
    job = make_video(made("ntsc.mp4"), tmp_path, wanted, codec=codec, container=codec)
    right = Expected(info=job.plan.video, settings=job.plan.encoder, container=CONTAINERS[codec])
    check_still(job.output, right)
    settings = right.settings
    for wrong, words in (
        (replace(settings, width=322), "width, height and bits"),
        (replace(settings, codec="png"), "width, height and bits|codec|not a whole picture"),
    ):
        with pytest.raises(SegmentError, match=words):
            check_still(job.output, replace(right, settings=wrong))
    whole = job.output.read_bytes()
    for content in (whole[:-20], whole[: len(whole) // 2], whole[:20], b""):
        job.output.write_bytes(content)
        with pytest.raises(SegmentError):
            check_still(job.output, right)


def test_a_folder_with_another_picture_is_refused(made: GetSource, tmp_path: Path) -> None:
    job = make_video(made("ntsc.mp4"), tmp_path, codec="webp", container="folder")
    right = Expected(info=job.plan.video, settings=job.plan.encoder, container=CONTAINERS["folder"])
    check_sequence(job.output, right)
    wrong = replace(right, settings=replace(right.settings, height=184))
    with pytest.raises(SegmentError, match=r"bits of 000000\.webp"):
        check_sequence(job.output, wrong)
