"""Sound, text, fonts and covers: which container is taken for them, and what becomes of them."""

from pathlib import Path

import av
import pytest

from seedvr2_core.video.probe import probe_video
from tests.kits.clips.cases import make_video
from tests.kits.media import ffmpeg
from tests.kits.videos.oracle import packet_digests
from tests.media.conftest import GetSource

SUBTITLES = "1\n00:00:00,200 --> 00:00:00,500\nHello\n\n2\n00:00:00,600 --> 00:00:00,900\nWorld\n"


@pytest.fixture
def rich(made: GetSource, tmp_path: Path) -> Path:
    """PCM, Opus, SubRip, a font and a cover picture."""
    text, font, cover = tmp_path / "a.srt", tmp_path / "a.ttf", tmp_path / "cover.jpg"
    text.write_text(SUBTITLES)
    font.write_bytes(b"no real font" * 40)
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=64x64", "-frames:v", "1", cover)
    path = tmp_path / "rich.mkv"
    ffmpeg(
        *["-i", made("ten.mkv"), "-i", text, "-map", "0:v", "-map", "0:a", "-map", "0:a"],
        *["-map", "1", "-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p"],
        *["-c:a:0", "pcm_s16le", "-c:a:1", "libopus", "-c:s", "subrip"],
        *["-metadata:s:s:0", "language=fra", "-attach", font, "-metadata:s:4"],
        *["mimetype=font/ttf", "-attach", cover, "-metadata:s:5", "mimetype=image/jpeg"],
        path,
    )
    return path


def kinds(path: Path) -> list[tuple[str, str]]:
    return [(stream.kind, stream.codec) for stream in probe_video(path).streams]


def test_auto_takes_mkv_where_mp4_would_lose_something(rich: Path, tmp_path: Path) -> None:
    job = make_video(rich, tmp_path, codec="auto", container="auto")
    assert job.output.suffix == ".mkv"
    assert job.plan.encoder.codec == "h264"
    (note,) = [note for note in job.notes if note.startswith("the output is mkv")]
    assert "audio stream 1 (pcm_s16le), subtitle stream 3 (subrip)" in note
    assert kinds(job.output) == kinds(rich)
    for stream in ("a:1", "s:0"):
        assert packet_digests(job.output, stream) == packet_digests(rich, stream)
    pcm = ["-map", "0:a:0", "-f", "s16le", "-"]
    assert ffmpeg("-i", job.output, *pcm) == ffmpeg("-i", rich, *pcm)
    with av.open(str(job.output)) as container:
        (font,) = container.streams.attachments
        assert (font.name, font.mimetype) == ("a.ttf", "font/ttf")
        assert font.data == (tmp_path / "a.ttf").read_bytes()
    assert packet_digests(job.output, "v:1") == packet_digests(rich, "v:1")


def test_mp4_that_is_asked_for_gets_what_it_can_hold(rich: Path, tmp_path: Path) -> None:
    job = make_video(rich, tmp_path, codec="auto", container="mp4")
    assert kinds(job.output) == [
        *[("audio", "aac"), ("audio", "opus"), ("subtitle", "mov_text"), ("video", "mjpeg")]
    ]
    assert probe_video(job.output).streams[2].language == "fra"
    shown = ffmpeg("-i", job.output, "-map", "0:s:0", "-f", "srt", "-").decode()
    assert shown.strip() == SUBTITLES.strip()
    told = " ".join(job.notes)
    assert "pcm_s16le became AAC" in told
    assert "subtitle stream 3 (subrip, fra) became mov_text" in told
    assert "attachment stream 4" in told


@pytest.mark.long
def test_text_of_mp4_becomes_text_of_mkv(rich: Path, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
    mp4 = make_video(rich, folders[0], codec="auto", container="mp4").output
    assert make_video(mp4, folders[1], codec="auto", container="auto").output.suffix == ".mp4"
    job = make_video(mp4, folders[2], codec="auto", container="mkv")
    assert kinds(job.output)[2] == ("subtitle", "subrip")
    shown = ffmpeg("-i", job.output, "-map", "0:s:0", "-f", "srt", "-").decode()
    assert shown.strip() == SUBTITLES.strip()


@pytest.mark.parametrize(
    ("audio", "expected"),
    [("none", []), ("aac", [("audio", "aac"), ("audio", "aac")])],
)
def test_what_is_wanted_of_the_sound(
    rich: Path, tmp_path: Path, audio: str, expected: list[tuple[str, str]]
) -> None:
    job = make_video(rich, tmp_path, codec="auto", container="mp4", audio=audio)
    assert [kind for kind in kinds(job.output) if kind[0] == "audio"] == expected


def test_an_ordinary_video_stays_in_mp4(made: GetSource, tmp_path: Path) -> None:
    job = make_video(made("sdr.mp4"), tmp_path, codec="auto", container="auto")
    assert (job.output.suffix, job.plan.encoder.codec) == (".mp4", "h264")
    assert job.notes == ()


def packets(path: Path, track: int) -> list[bytes]:
    """The bytes of each packet of an audio track."""
    with av.open(str(path)) as container:
        return [bytes(p) for p in container.demux(container.streams.audio[track]) if p.size]


@pytest.mark.parametrize("container", ["mp4", "mov", "mkv"])
def test_the_last_packet_of_sound_without_durations_is_kept(
    made: GetSource, tmp_path: Path, container: str
) -> None:
    """As the tracks of an FLV with several of them come; the second begins late."""
    source = tmp_path / "two.flv"
    ffmpeg(
        *["-i", made("sdr.mp4"), "-itsoffset", "0.3", "-f", "lavfi", "-i", "sine=d=1"],
        *["-f", "lavfi", "-i", "sine=f=500:d=2", "-map", "0:v", "-map", "1", "-map", "2"],
        *["-c:v", "flv1", "-c:a", "aac", source],
    )
    job = make_video(source, tmp_path, container=container)
    for track in (0, 1):
        assert packets(job.output, track) == packets(source, track)
