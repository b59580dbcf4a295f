"""A job's report: what it measures, what it says, and that it stays within its time."""

import json
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from seedvr2_core.beat import no_beat
from seedvr2_core.files import read_record
from seedvr2_core.frames import Frame
from seedvr2_core.job import JobDir, restored
from seedvr2_core.planning.build import build_plan
from seedvr2_core.planning.plan import Plan
from seedvr2_core.report import look
from seedvr2_core.report.advice import summarize, warnings_of
from seedvr2_core.report.chosen_frames import (
    AWAY_FRAMES,
    MOST_OF_A_KIND,
    Neighbours,
    frames_to_read,
    joins_of,
    places,
)
from seedvr2_core.report.look import look_at
from seedvr2_core.report.make import make_report
from seedvr2_core.report.measures import Pair, measure_pair
from seedvr2_core.report.page import page
from seedvr2_core.report.plots import bars, points
from seedvr2_core.report.record import AboutJob, QualityReport, SegmentTime
from seedvr2_core.video.info import VideoInfo
from seedvr2_core.video.probe import probe_video
from seedvr2_core.video.reader import read_frames
from seedvr2_core.video.wanted import WantedFrames, wanted_frames
from tests.kits.clips.transparent import saved, textured
from tests.kits.factories import make_info, make_options
from tests.kits.hosts.memory import peak_kib
from tests.kits.media import DecodedPictures
from tests.kits.pipeline import KeepTorch, make_segments

ABOUT = AboutJob(
    source_name="<script>alert(1)</script>.mp4",
    output_name="a_720p.mp4",
    output_sha256="ab" * 32,
    output_bytes=1_200_000,
    stage_seconds={"probe": 0.5, "restore": 7.25},
    seconds_so_far=10.0,
    notes=("<b>a note</b>",),
)


@pytest.fixture(scope="module")
def demo_job(demo_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, JobDir]:
    """The demo clip by Lanczos, in segments."""
    folder = tmp_path_factory.mktemp("job") / "job"
    plan = build_plan(
        probe_video(demo_clip), "0" * 64, make_options(segment_seconds=1, preset="ultrafast")
    )
    with KeepTorch():
        make_segments(plan, folder, demo_clip, range(len(plan.segments)))
    return plan, JobDir(folder)


def noise(seed: int, *, height: int = 90, width: int = 160) -> np.ndarray:
    """A picture with much fine detail, of middle brightness."""
    return np.random.default_rng(seed).integers(60, 190, (height, width, 3), np.uint8)


def seen(before: list[np.ndarray], after: list[np.ndarray], *, join: bool = False):
    """What is measured of two frames."""
    pair = Pair(before=(before[0], before[1]), after=(after[0], after[1]))
    return measure_pair(pair, Neighbours(1, join), 0.04)


def test_a_result_equal_to_its_source_differs_in_nothing() -> None:
    frames = [noise(1), noise(2)]
    sight = seen(frames, frames)
    assert (sight.flicker, sight.drift, sight.difference) == (0, (0, 0, 0), 0)
    assert (sight.detail_db, sight.beyond, sight.black, sight.frozen) == (0, 0, False, False)
    assert sight.source_detail > 0.5


def test_what_was_enlarged_has_its_detail_and_what_was_smoothed_has_less() -> None:
    from PIL import Image

    small = [noise(1), noise(2)]
    large = [
        np.asarray(Image.fromarray(f).resize((640, 360), Image.Resampling.LANCZOS)) for f in small
    ]
    soft = [np.asarray(Image.fromarray(f).reduce(4).resize((640, 360))) for f in small]
    assert abs(seen(small, large).detail_db) < 3
    assert seen(small, soft).detail_db < -12


@pytest.mark.parametrize("channel", range(3), ids=["red", "green", "blue"])
def test_drift_has_the_size_and_the_sign_of_the_change(channel: int) -> None:
    frames = [noise(1), noise(2)]
    changed = [frame.copy() for frame in frames]
    for frame in changed:
        frame[..., channel] += 10
    y, cb, cr = seen(frames, changed).drift
    weight = (0.2126, 0.7152, 0.0722)[channel]
    assert y == pytest.approx(10 * weight, abs=0.05)
    assert cb == pytest.approx((10 * (channel == 2) - y) / 1.8556, abs=0.05)
    assert cr == pytest.approx((10 * (channel == 0) - y) / 1.5748, abs=0.05)


def test_flicker_is_a_change_that_the_source_does_not_make() -> None:
    still, moved = noise(1), noise(2)
    brighter = moved + np.uint8(20)
    assert seen([still, moved], [still, brighter]).flicker == pytest.approx(20, abs=0.5)
    assert seen([still, brighter], [still, brighter]).flicker == 0


def test_black_and_frozen_frames_are_found() -> None:
    a, b = noise(1), noise(2)
    black = np.zeros_like(a)
    assert seen([a, b], [a, black]).black
    assert not seen([black, black], [black, black]).black, "the source is black too"
    assert seen([a, b], [a, a]).frozen
    assert not seen([a, a], [a, a]).frozen, "nothing moves in the source"


def test_places_lie_in_one_shot_and_joins_where_pieces_meet() -> None:
    options = make_options(segment_seconds=2)
    plan = build_plan(make_info(), "0" * 64, options, cuts=(100, 101, 220))
    joins = joins_of(plan)
    starts = {shot.start for shot in plan.shots}
    pieces = {piece.start for segment in plan.segments for piece in segment.pieces}
    assert set(joins) >= pieces - starts
    assert not set(joins) & starts
    found = list(places(plan))
    assert len({place.frame for place in found}) == len(found)
    for place in found:
        assert place.frame not in starts
        assert 1 <= place.frame < 300
        assert place.join == (place.frame in joins)
    first = sorted(place.frame for place in found[:40])
    gaps = np.diff([0, *first, 300])
    assert gaps.max() < 60, "whoever stops early has looked everywhere"


def test_a_long_video_has_a_bounded_number_of_places() -> None:
    plan = build_plan(
        make_info(pts=tuple(range(100_000))), "0" * 64, make_options(segment_seconds=2)
    )
    assert 100 < len(list(places(plan))) <= 2 * MOST_OF_A_KIND


@pytest.mark.long
def test_the_report_of_a_job(demo_clip: Path, demo_job: tuple[Plan, JobDir]) -> None:
    plan, job_dir = demo_job
    report = make_report(job_dir, demo_clip, ABOUT, seconds=60.0)
    assert read_record(job_dir.report_json_path, QualityReport) == report
    assert (report.source.num_frames, report.output.width) == (75, 1280)
    assert report.engine.name == "lanczos"
    assert report.versions["torch"]
    assert [one.num_frames for one in report.segments] == [s.num_frames for s in plan.segments]
    assert report.summary.joins == len(joins_of(plan)) == 2
    assert report.summary.places > 20
    assert report.summary.flicker_at_joins is not None
    assert abs(report.summary.detail_db or 99) < 2, "Lanczos keeps what there is"
    assert max(map(abs, report.summary.drift or (99,))) < 1
    assert (report.summary.black, report.summary.frozen) == (0, 0)
    assert 2**20 < (report.peak_bytes or 0) <= 1.1 * peak_kib() * 1024
    assert report.gpu_peak_bytes is None
    told = json.loads(job_dir.report_json_path.read_text())
    assert told["format"] == 1
    html = job_dir.report_path.read_text()
    _whole(html)
    assert f"{(report.peak_bytes or 0) / 2**30:.2f} GiB" in html
    assert html.count("<img ") == 10, "five moments, before and after"
    assert not re.findall(r"<script|<b>|\son\w+=|(?:src|href)=\"(?!data:)", html)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;.mp4" in html
    assert len(html) < 2_000_000


def test_the_report_of_a_long_job_of_a_gpu(demo_clip: Path, demo_job: tuple[Plan, JobDir]) -> None:
    """Planned and measured memory stand side by side; only so many segments are shown as bars."""
    made = make_report(demo_job[1], demo_clip, ABOUT, seconds=1.0)
    long = replace(
        made,
        planned_peaks={"dit": 30 * 2**30},
        gpu_peak_bytes=29 * 2**30,
        segments=tuple(SegmentTime(index=k, num_frames=9, seconds=1.0) for k in range(61)),
        warnings=(),
    )
    told = re.sub(r"<[^>]+>", " ", page(long, ()))
    for name, size in (("Planned, dit", "30.00"), ("GPU, the most that was measured", "29.00")):
        assert re.search(rf"{name}\s+{size} GiB", told)
    assert "The first 60 of 61." in told
    assert "segment 59" in told
    assert "segment 60" not in told
    assert "Nothing that was measured stands out." in told
    assert "GPU" not in re.sub(r"<[^>]+>", " ", page(made, ())).partition("Memory")[2]


def test_what_alpha_hides_is_neither_measured_nor_shown(tmp_path: Path) -> None:
    pixels = textured()
    source = saved(tmp_path / "png.mov", pixels)
    video = wanted_frames(probe_video(source), WantedFrames())
    options = make_options(codec="ffv1", container="mkv", resolution="1x")
    plan = build_plan(video, "0" * 64, options)
    with KeepTorch():
        make_segments(plan, tmp_path / "job", source, range(len(plan.segments)))
    looked = look_at(plan, JobDir(tmp_path / "job"), source, seconds=60.0, beat=no_beat)
    visible = np.rint(pixels[..., :3] * (pixels[..., 3:] / 255)).astype(np.uint8)
    for sight in looked.sights:
        two = (visible[sight.frame - 1], visible[sight.frame])
        right = measure_pair(Pair(before=two, after=two), Neighbours(sight.frame, False), 0.0)
        assert sight.source_detail == pytest.approx(right.source_detail, rel=0.02)
        assert sight.difference < 1
    for moment in looked.moments:
        hidden = pixels[moment.sight.frame, ..., 3] == 0
        for picture in (moment.before, moment.after):
            assert set(np.unique(picture[hidden])) == {153, 204}, "grey squares"
            assert np.abs(picture[27].astype(int) - 178).max() > 40, "and the disc on them"
    assert len(looked.moments) == 5


def _whole(html: str) -> None:
    """Every element that is opened is closed, in order."""
    open_: list[str] = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in ("meta", "img"):
                open_.append(tag)

        def handle_startendtag(self, tag: str, attrs: object) -> None:
            """Closed at once."""

        def handle_endtag(self, tag: str) -> None:
            assert open_.pop() == tag

    Parser().feed(html)
    assert not open_


def test_it_stops_when_the_time_is_up(demo_clip: Path, demo_job: tuple[Plan, JobDir]) -> None:
    plan, job_dir = demo_job
    beats: list[int] = []
    began = time.monotonic()
    looked = look_at(
        plan, job_dir, demo_clip, seconds=0.0, beat=lambda _, done, __: beats.append(done)
    )
    assert (len(looked.sights), {*beats}) == (1, {0})
    assert time.monotonic() - began < 30


@pytest.mark.long
def test_the_way_to_a_place_is_not_silent(
    demo_clip: Path, demo_job: tuple[Plan, JobDir], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames of a segment are decoded from its start on, which takes seconds at 4k."""
    plan, job_dir = demo_job
    decoded = DecodedPictures(monkeypatch)
    looked = look_at(plan, job_dir, demo_clip, seconds=60.0, beat=decoded.beat)
    assert decoded.count > 10 * len(looked.sights) > 0, "places lie deep in their segments"
    assert decoded.longest_silence <= 40


@pytest.mark.long
@pytest.mark.parametrize("seconds", [1.0, 12.0, 40.0, 200.0])
def test_no_place_is_begun_that_would_take_too_long(
    demo_clip: Path,
    demo_job: tuple[Plan, JobDir],
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
) -> None:
    """Here a frame that is decoded takes a second, and the source of a place another one."""
    plan, job_dir = demo_job
    clock = [0.0]

    def read(path: Path, info: VideoInfo, start: int, stop: int, **more: Any) -> Iterator[Frame]:
        clock[0] += 1.0 if path == demo_clip else stop
        return read_frames(path, info, start, stop, **more)

    for module in (look, restored):
        monkeypatch.setattr(module, "read_frames", read)
    monkeypatch.setattr(look, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    looked = look_at(plan, job_dir, demo_clip, seconds=seconds, beat=no_beat)
    first = looked.sights[0]
    assert not first.join
    if seconds == 1.0:
        assert (len(looked.sights), clock[0]) == (1, frames_to_read(plan, first.frame) + 1)
        assert clock[0] < 10, "the one that is looked at in any case takes little"
        return
    assert seconds - 6 < clock[0] <= seconds, "what is left is used for places that take less"
    assert any(sight.join for sight in looked.sights) == (seconds >= 40)


def test_what_takes_little_comes_first() -> None:
    """A place is read from its segment's start on; a join needs the segment before it whole."""
    options = make_options(segment_seconds=2)
    plan = build_plan(make_info(), "0" * 64, options)
    away = [place.frame for place in places(plan) if not place.join]
    near = away[: len(plan.segments)]
    assert max(frames_to_read(plan, frame) for frame in near) <= 2 * AWAY_FRAMES + 2
    assert {max(s.index for s in plan.segments if s.start <= f) for f in near} == {
        *range(len(plan.segments))
    }, "one in each segment"
    assert max(frames_to_read(plan, frame) for frame in away) > 30, "then anywhere"
    first, second = plan.segments[:2]
    assert frames_to_read(plan, second.start) == first.num_frames + 1
    assert frames_to_read(plan, second.start + 1) == 2


def test_the_words_say_what_the_numbers_mean() -> None:
    def words(sights: list, **changes: object) -> str:
        options = {"source_side": 1080, "enlarges": True, "num_frames": 100} | changes
        return " ".join(warnings_of(summarize(sights), **options))  # type: ignore[arg-type]

    a, b = noise(1), noise(2)
    flat = [np.full_like(a, 100)] * 2
    assert "No frames could be compared" in words([])
    assert "already sharp" in words([seen([a, b], [a, b])] * 9)
    assert "already sharp" not in words([seen([a, b], [a, b])] * 9, source_side=240)
    assert "holds less than its size" in words([seen(flat, flat)] * 9)
    assert "not larger" in words([seen([a, b], [a, b])] * 9, enlarges=False)
    assert "numbers say little" in words([seen([a, b], [a, b])])
    jump = seen([a, b], [a, b + np.uint8(20)], join=True)
    calm = seen([a, b], [a, b])
    assert "Where pieces meet" in words([jump, calm] * 5)
    assert "Where pieces meet" not in words([calm] * 10)
    assert "colours differ" in words([seen([a, b], [a + np.uint8(9), b + np.uint8(9)])] * 9)
    assert "2 frames of the result: black" in words([seen([a, b], [a, a * 0])] * 2)


def test_plots_of_nothing_and_of_hostile_names_are_whole() -> None:
    for plot in (
        bars({}, unit="s", name="none"),
        points({"none": []}, length=0.0, unit="", name="none"),
        bars({"<b>": 1.0}, unit="<i>", name='"><b>'),
        points({"<b>": [(0.0, -1.0)]}, length=2.0, unit="<i>", name='"><b>'),
    ):
        _whole(plot)
        assert "<b>" not in plot
        assert "nan" not in plot
