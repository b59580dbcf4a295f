"""The reader against ffmpeg's pictures, from any start, and over damage."""

import itertools
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from seedvr2_core.errors import InvalidVideoError
from seedvr2_core.video.info import VideoInfo
from seedvr2_core.video.probe import probe_video
from seedvr2_core.video.reader import read_frames
from seedvr2_core.video.wanted import WantedFrames, wanted_frames
from tests.kits.media import ALL_CLIPS, SYNTHETIC, shown_pictures

GetClip = Callable[[str], Path]

_CHECKED_FRAMES = 12


@pytest.mark.parametrize("name", ALL_CLIPS)
def test_pictures_are_those_ffmpeg_shows(clip: GetClip, name: str) -> None:
    path = clip(name)
    info = probe_video(path)
    count = min(info.num_frames, _CHECKED_FRAMES)
    shown = shown_pictures(path, info, count)
    ours = list(read_frames(path, info, 0, count))
    assert len(ours) == len(shown)
    for frame, expected in zip(ours, shown, strict=True):
        assert frame.rgb.dtype == np.uint8
        assert frame.rgb.shape == expected.shape
        error = np.abs(frame.rgb.astype(np.int16) - expected)
        # ffmpeg turns pictures before it converts them, which moves the chroma samples.
        assert error.mean() < (12 if info.rotation else 0.1), frame


@pytest.mark.parametrize("name", ALL_CLIPS)
def test_reading_from_any_start_gives_the_slice_of_the_whole(clip: GetClip, name: str) -> None:
    path = clip(name)
    info = probe_video(path)
    large = info.width * info.height > 128 * 96
    count = min(info.num_frames, 40 if large else 1000)
    whole = [(f.index, f.pts, hash(f.rgb.tobytes())) for f in read_frames(path, info, 0, count)]
    assert [(index, pts) for index, pts, _ in whole] == list(enumerate(info.pts[:count]))
    for start in range(0, count, 13 if large else 4):
        stop = min(start + 3, count)
        part = read_frames(path, info, start, stop)
        assert [(f.index, f.pts, hash(f.rgb.tobytes())) for f in part] == whole[start:stop], start


@pytest.mark.parametrize("name", SYNTHETIC)
def test_a_part_of_any_file_has_the_frames_of_the_whole(clip: GetClip, name: str) -> None:
    path = clip(name)
    info = probe_video(path)
    start, stop = info.num_frames * 2 // 5, info.num_frames * 3 // 5 + 1
    wanted = [f.rgb for f in read_frames(path, info, start, stop)]
    part = wanted_frames(info, WantedFrames(start=f"frame:{start}", end=f"frame:{stop}"))
    assert part.num_frames == stop - start
    ours = list(read_frames(path, part, 0, part.num_frames))
    assert ours[0].pts == part.pts[0]
    assert all((a.rgb == b).all() for a, b in zip(ours, wanted, strict=True))


def test_an_empty_range_gives_nothing(clip: GetClip) -> None:
    path = clip("plain.mp4")
    assert list(read_frames(path, probe_video(path), 7, 7)) == []


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2), (0, 51)])
def test_a_range_outside_the_file_is_refused(clip: GetClip, start: int, stop: int) -> None:
    path = clip("plain.mp4")
    with pytest.raises(ValueError, match="do not lie"):
        list(read_frames(path, probe_video(path), start, stop))


def test_closing_the_generator_closes_the_file(clip: GetClip) -> None:
    path = clip("plain.mp4")
    frames = read_frames(path, probe_video(path), 5, 40)
    next(frames)

    def is_open() -> bool:
        links = (f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd"))
        return any(os.readlink(link) == str(path) for link in links if os.path.islink(link))

    assert is_open()
    frames.close()
    assert not is_open()


def with_ghosts(info: VideoInfo, first: int, count: int) -> VideoInfo:
    """The same clip with times of frames that the decoder will never deliver."""
    ghosts = [info.pts[first - 1] + 1 + i for i in range(count)]
    return replace(info, pts=(*info.pts[:first], *ghosts, *info.pts[first:]))


@pytest.mark.parametrize("start", [0, 18, 20, 21])
def test_a_frame_the_decoder_never_delivers_shows_the_one_before(
    clip: GetClip, caplog: pytest.LogCaptureFixture, start: int
) -> None:
    path = clip("plain.mp4")
    info = probe_video(path)
    frames = list(read_frames(path, with_ghosts(info, 20, 2), start, 24))
    assert [frame.index for frame in frames] == list(range(start, 24))
    (before,) = read_frames(path, info, 19, 20)
    for frame in frames:
        if frame.index in (20, 21):
            assert np.array_equal(frame.rgb, before.rgb)
    assert "frame 21 cannot be decoded" in caplog.text


def test_missing_frames_at_the_end_show_the_last(clip: GetClip) -> None:
    path = clip("plain.mp4")
    info = probe_video(path)
    longer = replace(info, pts=(*info.pts, info.pts[-1] + 512, info.pts[-1] + 1024))
    frames = list(read_frames(path, longer, 45, 52))
    assert [frame.index for frame in frames] == list(range(45, 52))
    assert np.array_equal(frames[-1].rgb, frames[-3].rgb)


def test_too_much_damage_is_refused(clip: GetClip) -> None:
    path = clip("plain.mp4")
    broken = with_ghosts(probe_video(path), 20, 26)
    with pytest.raises(InvalidVideoError, match="cannot be decoded"):
        list(read_frames(path, broken, 0, broken.num_frames))


def test_a_cut_file_gives_all_its_frames(clip: GetClip, tmp_path: Path) -> None:
    whole = clip("fast_start.mp4").read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole[: len(whole) // 2])
    info = probe_video(cut)
    original = probe_video(clip("fast_start.mp4"))
    frames = list(read_frames(cut, info, 0, info.num_frames))
    expected = read_frames(clip("fast_start.mp4"), original, 0, info.num_frames - 4)
    for frame, other in zip(frames[:-4], expected, strict=True):
        assert np.array_equal(frame.rgb, other.rgb)


def test_the_way_to_the_first_frame_is_not_silent(clip: GetClip) -> None:
    """A file that can only be read from its start."""
    path = clip("b_frames.avi")
    info = probe_video(path)
    assert not info.seekable
    seen: list[int] = []
    frames = read_frames(path, info, 45, 50, on_bytes=lambda done, total: seen.append(done))
    assert next(frames).index == 45
    assert all(b - a <= 2**20 for a, b in itertools.pairwise(sorted(seen)))
    assert max(seen) > path.stat().st_size / 2
