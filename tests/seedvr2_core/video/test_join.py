"""Joining: however a file was cut into segments, the same frames at the same times come out."""

import itertools
import random
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from seedvr2_core.errors import SegmentError
from seedvr2_core.video.info import EncoderSettings, VideoInfo
from seedvr2_core.video.join import JoinPart, JoinResult, join_segments
from seedvr2_core.video.output.track import TrackClock
from seedvr2_core.video.probe import probe_video
from seedvr2_core.video.writer import count_frames
from tests.kits.factories import make_info
from tests.kits.media import ALL_CLIPS, encode_parts, ffmpeg, settings_for, shown_times

GetClip = Callable[[str], Path]


def first_frames(info: VideoInfo, count: int) -> VideoInfo:
    """The clip as if it ended after `count` frames (keeps tests on large clips short)."""
    if count >= info.num_frames:
        return info
    return replace(info, pts=info.pts[:count], last_duration=info.pts[count] - info.pts[count - 1])


def join(
    parts: list[JoinPart], path: Path, info: VideoInfo, settings: EncoderSettings, folder: Path
) -> tuple[JoinResult, Path]:
    part = folder / "out.mp4.part"
    result = join_segments(
        parts, path, info, settings, part, metadata={"comment": "restored by a test"}
    )
    return result, part.rename(folder / "out.mp4")


def whole_job(
    path: Path, folder: Path, *, limit: int = 1000, bounds: list[int] | None = None
) -> tuple[VideoInfo, JoinResult, Path]:
    info = first_frames(probe_video(path), limit)
    preset = "ultrafast" if info.width * info.height > 400 * 300 else "veryfast"
    settings = settings_for(info, preset=preset)
    n = info.num_frames
    parts = encode_parts(path, info, settings, bounds or sorted({1, n // 2 or 1, n}), folder)
    result, output = join(parts, path, info, settings, folder)
    return info, result, output


def times_of(info: VideoInfo) -> list[Fraction]:
    return [pts * Fraction(*info.time_base) for pts in info.pts]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.long) if "1280x720" in name else name
        for name in ALL_CLIPS
    ],
)
def test_the_output_presents_the_same_frames_at_the_same_times(
    clip: GetClip, tmp_path: Path, name: str
) -> None:
    info, _, output = whole_job(clip(name), tmp_path, limit=16)
    back = probe_video(output)
    assert back.num_frames == info.num_frames
    assert back.size_bytes == output.stat().st_size
    assert times_of(back) == times_of(info)
    assert shown_times(output, 0) == times_of(info)
    assert back.color == info.color
    assert back.last_duration * Fraction(*back.time_base) == info.last_duration * Fraction(
        *info.time_base
    )
    ffmpeg("-xerror", "-i", output, "-f", "null", "-")


@pytest.mark.parametrize(
    "bounds",
    [[31], [1, 31], [30, 31], [1, 2, 3, 17, 18, 31], list(range(1, 32)), [15, 31]],
    ids=["whole", "first", "last", "mixed", "single-frames", "halves"],
)
@pytest.mark.parametrize("preset", ["ultrafast", "medium"])
def test_any_segmentation_gives_the_same_times(
    clip: GetClip, tmp_path: Path, bounds: list[int], preset: str
) -> None:
    path = clip("vfr.mp4")
    info = probe_video(path)
    settings = settings_for(info, preset=preset)
    parts = encode_parts(path, info, settings, bounds, tmp_path)
    _, output = join(parts, path, info, settings, tmp_path)
    assert info.num_frames == count_frames(output)
    assert times_of(probe_video(output)) == times_of(info)
    with av.open(str(output)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    decode_times = [packet.dts for packet in packets if packet.dts is not None]
    assert len(decode_times) == info.num_frames
    assert all(a < b for a, b in itertools.pairwise(decode_times))
    assert all(p.pts is not None and p.dts is not None and p.dts <= p.pts for p in packets)
    ffmpeg("-xerror", "-i", output, "-f", "null", "-")


def sound(path: Path, index: int) -> tuple[Fraction, np.ndarray]:
    """(start in seconds, samples) of an audio stream as it decodes."""
    start: Fraction | None = None
    samples: list[np.ndarray] = []
    with av.open(str(path)) as container:
        for frame in container.decode(audio=index):
            if start is None:
                assert frame.pts is not None
                assert frame.time_base is not None
                start = frame.pts * frame.time_base
            samples.append(frame.to_ndarray())
    assert start is not None
    return start, np.concatenate(samples, axis=1)


@pytest.mark.parametrize(
    "name",
    [
        *["plain.mp4", "late_video.mp4", "late_video.mkv", "late_audio.mp4", "audio_longer.mp4"],
        *["edit_list_audio.mp4", "stream.ts"],
        *["bunny_1280x720_25.mp4", "friday_640x480_30.mp4", "edge/failing_audio.mp4"],
        *["nasa_320x180_25_2audio.mp4", "edge/no_duration.webm"],
    ],
)
def test_sound_is_copied_in_step(clip: GetClip, tmp_path: Path, name: str) -> None:
    path = clip(name)
    info, result, output = whole_job(path, tmp_path, limit=5)
    streams = [stream for stream in info.streams if stream.kind == "audio"]
    assert not any("audio" in note for note in result.notes)
    for index in range(len(streams)):
        start, samples = sound(path, index)
        new_start, new_samples = sound(output, index)
        assert abs(start - Fraction(*info.zero_offset) - new_start) < Fraction(1, 5000)
        count = min(samples.shape[1], new_samples.shape[1])
        # What follows may be padding that the container marked to be dropped.
        assert new_samples.shape[1] - count < 2048
        assert np.array_equal(samples[:, :count], new_samples[:, :count])


@pytest.mark.parametrize("name", ["pcm.mkv", "vorbis.mkv"])
def test_sound_that_mp4_cannot_hold_becomes_aac(clip: GetClip, tmp_path: Path, name: str) -> None:
    _, result, output = whole_job(clip(name), tmp_path, limit=5)
    assert "became AAC" in " ".join(result.notes)
    start, samples = sound(output, 0)
    assert start == 0
    assert samples.shape[1] == pytest.approx(2 * 44100, abs=2048)
    # A sine of 440 Hz: it must still be one.
    spectrum = np.abs(np.fft.rfft(samples[0, 4096 : 4096 + 44100]))
    assert int(spectrum.argmax()) == 440


def test_opus_is_copied(clip: GetClip, tmp_path: Path) -> None:
    # Matroska tells the codec's delay in whole milliseconds, so half of one may be lost.
    _, result, output = whole_job(clip("opus.mkv"), tmp_path, limit=5)
    assert result.notes == ()
    assert sound(output, 0)[0] == 0
    (stream,) = probe_video(output).streams
    assert stream.codec == "opus"


def sound_made_undecodable(source: Path, path: Path) -> None:
    """A copy of a clip whose audio packets are overwritten."""
    content = bytearray(source.read_bytes())
    with av.open(str(source)) as container:
        for packet in container.demux(audio=0):
            if packet.pos is not None and packet.pos > 0:
                content[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    path.write_bytes(content)


def sound_of_unknown_codec(source: Path, path: Path) -> None:
    """A copy of a clip whose audio codec nobody knows."""
    path.write_bytes(source.read_bytes().replace(b"A_VORBIS", b"A_NOBODY"))


@pytest.mark.parametrize(
    ("name", "spoil"),
    [("plain.mp4", sound_made_undecodable), ("vorbis.mkv", sound_of_unknown_codec)],
    ids=["undecodable", "unknown"],
)
def test_broken_sound_is_told_and_does_not_fail_the_job(
    clip: GetClip, tmp_path: Path, name: str, spoil: Callable[[Path, Path], None]
) -> None:
    path = tmp_path / name
    spoil(clip(name), path)
    info, result, output = whole_job(path, tmp_path)
    assert info.num_frames == count_frames(output) == 50
    assert any("audio" in note and "not carried over" in note for note in result.notes)
    assert probe_video(output).streams == ()


def test_language_and_metadata(clip: GetClip, tmp_path: Path) -> None:
    _, _, output = whole_job(clip("plain.mp4"), tmp_path, limit=3)
    (audio,) = probe_video(output).streams
    assert audio.language == "fra"
    with av.open(str(output)) as container:
        assert container.metadata["comment"] == "restored by a test"
        assert "creation_time" not in container.metadata


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_chapters_and_title_are_carried(clip: GetClip, tmp_path: Path, suffix: str) -> None:
    chapters = tmp_path / "chapters.txt"
    chapters.write_text(
        ";FFMETADATA1\ntitle=My film\n"
        "[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=800\ntitle=One\n"
        "[CHAPTER]\nTIMEBASE=1/1000\nSTART=800\nEND=2000\ntitle=Two\n"
    )
    path = tmp_path / f"chapters.{suffix}"
    both = ["-i", clip("plain.mp4"), "-i", chapters]
    ffmpeg(*both, "-map_metadata", "1", "-map_chapters", "1", "-c", "copy", path)
    _, result, output = whole_job(path, tmp_path, limit=3)
    assert result.notes == ()
    with av.open(str(output)) as container:
        found = container.chapters()
        assert container.metadata["title"] == "My film"
    assert [chapter["metadata"]["title"] for chapter in found] == ["One", "Two"]
    (begin,) = [c["start"] * c["time_base"] for c in found[1:] if c["time_base"] is not None]
    assert begin == Fraction(8, 10)


def test_the_index_comes_first_and_bytes_repeat(clip: GetClip, tmp_path: Path) -> None:
    files: list[bytes] = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        _, _, output = whole_job(clip("vorbis.mkv"), tmp_path / name)
        files.append(output.read_bytes())
    assert files[0] == files[1]
    assert files[0].index(b"moov") < files[0].index(b"mdat")


def test_a_second_video_stream_is_told(clip: GetClip, tmp_path: Path) -> None:
    _, result, _ = whole_job(clip("nasa_320x180_25_2audio.mp4"), tmp_path, limit=3)
    assert [note for note in result.notes if note.startswith("video stream")]


def test_a_missing_segment_is_refused(clip: GetClip, tmp_path: Path) -> None:
    path = clip("plain.mp4")
    info = probe_video(path)
    settings = settings_for(info)
    parts = encode_parts(path, info, settings, [10, 20, 50], tmp_path)
    with pytest.raises(SegmentError, match="40 frames"):
        join([parts[0], parts[2]], path, info, settings, tmp_path)
    assert not list(tmp_path.glob("out*"))


def test_a_segment_of_other_settings_is_refused(clip: GetClip, tmp_path: Path) -> None:
    path = clip("plain.mp4")
    info = probe_video(path)
    settings = settings_for(info)
    first, _ = encode_parts(path, info, settings, [25, 50], tmp_path)
    (tmp_path / "x").mkdir()
    other = settings_for(info, preset="ultrafast")
    _, second = encode_parts(path, info, other, [25, 50], tmp_path / "x")
    with pytest.raises(SegmentError, match="header differs"):
        join([first, second], path, info, settings, tmp_path)


def test_a_wrong_frame_count_is_refused(clip: GetClip, tmp_path: Path) -> None:
    path = clip("plain.mp4")
    info = probe_video(path)
    settings = settings_for(info)
    (part,) = encode_parts(path, info, settings, [50], tmp_path)
    with pytest.raises(SegmentError, match="expected 49"):
        join([replace(part, num_frames=49)], path, info, settings, tmp_path)


@pytest.mark.parametrize("seed", range(20))
def test_decode_times_rise_and_never_come_after_a_frame_is_shown(seed: int) -> None:
    """Whatever order an encoder puts frames in, and however uneven their times are."""
    draw = random.Random(seed)
    pts = tuple(itertools.accumulate(draw.choices([1, 2, 40], k=60), initial=draw.choice([0, 7])))
    size = draw.randint(1, 8)
    groups = [list(pts[i : i + size]) for i in range(0, len(pts), size)]
    for group in groups:
        draw.shuffle(group)
    times = list(itertools.chain(*groups))
    clock = TrackClock.of(times, make_info(pts=pts))
    dts = [clock.dts(i) for i in range(len(times))]
    assert all(a < b for a, b in itertools.pairwise(dts))
    assert all(decoded <= shown for decoded, shown in zip(dts, times, strict=True))
    assert len(clock.ahead) < size, "frames are decoded no earlier than their group needs"


def test_durations_fill_the_time_from_the_first_frame_to_the_end() -> None:
    info = make_info(pts=(3, 4, 9, 10))
    durations = TrackClock.of(info.pts, info).durations()
    assert list(durations) == list(info.pts)
    assert sum(durations.values()) == 10 + info.last_duration - 3
