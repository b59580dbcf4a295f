"""What a plan accepts, the segments and the join can write; what they could not, it refuses."""

import dataclasses
import itertools
import random
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from seedvr2_core.errors import PlanError
from seedvr2_core.frames import Frame
from seedvr2_core.planning import sizes
from seedvr2_core.planning.build import build_plan
from seedvr2_core.planning.clock import fit_clock
from seedvr2_core.planning.plan import Plan
from seedvr2_core.video.info import VideoInfo
from seedvr2_core.video.join import JoinPart, join_segments
from seedvr2_core.video.output.formats import CODECS, CONTAINERS
from seedvr2_core.video.writer import SegmentWriter
from tests.kits.factories import make_info, make_options
from tests.kits.media import ffmpeg

_BASES = [
    *[(1, 25), (1001, 30_000), (1, 1000), (1, 90_000), (1, 10**6), (1, 10**7), (1, 10**9)],
    *[(1, 1), (1, 7), (5, 3), (3, 10**9), (1, 2**31 - 1), (1, 3 * 10**9)],
]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file without other streams, which the join opens."""
    path = tmp_path_factory.mktemp("source") / "a.mkv"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x32:r=25:d=0.1", "-c:v", "ffv1", path)
    return path


def random_info(draw: random.Random) -> VideoInfo:
    """Any size, clock, offset, gaps and turn that a file could have."""
    base = Fraction(*draw.choice(_BASES))
    usual = max(1, round(Fraction(1, draw.choice([1, 10, 25, 60, 1500])) / base))
    times = [draw.choice([0, 0, 1, usual, round(3600 / base), round(10**9 / base)])]
    for _ in range(draw.randint(0, 12)):
        gap = draw.choice([1, usual, usual, usual, 5 * usual, round(draw.uniform(0, 100) / base)])
        times.append(times[-1] + max(1, gap))
    if draw.random() < 0.1:
        times.append(times[-1] + round(10**5 / base) + 1)
    rate = 1 / (usual * base)
    info = make_info(
        draw.choice([2, 16, 97, 320, 4096, 8001, 16_000]),
        draw.choice([2, 18, 63, 180, 2160, 8192]),
        pts=tuple(times),
        time_base=base.as_integer_ratio(),
        rotation=draw.choice([0, 90, 180, 270]),
        sar=draw.choice([(1, 1), (64, 45), (1, 16), (16, 1)]),
    )
    return dataclasses.replace(
        info,
        nominal_rate=rate.limit_denominator(1001).as_integer_ratio() if rate > 1 else (1, 1),
        last_duration=max(1, draw.choice([1, usual, 10 * usual])),
    )


def write_all(plan: Plan, source: Path, folder: Path) -> None:
    """Make all segments from grey pictures and join them; the join checks every time."""
    parts: list[JoinPart] = []
    grey = np.full((plan.height, plan.width, 3), 90, np.uint16 if plan.deep else np.uint8)
    for segment in plan.segments:
        path = folder / f"{segment.index}.part"
        first = plan.video.pts[segment.start]
        with SegmentWriter(path, plan.encoder, first) as writer:
            for index in range(segment.start, segment.stop):
                writer.write(Frame(rgb=grey, pts=plan.video.pts[index], index=index))
        parts.append(JoinPart(path=path, first_pts=first, num_frames=segment.num_frames))
    output = folder / f"out{len(list(folder.glob('out*')))}"
    join_segments(parts, source, plan.video, plan.encoder, output, metadata={}, wanted=plan.output)


def check(seed: int, source: Path, folder: Path) -> bool:
    """Plan one random video and make it; returns whether it was taken."""
    draw = random.Random(seed)
    info = random_info(draw)
    preset = draw.choice(["ultrafast", "veryfast", "medium"])
    options = make_options(preset=preset, segment_seconds=draw.choice([0.1, 1.0, 10.0]))
    try:
        plan = build_plan(info, "0" * 64, options)
    except PlanError:
        return False
    write_all(plan, source, folder)
    return True


def test_what_a_plan_takes_can_be_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizes, "BUDGETS_PX", {**sizes.BUDGETS_PX, "720p": 64 * 36})
    # Seeds 70 and 110 end with a long frame, behind which players on libav would lose frames.
    taken = [check(seed, source, tmp_path) for seed in (*range(30), 70, 110)]
    assert sum(taken) > 20


@pytest.mark.parametrize("start", [0, 1, 1800, 3600, 7200, 36_000])
@pytest.mark.parametrize("gap", [1, 450, 1800])
def test_frames_that_follow_each_other_fast_at_the_start_keep_their_times(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: int, gap: int
) -> None:
    """A film that begins behind zero, as recorders of uneven times write it."""
    monkeypatch.setattr(sizes, "BUDGETS_PX", {**sizes.BUDGETS_PX, "720p": 64 * 36})
    fast = [start + gap * i for i in range(5)]
    times = (*fast, *(fast[-1] + 3600 * i for i in range(1, 20)))
    info = make_info(64, 36, pts=times, time_base=(1, 90_000))
    plan = build_plan(info, "0" * 64, make_options(preset="medium", segment_seconds=10.0))
    write_all(plan, source, tmp_path)


def test_frames_a_few_nanoseconds_apart_keep_their_times(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizes, "BUDGETS_PX", {**sizes.BUDGETS_PX, "720p": 64 * 36})
    info = make_info(64, 36, pts=(0, 1, 2), time_base=(3, 10**9))
    info = dataclasses.replace(info, last_duration=222_222, nominal_rate=(1500, 1))
    plan = build_plan(info, "0" * 64, make_options(preset="veryfast", segment_seconds=0.1))
    write_all(plan, source, tmp_path)


def uneven_info(draw: random.Random) -> VideoInfo:
    """Times as recorders, edits and screen captures leave them: late starts, bursts and pauses."""
    base = Fraction(*draw.choice([(1, 1000), (1, 90_000), (1001, 30_000), (1, 25), (1, 15_360)]))
    usual = max(1, round(Fraction(1, draw.choice([10, 24, 25, 30, 60, 120])) / base))
    times = [draw.choice([0, usual // 2, usual, 3 * usual + 1, round(10 / base)])]
    for _ in range(draw.randint(0, 14)):
        gap = draw.choice([usual, usual, usual, 1, usual // 8, usual // 3, 2 * usual, 5 * usual])
        times.append(times[-1] + max(1, draw.choice([gap] * 9 + [round(3 / base)])))
    rate = 1 / (usual * base)
    return dataclasses.replace(
        make_info(256, 120, pts=tuple(times), time_base=base.as_integer_ratio()),
        nominal_rate=rate.limit_denominator(1001).as_integer_ratio(),
        last_duration=max(1, draw.choice([1, usual, usual, 3 * usual])),
    )


FORMS = [
    (codec, container)
    for codec, spec in CODECS.items()
    for container in spec.containers
    if not CONTAINERS[container].single
]


def check_form(seed: int, codec: str, container: str, source: Path, folder: Path) -> bool:
    """Plan one uneven video in this form and make it; returns whether it was taken."""
    draw = random.Random(f"{codec} {container} {seed}")
    info = uneven_info(draw)
    seconds = draw.choice([0.1, 1.0, 10.0])
    options = make_options(
        preset=draw.choice(["ultrafast", "medium"]),
        segment_seconds=seconds,
        resolution="1x",
        codec=codec,
        container=container,
    )
    try:
        plan = build_plan(info, "0" * 64, options)
    except PlanError:  # a clock of milliseconds is too coarse for some
        return False
    write_all(plan, source, folder)
    return True


@pytest.mark.parametrize(("codec", "container"), FORMS, ids=[" in ".join(one) for one in FORMS])
def test_uneven_times_can_be_written_in_every_form(
    source: Path, tmp_path: Path, codec: str, container: str
) -> None:
    assert any([check_form(seed, codec, container, source, tmp_path) for seed in range(6)])


@pytest.mark.soak
@pytest.mark.parametrize(("codec", "container"), FORMS, ids=[" in ".join(one) for one in FORMS])
def test_many_more_in_every_form(source: Path, tmp_path: Path, codec: str, container: str) -> None:
    for seed in range(6, 66):
        check_form(seed, codec, container, source, tmp_path)


@pytest.mark.parametrize("codec", CODECS)
def test_the_smallest_picture_of_a_codec_can_be_written_and_a_smaller_one_is_refused(
    source: Path, tmp_path: Path, codec: str
) -> None:
    """An encoder that is given less says no when frames are restored, hangs, or breaks memory."""
    width, height = CODECS[codec].least_size
    options = make_options(codec=codec, resolution="1x", preset="medium")
    times = (0, 1, 2, 3, 4)
    for side in ((width, height), (width, 1280), (1280, height)):
        plan = build_plan(make_info(*side, pts=times, time_base=(1, 25)), "0" * 64, options)
        write_all(plan, source, tmp_path)
    for side in ((width - 2, height), (width, height - 2)):
        if min(side) >= 2:
            info = make_info(*side, pts=times, time_base=(1, 25))
            with pytest.raises(PlanError, match=f"at least {width}x{height}; choose a larger"):
                build_plan(info, "0" * 64, options)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(20))
def test_many_more_that_a_plan_takes(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(sizes, "BUDGETS_PX", {**sizes.BUDGETS_PX, "720p": 64 * 36})
    for number in range(100):
        check(1000 + 100 * seed + number, source, tmp_path)


@pytest.mark.parametrize("base", _BASES)
def test_a_clock_that_mp4_holds_is_kept(base: tuple[int, int]) -> None:
    usual = max(1, round(Fraction(1, 25) / Fraction(*base)))
    info = make_info(pts=tuple(range(0, 9 * usual, usual)), time_base=base)
    fitted, note = fit_clock(info)
    if base[1] < 2**31:
        assert (fitted, note) == (info, "")
    else:
        assert fitted.time_base == (1, 10**6)
        assert "1/1000000" in note


def test_a_long_frame_on_a_fine_clock_gets_a_coarser_one() -> None:
    second = 10**9
    info = make_info(pts=(0, second // 25, 7 * second), time_base=(1, second))
    fitted, note = fit_clock(info)
    assert fitted.time_base == (1, 10**6)
    assert fitted.pts == (0, 40_000, 7_000_000)
    assert "1/1000000 s" in note


def test_frames_that_no_clock_holds_are_refused() -> None:
    """Two frames a nanosecond apart and then nothing for a year."""
    info = make_info(pts=(0, 1, 10**9 * 31_536_000), time_base=(1, 10**9))
    with pytest.raises(PlanError, match="no clock that counts both"):
        fit_clock(info)


def test_coarser_times_still_rise() -> None:
    info = make_info(pts=(0, 10_000, 20_000, 9 * 10**9), time_base=(1, 10**9))
    fitted, _ = fit_clock(info)
    assert all(a < b for a, b in itertools.pairwise(fitted.pts))
