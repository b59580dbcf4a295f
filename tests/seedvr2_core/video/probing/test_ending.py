"""Files that end before they say so, and files that only look like it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from seedvr2_core.errors import InvalidVideoError
from seedvr2_core.video.info import VideoInfo
from seedvr2_core.video.probe import probe_video, sniff_video
from tests.kits.media import SHARED_CLIPS, ffmpeg

GetClip = Callable[[str], Path]

PICTURE = ["-f", "lavfi", "-i", "testsrc2=s=128x96:r=25:d=3"]
TONE = ["-f", "lavfi", "-i", "sine=f=440:d=3"]
X264 = ["-c:v", "libx264", "-preset", "veryfast", "-g", "12"]
SOUND = [*X264, "-c:a", "aac"]
VP8 = ["-c:v", "libvpx", "-b:v", "200k", "-deadline", "realtime"]

TOLD = {
    "index.mp4": [*SOUND, "-movflags", "+faststart"],
    "index.mov": [*SOUND, "-movflags", "+faststart"],
    "duration.mkv": SOUND,
    "cues_first.mkv": [*SOUND, "-cues_to_front", "1", "-reserve_index_space", "2000"],
    "duration.webm": [*VP8, "-c:a", "libopus"],
    "count.avi": ["-c:v", "mpeg4", "-c:a", "mp3"],
    "duration.flv": SOUND,
    "duration.asf": ["-c:v", "mpeg4", "-c:a", "mp3"],
    "duration.mxf": ["-c:v", "mpeg2video", "-c:a", "pcm_s16le", "-ar", "48000"],
    "count.ivf": [*VP8, "-an"],
}
"""Containers whose header or index says how long they are."""
UNTOLD = {
    "live.webm": [*VP8, "-c:a", "libopus", "-live", "1"],
    "live.flv": [*SOUND, "-flvflags", "no_duration_filesize"],
    "growing.mp4": [*SOUND, "-movflags", "+frag_keyframe+empty_moov"],
    "growing_later.mp4": [*SOUND, "-movflags", "+frag_keyframe"],
    "stream.ts": SOUND,
}
"""Those that say nothing: recordings of something that goes on."""


def made(folder: Path, name: str, *options: str) -> Path:
    path = folder / name
    ffmpeg(*PICTURE, *TONE, *options, path)
    return path


def cut(path: Path, share: float = 0.45) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


@pytest.mark.parametrize("name", TOLD)
def test_half_a_file_says_how_many_frames_are_missing(tmp_path: Path, name: str) -> None:
    path = made(tmp_path, name, *TOLD[name])
    whole = probe_video(path)
    assert (whole.num_frames, whole.ends_early) == (75, "")
    info = probe_video(cut(path))
    expected = int(info.ends_early.removesuffix(" frames").rpartition(" ")[2])
    assert info.ends_early == (f"the file ends early: {info.num_frames} of about {expected} frames")
    assert 20 < info.num_frames < 45
    assert abs(expected - 75) <= 1
    assert info.ends_early in info.warnings


@pytest.mark.parametrize("name", UNTOLD)
def test_a_recording_that_promises_no_length_is_taken(tmp_path: Path, name: str) -> None:
    path = made(tmp_path, name, *UNTOLD[name])
    assert probe_video(path).ends_early == ""
    info = probe_video(cut(path))
    assert (info.ends_early, 20 < info.num_frames < 45) == ("", True)
    sniff_video(path)


def test_the_door_refuses_what_the_index_misses_and_takes_it_when_asked(tmp_path: Path) -> None:
    path = cut(made(tmp_path, "index.mp4", *TOLD["index.mp4"]))
    with pytest.raises(InvalidVideoError, match=r"ends early: \d+ of about 75 frames are there"):
        sniff_video(path)
    sniff_video(path, allow_damaged=True)


def test_a_few_frames_less_are_told_and_taken(tmp_path: Path) -> None:
    path = made(tmp_path, "a.mp4", *X264, "-an", "-movflags", "+faststart")
    cut(path, 0.995)
    info = probe_video(path)
    assert info.ends_early == ""
    assert any("ends early: 7" in warning for warning in info.warnings)
    sniff_video(path)


@pytest.mark.parametrize(
    "name",
    [
        "audio_longer.mp4",
        "edit_list.mp4",
        "edit_list_audio.mp4",
        "late_video.mp4",
        "late_video.mkv",
    ],
)
def test_a_whole_file_of_another_shape_is_no_cut_one(clip: GetClip, name: str) -> None:
    assert not [text for text in probe_video(clip(name)).warnings if "end" in text]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm", "a.avi", "a.flv", "a.ts", "a.mpg"])
def test_music_may_go_on_after_the_last_picture(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    codecs = [*VP8, "-c:a", "libopus"] if name == "a.webm" else ["-c:v", "mpeg4", "-c:a", "mp3"]
    if name == "a.flv":
        codecs = ["-c:v", "flv1", "-c:a", "mp3"]
    if name == "a.mpg":
        codecs = ["-c:v", "mpeg2video", "-c:a", "mp2"]
    ffmpeg(*PICTURE, "-f", "lavfi", "-i", "sine=d=5", *codecs, path)
    assert not [text for text in probe_video(path).warnings if "end" in text]


def test_a_stream_whose_pictures_end_long_before_its_sound(tmp_path: Path) -> None:
    path = tmp_path / "a.ts"
    ffmpeg(*PICTURE, "-f", "lavfi", "-i", "sine=d=12", *SOUND, path)
    info = probe_video(path)
    assert info.ends_early.startswith("the file ends early: 75 of about 30")


def test_a_torn_transport_stream_gets_a_note(tmp_path: Path) -> None:
    path = made(tmp_path, "a.ts", *SOUND)
    path.write_bytes(path.read_bytes()[: 188 * 100 + 7])
    info = probe_video(path)
    assert info.ends_early == ""
    assert "middle of a packet" in " ".join(info.warnings)


@pytest.mark.parametrize("name", SHARED_CLIPS)
def test_no_shared_clip_seems_cut(clip: GetClip, name: str) -> None:
    assert not [text for text in probe_video(clip(name)).warnings if "end" in text]


@pytest.mark.long
def test_no_odd_file_seems_cut(shared: Path) -> None:
    """Headers of all kinds, right or wrong, of whole files."""
    seen: dict[str, VideoInfo] = {}
    for path in sorted((shared / "cases").iterdir()):
        try:
            seen[path.name] = probe_video(path)
        except (InvalidVideoError, ValueError, IndexError):
            continue  # they are refused or fail for other reasons
    assert len(seen) > 35
    early = {name: info.ends_early for name, info in seen.items() if info.ends_early}
    assert not early
