"""Hidden edges, shapes that change on the way, palettes, what is lost beside the picture."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from av.sidedata.sidedata import Type

from seedvr2_core.video.picture.color import has_alpha
from seedvr2_core.video.probe import probe_video
from seedvr2_core.video.reader import read_frames
from tests.kits.media import ffmpeg
from tests.kits.videos.members import (
    PICTURE,
    X264,
    as_ffmpeg_shows,
    clean_aperture,
    with_box,
    with_matrix,
)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "plain.mp4"
    ffmpeg(*PICTURE, "-frames:v", "4", *X264, "-pix_fmt", "yuv444p", path)
    return path


@pytest.mark.parametrize(
    ("aperture", "crop"),
    [
        ((48, 40), (8, 4, 8, 4)),
        ((40, 48, -8, 0), (8, 0, 16, 0)),
        ((64, 30, 0, 10), (0, 14, 0, 4)),
        ((63, 48, 1, 0), (1, 0, 0, 0)),
    ],
    ids=["middle", "left", "down", "odd"],
)
def test_a_clean_aperture_is_all_that_is_shown(
    clip: Path, tmp_path: Path, aperture: tuple[int, ...], crop: tuple[int, ...]
) -> None:
    path = with_box(clip, tmp_path / "a.mp4", clean_aperture(*aperture))
    info = probe_video(path)
    assert info.crop == crop
    assert info.decoded_size == (64, 48)
    left, top, right, bottom = crop
    shown = as_ffmpeg_shows(path, info.width, info.height)
    for frame, whole, theirs in zip(
        read_frames(path, info, 0, 3),
        read_frames(clip, probe_video(clip), 0, 3),
        shown,
        strict=True,
    ):
        assert np.array_equal(frame.rgb, whole.rgb[top : 48 - bottom, left : 64 - right])
        assert np.abs(frame.rgb.astype(int) - theirs).mean() < 1
    assert "hides pixels" in " ".join(info.warnings)


@pytest.mark.parametrize(
    "box",
    [
        clean_aperture(0, 0),
        clean_aperture(65, 48),
        clean_aperture(48, 40, 1000, 0),
        b"clap" + bytes(32),
        b"clap",
        b"clap\xff\xff",
    ],
    ids=["nothing", "larger", "outside", "zeros", "empty", "short"],
)
def test_an_aperture_that_cannot_be_hides_nothing(clip: Path, tmp_path: Path, box: bytes) -> None:
    info = probe_video(with_box(clip, tmp_path / "a.mp4", box))
    assert (info.crop, info.width, info.height) == ((0, 0, 0, 0), 64, 48)


def test_edges_are_hidden_before_the_picture_is_turned(clip: Path, tmp_path: Path) -> None:
    turned = with_matrix(clip, tmp_path / "a.mp4", (0, 1, -1, 0))
    path = with_box(turned, tmp_path / "b.mp4", clean_aperture(40, 48, -8, 0))
    info = probe_video(path)
    assert info.upright_size == (48, 40)
    (frame,) = read_frames(path, info, 0, 1)
    (whole,) = read_frames(clip, probe_video(clip), 0, 1)
    assert np.array_equal(frame.rgb, np.rot90(whole.rgb[:, 8:48], -1))


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_what_the_codec_hides_on_the_left(tmp_path: Path, codec: str) -> None:
    encoder = "libx264" if codec == "h264" else "libx265"
    path, whole = tmp_path / "a.mp4", tmp_path / "whole.mp4"
    quiet = ["-x265-params", "log-level=none"] if codec == "hevc" else []
    ffmpeg(*PICTURE, "-frames:v", "3", "-c:v", encoder, *quiet, "-preset", "ultrafast", whole)
    crop = f"{codec}_metadata=crop_left=6:crop_right=2:crop_top=4:crop_bottom=0"
    ffmpeg("-i", whole, "-c", "copy", "-bsf:v", crop, path)
    info = probe_video(path)
    assert (info.width, info.height) == (56, 44)
    (frame,) = read_frames(path, info, 0, 1)
    (full,) = read_frames(whole, probe_video(whole), 0, 1)
    assert np.abs(frame.rgb[:, 2:].astype(int) - full.rgb[4:, 8:62]).mean() < 0.5


def of_two_shapes(path: Path, first: Sequence[str], second: Sequence[str]) -> Path:
    """A transport stream that goes on in another shape after a second."""
    content = b""
    for k, options in enumerate((first, second)):
        part = path.with_suffix(f".{k}.ts")
        ffmpeg("-f", "lavfi", "-i", *options, "-output_ts_offset", f"{k}", part)
        content += part.read_bytes()
    path.write_bytes(content)
    return path


GREY = "color=gray:r=25:d=1"
MPEG2 = ["-c:v", "mpeg2video", "-g", "5"]


@pytest.mark.parametrize(
    ("first", "second", "bars"),
    [
        ([f"{GREY}:s=160x96", *X264], [f"{GREY}:s=96x160", *X264], (51, 0)),
        ([f"{GREY}:s=96x160", *X264], [f"{GREY}:s=160x96", *X264], (0, 51)),
        (
            [f"{GREY}:s=180x144", "-aspect", "4:3", *MPEG2],
            [f"{GREY}:s=180x144", "-aspect", "16:9", *MPEG2],
            (0, 18),
        ),
        (
            [f"{GREY}:s=180x144", "-aspect", "16:9", *MPEG2],
            [f"{GREY}:s=180x144", "-aspect", "4:3", *MPEG2],
            (22, 0),
        ),
    ],
    ids=["narrower", "wider", "aspect-wider", "aspect-narrower"],
)
def test_another_shape_is_shown_whole_with_bars(
    tmp_path: Path, first: list[str], second: list[str], bars: tuple[int, int]
) -> None:
    path = of_two_shapes(tmp_path / "a.ts", first, second)
    info = probe_video(path)
    assert "changes its shape" in " ".join(info.warnings)
    frames = list(read_frames(path, info, 0, info.num_frames))
    side, edge = bars
    before, after = frames[5].rgb, frames[-3].rgb
    assert before.min() > 100
    assert after.shape == before.shape
    height, width, _ = after.shape
    inside = after[edge + 1 : height - edge - 1, side + 1 : width - side - 1]
    assert inside.min() > 100
    assert after[:edge].max(initial=0) < 20
    assert after[:, :side].max(initial=0) < 20


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.webm", ["-c:v", "libvpx-vp9", "-cpu-used", "8"]),
        ("a.mkv", ["-c:v", "libvpx", "-deadline", "realtime"]),
        ("a.avi", ["-c:v", "mjpeg"]),
        ("b.avi", ["-c:v", "mpeg4"]),
        ("a.mov", ["-c:v", "png"]),
        ("a.mp4", X264),
    ],
    ids=["vp9", "vp8", "jpeg", "mpeg4", "png", "mp4"],
)
def test_a_turn_on_the_way_is_told_whatever_the_codec(
    tmp_path: Path, name: str, codec: list[str]
) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    for part, size in (("0", "64x48"), ("1", "48x64")):
        ffmpeg("-f", "lavfi", "-i", f"testsrc2=s={size}:r=25:d=0.2", *codec, folder / (part + name))
    listed = folder / "list.txt"
    listed.write_text(f"file 0{name}\nfile 1{name}\n")
    ffmpeg("-f", "concat", "-i", listed, "-c", "copy", tmp_path / name)
    (told,) = [text for text in probe_video(tmp_path / name).warnings if "shape" in text]
    assert "at 0.2 s from 64x48 to 48x64" in told


def test_a_smaller_size_of_the_same_shape_fills_the_picture(tmp_path: Path) -> None:
    sizes = ([f"{GREY}:s=160x96", *X264], [f"{GREY}:s=80x48", *X264])
    path = of_two_shapes(tmp_path / "a.ts", *sizes)
    info = probe_video(path)
    assert "changes its shape" not in " ".join(info.warnings)
    frames = list(read_frames(path, info, 0, info.num_frames))
    assert all(frame.rgb.min() > 100 for frame in frames)


def test_a_change_among_the_first_pictures_is_one_from_the_first(tmp_path: Path) -> None:
    short = "color=gray:r=25:d=0.2:s=180x144"
    first, second = ([short, "-aspect", aspect, *MPEG2] for aspect in ("4:3", "16:9"))
    info = probe_video(of_two_shapes(tmp_path / "a.ts", first, second))
    assert info.codec_sar == info.sar == (16, 15)


def test_a_record_without_the_codecs_own_aspect_goes_by_size_alone(tmp_path: Path) -> None:
    """As the version before has written it."""
    wide, narrow = (f"{GREY}:s=180x144", "-aspect", "4:3"), (f"{GREY}:s=180x144", "-aspect", "16:9")
    path = of_two_shapes(tmp_path / "a.ts", [*wide, *MPEG2], [*narrow, *MPEG2])
    info = replace(probe_video(path), codec_sar=(0, 1))
    assert all(frame.rgb.min() > 100 for frame in read_frames(path, info, 0, info.num_frames))


@pytest.mark.parametrize("name", ["a.avi", "a.nut", "a.mov"])
def test_a_palette_is_there_wherever_reading_begins(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    palette = "split[a][b];[a]palettegen[p];[b][p]paletteuse"
    codec = "png" if name.endswith("mov") else "rawvideo"
    ffmpeg(*PICTURE, "-lavfi", palette, "-pix_fmt", "pal8", "-c:v", codec, path)
    info = probe_video(path)
    assert info.pix_fmt == "pal8"
    whole = [frame.rgb for frame in read_frames(path, info, 0, info.num_frames)]
    for start in (1, 12, info.num_frames - 1):
        (frame,) = read_frames(path, info, start, start + 1)
        assert np.array_equal(frame.rgb, whole[start])
    assert not info.alpha.transparent
    assert info.alpha.looked_at == info.num_frames


def test_a_palette_with_a_transparent_colour_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.mov"
    half = "format=rgba,colorchannelmixer=aa=0,split[a][b];[a]palettegen[p];[b][p]paletteuse"
    ffmpeg(*PICTURE, "-lavfi", half, "-pix_fmt", "pal8", "-c:v", "png", path)
    assert has_alpha("pal8")
    assert probe_video(path).alpha.transparent


def test_kinds_of_side_data_that_nobody_has_named_can_be_looked_at() -> None:
    known = {kind.value for kind in Type}
    for value in itertools.chain(range(64), (10**6,)):
        assert Type(value).value == value
        assert (value in known) != Type(value).name.startswith("UNKNOWN")


def test_a_mark_of_two_views_is_told(clip: Path, tmp_path: Path) -> None:
    info = probe_video(with_box(clip, tmp_path / "a.mp4", b"st3d\0\0\0\0\2"))
    assert "3D" in " ".join(info.warnings)
    flat = probe_video(with_box(clip, tmp_path / "b.mp4", b"st3d\0\0\0\0\0"))
    assert "3D" not in " ".join(flat.warnings)


def test_360_degrees_are_told(clip: Path, tmp_path: Path) -> None:
    def sized(kind: bytes, content: bytes) -> bytes:
        return (8 + len(content)).to_bytes(4) + kind + content

    view = sized(b"prhd", bytes(16)) + sized(b"equi", bytes(20))
    box = b"sv3d" + sized(b"svhd", bytes(5)) + sized(b"proj", view)
    info = probe_video(with_box(clip, tmp_path / "a.mp4", box))
    assert "360 degrees" in " ".join(info.warnings)


def test_captions_in_the_pictures_are_told(clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.ts"
    told = f"h264_metadata=sei_user_data=086f3693-b7b3-4f2c-9653-21492feee5b8+GA94{chr(3)}text"
    ffmpeg("-i", clip, "-c", "copy", "-bsf:v", told, path)
    with av.open(str(path)) as container:
        assert any(b"GA94\3" in bytes(packet) for packet in container.demux(video=0))
    assert "captions" in " ".join(probe_video(path).warnings)
    assert "captions" not in " ".join(probe_video(clip).warnings)
