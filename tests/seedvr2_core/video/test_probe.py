"""The probe against ffmpeg, and everything it must refuse."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest

from seedvr2_core.errors import InvalidVideoError
from seedvr2_core.video.alpha.facts import AlphaFacts
from seedvr2_core.video.info import ColorInfo
from seedvr2_core.video.picture.color import ColorTags, resolve_color
from seedvr2_core.video.probe import displayed_size, probe_video, sniff_video
from tests.kits.media import ALL_CLIPS, shown_times

GetClip = Callable[[str], Path]

# These containers hold no presentation times: ffmpeg and PyAV each guess a start of their own.
GUESSED_START = ("b_frames.avi", "mpeg4.avi", "b_frames.asf")


@pytest.mark.parametrize("name", ALL_CLIPS)
def test_frames_and_times_are_those_ffmpeg_presents(clip: GetClip, name: str) -> None:
    path = clip(name)
    info = probe_video(path)
    zero, base = Fraction(*info.zero_offset), Fraction(*info.time_base)
    shown = shown_times(path, info.stream_index)
    ours = [pts * base + zero for pts in info.pts]
    if name in GUESSED_START:
        shown = [time - shown[0] + ours[0] for time in shown]
    assert ours == shown
    sniff_video(path)


@pytest.mark.parametrize("name", ALL_CLIPS)
def test_what_is_told_about_a_clip_is_sane(clip: GetClip, name: str) -> None:
    info = probe_video(clip(name))
    assert info.pts[0] >= 0
    assert all(a < b for a, b in zip(info.pts, info.pts[1:], strict=False))
    assert info.last_duration > 0
    assert 10 <= Fraction(*info.nominal_rate) <= 60
    assert info.color.matrix in (1, 5, 6)
    assert info.size_bytes == clip(name).stat().st_size
    assert displayed_size(clip(name)) == tuple(round(side) for side in info.display_size)


@pytest.mark.parametrize(
    ("name", "rate"), [("plain.mp4", (25, 1)), ("ntsc.mp4", (30000, 1001)), ("vfr.mp4", (25, 1))]
)
def test_nominal_rate(clip: GetClip, name: str, rate: tuple[int, int]) -> None:
    assert probe_video(clip(name)).nominal_rate == rate


def test_times_count_from_the_zero_of_a_transport_stream(clip: GetClip) -> None:
    info = probe_video(clip("stream.ts"))
    assert Fraction(*info.zero_offset) > 1
    # The sound begins first; it is the container's zero.
    assert 0 < info.pts[0] * Fraction(*info.time_base) < Fraction(1, 10)


def test_a_late_start_is_kept(clip: GetClip) -> None:
    info = probe_video(clip("late_video.mp4"))
    assert float(info.pts[0] * Fraction(*info.time_base)) == pytest.approx(0.73, abs=0.02)


@pytest.mark.parametrize(("name", "turns"), [("90", 270), ("180", 180), ("270", 90)])
def test_rotation(clip: GetClip, name: str, turns: int) -> None:
    # The number given to ffmpeg turns counter-clockwise.
    info = probe_video(clip(f"rotated_{name}.mp4"))
    assert info.rotation == turns
    assert info.upright_size == ((96, 128) if turns in (90, 270) else (128, 96))


def test_streams_besides_the_video(clip: GetClip) -> None:
    (audio,) = probe_video(clip("plain.mp4")).streams
    assert (audio.kind, audio.codec, audio.language) == ("audio", "aac", "fra")
    assert audio.num_packets > 80


def test_alpha_that_is_opaque_is_found_so(clip: GetClip) -> None:
    info = probe_video(clip("alpha.webm"))
    assert (info.pix_fmt, info.warnings) == ("yuva420p", ())
    assert info.alpha == AlphaFacts(transparent=False, looked_at=info.num_frames)
    assert probe_video(clip("plain.mp4")).alpha == AlphaFacts()


def test_an_ordinary_clip_gives_no_warning(clip: GetClip) -> None:
    info = probe_video(clip("plain.mp4"))
    assert info.warnings == ()
    assert info.seekable


def test_a_damaged_tail_leaves_the_frames_ffmpeg_shows(clip: GetClip, tmp_path: Path) -> None:
    whole = clip("fast_start.mp4").read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole[: len(whole) // 2])
    info = probe_video(cut)
    assert 5 < info.num_frames < 50
    assert "cut off" in " ".join(info.warnings)


def test_beats(clip: GetClip) -> None:
    beats: list[tuple[str, int, int]] = []
    probe_video(clip("audio_longer.mp4"), beat=lambda *beat: beats.append(beat))
    assert {phase for phase, _, _ in beats} == {"probe"}
    assert {total for _, _, total in beats} == {clip("audio_longer.mp4").stat().st_size}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("missing.mp4", None, "no such file"),
        ("empty.mp4", b"", "empty"),
        ("notes.mp4", b"These are my notes.\nThere is no video.\n", "text"),
        ("list.mp4", b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n", "HLS"),
        ("script.mp4", b"ffconcat version 1.0\nfile '/etc/passwd'\n", "concat"),
        ("picture.mp4", b"\x89PNG\r\n\x1a\n" + bytes(300), "header is broken"),
        ("noise.mp4", bytes(range(256)) * 20, "not a video"),
    ],
)
@pytest.mark.parametrize("look", [sniff_video, probe_video], ids=["sniff", "probe"])
def test_files_that_are_no_video(
    tmp_path: Path, look: Callable[[Path], object], name: str, content: bytes | None, words: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidVideoError, match=words):
        look(path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("plain.mp4", "moov"),
        ("fast_start.mp4", "moov|no frames"),
        ("vfr.mkv", "no frames|incomplete"),
        ("vp8.webm", "no frames|incomplete"),
    ],
)
@pytest.mark.parametrize("look", [sniff_video, probe_video], ids=["sniff", "probe"])
def test_the_first_bytes_of_a_video(
    clip: GetClip, tmp_path: Path, look: Callable[[Path], object], name: str, words: str
) -> None:
    path = tmp_path / name
    size = 3072 if name.endswith("mp4") else 700
    path.write_bytes(clip(name).read_bytes()[:size])
    with pytest.raises(InvalidVideoError, match=words):
        look(path)


@pytest.mark.parametrize(
    ("name", "words"), [("audio_only.mp4", "no video stream"), ("cover.m4a", "cover picture")]
)
@pytest.mark.parametrize("look", [sniff_video, probe_video], ids=["sniff", "probe"])
def test_files_without_a_video_stream(
    clip: GetClip, look: Callable[[Path], object], name: str, words: str
) -> None:
    with pytest.raises(InvalidVideoError, match=words):
        look(clip(name))


@pytest.mark.parametrize(
    ("name", "hdr", "bits"),
    [
        ("hdr.mp4", "PQ", 8),
        ("wide_gamut.mp4", "", 8),
        ("edge/nasa_13013_hdr.mp4", "PQ", 10),
        ("edge/bt2020_10bit.mp4", "PQ", 10),
    ],
)
def test_hdr_and_wide_gamut_are_taken(clip: GetClip, name: str, hdr: str, bits: int) -> None:
    sniff_video(clip(name))
    info = probe_video(clip(name))
    assert (info.color.hdr, info.color.is_wide, info.bit_depth) == (hdr, True, bits)
    assert (info.color.matrix, info.color.primaries) in ((9, 9), (1, 9))


def tags(matrix: int = 2, *, range_: int = 0, primaries: int = 2, transfer: int = 2) -> ColorTags:
    return ColorTags(range=range_, matrix=matrix, primaries=primaries, transfer=transfer)


@pytest.mark.parametrize(
    ("given", "pix_fmt", "size", "expected"),
    [
        (tags(), "yuv420p", (1280, 720), (False, 1, 1, 1)),
        (tags(), "yuv420p", (1280, 536), (False, 1, 1, 1)),
        (tags(), "yuv420p", (640, 480), (False, 6, 6, 6)),
        (tags(), "yuv420p", (720, 576), (False, 5, 5, 6)),
        (tags(), "yuvj420p", (640, 480), (True, 6, 6, 6)),
        (tags(range_=2), "yuv420p", (640, 480), (True, 6, 6, 6)),
        (tags(1), "yuv420p", (640, 480), (False, 1, 1, 1)),
        (tags(6, primaries=1, transfer=1), "yuv420p", (640, 480), (False, 6, 1, 1)),
        (tags(0, range_=2), "gbrp", (1920, 1080), (False, 1, 1, 1)),
        (tags(0), "yuv420p", (640, 480), (False, 6, 6, 6)),
    ],
)
def test_untagged_colour_is_resolved(
    given: ColorTags,
    pix_fmt: str,
    size: tuple[int, int],
    expected: tuple[bool, int, int, int],
) -> None:
    full_range, matrix, primaries, transfer = expected
    assert resolve_color(given, pix_fmt=pix_fmt, width=size[0], height=size[1]) == ColorInfo(
        full_range=full_range, matrix=matrix, primaries=primaries, transfer=transfer
    )
