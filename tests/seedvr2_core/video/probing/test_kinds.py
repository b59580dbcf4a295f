"""Files of the kinds that were once taken wrongly, made here: how many frames, when, what is told.

The shared cases (tests/cases) have one or more of each kind; these are others of our own.
"""

from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest

from seedvr2_core.errors import InvalidVideoError
from seedvr2_core.video.info import VideoInfo
from seedvr2_core.video.probe import probe_video, sniff_video
from seedvr2_core.video.reader import read_frames
from tests.kits.clips.edits import joined, scrambled, untimed
from tests.kits.media import ffmpeg

PICTURE = ["-f", "lavfi", "-i", "testsrc2=s=96x64:r=25:d=2"]
SHORT = ["-f", "lavfi", "-i", "testsrc=s=96x64:r=25:d=1.2"]
TONE = ["-f", "lavfi", "-i", "sine=d=2"]
SHORT_TONE = ["-f", "lavfi", "-i", "sine=f=880:d=1.2"]
LONG_TONE = ["-f", "lavfi", "-i", "sine=d=70:r=8000"]
LATE = ["-itsoffset", "65", *PICTURE]
STILL = ["-f", "lavfi", "-i", "testsrc2=s=64x64:r=1:d=1"]
X264 = ["-c:v", "libx264", "-preset", "veryfast", "-g", "12"]
X265 = ["-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none"]
MPEG2 = ["-c:v", "mpeg2video", "-bf", "2", "-c:a", "mp2"]
KEY = "76a6c65c5ea762046bd749a2e632ccbb"

RECIPES: dict[str, list[str]] = {
    "h264.ts": [*PICTURE, *TONE, *X264, "-c:a", "aac"],
    "mpeg2.ts": [*PICTURE, *TONE, *MPEG2],
    "hevc.ts": [*PICTURE, *TONE, *X265, "-c:a", "mp2"],
    "short.ts": [*SHORT, *SHORT_TONE, *X264, "-bf", "0", "-c:a", "aac"],
    "ahead.ts": [*PICTURE, *TONE, *X264, "-c:a", "aac", "-output_ts_offset", "5000"],
    "h264.flv": [*PICTURE, *TONE, *X264, "-c:a", "aac"],
    "short.flv": [*SHORT, *SHORT_TONE, *X264, "-c:a", "aac"],
    "mpeg2.vob": [*PICTURE, *TONE, *MPEG2],
    "short.vob": [*SHORT, *SHORT_TONE, *MPEG2],
    "far.flv": [*PICTURE, *TONE, *X264, "-c:a", "aac", "-output_ts_offset", "40000"],
    "far.nut": [*PICTURE, *TONE, *X264, "-c:a", "aac", "-output_ts_offset", "40000"],
    "far.mkv": [*PICTURE, *X264, "-output_ts_offset", "86400"],
    "late.mp4": [*LONG_TONE, *LATE, *X264, "-c:a", "aac"],
    "late.ts": [*LONG_TONE, *LATE, *X264, "-c:a", "mp2", "-ar", "16000"],
    "cenc.mp4": [
        *[*PICTURE, *X264, "-encryption_scheme", "cenc-aes-ctr", "-encryption_key", KEY],
        *["-encryption_kid", KEY],
    ],
    "plain.avi": [*PICTURE, *X264, "-bf", "0"],
    "b_frames.asf": [*PICTURE, *TONE, *X264, "-c:a", "mp3"],
    "f3000.mkv": ["-f", "lavfi", "-i", "testsrc2=s=96x64:r=3000:d=0.1", *X264],
    "f1200.mkv": ["-f", "lavfi", "-i", "testsrc2=s=96x64:r=1200:d=0.1", "-c:v", "ffv1"],
    "pal.dv": [
        *["-f", "lavfi", "-i", "testsrc2=s=720x576:r=25:d=0.4", "-c:v", "dvvideo"],
        *["-pix_fmt", "yuv420p"],
    ],
    "raw.h264": [*PICTURE, *X264],
    "raw.hevc": [*PICTURE, *X265],
    "raw.m2v": [*PICTURE, "-c:v", "mpeg2video"],
    "raw.m4v": [*PICTURE, "-c:v", "mpeg4"],
    "moving.apng": [*PICTURE],
    "old.rm": [*PICTURE, *TONE, "-c:v", "rv20", "-c:a", "ac3"],
    "tv.wtv": [*PICTURE, *TONE, *MPEG2],
    "moving.webp": [*PICTURE, "-c:v", "libwebp_anim"],
    "still.webp": [*STILL, "-frames:v", "1", "-c:v", "libwebp"],
    "still.png": [*STILL, "-frames:v", "1"],
    "still.jpg": [*STILL, "-frames:v", "1", "-pix_fmt", "yuvj420p"],
    "still.avif": [*STILL, "-frames:v", "1", "-c:v", "libaom-av1", "-cpu-used", "8"],
    "moving.avif": [*STILL, "-vf", "loop=2:1", "-c:v", "libaom-av1", "-cpu-used", "8"],
}

GetRecipe = Callable[[str], Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> GetRecipe:
    """Path of a clip by name, made once."""
    folder = tmp_path_factory.mktemp("kinds")

    def get(name: str) -> Path:
        path = folder / name
        if not path.exists():
            extra = ["-f", "vob"] if name.endswith(".vob") else []
            ffmpeg(*RECIPES[name], *extra, path)
        return path

    return get


def seconds(info: VideoInfo) -> list[Fraction]:
    """When the frames are shown."""
    return [time * Fraction(*info.time_base) for time in info.pts]


def steps(info: VideoInfo) -> set[Fraction]:
    """How long the frames are shown."""
    return {b - a for a, b in pairwise(seconds(info))}


@pytest.mark.parametrize("name", ["h264.ts", "mpeg2.ts", "hevc.ts"])
@pytest.mark.parametrize("keep", [lambda i: i % 3 == 0, lambda i: i % 12 == 1], ids=["3", "12"])
def test_frames_without_times_come_between_those_that_have_one(
    made: GetRecipe, tmp_path: Path, name: str, keep: Callable[[int], bool]
) -> None:
    path = tmp_path / name
    path.write_bytes(untimed(made(name).read_bytes(), keep))
    info, whole = probe_video(path), probe_video(made(name))
    assert [time - info.pts[0] for time in info.pts] == [t - whole.pts[0] for t in whole.pts]
    assert info.nominal_rate == (25, 1)
    assert info.last_duration == 3600


@pytest.mark.parametrize(
    ("names", "frames"),
    [
        (["h264.ts", "short.ts", "h264.ts"], 130),
        (["short.ts", "h264.ts"], 80),
        (["h264.ts", "ahead.ts", "short.ts"], 130),
        (["ahead.ts", "h264.ts"], 100),
        (["h264.flv", "short.flv", "short.flv"], 110),
        (["mpeg2.vob", "short.vob"], 80),
        (["mpeg2.ts", "mpeg2.ts"], 100),
    ],
    ids=str,
)
def test_parts_of_a_joined_file_follow_each_other(
    made: GetRecipe, tmp_path: Path, names: list[str], frames: int
) -> None:
    path = tmp_path / names[0]
    path.write_bytes(joined(*map(made, names)))
    info = probe_video(path)
    assert info.num_frames == frames
    assert steps(info) == {Fraction(1, 25)}
    for index in (0, 1):  # the sound moves with the picture: by the same seconds, at every part
        moved = [shift.seconds for shift in info.timeline.shifts if shift.stream == index]
        assert len(moved) == len(names) - 1
        assert moved == [shift.seconds for shift in info.timeline.shifts if shift.stream == 0]
    assert f"joined from {len(names)} parts" in " ".join(info.warnings)


def test_sound_moves_where_its_own_packets_begin_anew(made: GetRecipe, tmp_path: Path) -> None:
    """A demuxer gives the packets of two streams not quite in the order of the file."""
    path = tmp_path / "a.ts"
    path.write_bytes(joined(made("h264.ts"), made("short.ts")))
    first = {stream.index: stream.num_packets for stream in probe_video(made("h264.ts")).streams}
    places = {shift.stream: shift.packet for shift in probe_video(path).timeline.shifts}
    assert places == {0: 50, **first}


def test_frames_of_a_joined_file_are_read_from_its_middle(made: GetRecipe, tmp_path: Path) -> None:
    path = tmp_path / "a.ts"
    path.write_bytes(joined(made("h264.ts"), made("short.ts")))
    info = probe_video(path)
    whole = [frame.rgb for frame in read_frames(path, info, 0, 80)]
    for start in (40, 50, 63, 79):
        (frame,) = read_frames(path, info, start, start + 1)
        assert (frame.rgb == whole[start]).all()
    # And they are those of the parts.
    part = probe_video(made("short.ts"))
    own = [frame.rgb for frame in read_frames(made("short.ts"), part, 0, 30)]
    assert all((a == b).all() for a, b in zip(whole[50:], own, strict=True))


def test_a_pause_of_one_stream_is_no_joint(tmp_path: Path) -> None:
    """The sound goes on while the picture stands still for 20 seconds."""
    path = tmp_path / "pause.ts"
    gap = "setpts='PTS+gte(N,25)*20/TB'"
    ffmpeg(
        *["-f", "lavfi", "-i", "sine=d=24:r=16000", *PICTURE, "-vf", gap, "-fps_mode", "vfr"],
        *[*X264, "-c:a", "mp2", path],
    )
    info = probe_video(path)
    assert info.timeline.shifts == ()
    assert max(steps(info)) > 20


@pytest.mark.parametrize(
    ("name", "frames", "step"),
    [
        ("far.flv", 50, 40),
        ("far.nut", 50, 40),
        ("far.mkv", 50, 40),
        ("plain.avi", 50, 40),
        ("b_frames.asf", 50, 40),
        ("pal.dv", 10, 40),
        ("raw.h264", 50, 40),
        ("raw.hevc", 50, 40),
        ("raw.m2v", 50, 40),
        ("raw.m4v", 50, 40),
        ("moving.apng", 50, 40),
        ("old.rm", 50, 40),
        ("tv.wtv", 50, 40),
    ],
)
def test_files_that_are_taken(made: GetRecipe, name: str, frames: int, step: int) -> None:
    sniff_video(made(name))
    info = probe_video(made(name))
    assert info.num_frames == frames
    assert steps(info) == {Fraction(step, 1000)}
    assert seconds(info)[0] <= Fraction(1, 10)
    assert len(list(read_frames(made(name), info, frames - 2, frames))) == 2


@pytest.mark.parametrize("name", ["late.mp4", "late.ts"])
def test_sound_long_before_the_picture(made: GetRecipe, name: str) -> None:
    sniff_video(made(name))
    info = probe_video(made(name))
    assert info.num_frames == 50
    assert float(seconds(info)[0]) == pytest.approx(65, abs=0.1)


@pytest.mark.parametrize(("name", "rate"), [("f3000.mkv", 3000), ("f1200.mkv", 1200)])
def test_more_frames_than_ticks(made: GetRecipe, name: str, rate: int) -> None:
    info = probe_video(made(name))
    times = seconds(info)
    assert info.num_frames == rate // 10
    assert all(a < b for a, b in pairwise(times))
    for index, time in enumerate(times):
        assert abs(time - Fraction(index, rate)) <= Fraction(1, 500)


@pytest.mark.parametrize("ending", ["mkv", "avi"])
def test_a_still_that_nothing_marks_as_cover(tmp_path: Path, ending: str) -> None:
    film, path = tmp_path / "film.mp4", tmp_path / f"cover.{ending}"
    ffmpeg(*PICTURE, "-c:v", "mpeg4", film)
    still = tmp_path / "still.jpg"
    ffmpeg(*STILL, "-frames:v", "1", "-pix_fmt", "yuvj420p", still)
    ffmpeg(
        *["-i", still, "-i", film, "-map", "0", "-map", "1", "-c", "copy"],
        *["-disposition:v:0", "default", "-disposition:v:1", "0", path],
    )
    sniff_video(path)
    info = probe_video(path)
    assert (info.codec, info.num_frames, info.stream_index) == ("mpeg4", 50, 1)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cenc.mp4", "encrypted"),
        ("scrambled.ts", "encrypted"),
        ("moving.webp", "animated WebP"),
        ("still.avif", "a picture .HEIF"),
        ("moving.avif", "image sequence .HEIF"),
    ],
)
@pytest.mark.parametrize("look", [sniff_video, probe_video], ids=["sniff", "probe"])
def test_what_is_refused_is_called_by_its_name(
    made: GetRecipe, tmp_path: Path, look: Callable[[Path], object], name: str, words: str
) -> None:
    path = tmp_path / name
    if name == "scrambled.ts":
        path.write_bytes(scrambled(made("h264.ts").read_bytes()))
    else:
        path = made(name)
    with pytest.raises(InvalidVideoError, match=words):
        look(path)


def test_a_stream_that_appears_late_does_not_end_the_probe(made: GetRecipe, tmp_path: Path) -> None:
    """In MPEG-PS a stream is there from its first packet on."""
    path = tmp_path / "late.mpg"
    ffmpeg(
        *[*PICTURE, "-itsoffset", "1.2", *SHORT_TONE, "-map", "0:v", "-map", "1:a", *MPEG2],
        *["-f", "mpeg", path],
    )
    info = probe_video(path)
    assert info.num_frames == 50
    assert [stream.kind for stream in info.streams] == ["audio"]


def test_a_track_that_a_joined_part_brings_is_told(made: GetRecipe, tmp_path: Path) -> None:
    """A part in the middle of a transport stream has a sound track more."""
    more, path = tmp_path / "more.ts", tmp_path / "a.ts"
    ffmpeg(
        *[*PICTURE, *TONE, *TONE, "-map", "0:v", "-map", "1:a", "-map", "2:a", *X264],
        *["-c:a", "aac", more],
    )
    # libav looks at the first and the last megabytes of a file, so they lie far away.
    stuffing = (b"\x47\x1f\xff\x10" + b"\xff" * 184) * 40_000
    usual = made("h264.ts").read_bytes()
    path.write_bytes(usual + stuffing + more.read_bytes() + stuffing + usual)
    info = probe_video(path)
    assert info.num_frames == 150
    assert steps(info) == {Fraction(1, 25)}
    assert "appears only after the start" in " ".join(info.warnings)


@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi"])
def test_packets_that_cannot_be_decoded_are_known_before_the_job(
    tmp_path: Path, ending: str
) -> None:
    """More of them than the reader mends: the picture before them stays, and a note says so."""
    whole, path = tmp_path / f"whole.{ending}", tmp_path / f"a.{ending}"
    ffmpeg(*PICTURE, "-c:v", "mjpeg", "-pix_fmt", "yuvj420p", whole)
    data = bytearray(whole.read_bytes())
    starts = [at for at in range(len(data) - 3) if data[at : at + 3] == b"\xff\xd8\xff"]
    assert len(starts) == 50
    for at in starts[20:30]:
        data[at : at + 400] = bytes(400)
    path.write_bytes(data)
    info = probe_video(path)
    assert info.num_frames == 40
    assert max(steps(info)) == Fraction(11, 25)
    assert "10 packets" in " ".join(info.warnings)
    assert len(list(read_frames(path, info, 0, 40))) == 40
