"""The check of a finished file fails for whatever differs from the plan, and names it."""

import dataclasses
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest

from seedvr2_core.errors import SegmentError
from seedvr2_core.video.info import ColorInfo, HdrMetadata
from seedvr2_core.video.output.formats import CONTAINERS
from seedvr2_core.video.output.gate import Expected, ExpectedStream, check_joined
from tests.kits.clips.cases import Made, make_video
from tests.media.conftest import GetSource

Change = Callable[[Expected], Expected]


@pytest.fixture(scope="module")
def job(made: GetSource, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_video(made("hdr10.mp4"), tmp_path_factory.mktemp("job"), codec="auto")


def expected(job: Made) -> Expected:
    sound = ExpectedStream(kind="audio", codec="aac", num_packets=53, last=Fraction(6, 5))
    container = CONTAINERS[job.plan.output.container]
    return Expected(
        info=job.plan.video, settings=job.plan.encoder, container=container, others=[sound]
    )


def video(**changes: object) -> Change:
    return lambda e: dataclasses.replace(e, info=dataclasses.replace(e.info, **changes))


def coded(**changes: object) -> Change:
    return lambda e: dataclasses.replace(e, settings=dataclasses.replace(e.settings, **changes))


def moved(expected: Expected) -> Expected:
    first, *rest = expected.info.pts
    return video(pts=(first, rest[0] + 1, *rest[1:]))(expected)


def sound(**changes: object) -> Change:
    return lambda e: dataclasses.replace(
        e, others=[dataclasses.replace(stream, **changes) for stream in e.others]
    )


SDR = ColorInfo(full_range=False, matrix=9, primaries=9, transfer=1)


def test_what_the_plan_says_passes(job: Made) -> None:
    check_joined(job.output, expected(job))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda e: video(pts=e.info.pts[:-1])(e), "frames: 30, but the plan says 29"),
        (moved, "time of frame 1: 1/25 s, but the plan says 513/12800 s"),
        (coded(codec="av1"), "codec: hevc, but the plan says av1"),
        (coded(width=640), r"size: \(320, 180\), but the plan says \(640, 180\)"),
        (coded(pix_fmt="yuv420p"), "pixel format: yuv420p10le, but the plan says yuv420p"),
        (coded(color=SDR), "colour transfer: 16, but the plan says 1"),
        (coded(hdr=HdrMetadata(light_level=(1, 1))), "HDR metadata: .*1000, 400.*says .*1, 1"),
        (coded(hdr=None), "HDR metadata: .*1000, 400.*says None"),
        (lambda e: dataclasses.replace(e, others=[]), r"other streams: .*audio.*says \[\]"),
        (sound(codec="mp3"), "other streams: .*aac.*mp3"),
        (sound(num_packets=54), "packets of the aac track: 53, but the plan says 54"),
        (sound(last=Fraction(2)), "last packet of the aac track: 1.1.*2.000 s"),
    ],
    ids=[
        *("frames", "time", "codec", "size", "depth", "colour", "other light", "no light"),
        *("sound is there", "kind of sound", "packets", "last packet"),
    ],
)
def test_what_differs_is_named(job: Made, change: Change, words: str) -> None:
    with pytest.raises(SegmentError, match=words):
        check_joined(job.output, change(expected(job)))


@pytest.mark.long
def test_the_end_of_a_matroska_file(made: GetSource, tmp_path: Path) -> None:
    job = make_video(made("hlg.mp4"), tmp_path, codec="auto", container="mkv")
    right = Expected(
        info=job.plan.video, settings=job.plan.encoder, container=CONTAINERS["mkv"], others=()
    )
    check_joined(job.output, right)
    step = job.plan.video.last_duration
    for ticks in (step // 2, 2 * step):
        with pytest.raises(SegmentError, match=r"end of the file: 1\.200 s, but the plan says 1"):
            check_joined(job.output, video(last_duration=ticks)(right))
