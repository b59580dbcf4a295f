"""Alpha goes from every source that has it into every output that holds it."""

import zipfile
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seedvr2_core.compare.before_after import write_before_after
from seedvr2_core.errors import InvalidRequestError, PlanError
from seedvr2_core.files.durable import write_record
from seedvr2_core.job import JobDir
from seedvr2_core.job.masters import Masters, WantedMasters, ready_masters
from seedvr2_core.planning import build_plan
from seedvr2_core.planning.outline import outline_of
from seedvr2_core.preview.clips import Cutting
from seedvr2_core.video.alpha.wish import parse_alpha
from seedvr2_core.video.cuts import _thumbnails
from seedvr2_core.video.output.formats import CODECS, CONTAINERS
from seedvr2_core.video.output.segment import video_of_segment
from seedvr2_core.video.probe import probe_video
from seedvr2_core.video.reader import read_alphas, read_frames
from seedvr2_core.video.wanted import WantedFrames, wanted_frames
from tests.kits.clips.cases import Made, make_video
from tests.kits.clips.transparent import (
    DECODERS,
    FRAMES,
    HEIGHT,
    KINDS,
    RED,
    WIDTH,
    disc,
    saved,
    shown_alpha,
    shown_pixels,
    textured,
)
from tests.kits.factories import make_options
from tests.kits.media import ffmpeg, shown_times
from tests.kits.pipeline import make_segments, packets

SIZE = (WIDTH, HEIGHT)
HOLDERS = [
    (codec, container)
    for codec, spec in CODECS.items()
    if spec.with_alpha and not spec.by_quality
    for container in spec.containers
    if not (CONTAINERS[container].pictures or CONTAINERS[container].single)
]
GetClip = Callable[[str], Path]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> GetClip:
    """Get a textured disc by its name in `KINDS`; it is made once."""
    folder = tmp_path_factory.mktemp("alpha")

    def get(name: str) -> Path:
        path = folder / name
        return path if path.exists() else saved(path, textured())

    return get


def made_of(source: Path, folder: Path, alpha: str = "auto", **changes: Any) -> Made:
    """A job in segments of five frames, at the source's size."""
    folder.mkdir(exist_ok=True)
    usual = {"codec": "auto", "container": "auto", "resolution": "1x", "segment_seconds": 0.2}
    return make_video(source, folder, WantedFrames(alpha=alpha), **{**usual, **changes})


def off(a: np.ndarray, b: np.ndarray) -> int:
    """The largest difference of two arrays of one shape."""
    assert a.shape == b.shape
    return int(np.abs(a.astype(np.int64) - b).max())


@pytest.mark.parametrize("name", KINDS)
def test_the_alpha_of_a_source_is_that_of_ffmpeg(clip: GetClip, name: str) -> None:
    path = clip(name)
    info = probe_video(path)
    assert (info.alpha.transparent, info.alpha.looked_at, info.num_frames) == (True, 1, FRAMES)
    theirs = shown_alpha(path, SIZE, decoder=DECODERS.get(name, ""))
    ours = np.stack(list(read_alphas(path, info, 0, FRAMES)))
    assert off(ours, theirs) <= (0 if info.bit_depth == 8 else 1)
    assert theirs.min() == 0
    assert theirs.max() == 255
    deep = np.stack(list(read_alphas(path, info, 3, FRAMES, deep=True)))
    assert off(deep / 257, theirs[3:]) <= 1
    assert deep.max() >= 65520  # ffmpeg's own 16 bits of 8 are a little less


@pytest.mark.parametrize(("codec", "container"), HOLDERS, ids=[" in ".join(p) for p in HOLDERS])
@pytest.mark.parametrize("name", ["png.mov", "yuva444p10.mkv"])
def test_alpha_is_the_same_where_the_size_is(
    clip: GetClip, tmp_path: Path, name: str, codec: str, container: str
) -> None:
    job = made_of(clip(name), tmp_path / "job", codec=codec, container=container)
    assert len(job.plan.segments) == 2
    assert any("alpha, which is kept" in note for note in job.notes)
    assert off(shown_alpha(job.output, SIZE), shown_alpha(clip(name), SIZE)) == 0
    shown, wanted = shown_times(job.output, 0), shown_times(clip(name), 0)
    assert shown == pytest.approx(wanted, abs=0.000501)


@pytest.mark.parametrize(("codec", "deep"), [("png", False), ("png", True), ("tiff", True)])
def test_pictures_of_a_sequence_have_alpha(
    clip: GetClip, tmp_path: Path, codec: str, deep: bool
) -> None:
    source = clip("png16.mov" if deep else "png.mov")
    job = made_of(source, tmp_path / "job", codec=codec)
    ffmpeg_folder = tmp_path / "pictures"
    ffmpeg_folder.mkdir()
    with zipfile.ZipFile(job.output) as folder:
        folder.extractall(ffmpeg_folder)
    pattern = ffmpeg_folder / f"%06d{CODECS[codec].ending}"
    ours, theirs = shown_pixels(pattern, SIZE, deep=deep), shown_pixels(source, SIZE, deep=deep)
    assert off(ours[..., 3], theirs[..., 3]) == 0
    seen = theirs[..., 3] > 2 ** (13 if deep else 5)
    assert off(ours[seen], theirs[seen]) == 0  # their colours, to the bit


@pytest.mark.parametrize("name", ["bgra.mkv", "gbrap16.mkv"])
def test_alpha_is_enlarged_by_lanczos(clip: GetClip, tmp_path: Path, name: str) -> None:
    source, twice = clip(name), (2 * WIDTH, 2 * HEIGHT)
    job = made_of(source, tmp_path / "job", codec="ffv1", resolution="2x")
    flags = "lanczos+accurate_rnd+full_chroma_int"
    scaled = f"scale={twice[0]}:{twice[1]}:flags={flags}"
    theirs = shown_alpha(source, twice, after=scaled)
    assert off(shown_alpha(job.output, twice), theirs) <= 1


@pytest.mark.long
@pytest.mark.parametrize("codec", ["ffv1", "png"])
def test_colours_of_opaque_parts_are_those_without_alpha(tmp_path: Path, codec: str) -> None:
    pixels = textured()
    pixels[:, :, WIDTH // 2 :, 3] = 255
    pixels[:, :, WIDTH // 2 :, :3] = pixels[:, :, WIDTH // 2 :, :3] // 2 + 60
    source = saved(tmp_path / "bgra.mkv", pixels)
    plain = pixels.copy()
    plain[..., 3] = 255
    without = saved(tmp_path / "plain.mkv", plain, "-c:v", "ffv1", "-pix_fmt", "bgr0")
    for resolution, margin in (("1x", 0), ("2x", 8)):
        own = made_of(source, tmp_path / resolution, codec=codec, resolution=resolution)
        other = made_of(without, tmp_path / f"o{resolution}", codec=codec, resolution=resolution)
        two = [frames_of(job) for job in (own, other)]
        half = two[0].shape[2] // 2 + margin
        assert off(*(frames[:, :, half:] for frames in two)) == 0


def frames_of(job: Made, *, deep: bool = False) -> np.ndarray:
    """(T, H, W, 3): the colours of a job's segments."""
    found = []
    folder = job.output.parent / "job"
    for segment in job.plan.segments:
        pts = job.plan.video.pts[segment.start : segment.stop]
        info = video_of_segment(job.plan.encoder, pts, last_duration=1)
        path = JobDir(folder).video_path(segment.index)
        found += [frame.rgb for frame in read_frames(path, info, 0, info.num_frames, deep=deep)]
    return np.stack(found)


@pytest.mark.parametrize("hidden", [0, 255], ids=["black", "white"])
@pytest.mark.parametrize("codec", ["ffv1", "prores"])
def test_edges_have_no_fringe(tmp_path: Path, codec: str, hidden: int) -> None:
    """A red disc before red is red all over, whatever was hidden around it."""
    source = saved(tmp_path / "png.mov", disc(3, hidden=hidden))
    job = made_of(source, tmp_path / "job", codec=codec, resolution="2x")
    pixels = shown_pixels(job.output, (2 * WIDTH, 2 * HEIGHT)).astype(np.float64)
    alpha = pixels[..., 3:] / 255
    before_red = pixels[..., :3] * alpha + np.array(RED) * (1 - alpha)
    assert np.abs(before_red - RED).max() <= 4
    raw = next(read_frames(source, probe_video(source), 0, 1)).rgb
    assert raw[0, 0].tolist() == [hidden] * 3  # there was something to hide


def test_colours_that_nearly_show_count_for_what_shows_of_them(clip: GetClip) -> None:
    """VP9's alpha is not exactly 0 where nothing was."""
    path = clip("vp9.webm")
    info = wanted_frames(probe_video(path), WantedFrames())
    (frame,) = read_frames(path, info, 0, 1, alpha=True)
    assert info.keeps_alpha
    assert frame.alpha is not None
    assert frame.rgb[frame.alpha < 4].astype(int).sum(axis=1).min() > 100


@pytest.mark.parametrize(("wish", "behind"), [("flatten", (0, 0, 0)), ("flatten:#00ff80", None)])
@pytest.mark.parametrize("name", ["png.mov", "png16.mov"])
def test_a_video_is_put_on_a_colour(
    clip: GetClip, tmp_path: Path, name: str, wish: str, behind: tuple[int, int, int] | None
) -> None:
    colour = np.array(behind or (0, 255, 128))
    job = made_of(clip(name), tmp_path / "job", parse_alpha(wish), codec="png")
    assert not job.plan.video.keeps_alpha
    assert any("it is put on" in note for note in job.notes)
    deep = "16" in name
    step = 257 if deep else 1
    pixels = shown_pixels(clip(name), SIZE, deep=deep) / step
    alpha = pixels[..., 3:] / 255
    wanted = pixels[..., :3] * alpha + colour * (1 - alpha)
    assert np.abs(frames_of(job, deep=deep) / step - wanted).max() <= 0.51


def test_what_holds_no_alpha_is_refused_with_what_does(clip: GetClip) -> None:
    video = wanted_frames(probe_video(clip("bgra.mkv")), WantedFrames())
    with pytest.raises(PlanError, match="codec h264 cannot hold alpha; choose codec prores or"):
        build_plan(video, "0" * 64, make_options(codec="h264"))
    with pytest.raises(PlanError, match=r"container mp4 cannot hold .* container mov or mkv"):
        build_plan(video, "0" * 64, make_options(container="mp4"))
    with pytest.raises(InvalidRequestError, match="alpha refuse was asked for"):
        wanted_frames(probe_video(clip("bgra.mkv")), WantedFrames(alpha="refuse"))
    chosen = {
        container: build_plan(video, "0" * 64, make_options(container=container))
        for container in ("auto", "mkv", "folder")
    }
    assert {name: plan.encoder.codec for name, plan in chosen.items()} == {
        "auto": "prores",
        "mkv": "prores",
        "folder": "png",
    }
    assert any("flatten puts the video on black" in note for note in chosen["auto"].notes)


def test_alpha_that_is_opaque_everywhere_changes_nothing(tmp_path: Path) -> None:
    pixels = textured()
    pixels[..., 3] = 255
    source = saved(tmp_path / "prores.mov", pixels)
    info = probe_video(source)
    assert (info.alpha.transparent, info.alpha.looked_at) == (False, FRAMES)
    for wish in ("auto", "flatten", "refuse"):
        assert wanted_frames(info, WantedFrames(alpha=wish)) == info
    job = made_of(source, tmp_path / "kept", "keep")
    assert job.plan.encoder.pix_fmt == "yuva444p10le"
    assert shown_alpha(job.output, SIZE).min() == 255


@pytest.mark.parametrize(("first", "found"), [(400, False), (25, False), (399 // 48 * 40, True)])
def test_long_videos_are_looked_at_in_places(tmp_path: Path, first: int, found: bool) -> None:
    """One frame of 400 is transparent, none for 400; what was not seen is put on black."""
    pixels = np.full((400, 16, 16, 4), 255, np.uint8)
    pixels[first : first + (9 if found else 1), :, :, 3] = 0
    source = saved(tmp_path / "bgra.mkv", pixels)
    info = probe_video(source)
    assert info.alpha.transparent == found
    video = wanted_frames(info, WantedFrames())
    assert video.keeps_alpha == found
    if not found:
        assert "the 64 frames that were looked at are opaque" in video.warnings[-1]
        shown = [frame.rgb.max() for frame in read_frames(source, video, 0, 400)]
        assert [index for index, most in enumerate(shown) if not most] == [first][: first < 400]


@pytest.mark.long
@pytest.mark.parametrize("container", ["auto", "webm"])
def test_a_segment_made_alone_has_the_same_bytes(
    clip: GetClip, tmp_path: Path, container: str
) -> None:
    job = made_of(clip("vp9.webm"), tmp_path / "job", resolution="2x", container=container)
    for alone in reversed(range(len(job.plan.segments))):
        make_segments(job.plan, tmp_path / "again", clip("vp9.webm"), [alone])
    assert packets(job.plan, tmp_path / "again") == packets(job.plan, tmp_path / "job" / "job")


def test_a_master_serves_other_codecs_with_alpha(clip: GetClip, tmp_path: Path) -> None:
    source, masters = clip("bgra.mkv"), Masters(tmp_path / "masters")
    video = wanted_frames(probe_video(source), WantedFrames())
    first, second = (
        build_plan(video, "0" * 64, make_options(codec=codec, segment_seconds=0.2))
        for codec in ("prores", "tiff")
    )
    every = range(len(first.segments))
    make_segments(second, tmp_path / "at once", source, every)
    for plan, name in ((first, "first"), (second, "again")):
        wanted = WantedMasters(
            folder=masters.path, keep=True, ready=ready_masters(masters, outline_of(plan))
        )
        assert len(wanted.ready) == (0 if plan is first else len(every))
        (tmp_path / name).mkdir()
        write_record(JobDir(tmp_path / name).masters_path, wanted)
        make_segments(plan, tmp_path / name, source, every)
    assert packets(second, tmp_path / "again") == packets(second, tmp_path / "at once")


def test_a_turned_video_has_its_alpha_turned(clip: GetClip, tmp_path: Path) -> None:
    path = tmp_path / "turned.mov"
    ffmpeg("-display_rotation", "90", "-i", clip("animation.mov"), "-c", "copy", path)
    info = wanted_frames(probe_video(path), WantedFrames())
    assert info.rotation
    turned = (HEIGHT, WIDTH)
    ours = np.stack(list(read_alphas(path, info, 0, FRAMES)))
    assert off(ours, shown_alpha(path, turned)) == 0
    job = made_of(path, tmp_path / "job", codec="png", container="folder")
    assert (job.plan.width, job.plan.height) == turned


def test_frames_at_uneven_times_keep_their_alpha(clip: GetClip, tmp_path: Path) -> None:
    path = tmp_path / "uneven.mov"
    ffmpeg(
        *["-i", clip("png.mov"), "-vf", r"select='not(between(n\,3\,6))'", "-fps_mode", "vfr"],
        *["-c:v", "png", path],
    )
    job = made_of(path, tmp_path / "job")
    assert shown_times(job.output, 0) == shown_times(path, 0)
    assert len(set(np.diff([float(time) for time in shown_times(path, 0)]).round(3))) == 2
    assert off(shown_alpha(job.output, SIZE), shown_alpha(path, SIZE)) == 0


@pytest.mark.parametrize("deinterlace", ["auto", "bob"])
def test_fields_with_alpha(tmp_path: Path, deinterlace: str) -> None:
    """Alpha is deinterlaced as colours are: what bwdif makes of the whole picture."""
    pixels = textured(40)
    fields = pixels[:20].copy()
    fields[:, 0::2], fields[:, 1::2] = pixels[0::2, 0::2], pixels[1::2, 1::2]
    interlaced = ["-vf", "setfield=tff", "-flags", "+ilme+ildct", *KINDS["prores.mov"]]
    source = saved(tmp_path / "prores.mov", fields, *interlaced)
    info = probe_video(source)
    wanted = WantedFrames(deinterlace=deinterlace)
    if not info.fields.interlaced:
        info = replace(info, fields=replace(info.fields, interlaced=True, top_first=True))
    video = wanted_frames(info, wanted)
    assert video.keeps_alpha
    assert video.reading.method
    mode = "send_field" if deinterlace == "bob" else "send_frame"
    bwdif = f"format=yuva444p16le,bwdif=mode={mode}:parity=tff:deint=all"
    theirs = shown_alpha(source, SIZE, before=bwdif)
    ours = np.stack(list(read_alphas(source, video, 0, video.num_frames)))
    assert off(ours, theirs) <= 1


def test_the_preview_shows_transparency_as_squares(clip: GetClip, tmp_path: Path) -> None:
    job = made_of(clip("png.mov"), tmp_path / "job", resolution="2x")
    write_before_after(clip("png.mov"), job.plan.video, job.output, tmp_path / "picture.jpg")
    with Image.open(tmp_path / "picture.jpg") as picture:
        shown = np.asarray(picture.convert("RGB")).astype(int)
    corner = shown[-16:, :16]
    assert 140 < corner.min() < 165
    assert 190 < corner.max() < 215


def test_a_piece_that_is_shown_before_has_alpha(clip: GetClip, tmp_path: Path) -> None:
    source = clip("png.mov")
    job = made_of(source, tmp_path / "job", codec="ffv1", resolution="2x")
    size, made = (2 * WIDTH, 2 * HEIGHT), tmp_path / "made.mkv"
    cutting = Cutting(
        plan=job.plan, job_dir=JobDir(tmp_path / "job" / "job"), source=source, first=3, stop=9
    )
    cutting.write_clips(made, tmp_path / "before.mkv", {})
    wanted = shown_alpha(job.output, size)[3:9]
    assert off(shown_alpha(made, size), wanted) == 0
    assert off(shown_alpha(tmp_path / "before.mkv", size), wanted) <= 2  # Pillow's Lanczos


def test_hidden_colours_make_no_cut(tmp_path: Path) -> None:
    pixels = disc()
    pixels[..., 3] = pixels[0, ..., 3]
    hidden = pixels[..., 3] == 0
    pixels[:6, ..., :3][hidden[:6]], pixels[6:, ..., :3][hidden[6:]] = 0, 255
    path = saved(tmp_path / "bgra.mkv", pixels)
    video = wanted_frames(probe_video(path), WantedFrames())
    seen = np.stack(list(_thumbnails(path, video, range(video.num_frames)))).astype(int)
    assert np.abs(seen[6] - seen[5]).mean() < 3
    raw_video = probe_video(path)
    raw = np.stack(list(_thumbnails(path, raw_video, range(raw_video.num_frames)))).astype(int)
    assert np.abs(raw[6] - raw[5]).mean() > 50


def test_the_clock_of_a_part_holds_for_its_alpha(clip: GetClip) -> None:
    info = probe_video(clip("prores.mov"))
    part = wanted_frames(info, WantedFrames(start="frame:4", end="frame:9"))
    ours = np.stack(list(read_alphas(clip("prores.mov"), part, 0, 5)))
    assert off(ours, shown_alpha(clip("prores.mov"), SIZE)[4:9]) <= 1
    assert Fraction(*part.time_base) > 0
