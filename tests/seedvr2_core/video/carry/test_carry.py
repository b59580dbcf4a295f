"""Each track for itself: a fault of one costs neither the others nor more than it must."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import numpy as np
import pytest

from seedvr2_core.video import join
from seedvr2_core.video.carry.transcoder import Transcoder
from seedvr2_core.video.probe import probe_video
from tests.kits.media import ffmpeg
from tests.kits.videos.members import (
    PICTURE,
    X264,
    join_whole,
    one_behind_the_other,
    overwrite_packets,
    sound_frames,
    sound_seconds,
    video_and,
)

TONE = ["-f", "lavfi", "-i", "sine=f=440:d=1:r=48000"]
AAC = [*TONE, "-c:a", "aac"]


def codecs(path: Path) -> list[str]:
    return [stream.codec for stream in probe_video(path).streams if stream.kind == "audio"]


@pytest.mark.parametrize("bad", [0, 1], ids=["first", "second"])
@pytest.mark.parametrize("content", [b"\xff", b"\0"], ids=["ones", "zeros"])
def test_packets_that_are_no_aac_cost_themselves(tmp_path: Path, bad: int, content: bytes) -> None:
    higher = ["-f", "lavfi", "-i", "sine=f=880:d=1:r=48000", "-c:a", "aac"]
    source = video_and(tmp_path / "a.ts", AAC, higher)
    path = overwrite_packets(
        source, tmp_path / "b.ts", 1 + bad, lambda number: number in (20, 31), content
    )
    result, output = join_whole(path, tmp_path)
    assert codecs(output) == ["aac", "aac"]
    assert sound_seconds(output, bad) == pytest.approx(sound_seconds(path, bad), abs=0.01)
    assert sound_seconds(output, 1 - bad) == pytest.approx(1.04, abs=0.03)
    assert result.notes
    assert all(note.startswith(f"audio stream {1 + bad} (aac): ") for note in result.notes)


@pytest.mark.parametrize(("name", "rate"), [("a.avi", 8000), ("a.mkv", 11025), ("b.mkv", 12000)])
def test_mp3_of_a_low_rate_becomes_aac_and_the_other_track_is_copied(
    tmp_path: Path, name: str, rate: int
) -> None:
    low = [*TONE, "-c:a", "libmp3lame", "-ar:a:0", f"{rate}"]
    path = video_and(tmp_path / name, low, [*TONE, "-c:a", "ac3"])
    result, output = join_whole(path, tmp_path)
    assert codecs(output) == ["aac", "ac3"]
    assert sound_seconds(output) == pytest.approx(sound_seconds(path), abs=0.05)
    (note,) = result.notes
    assert "mp3 became AAC" in note


def test_a_track_that_cannot_be_decoded_leaves_the_others_alone(tmp_path: Path) -> None:
    source = video_and(tmp_path / "a.mp4", AAC, AAC)
    path = overwrite_packets(source, tmp_path / "b.mp4", 1, lambda number: True)
    result, output = join_whole(path, tmp_path)
    assert codecs(output) == ["aac"]
    assert result.notes == ("audio stream 1 (aac) cannot be decoded and is not carried over",)


@pytest.mark.parametrize(
    ("parts", "layout"),
    [
        (
            [("r=48000", "-c:a", "aac", "-ac", "1"), ("r=48000", "-c:a", "aac", "-ac", "2")],
            "stereo",
        ),
        (
            [("r=48000", "-c:a", "aac", "-ac", "2"), ("r=48000", "-c:a", "aac", "-ac", "1")],
            "stereo",
        ),
        ([("r=44100", "-c:a", "aac"), ("r=48000", "-c:a", "aac")], "mono"),
        ([("r=48000", "-c:a", "ac3", "-ac", "2"), ("r=48000", "-c:a", "ac3", "-ac", "6")], "5.1"),
        ([("r=44100", "-c:a", "mp2"), ("r=32000", "-c:a", "mp2")], "mono"),
        ([("r=48000", "-c:a", "libmp3lame", "-ac", str(k)) for k in (1, 2, 1)], "stereo"),
    ],
    ids=["aac-up", "aac-down", "aac-rate", "ac3", "mp2-rate", "mp3-twice"],
)
def test_sound_that_changes_its_format_is_all_there_in_one(
    tmp_path: Path, parts: Sequence[Sequence[str]], layout: str
) -> None:
    path = one_behind_the_other(tmp_path / "a.ts", *parts)
    result, output = join_whole(path, tmp_path)
    frames = sound_frames(output, 0)
    assert len({(rate, name) for rate, name, _ in frames}) == 1
    assert frames[0][1] == layout
    assert frames[0][0] == max(rate for rate, _, _ in sound_frames(path, 0))
    assert sound_seconds(output) == pytest.approx(len(parts), abs=0.15 * len(parts))
    assert any("its format changes on the way" in note for note in result.notes)


@pytest.mark.parametrize(
    ("layout", "codec", "kept"),
    [
        ("quad", "aac", "quad"),
        ("5.1(side)", "aac", "5.1"),
        ("6.1", "flac", "6.1"),
        ("6.1(back)", "alac", "6.1(back)"),
        ("7.1", "aac", "7.1"),
        ("7.1(wide)", "alac", "7.1(wide)"),
        ("7.0", "pcm_s16le", "7.0"),
        ("hexadecagonal", "pcm_s16le", "hexadecagonal"),
        ("22.2", "pcm_s16le", "22.2"),
    ],
)
def test_a_layout_is_kept(tmp_path: Path, layout: str, codec: str, kept: str) -> None:
    noise = f"anoisesrc=d=0.4:r=48000,aformat=channel_layouts={layout}"
    sound = ["-f", "lavfi", "-i", noise, "-c:a", "pcm_s16le"]
    result, output = join_whole(video_and(tmp_path / "a.mov", sound), tmp_path)
    assert codecs(output) == [codec]
    assert {name for _, name, _ in sound_frames(output, 0)} == {kept}
    assert sound_seconds(output) == pytest.approx(0.4, abs=0.025)
    (note,) = result.notes
    assert codec == "aac" or f"({kept})" in note


@pytest.mark.parametrize("count", [7, 9, 16])
def test_channels_without_names_are_all_kept(tmp_path: Path, count: int) -> None:
    samples = np.arange(count * 4800, dtype="<i2").tobytes()
    (tmp_path / "raw").write_bytes(samples)
    raw = ["-f", "s16le", "-ar", "48000", "-ac", f"{count}", "-i", tmp_path / "raw"]
    path = tmp_path / "a.mkv"
    ffmpeg(*PICTURE, *raw, *X264, "-c:a", "copy", path)
    _, output = join_whole(path, tmp_path)
    assert sound_seconds(output) == pytest.approx(0.1, abs=0.01)
    with av.open(str(output)) as container:
        frame = next(container.decode(container.streams.audio[0]))
        assert frame.layout.nb_channels >= count
        planar = frame.to_ndarray().reshape(-1, frame.layout.nb_channels)
    own = np.frombuffer(samples, "<i2").reshape(-1, count)[: len(planar)]
    assert np.array_equal(planar[:, :count].astype(np.int64), own)


@pytest.mark.parametrize("codec", ["libvorbis", "pcm_s16le", "aac"])
def test_sound_that_begins_late_keeps_its_place(tmp_path: Path, codec: str) -> None:
    late = ["-itsoffset", "4", *TONE, "-c:a", codec]
    path = video_and(tmp_path / "a.mkv", late)
    _, output = join_whole(path, tmp_path)
    with av.open(str(output)) as container:
        first = next(container.decode(container.streams.audio[0]))
        assert first.time == pytest.approx(4, abs=0.05)
    assert sound_seconds(output) == pytest.approx(1.02, abs=0.05)


def test_pcm_that_begins_late_keeps_its_place(tmp_path: Path) -> None:
    """mp4 counts its samples, so there has to be silence before it."""
    noise = "anoisesrc=d=0.4:r=48000,aformat=channel_layouts=7.0"
    late = ["-itsoffset", "3", "-f", "lavfi", "-i", noise, "-c:a", "pcm_s16le"]
    _, output = join_whole(video_and(tmp_path / "a.mov", late), tmp_path)
    assert sound_seconds(output) == pytest.approx(3.4, abs=0.01)


@pytest.mark.parametrize("broken", [0, 1])
def test_a_track_that_fails_while_the_file_is_written_is_left_out_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: int
) -> None:
    pcm = [*TONE, "-c:a", "pcm_s16le"]
    path = video_and(tmp_path / "a.mkv", pcm, pcm)
    take = Transcoder.feed

    def fail(self: Transcoder, packet: av.Packet) -> Iterator[av.Packet]:
        if packet.stream_index == 1 + broken:
            raise ValueError("no graph")
        yield from take(self, packet)

    monkeypatch.setattr(Transcoder, "feed", fail)
    result, output = join_whole(path, tmp_path)
    assert codecs(output) == ["aac"]
    (told,) = [note for note in result.notes if "not carried over" in note]
    assert told.startswith(f"audio stream {1 + broken} (pcm_s16le) is not carried over: mp4 ")


def test_what_no_stream_is_to_blame_for_costs_all_but_the_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = video_and(tmp_path / "a.mkv", AAC)

    def refuse(*args: object, **options: object) -> None:
        raise ValueError("no chapters")

    monkeypatch.setattr(join, "add_carriers", refuse)
    result, output = join_whole(path, tmp_path)
    assert codecs(output) == []
    assert probe_video(output).num_frames == 25
    assert result.notes == (
        "neither chapters nor other streams are carried over: mp4 refuses them together",
    )


@pytest.mark.parametrize("codec", ["aac", "ac3"])
def test_sound_whose_header_says_nothing_is_kept(tmp_path: Path, codec: str) -> None:
    """It begins after what is looked at to find the rate and the channels of each stream."""
    path = tmp_path / "a.ts"
    long = ["-f", "lavfi", "-i", "color=s=64x48:r=5:d=12"]
    ffmpeg(*long, "-itsoffset", "9", *TONE, *X264, "-c:a", codec, path)
    _, output = join_whole(path, tmp_path)
    with av.open(str(output)) as container:
        first = next(container.decode(container.streams.audio[0]))
        assert first.time == pytest.approx(9, abs=0.1)
    assert sound_seconds(output) == pytest.approx(1.03, abs=0.06)
