"""Every codec in every container that holds it: the same frames at the same times, and sound."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from seedvr2_core.errors import PlanError
from seedvr2_core.planning import build_plan
from seedvr2_core.video.info import VideoInfo
from seedvr2_core.video.output.formats import CODECS, CONTAINERS
from seedvr2_core.video.output.segment import video_of_segment
from seedvr2_core.video.probe import probe_video
from seedvr2_core.video.reader import read_frames
from tests.kits.clips.cases import make_video
from tests.kits.factories import make_options
from tests.kits.media import ffmpeg, shown_times
from tests.kits.videos.oracle import described, frame_digests, packet_digests, video_line
from tests.media.conftest import GetSource

PAIRS = [
    (codec, container)
    for codec, spec in CODECS.items()
    for container in spec.containers
    if not (CONTAINERS[container].pictures or CONTAINERS[container].single)
]
NAMES = {
    "h264": "h264 (High)",
    "hevc": "hevc (Main)",
    "av1": "av1",
    "vp9": "vp9",
    "prores": "prores (HQ)",
    "dnxhr": "dnxhd (DNXHR HQ)",
    "ffv1": "ffv1",
}
HALF_A_MILLISECOND = 0.000501


@pytest.mark.long
@pytest.mark.parametrize(("codec", "container"), PAIRS, ids=[" in ".join(pair) for pair in PAIRS])
def test_segments_join_without_encoding_again(
    made: GetSource, tmp_path: Path, codec: str, container: str
) -> None:
    source = made("sdr.mp4")
    job = make_video(
        source,
        tmp_path,
        codec=codec,
        container=container,
        preset="veryfast",
        crf=18,
        segment_seconds=0.4,
    )
    assert len(job.plan.segments) == 3
    shown, wanted = shown_times(job.output, 0), shown_times(source, 0)
    if CONTAINERS[container].clock is None:
        assert shown == wanted
    else:
        assert shown == pytest.approx(wanted, abs=HALF_A_MILLISECOND)
    segments = [tmp_path / "job" / "segments" / f"{k:05}.mp4" for k in range(3)]
    alone = [digest for segment in segments for digest in frame_digests(segment)]
    assert frame_digests(job.output) == alone
    # Matroska has no packet before time 0, and says of the last one how long it is.
    if "aac" in CONTAINERS[container].sound:
        assert packet_digests(job.output, "a:0")[-40:-1] == packet_digests(source, "a:0")[-40:-1]
    line = video_line(job.output)
    assert line.startswith(NAMES[codec])
    assert "320x180" in line
    if codec == "hevc" and container != "mkv":
        assert "hvc1" in line


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("name", ["sdr.mp4", pytest.param("ten.mkv", marks=pytest.mark.long)])
def test_a_segment_is_known_without_a_probe(
    made: GetSource, tmp_path: Path, codec: str, name: str
) -> None:
    """What a report takes for granted of a segment is what a probe finds out, and reads as that."""
    container = CODECS[codec].containers[0]
    source = made(name)
    job = make_video(source, tmp_path, codec=codec, container=container, segment_seconds=0.4)
    plan = job.plan
    segment = plan.segments[1]
    path = tmp_path / "job" / "segments" / "00001.mp4"
    pts = plan.video.pts[segment.start : segment.stop]
    known = video_of_segment(plan.encoder, pts, last_duration=1)
    probed = probe_video(path)
    for one in ("width", "height", "rotation", "sar", "crop", "seekable", "stream_index"):
        assert getattr(known, one) == getattr(probed, one), one
    assert seconds_of(known) == seconds_of(probed)
    for deep in (False, True):
        frames = [
            [frame.rgb for frame in read_frames(path, info, 1, 4, deep=deep)]
            for info in (known, probed)
        ]
        assert np.array_equal(frames[0], frames[1])


def seconds_of(info: VideoInfo) -> list[Fraction]:
    """When its frames are shown."""
    return [time * Fraction(*info.time_base) for time in info.pts]


@pytest.mark.parametrize("codec", ["hevc", "av1", "ffv1"])
def test_a_segment_of_one_frame(made: GetSource, tmp_path: Path, codec: str) -> None:
    source = made("ntsc.mp4")
    job = make_video(source, tmp_path, codec=codec, container="mkv", segment_seconds=0.01)
    assert len(job.plan.segments) == job.plan.video.num_frames == 6
    assert shown_times(job.output, 0) == pytest.approx(
        shown_times(source, 0), abs=HALF_A_MILLISECOND
    )


@pytest.mark.long
@pytest.mark.parametrize("codec", [name for name, spec in CODECS.items() if spec.by_quality])
def test_the_ends_of_the_scale(made: GetSource, tmp_path: Path, codec: str) -> None:
    sizes: list[int] = []
    for crf in (0, 51):
        folder = tmp_path / str(crf)
        folder.mkdir()
        options = {"codec": codec, "container": "auto", "crf": crf, "segment_seconds": 10}
        job = make_video(made("ntsc.mp4"), folder, **options)
        sizes.append(job.output.stat().st_size)
    assert sizes[0] > 4 * sizes[1]


@pytest.mark.long
def test_the_same_frames_give_the_same_bytes(made: GetSource, tmp_path: Path) -> None:
    for codec in ("hevc", "av1", "prores"):
        twice: list[bytes] = []
        for folder in (tmp_path / f"{codec}1", tmp_path / f"{codec}2"):
            folder.mkdir()
            twice.append(
                make_video(
                    made("sdr.mp4"), folder, codec=codec, container="auto"
                ).output.read_bytes()
            )
        assert twice[0] == twice[1], codec


@pytest.mark.parametrize(
    ("codec", "container", "words"),
    [
        ("prores", "mp4", "cannot hold codec prores; choose container mov or mkv, or codec h264"),
        ("dnxhr", "mkv", "container mov"),
        ("h264", "webm", "cannot hold codec h264; choose container .*, or codec av1 or vp9"),
        ("png", "mp4", "choose container folder"),
        ("ffv1", "mov", "container mkv"),
    ],
)
def test_what_does_not_go_together_is_refused(
    made: GetSource, codec: str, container: str, words: str
) -> None:
    info = probe_video(made("sdr.mp4"))
    with pytest.raises(PlanError, match=words):
        build_plan(info, "0" * 64, make_options(codec=codec, container=container))


@pytest.mark.parametrize(("codec", "container"), [("h264", "mp4"), ("prores", "mov")])
def test_from_some_quality_on_colours_are_whole(
    made: GetSource, codec: str, container: str
) -> None:
    info = probe_video(made("sdr.mp4"))
    for crf, pix_fmts in ((18, {"yuv420p", "yuv422p10le"}), (4, {"yuv420p", "yuv444p10le"})):
        plan = build_plan(info, "0" * 64, make_options(codec=codec, crf=crf))
        assert plan.encoder.pix_fmt in pix_fmts
        assert plan.output.container == container
        assert plan.encoder.crf == (crf if codec == "h264" else 0)


def test_webm_has_opus_and_webvtt(made: GetSource, tmp_path: Path) -> None:
    text, source = tmp_path / "a.srt", tmp_path / "a.mkv"
    text.write_text("1\n00:00:00,200 --> 00:00:00,900\nhello\n")
    tones = "|".join(f"sin({300 + 50 * k}*t)" for k in range(6))
    sound = ["-f", "lavfi", "-i", f"aevalsrc={tones}:c=5.1:d=1.2"]
    ffmpeg(
        *["-i", made("sdr.mp4"), *sound, "-i", text, "-map", "0", "-map", "1", "-map", "2"],
        *["-c:v", "copy", "-c:a:0", "libopus", "-c:a:1", "ac3", "-c:s", "subrip", source],
    )
    job = make_video(source, tmp_path, codec="auto", container="webm", segment_seconds=0.4)
    told = described(job.output)
    assert job.output.suffix == ".webm"
    assert "Video: av1" in told
    assert "Audio: opus, 48000 Hz, 5.1" in told
    assert "Subtitle: webvtt" in told
    assert packet_digests(job.output, "a:0")[:40] == packet_digests(source, "a:0")[:40]
    assert any("ac3 became Opus" in note for note in job.notes)
    with pytest.raises(PlanError, match="container webm cannot hold sound as aac; leave audio"):
        build_plan(
            probe_video(source), "0" * 64, make_options(codec="av1", container="webm", audio="aac")
        )
