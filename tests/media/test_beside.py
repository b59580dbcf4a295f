"""What a video has beside picture, sound and text: covers, tags, time code, tracks of data.

All of it is kept, turned into what the container has for it, or named.
"""

import re
from fractions import Fraction
from pathlib import Path

import av
import pytest

from seedvr2_core.video._container import is_cover
from seedvr2_core.video.wanted import ALL_FRAMES, WantedFrames
from tests.kits.clips.cases import make_video
from tests.kits.media import ffmpeg
from tests.kits.videos.oracle import described, packet_digests
from tests.media.conftest import GetSource

CONTAINERS = ["mp4", "mkv", pytest.param("mov", marks=pytest.mark.long)]
"""What writes mp4 writes mov as well."""
TAGS = {
    "title": "Summer",
    "artist": "Somebody",
    "album": "Films",
    "genre": "Home",
    "date": "1994-07-02",
    "copyright": "of the family",
    "description": "At the lake",
    "comment": "from tape 7",
    "keywords": "lake, boat",
    "location": "+59.91+010.75/",
    "encoded_by": "A person",
    "MY_OWN_NUMBER": "4711",
}


@pytest.fixture
def tagged(made: GetSource, tmp_path: Path) -> Path:
    words = [word for key, value in TAGS.items() for word in ("-metadata", f"{key}={value}")]
    path = tmp_path / "tagged.mkv"
    ffmpeg(
        *["-i", made("sdr.mp4"), "-c", "copy", *words, "-metadata:s:v:0", "language=nob"],
        *["-metadata:s:v:0", "title=The picture", path],
    )
    return path


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_tag_is_kept_or_named(tagged: Path, tmp_path: Path, container: str) -> None:
    job = make_video(tagged, tmp_path, codec="auto", container=container)
    told = " ".join(note for note in job.notes if note.startswith("the tag"))
    with av.open(str(job.output)) as output:
        found = {key.lower(): value for key, value in output.metadata.items()}
        language = output.streams.video[0].language
    named = "the video is in the language nob: mov cannot say so" in job.notes
    assert (language, named) == ((None, True) if container == "mov" else ("nob", False))
    for key, value in TAGS.items():
        kept = found.get(key.lower())
        assert (kept is None) == (key.lower() in told.lower().replace(",", "").split()), key
        if key == "location" and kept:  # mp4 has fixed places behind the point
            assert [float(x) for x in kept.strip("/").split("+")[1:]] == [59.91, 10.75]
        else:
            assert kept is None or kept == value
    assert {"title", "date", "comment", "genre"} <= found.keys()
    if container == "mkv":
        assert told == ""


def test_our_comment_stands_behind_theirs(tagged: Path, tmp_path: Path) -> None:
    from seedvr2_core.video.carry.about import kept_metadata

    with av.open(str(tagged)) as source:
        kept = kept_metadata(source, {"comment": "upscaled to 1080p by SPAN"})
    assert kept["comment"] == "from tape 7; upscaled to 1080p by SPAN"
    assert {key.lower() for key in TAGS} <= {key.lower() for key in kept}
    assert not {"encoder", "duration", "major_brand"} & {key.lower() for key in kept}


@pytest.fixture(params=["mjpeg", "png"])
def with_cover(made: GetSource, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    picture, path = tmp_path / f"cover.{request.param}", tmp_path / "cover.mp4"
    only = ["-f", "lavfi", "-i", "testsrc2=s=64x64", "-frames:v", "1", "-c:v", request.param]
    ffmpeg(*only, "-f", "image2", picture)
    ffmpeg(
        *["-i", made("sdr.mp4"), "-i", picture, "-map", "0", "-map", "1", "-c", "copy"],
        *["-disposition:v:1", "attached_pic", path],
    )
    return path


@pytest.mark.parametrize("wanted", [ALL_FRAMES, WantedFrames(start="0.4")], ids=["all", "part"])
@pytest.mark.parametrize("container", ["auto", "mkv"])
def test_a_cover_is_kept(
    with_cover: Path, tmp_path: Path, container: str, wanted: WantedFrames
) -> None:
    job = make_video(with_cover, tmp_path, wanted, codec="auto", container=container)
    assert job.output.suffix == (".mp4" if container == "auto" else ".mkv")
    assert packet_digests(job.output, "v:1") == packet_digests(with_cover, "v:1")
    with av.open(str(job.output)) as output:
        film, cover = output.streams.video
        assert (is_cover(film), is_cover(cover)) == (False, True)
    assert not any("video stream" in note for note in job.notes)


def test_a_container_without_covers_names_it(with_cover: Path, tmp_path: Path) -> None:
    job = make_video(with_cover, tmp_path, codec="auto", container="mov")
    with av.open(str(job.output)) as output:
        assert len(output.streams.video) == 1
    assert [note for note in job.notes if "video stream 2" in note]


def camera(path: Path, rate: str, start: str, *filters: str) -> Path:
    """A QuickTime file with a track of time code; two seconds."""
    given = ["-f", "lavfi", "-i", f"testsrc2=s=320x180:r={rate}:d=2"]
    ffmpeg(*given, *filters, "-c:v", "libx264", "-preset", "ultrafast", "-timecode", start, path)
    with av.open(str(path)) as source:
        assert [stream.type for stream in source.streams] == ["video", "data"]
    return path


def shown_timecode(path: Path) -> str:
    found = re.search(r"timecode\s*: (\S+)", described(path), re.IGNORECASE)
    return found[1] if found else ""


FIELDS = ("-vf", "tinterlace=interleave_top,setfield=tff", "-flags", "+ilme+ildct")
INTERLACED = (*FIELDS, "-x264-params", "tff=1")


@pytest.mark.parametrize(
    ("rate", "start", "filters", "wanted", "shown"),
    [
        pytest.param("25", "10:20:30:12", (), {}, "10:20:30:12", id="as it is"),
        pytest.param("25", "10:20:30:12", (), {"start": "1"}, "10:20:31:12", id="a part"),
        pytest.param("25", "23:59:59:20", (), {"start": "frame:7"}, "00:00:00:02", id="midnight"),
        pytest.param("30000/1001", "00:00:59;28", (), {"start": "frame:3"}, "00:01:00;03", id="df"),
        pytest.param("50", "01:00:00:10", INTERLACED, {}, "01:00:00:10", id="interlaced"),
        pytest.param(
            *("50", "01:00:00:10", INTERLACED, {"deinterlace": "bob"}, "01:00:00:20"), id="bob"
        ),
    ],
)
@pytest.mark.parametrize("container", CONTAINERS)
def test_time_code_goes_on_counting(
    tmp_path: Path,
    container: str,
    rate: str,
    start: str,
    filters: tuple[str, ...],
    wanted: dict[str, str],
    shown: str,
) -> None:
    source = camera(tmp_path / "camera.mov", rate, start, *filters)
    assert shown_timecode(source) == start
    frames = WantedFrames(**wanted)
    job = make_video(source, tmp_path, frames, codec="auto", container=container)
    assert shown_timecode(job.output) == shown
    assert not any("stream 1" in note for note in job.notes)
    if container != "mkv":
        with av.open(str(job.output)) as output:
            assert [stream.type for stream in output.streams] == ["video", "data"]


@pytest.mark.parametrize("container", ["auto", "mkv"])
def test_time_code_that_cannot_count_the_frames_is_named(tmp_path: Path, container: str) -> None:
    source = tmp_path / "slow.mkv"
    given = ["-f", "lavfi", "-i", "testsrc2=s=320x180:r=10:d=1", "-c:v", "libx264"]
    ffmpeg(*given, "-metadata", "timecode=01:00:00:00", source)
    assert shown_timecode(source) == "01:00:00:00"
    job = make_video(source, tmp_path, codec="auto", container=container)
    assert shown_timecode(job.output) == ""
    told = "the time code 01:00:00:00 is not carried over: none counts 10 frames a second"
    assert told in job.notes


@pytest.fixture
def action_camera(made: GetSource, tmp_path: Path) -> Path:
    """An mp4 with a track of telemetry beside picture and sound, as GoPro cameras write it."""
    path = tmp_path / "action.mp4"
    with av.open(str(made("sdr.mp4"))) as source, av.open(str(path), "w") as output:
        own = {s.index: output.add_stream_from_template(s, opaque=True) for s in source.streams}
        telemetry = output.add_data_stream("bin_data")
        telemetry.time_base = Fraction(1, 1000)
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = own[packet.stream_index]
                output.mux(packet)
        for number in range(3):
            packet = av.Packet(f"DEVC telemetry {number}".encode())
            packet.stream, packet.time_base = telemetry, Fraction(1, 1000)
            packet.pts = packet.dts = 400 * number
            packet.duration = 400
            output.mux(packet)
    assert b"gpmd" in path.read_bytes()
    return path


def telemetry(path: Path) -> list[tuple[float, bytes]]:
    with av.open(str(path)) as container:
        tracks = [stream for stream in container.streams if stream.type == "data"]
        packets = [p for p in container.demux(tracks) if p.size] if tracks else []
        return [(float((p.pts or 0) * p.time_base), bytes(p)) for p in packets]


@pytest.mark.parametrize("container", ["auto", "mov"])
def test_telemetry_of_a_camera_is_kept(action_camera: Path, tmp_path: Path, container: str) -> None:
    job = make_video(action_camera, tmp_path, codec="auto", container=container)
    assert b"gpmd" in job.output.read_bytes()
    assert telemetry(job.output) == telemetry(action_camera)
    assert len(telemetry(job.output)) == 3
    assert job.notes == ()


def test_a_part_has_the_telemetry_of_its_time(action_camera: Path, tmp_path: Path) -> None:
    job = make_video(action_camera, tmp_path, WantedFrames(start="0.6", end="0.9"), container="mp4")
    (one, two) = telemetry(job.output)
    assert (one[1], two[1]) == (b"DEVC telemetry 1", b"DEVC telemetry 2")
    assert two[0] - one[0] == pytest.approx(0.4, abs=0.01)


def test_a_container_without_data_names_it(action_camera: Path, tmp_path: Path) -> None:
    job = make_video(action_camera, tmp_path, codec="auto", container="mkv")
    (told,) = [note for note in job.notes if note.startswith("data stream")]
    assert told == "data stream 2 (GoPro telemetry) is not carried over"
