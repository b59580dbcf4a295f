"""HDR: what goes in as PQ or HLG comes out as that, with everything that is said about it."""

from pathlib import Path

import pytest

from seedvr2_core.errors import PlanError
from seedvr2_core.planning import build_plan
from seedvr2_core.video.probe import probe_video
from tests.kits.clips.cases import make_video
from tests.kits.factories import make_options
from tests.kits.videos.oracle import hdr_lines, planes, video_line
from tests.media.conftest import GetSource

WAYS = [("auto", "mp4"), ("auto", "mkv"), ("auto", "mov"), ("av1", "mp4"), ("prores", "mov")]
MARKS = {"mp4": (b"mdcv", b"clli"), "mov": (b"mdcv", b"clli"), "mkv": (b"\x55\xd0", b"\x55\xbc")}
"""Boxes, and Matroska's MasteringMetadata and MaxCLL."""
MOST_LEVELS = 8
"""Of 1023, the mean over a plane of a frame."""


@pytest.mark.parametrize(("codec", "container"), WAYS, ids=["-".join(way) for way in WAYS])
def test_tags_and_metadata_are_kept(
    made: GetSource, tmp_path: Path, codec: str, container: str
) -> None:
    source = made("hdr10.mp4")
    job = make_video(source, tmp_path, codec=codec, container=container)
    told = hdr_lines(source)
    assert len(told) == 2
    if codec == "av1":  # which has the lowest luminance in steps of 1/16384 cd/m2
        told = [line.replace("0.005000", "0.005005") for line in told]
    assert hdr_lines(job.output) == told
    assert "bt2020nc/bt2020/smpte2084" in video_line(job.output)
    # Players that look at the container alone find them there as well.
    content = job.output.read_bytes()
    assert all(mark in content for mark in MARKS[container])
    assert any("HDR (PQ) is experimental" in note for note in job.notes)
    if codec == "auto":
        assert job.plan.encoder.codec == "hevc"
        pairs = zip(planes(job.output, "yuv420p10le"), planes(source, "yuv420p10le"), strict=True)
        assert max(abs(a - b).mean(axis=1).max() for a, b in pairs) < MOST_LEVELS


def test_hlg_without_metadata(made: GetSource, tmp_path: Path) -> None:
    job = make_video(made("hlg.mp4"), tmp_path, codec="auto", container="auto")
    assert "yuv420p10le(tv, bt2020nc/bt2020/arib-std-b67" in video_line(job.output)
    assert job.plan.encoder.hdr is None
    assert hdr_lines(job.output) == []


@pytest.mark.parametrize("codec", ["h264", "dnxhr"])
def test_a_codec_that_cannot_hold_it_is_refused(made: GetSource, codec: str) -> None:
    info = probe_video(made("hdr10.mp4"))
    with pytest.raises(PlanError, match=r"HDR \(PQ\).*choose codec hevc or av1 or prores or ffv1"):
        build_plan(info, "0" * 64, make_options(codec=codec))
