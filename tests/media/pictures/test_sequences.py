"""Folders of pictures: what PNG and TIFF hold, beside what they lie, and what is refused."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from seedvr2_core.compare.before_after import write_before_after
from seedvr2_core.errors import PlanError, SegmentError
from seedvr2_core.planning import build_plan
from seedvr2_core.video.output.formats import CONTAINERS
from seedvr2_core.video.output.gate import Expected, ExpectedStream
from seedvr2_core.video.output.sequence import check_sequence
from seedvr2_core.video.probe import probe_video
from tests.kits.clips.cases import Made, make_video
from tests.kits.factories import make_options
from tests.kits.media import ffmpeg
from tests.kits.videos.oracle import hdr_lines, packet_digests, video_line
from tests.media.conftest import GetSource
from tests.media.test_depth import source_of

DECODED = "scale=flags=bilinear+full_chroma_int+accurate_rnd"
"""How ffmpeg makes R'G'B' of a video as well as it can."""


def rgb_of(*source: object, dtype: type = np.uint8, filters: str = "null") -> np.ndarray:
    """All samples that an ffmpeg process decodes, as int32."""
    pix_fmt = "rgb24" if dtype is np.uint8 else "rgb48le"
    raw = ffmpeg(
        *[*source, "-map", "0:v:0", "-fps_mode", "passthrough", "-vf", filters],
        *["-pix_fmt", pix_fmt, "-f", "rawvideo", "-"],
    )
    return np.frombuffer(raw, dtype).astype(np.int32)


def pictures_of(made: Made, folder: Path) -> list[Path]:
    """Unzip a sequence; returns all of its files."""
    with zipfile.ZipFile(made.output) as archive:
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        archive.extractall(folder)
        return [folder / name for name in archive.namelist()]


@pytest.mark.parametrize("codec", ["png", "tiff"])
def test_segments_join_as_pictures(made: GetSource, tmp_path: Path, codec: str) -> None:
    source = made("sdr.mp4")
    job = make_video(source, tmp_path, codec=codec, container="auto", segment_seconds=0.4)
    assert len(job.plan.segments) == 3
    assert (job.plan.output.container, job.output.suffix) == ("folder", ".zip")
    *pictures, sound, told = pictures_of(job, tmp_path / "pictures")
    ending = {"png": "png", "tiff": "tif"}[codec]
    assert [path.name for path in pictures] == [f"{k:06}.{ending}" for k in range(30)]
    line = video_line(pictures[0])
    assert {"png": "rgb24(pc, gbr/smpte170m/iec61966-2-1", "tiff": "rgb48le"}[codec] in line
    dtype = np.uint8 if codec == "png" else np.uint16
    ours = rgb_of("-i", tmp_path / "pictures" / f"%06d.{ending}", dtype=dtype)
    assert len(ours) == 30 * 320 * 180 * 3
    assert packet_digests(sound, "a:0")[-40:-1] == packet_digests(source, "a:0")[-40:-1]
    record = json.loads(told.read_text())
    assert record["pts"] == list(probe_video(source).pts)
    assert record["bits"] == (8 if codec == "png" else 16)


@pytest.mark.long
def test_the_same_frames_give_the_same_bytes(made: GetSource, tmp_path: Path) -> None:
    twice: list[bytes] = []
    for folder in (tmp_path / "1", tmp_path / "2"):
        folder.mkdir()
        twice.append(
            make_video(
                made("ntsc.mp4"), folder, codec="png", container="folder"
            ).output.read_bytes()
        )
    assert twice[0] == twice[1]


@pytest.mark.long
def test_hdr_in_pictures(made: GetSource, tmp_path: Path) -> None:
    source = made("hdr10.mp4")
    job = make_video(source, tmp_path, codec="png", container="folder")
    first = pictures_of(job, tmp_path / "pictures")[0]
    assert "rgb48be(pc, gbr/bt2020/smpte2084" in video_line(first)
    assert hdr_lines(first) == hdr_lines(source)
    with pytest.raises(PlanError, match=r"codec tiff cannot hold.*choose codec hevc or.*png"):
        build_plan(probe_video(source), "0" * 64, make_options(codec="tiff"))


@pytest.mark.parametrize(("bits", "codec"), [(8, "png"), (8, "tiff"), (10, "png"), (10, "tiff")])
def test_pictures_are_ffmpegs_own_decode(tmp_path: Path, bits: int, codec: str) -> None:
    source = source_of(tmp_path, bits, "bt709", "tv")
    job = make_video(source, tmp_path, codec=codec, container="auto")
    pictures_of(job, tmp_path / "pictures")
    deep = (bits, codec) != (8, "png")
    assert job.plan.deep == deep
    dtype, most = (np.uint16, 65535) if deep else (np.uint8, 255)
    way = "format=gbrp16le" if deep else "null"  # straight to rgb48le it has other colours
    ending = {"png": "png", "tiff": "tif"}[codec]
    ours = rgb_of("-i", tmp_path / "pictures" / f"%06d.{ending}", dtype=dtype)
    theirs = rgb_of("-i", source, dtype=dtype, filters=f"{DECODED}:in_color_matrix=bt709,{way}")
    # swscale appends bits to make 16: its white is 255 << 8, ours 65535 (`picture/levels.py`).
    white = 255 << 8 if deep else 255
    assert np.abs(ours - theirs * (most / white)).max() <= 1


def test_depth_follows_the_source(made: GetSource) -> None:
    plan = build_plan(probe_video(made("ten.mkv")), "0" * 64, make_options(container="folder"))
    assert (plan.encoder.codec, plan.encoder.pix_fmt, plan.deep) == ("png", "rgb48be", True)


def test_a_source_without_sound(made: GetSource, tmp_path: Path) -> None:
    job = make_video(made("ntsc.mp4"), tmp_path, codec="png", container="folder")
    with zipfile.ZipFile(job.output) as archive:
        assert archive.namelist()[-2:] == ["000005.png", "sequence.json"]
    picture = tmp_path / "preview.jpg"
    write_before_after(made("ntsc.mp4"), job.plan.video, job.output, picture)
    assert picture.stat().st_size > 1000


def test_what_differs_is_named(made: GetSource, tmp_path: Path) -> None:
    job = make_video(made("ntsc.mp4"), tmp_path, codec="png", container="folder")
    right = Expected(info=job.plan.video, settings=job.plan.encoder, container=CONTAINERS["folder"])
    check_sequence(job.output, right)
    settings, info = right.settings, right.info
    for wrong, words in (
        (replace(right, settings=replace(settings, width=322)), "width, height and bits of 000000"),
        (replace(right, settings=replace(settings, pix_fmt="rgb48be")), "bits of 000000"),
        (replace(right, info=replace(info, pts=(*info.pts[:-1], 10**6))), "pts in seq.*, number 5"),
        (replace(right, info=replace(info, pts=info.pts[:-1])), "files"),
        (replace(right, others=(ExpectedStream(kind="audio", codec="aac"),)), "files"),
        (
            replace(right, settings=replace(settings, color=replace(settings.color, transfer=8))),
            "colour transfer",
        ),
    ):
        with pytest.raises(SegmentError, match=words):
            check_sequence(job.output, wrong)
    spoiled = bytearray(job.output.read_bytes())
    spoiled[len(spoiled) // 2] ^= 1
    job.output.write_bytes(spoiled)
    with pytest.raises(SegmentError, match="not a whole folder of pictures"):
        check_sequence(job.output, right)
