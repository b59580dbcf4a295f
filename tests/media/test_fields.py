"""Interlaced video and film: what is measured, what becomes of it, and that it may begin anywhere.

The samples are what tape, DVD, broadcast and film transfers are; ffmpeg makes them and is the
oracle of the frames.
"""

import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from seedvr2_core.errors import InvalidRequestError
from seedvr2_core.files.durable import read_record, write_record
from seedvr2_core.planning import Plan, build_plan, sizes
from seedvr2_core.video.info import VideoInfo
from seedvr2_core.video.probe import probe_video
from seedvr2_core.video.probing import fields
from seedvr2_core.video.reader import read_frames, read_pictures
from seedvr2_core.video.wanted import WantedFrames, wanted_frames
from tests.kits.clips.cases import make_video
from tests.kits.factories import make_options
from tests.kits.media import ffmpeg, shown_times
from tests.kits.pipeline import make_segments, packets
from tests.kits.restorer import ENGINE
from tests.kits.videos.oracle import planes

_FIELDS = ["-flags", "+ilme+ildct"]
_MOVING = "testsrc2=s={size}:r={rate}:d={seconds}"


def _source(size: str, rate: str, seconds: float) -> list[str]:
    return ["-f", "lavfi", "-i", _MOVING.format(size=size, rate=rate, seconds=seconds)]


_TELECINE = "telecine=pattern=23:first_field={field},setfield={order}"
_PARTS = (
    "[0:v]tinterlace=interleave_top,setfield=prog,format=yuv420p,split[a][b];"
    "[1:v]format=yuv420p[c];[a][c][b]concat=n=3"
)
RECIPES: dict[str, Sequence[str | Path]] = {
    "dv.avi": [  # PAL, as from a camera: bottom field first, pixels 16:15
        *_source("720x576", "50", 1.2),
        *["-vf", "tinterlace=interleave_bottom,setfield=bff,setsar=16/15,format=yuv420p"],
        *["-c:v", "dvvideo", *_FIELDS],
    ],
    "dvd.mpg": [
        *[*_source("720x480", "60000/1001", 1.2), "-f", "lavfi", "-i", "sine=d=1.2"],
        *["-vf", "tinterlace=interleave_top,setfield=tff,setsar=8/9", "-c:v", "mpeg2video"],
        *["-b:v", "6M", *_FIELDS, "-c:a", "mp2", "-f", "dvd"],
    ],
    "broadcast.mp4": [
        *[*_source("1920x1080", "50", 0.6), "-vf", "tinterlace=interleave_top,setfield=tff"],
        *["-c:v", "libx264", "-preset", "ultrafast", *_FIELDS, "-x264-params", "tff=1"],
    ],
    "ten.mkv": [
        *_source("320x240", "50", 1.2),
        *["-vf", "format=yuv422p10le,tinterlace=interleave_top,setfield=tff"],
        *["-c:v", "ffv1", *_FIELDS],
    ],
    "captured.mkv": [  # tape that was captured as if it were progressive
        *_source("320x240", "50", 1.2),
        *["-vf", "tinterlace=interleave_top,setfield=prog", "-c:v", "ffv1"],
    ],
    "film.mkv": [
        *[*_source("320x240", "24000/1001", 2.6), "-c:v", "ffv1"],
        *["-vf", _TELECINE.format(field="top", order="tff"), *_FIELDS],
    ],
    "film10.mkv": [
        *[*_source("320x240", "24000/1001", 2.6), "-c:v", "ffv1", *_FIELDS],
        "-vf",
        f"format=yuv420p10le,{_TELECINE.format(field='bottom', order='bff')}",
    ],
    "film.mp4": [
        *[*_source("320x240", "24000/1001", 2.6), "-c:v", "libx264", "-crf", "20", *_FIELDS],
        *["-vf", _TELECINE.format(field="top", order="tff"), "-x264-params", "tff=1"],
    ],
    "parts.mkv": [  # tape, a film, tape
        *_source("320x240", "50", 1.6),
        *_source("320x240", "25", 3.6),
        *["-filter_complex", _PARTS, "-c:v", "ffv1"],
    ],
    "progressive.mkv": [*_source("320x240", "25", 1.2), "-c:v", "ffv1"],
    "marked.mp4": [
        *[*_source("320x240", "25", 1.2), "-c:v", "libx264", "-preset", "ultrafast"],
        *[*_FIELDS, "-x264-params", "tff=1"],
    ],
}


class Samples(dict[str, Path]):
    """Samples by their name in `RECIPES`; each is made when it is asked for first."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def __missing__(self, name: str) -> Path:
        ffmpeg(*RECIPES[name], self._folder / name)
        self[name] = self._folder / name
        return self[name]


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    return Samples(tmp_path_factory.mktemp("fields"))


def as_wanted(path: Path, deinterlace: str, **place: str) -> VideoInfo:
    return wanted_frames(probe_video(path), WantedFrames(deinterlace=deinterlace, **place))


@pytest.mark.parametrize(
    ("name", "interlaced", "top_first", "film"),
    [
        ("dv.avi", True, False, False),
        ("dvd.mpg", True, True, False),
        ("broadcast.mp4", True, True, False),
        ("ten.mkv", True, True, False),
        ("captured.mkv", True, True, False),
        ("film.mkv", True, True, True),
        ("film10.mkv", True, False, True),
        ("film.mp4", True, True, True),
        ("progressive.mkv", False, None, False),
        ("marked.mp4", False, None, False),
    ],
)
def test_what_is_measured(
    samples: Samples, name: str, interlaced: bool, top_first: bool | None, film: bool
) -> None:
    fields = probe_video(samples[name]).fields
    assert (fields.interlaced, fields.film) == (interlaced, film)
    if interlaced:
        assert fields.top_first == top_first
    assert fields.marked == (name not in ("captured.mkv", "progressive.mkv"))


@pytest.mark.parametrize(
    ("name", "pix_fmt", "parity"),
    [("dv.avi", "yuv420p", "bff"), ("ten.mkv", "yuv422p10le", "tff")],
)
@pytest.mark.parametrize("deinterlace", ["auto", "bob"])
def test_frames_are_those_of_bwdif(
    samples: Samples, name: str, pix_fmt: str, parity: str, deinterlace: str
) -> None:
    info = as_wanted(samples[name], deinterlace)
    mode = "send_field" if deinterlace == "bob" else "send_frame"
    raw = ffmpeg(
        *["-i", samples[name], "-vf", f"bwdif=mode={mode}:parity={parity}:deint=all"],
        *["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", pix_fmt, "-"],
    )
    ours = [picture for _, picture in read_pictures(samples[name], info, 0, info.num_frames)]
    width, height = info.decoded_size
    luma = [content(picture) for picture in ours]
    wanted = np.frombuffer(raw, luma[0].dtype).reshape(len(ours), -1)
    # Two versions of ffmpeg round DV in two ways, and treat the picture's edges in two ways.
    most = 2 if name == "dv.avi" else 0
    per = 2 if deinterlace == "bob" else 1
    inner = slice(6, height - 6)
    for got, want in list(zip(luma, wanted, strict=True))[2 * per : -per]:
        theirs = want[: width * height].reshape(height, width)
        off = np.abs(got[inner].astype(int) - theirs[inner])
        assert off.max() <= most


def content(picture: object) -> np.ndarray:
    """Luma of a picture, (H, W)."""
    plane = picture.planes[0]  # type: ignore[attr-defined]
    lines = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    deep = "10" in picture.format.name  # type: ignore[attr-defined]
    lines = lines.view(np.uint16) if deep else lines
    return lines[: picture.height, : picture.width]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "pix_fmt"), [("film.mkv", "yuv420p"), ("film10.mkv", "yuv420p10le")]
)
def test_film_is_what_it_was(samples: Samples, tmp_path: Path, name: str, pix_fmt: str) -> None:
    """Every picture of the film comes back bit by bit, each once and in its place."""
    before = tmp_path / "before.mkv"
    ffmpeg(*_source("320x240", "24000/1001", 2.6), "-pix_fmt", pix_fmt, "-c:v", "ffv1", before)
    info = as_wanted(samples[name], "film")
    assert Fraction(*info.nominal_rate) == Fraction(24000, 1001)
    (wanted, *_) = planes(before, pix_fmt)
    ours = [content(frame) for _, frame in read_pictures(samples[name], info, 0, info.num_frames)]
    whole = probe_video(samples[name]).num_frames // 5 * 4
    for index, frame in enumerate(ours[:whole]):
        assert (frame.ravel() == wanted[index]).all(), f"frame {index}"


def test_film_whose_cadence_breaks(tmp_path: Path) -> None:
    """Two pictures are missing in the middle of a cycle: around that place alone frames differ."""
    before, path = tmp_path / "before.mkv", tmp_path / "broken.mkv"
    ffmpeg(*_source("320x240", "24000/1001", 3), "-pix_fmt", "yuv420p", "-c:v", "ffv1", before)
    telecine = _TELECINE.format(field="top", order="tff")
    cut = r"select=not(between(n\,41\,42)),setpts=N/(30000/1001)/TB"
    ffmpeg(
        *["-i", before, "-vf", f"{telecine},{cut}", "-c:v", "ffv1", *_FIELDS, path],
    )
    info = as_wanted(path, "film")
    assert probe_video(path).num_frames == probe_video(before).num_frames * 5 // 4 - 2
    (film, *_) = planes(before, "yuv420p")
    frames = [content(frame) for _, frame in read_pictures(path, info, 0, info.num_frames)]
    whole = [any((frame.ravel() == picture).all() for picture in film) for frame in frames]
    assert len(whole) - sum(whole) <= 4
    assert all(whole[:30])
    assert all(whole[40:-4])


def test_whole_parts_of_interlaced_video_stay_as_they_are(samples: Samples) -> None:
    path = samples["parts.mkv"]
    raw = probe_video(path)
    assert (raw.fields.interlaced, raw.fields.mixed, raw.fields.top_first) == (True, True, True)
    ways = as_wanted(path, "auto"), as_wanted(path, "off")
    assert "parts of the video are interlaced, top field first" in ways[0].warnings[-1]
    assert ways[0].pts == raw.pts
    made, shown = (
        [content(frame) for _, frame in read_pictures(path, way, 0, way.num_frames)] for way in ways
    )
    same = [bool((a == b).all()) for a, b in zip(made, shown, strict=True)]
    # 40 pictures of tape, 90 of film, 40 of tape. Beside a cut bwdif's are taken; nobody can tell
    # what the first picture behind it is.
    assert same == [46 <= index < 125 for index in range(170)]
    reading = dataclasses.replace(ways[0].reading, mixed=False)
    every = dataclasses.replace(ways[0], reading=reading)
    smooth = [content(frame) for _, frame in read_pictures(path, every, 0, 170)]
    assert all((made[index] == smooth[index]).all() for index in range(170) if not same[index])
    keys = {build_plan(way, "0" * 64, make_options()).job_key for way in (*ways, every)}
    assert len(keys) == 3


@pytest.mark.parametrize(
    ("name", "deinterlace"),
    [
        *[("dv.avi", "auto"), ("dv.avi", "bob"), ("ten.mkv", "bob"), ("film10.mkv", "film")],
        ("parts.mkv", "auto"),
    ],
)
def test_reading_may_begin_anywhere(samples: Samples, name: str, deinterlace: str) -> None:
    info = as_wanted(samples[name], deinterlace)
    deep = info.bit_depth > 8
    count = info.num_frames
    whole = [frame.rgb for frame in read_frames(samples[name], info, 0, count, deep=deep)]
    within = [start for start in (1, 2, 3, 4, 5, 8, 11, 34, 44) if start < count - 3]
    for start in (*within, count - 3, count - 1):
        stop = min(start + 3, count)
        part = list(read_frames(samples[name], info, start, stop, deep=deep))
        assert [frame.index for frame in part] == list(range(start, stop))
        assert all((a.rgb == b).all() for a, b in zip(part, whole[start:stop], strict=True))


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "deinterlace", "rate"),
    [
        ("dvd.mpg", "auto", Fraction(30000, 1001)),
        ("dvd.mpg", "bob", Fraction(60000, 1001)),
        ("film.mp4", "film", Fraction(24000, 1001)),
    ],
)
def test_a_job(
    samples: Samples, tmp_path: Path, name: str, deinterlace: str, rate: Fraction
) -> None:
    """Times are exact, segments that are made later have the same bytes, and the plan tells."""
    wanted = WantedFrames(deinterlace=deinterlace)
    job = make_video(samples[name], tmp_path, wanted, segment_seconds=0.4)
    times = shown_times(job.output, 0)
    whole = times[: len(times) - len(times) % 4] if deinterlace == "film" else times
    steps = {b - a for a, b in itertools.pairwise(whole)}
    assert all(abs(step - 1 / rate) < Fraction(1, 50_000) for step in steps)
    assert any("film" in note or "interlaced, top field first" in note for note in job.notes)
    if name == "dvd.mpg":
        assert job.plan.width / job.plan.height == pytest.approx(720 * 8 / 9 / 480, rel=0.02)
    alone = tmp_path / "alone"
    middle = len(job.plan.segments) // 2
    assert middle > 0
    make_segments(job.plan, alone, samples[name], [middle])
    made = alone / "segments" / f"{middle:05}.mp4"
    assert made.read_bytes() == packets(job.plan, tmp_path / "job")[middle]


@pytest.mark.long
def test_tape_through_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """VHS in one job: noisy fields in pixels that are not square become whole, square frames."""
    monkeypatch.setattr(sizes, "BUDGETS_PX", {**sizes.BUDGETS_PX, "4k": 96 * 72})
    tape = tmp_path / "tape.avi"
    ffmpeg(
        *_source("720x576", "50", 0.4),
        *["-vf", "noise=alls=14:allf=t,tinterlace=interleave_bottom,setfield=bff,setsar=16/15"],
        *["-pix_fmt", "yuv420p", "-c:v", "dvvideo", *_FIELDS, tape],
    )
    engine = dataclasses.replace(ENGINE, name="tiny", window=3, overlap=1)
    job = make_video(tape, tmp_path, resolution="4k", engine=engine, cpu_count=1)
    assert (job.plan.width, job.plan.height) == (96, 72)
    assert job.plan.video.reading.method == "bwdif"
    assert any("interlaced, bottom field first" in note for note in job.notes)
    made = probe_video(job.output)
    assert (made.num_frames, made.sar, made.fields.interlaced) == (10, (1, 1), False)
    assert shown_times(job.output, 0) == [Fraction(index, 25) for index in range(10)]


def test_what_is_not_interlaced_stays_as_it_is(samples: Samples) -> None:
    raw = probe_video(samples["progressive.mkv"])
    assert wanted_frames(raw, WantedFrames()) == raw
    before = dataclasses.replace(raw, fields=type(raw.fields)())
    keys = [build_plan(video, "0" * 64, make_options()).job_key for video in (raw, before)]
    assert keys[0] == keys[1]
    bobbed = as_wanted(samples["progressive.mkv"], "bob")
    assert (bobbed.pts, bobbed.reading) == (raw.pts, raw.reading)
    assert "deinterlace bob changes nothing" in bobbed.warnings[-1]
    marked = as_wanted(samples["marked.mp4"], "auto")
    assert not marked.reading.method
    assert "marked as interlaced" in marked.warnings[-1]
    off = as_wanted(samples["dv.avi"], "off")
    assert not off.reading.method
    assert "restored as it is" in off.warnings[-1]


@pytest.mark.parametrize(
    ("one", "top", "bottom", "interlaced"),
    [(30, 3, 3, False), (9, 3, 3, False), (3, 6, 5, True), (1, 1, 0, True), (30, 0, 0, False)],
)
def test_a_mark_needs_a_comb_where_there_is_motion(
    one: int, top: int, bottom: int, interlaced: bool
) -> None:
    """Of whole pictures some look combed, in both orders; then the mark in the file is wrong."""
    found = Counter({"one": one, "top": top, "bottom": bottom})
    assert fields._judged(found, marked=True).interlaced == interlaced
    assert not fields._judged(found, marked=False).interlaced


def test_each_way_of_reading_has_a_job_of_its_own(samples: Samples) -> None:
    ways = ("off", "auto", "bob", "film")
    videos = [as_wanted(samples["film.mkv"], way) for way in ways]
    keys = {build_plan(video, "0" * 64, make_options()).job_key for video in videos}
    assert len(keys) == len(ways)


@pytest.mark.parametrize("name", ["dv.avi", "progressive.mkv"])
def test_film_is_refused_where_there_is_no_cadence(samples: Samples, name: str) -> None:
    with pytest.raises(InvalidRequestError, match="no such cadence was found"):
        as_wanted(samples[name], "film")


def test_a_plan_of_the_version_before_can_be_read(samples: Samples, tmp_path: Path) -> None:
    plan = build_plan(probe_video(samples["dv.avi"]), "0" * 64, make_options())
    path = tmp_path / "plan.json"
    write_record(path, plan)
    record = json.loads(path.read_text())
    for name in ("fields", "reading"):
        del record["video"][name]
    path.write_text(json.dumps(record))
    assert not read_record(path, Plan).video.reading.method
