"""Subtitles that are pictures, what a stream is marked as, and tracks that are neither seen nor
heard: kept where the container holds them, named where it does not.
"""

import struct
from collections.abc import Iterable
from pathlib import Path

import av
import pytest
from av.stream import Disposition

from tests.kits.clips.cases import make_video
from tests.kits.media import ffmpeg
from tests.kits.videos.oracle import packet_digests
from tests.media.conftest import GetSource

CLOCK = 90_000
"""Ticks a second of PGS and MPEG."""


def pgs(shown: Iterable[tuple[float, float]]) -> bytes:
    """A PGS stream (Blu-ray): a small white box at each of these times, in seconds.

    Its segments are those of the format: composition, window, palette, object, end.
    """
    made = b""
    for number, (start, end) in enumerate(shown):
        at = (32, 20)
        box = struct.pack(">HBBHH", 0, 0, 0, *at)
        row = bytes([0x00, 0x80 | 16, 0x01]) + bytes([0x00, 0x00])  # 16 pixels of colour 1
        data = struct.pack(">HH", 16, 8) + row * 8
        made += _set(
            start,
            (0x16, struct.pack(">HHBHBBBB", 320, 180, 16, 2 * number, 0x80, 0, 0, 1) + box),
            (0x17, struct.pack(">BBHHHH", 1, 0, *at, 16, 8)),
            (0x14, bytes([0, 0, 1, 235, 128, 128, 255])),
            (0x15, struct.pack(">HBB", 0, 0, 0xC0) + len(data).to_bytes(3, "big") + data),
        )
        made += _set(
            end,
            (0x16, struct.pack(">HHBHBBBB", 320, 180, 16, 2 * number + 1, 0, 0, 0, 0)),
            (0x17, struct.pack(">BBHHHH", 1, 0, *at, 16, 8)),
        )
    return made


def _set(seconds: float, *segments: tuple[int, bytes]) -> bytes:
    ticks = round(seconds * CLOCK)
    head = b"PG" + struct.pack(">II", ticks, 0)
    ended = (*segments, (0x80, b""))
    return b"".join(head + struct.pack(">BH", kind, len(body)) + body for kind, body in ended)


@pytest.fixture
def blu_ray(made: GetSource, tmp_path: Path) -> Path:
    """A film with two tracks of pictured text; the second is forced, for another language."""
    texts = [tmp_path / "a.sup", tmp_path / "b.sup"]
    texts[0].write_bytes(pgs([(0.2, 0.5), (0.6, 0.9)]))
    texts[1].write_bytes(pgs([(0.3, 0.7)]))
    path = tmp_path / "film.mkv"
    ffmpeg(
        *["-i", made("sdr.mp4"), "-i", texts[0], "-i", texts[1]],
        *["-map", "0:v", "-map", "0:a", "-map", "1", "-map", "2", "-c", "copy"],
        *["-metadata:s:s:0", "language=deu", "-metadata:s:s:1", "language=fra"],
        *["-disposition:s:0", "0", "-disposition:s:1", "forced+default", path],
    )
    return path


@pytest.fixture
def dvd(made: GetSource, tmp_path: Path) -> Path:
    """A film with VobSub: its packets are any bytes, because nobody has to draw them here."""
    path = tmp_path / "dvd.mkv"
    with av.open(str(made("sdr.mp4"))) as source, av.open(str(path), "w") as output:
        film = output.add_stream_from_template(source.streams.video[0])
        text = output.add_stream("dvdsub")
        text.codec_context.extradata = b"size: 720x576\npalette: 000000, ffffff\n"
        text.metadata["language"] = "ita"
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = film
                output.mux(packet)
        for second in (0.2, 0.6):
            packet = av.Packet(b"\x00\x10" + bytes(14))
            packet.time_base, packet.stream = text.time_base, text
            packet.pts = packet.dts = round(second / text.time_base)
            packet.duration = round(0.2 / text.time_base)
            output.mux(packet)
    return path


def test_pgs_is_kept_packet_by_packet_with_its_marks(blu_ray: Path, tmp_path: Path) -> None:
    job = make_video(blu_ray, tmp_path, codec="auto", container="auto")
    assert job.output.suffix == ".mkv"
    for stream in ("s:0", "s:1"):
        assert packet_digests(job.output, stream) == packet_digests(blu_ray, stream)
    with av.open(str(job.output)) as container:
        first, second = container.streams.subtitles
        assert {first.codec_context.name, second.codec_context.name} == {"pgssub"}
        assert (first.language, second.language) == ("deu", "fra")
        assert first.disposition == Disposition(0)
        assert second.disposition == Disposition.forced | Disposition.default


def test_vobsub_is_kept_with_its_palette(dvd: Path, tmp_path: Path) -> None:
    job = make_video(dvd, tmp_path, codec="auto", container="auto")
    assert job.output.suffix == ".mkv"
    assert packet_digests(job.output, "s:0") == packet_digests(dvd, "s:0")
    with av.open(str(job.output)) as container, av.open(str(dvd)) as source:
        (text,), (before,) = container.streams.subtitles, source.streams.subtitles
        assert text.codec_context.extradata == before.codec_context.extradata
        assert text.language == "ita"


def test_mp4_that_is_asked_for_names_pictured_text_that_it_cannot_hold(
    blu_ray: Path, tmp_path: Path
) -> None:
    job = make_video(blu_ray, tmp_path, codec="auto", container="mp4")
    with av.open(str(job.output)) as container:
        assert not container.streams.subtitles
    told = " ".join(job.notes)
    for index, language in ((2, "deu"), (3, "fra")):
        assert f"subtitle stream {index} (hdmv_pgs_subtitle, {language})" in told


@pytest.mark.parametrize(
    ("container", "kept", "lost"),
    [
        ("mp4", {"default", "comment", "visual_impaired"}, {"original"}),
        ("mkv", {"default", "comment", "visual_impaired", "original"}, set()),
        ("mov", {"default"}, {"comment", "visual_impaired", "original"}),
    ],
)
def test_marks_are_kept_or_named(
    made: GetSource, tmp_path: Path, container: str, kept: set[str], lost: set[str]
) -> None:
    """Which one plays by itself, is the director's, or describes the picture to whom."""
    words = {
        "original": "is in the original language",
        "comment": "is a commentary",
        "visual_impaired": "is for people who see badly",
    }
    path = tmp_path / "marked.mkv"
    ffmpeg(
        *["-i", made("sdr.mp4"), "-map", "0:v", "-map", "0:a", "-map", "0:a", "-c", "copy"],
        *["-disposition:a:0", "+".join(words), "-disposition:a:1", "default", path],
    )
    job = make_video(path, tmp_path, codec="auto", container=container)
    with av.open(str(job.output)) as output:
        marks = [stream.disposition for stream in output.streams.audio]
    found = {mark.name for one in marks for mark in one}
    assert found - {"descriptions"} == kept  # which mp4 says of both kinds of comment
    told = " ".join(job.notes)
    assert {name for name, said in words.items() if said in told} == lost


def test_a_data_track_is_named_and_costs_nothing(made: GetSource, tmp_path: Path) -> None:
    """A camera's time code: no container of ours holds the track, but the video is made."""
    path = tmp_path / "camera.mov"
    ffmpeg("-i", made("sdr.mp4"), "-c", "copy", "-timecode", "01:00:00:00", path)
    with av.open(str(path)) as source:
        assert [stream.type for stream in source.streams] == ["video", "audio", "data"]
    job = make_video(path, tmp_path, codec="auto", container="auto")
    assert job.output.suffix == ".mp4"
    assert "data stream 2" in " ".join(job.notes)
