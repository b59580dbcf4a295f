"""Subtitles that are pictures, and what a stream is marked as: kept where the container holds them,
named where it does not.
"""

from pathlib import Path

import av
import pytest
from av.stream import Disposition

from seedvr2_core.video.wanted import WantedFrames
from tests.kits.clips.cases import make_video
from tests.kits.clips.subtitles import packet_times, pgs, pictured_text
from tests.kits.media import ffmpeg
from tests.kits.videos.oracle import packet_digests
from tests.media.conftest import GetSource


@pytest.fixture
def blu_ray(made: GetSource, tmp_path: Path) -> Path:
    """A film with two tracks of pictured text; the second is forced, for another language."""
    texts = [tmp_path / "a.sup", tmp_path / "b.sup"]
    texts[0].write_bytes(pgs([(0.2, 0.5), (0.6, 0.9)]))
    texts[1].write_bytes(pgs([(0.3, 0.7)]))
    path = tmp_path / "film.mkv"
    ffmpeg(
        *["-i", made("sdr.mp4"), "-itsoffset", "0.2", "-i", texts[0]],
        *["-itsoffset", "0.3", "-i", texts[1]],  # ffmpeg lets each file begin at 0
        *["-map", "0:v", "-map", "0:a", "-map", "1", "-map", "2", "-c", "copy"],
        *["-metadata:s:s:0", "language=deu", "-metadata:s:s:1", "language=fra"],
        *["-disposition:s:0", "0", "-disposition:s:1", "forced+default", path],
    )
    return path


SHOWN = [(0.2, 0.5), (0.6, 0.9)]


@pytest.fixture
def dvd(made: GetSource, tmp_path: Path) -> Path:
    """A film with VobSub, drawn by ffmpeg."""
    text = pictured_text(tmp_path / "text.mkv", "dvdsub", SHOWN)
    path = tmp_path / "dvd.mkv"
    ffmpeg(
        *["-i", made("sdr.mp4"), "-i", text, "-map", "0:v", "-map", "1", "-c", "copy"],
        *["-metadata:s:s:0", "language=ita", "-disposition:s:0", "hearing_impaired", path],
    )
    return path


@pytest.fixture
def broadcast(made: GetSource, tmp_path: Path) -> Path:
    """A transport stream with DVB's pictured text."""
    text = pictured_text(tmp_path / "text.ts", "dvbsub", SHOWN)
    path = tmp_path / "broadcast.ts"
    ffmpeg(
        *["-i", made("sdr.mp4"), "-i", text, "-map", "0:v", "-map", "0:a", "-map", "1"],
        *["-c", "copy", "-metadata:s:s:0", "language=nor", path],
    )
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
    assert packet_times(job.output, "s:0") == pytest.approx(packet_times(dvd, "s:0"), abs=0.001)
    with av.open(str(job.output)) as container, av.open(str(dvd)) as source:
        (text,), (before,) = container.streams.subtitles, source.streams.subtitles
        assert b"palette" in (before.codec_context.extradata or b"")
        assert text.codec_context.extradata == before.codec_context.extradata
        assert text.language == "ita"
        assert text.disposition == Disposition.hearing_impaired
    assert "dvd_subtitle" in next(note for note in job.notes if note.startswith("the output is"))


def test_dvb_text_of_a_broadcast_is_kept(broadcast: Path, tmp_path: Path) -> None:
    job = make_video(broadcast, tmp_path, codec="auto", container="auto")
    assert job.output.suffix == ".mkv"
    with av.open(str(job.output)) as container, av.open(str(broadcast)) as source:
        (text,), (before,) = container.streams.subtitles, source.streams.subtitles
        assert (text.codec_context.name, text.language) == (before.codec_context.name, "nor")
        ours = [bytes(packet) for packet in container.demux(text) if packet.size]
        theirs = [bytes(packet) for packet in source.demux(before) if packet.size]
    assert len(ours) == len(theirs) > 0


@pytest.mark.parametrize("text", ["dvd", "broadcast"])
@pytest.mark.parametrize("container", ["mp4", "mov"])
def test_what_cannot_hold_pictured_text_names_it(
    text: str, container: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source = request.getfixturevalue(text)
    job = make_video(source, tmp_path, codec="auto", container=container)
    with av.open(str(job.output)) as output:
        assert not output.streams.subtitles
    (told,) = [note for note in job.notes if note.startswith("subtitle stream")]
    assert told.endswith(f"is not carried over: {container} does not take it")


def test_a_part_has_the_texts_that_are_shown_in_it(blu_ray: Path, tmp_path: Path) -> None:
    """What was put on the screen before it begins stands at its start."""
    job = make_video(blu_ray, tmp_path, WantedFrames(start="0.55"), codec="auto", container="auto")
    first, second = (packet_times(job.output, stream) for stream in ("s:0", "s:1"))
    assert first == pytest.approx([0, 0.04, 0.34], abs=0.002)
    assert second == pytest.approx([0, 0.14], abs=0.002)
    assert packet_digests(job.output, "s:1") == packet_digests(blu_ray, "s:1")


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
