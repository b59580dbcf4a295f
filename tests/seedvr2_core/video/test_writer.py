"""Segments: decodable, repeatable to the byte, right in colour."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from seedvr2_core.errors import SegmentError
from seedvr2_core.frames import Frame
from seedvr2_core.video.info import ColorInfo
from seedvr2_core.video.probe import probe_video
from seedvr2_core.video.reader import read_frames
from seedvr2_core.video.writer import SegmentWriter, count_frames
from tests.kits.media import encode_parts, settings_for

GetClip = Callable[[str], Path]


@pytest.mark.parametrize("bounds", [[1], [2], [30], [1, 2, 30]], ids=str)
def test_segments_hold_their_frames(clip: GetClip, tmp_path: Path, bounds: list[int]) -> None:
    path = clip("vfr.mp4")
    info = probe_video(path)
    for part in encode_parts(path, info, settings_for(info), bounds, tmp_path):
        assert count_frames(part.path) == count_frames(part.path, alone=True) == part.num_frames
        with av.open(str(part.path), format="mp4") as container:
            packets = [p for p in container.demux(video=0) if p.size]
            assert packets[0].is_keyframe
            assert min(p.pts for p in packets if p.pts is not None) == 0


def test_equal_input_gives_equal_bytes(clip: GetClip, tmp_path: Path) -> None:
    path = clip("plain.mp4")
    info = probe_video(path)
    files = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (part,) = encode_parts(path, info, settings_for(info), [50], tmp_path / name)
        files.append(part.path.read_bytes())
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((96, 126, 3), "uint8"), ((96, 128, 4), "uint8"), ((96, 128, 3), "float32")],
)
def test_frames_of_another_shape_are_refused(
    clip: GetClip, tmp_path: Path, shape: tuple[int, ...], dtype: str
) -> None:
    settings = settings_for(probe_video(clip("plain.mp4")))
    part = tmp_path / "s.part"
    with (
        pytest.raises(SegmentError, match="expected uint8 or uint16"),
        SegmentWriter(part, settings, 0) as writer,
    ):
        writer.write(Frame(rgb=np.zeros(shape, dtype), pts=0, index=0))
    assert not part.exists()


def grey(index: int, pts: int) -> Frame:
    return Frame(rgb=np.full((96, 128, 3), 100, np.uint8), pts=pts, index=index)


def test_times_must_rise(clip: GetClip, tmp_path: Path) -> None:
    settings = settings_for(probe_video(clip("plain.mp4")))
    with SegmentWriter(tmp_path / "s.part", settings, 512) as writer:
        writer.write(grey(0, 512))
        with pytest.raises(SegmentError, match="pts 512 after 512; times must rise"):
            writer.write(grey(1, 512))


def test_it_tells_of_each_frame_that_leaves_the_encoder(clip: GetClip, tmp_path: Path) -> None:
    settings = settings_for(probe_video(clip("plain.mp4")))
    told: list[int] = []
    with SegmentWriter(tmp_path / "s.part", settings, 0, on_packet=told.append) as writer:
        for index in range(30):
            writer.write(grey(index, index))
        written = len(told)
    assert written < 30  # it holds some back
    assert told == [*range(1, 31)]


@pytest.mark.parametrize("frames", [0, 3])
def test_a_failed_segment_leaves_no_file(clip: GetClip, tmp_path: Path, frames: int) -> None:
    settings = settings_for(probe_video(clip("plain.mp4")))
    part = tmp_path / "s.part"

    def break_down() -> None:
        with SegmentWriter(part, settings, 0) as writer:
            for index in range(frames):
                writer.write(grey(index, 512 * index))
            raise RuntimeError("the engine broke")

    with pytest.raises(RuntimeError, match="engine"):
        break_down()
    assert not part.exists()


def test_a_segment_without_frames_is_refused(clip: GetClip, tmp_path: Path) -> None:
    settings = settings_for(probe_video(clip("plain.mp4")))
    with (
        pytest.raises(SegmentError, match="without frames"),
        SegmentWriter(tmp_path / "s.part", settings, 0),
    ):
        pass


@pytest.mark.parametrize("alone", [False, True])
def test_a_broken_picture_does_not_count(clip: GetClip, tmp_path: Path, *, alone: bool) -> None:
    path = clip("plain.mp4")
    info = probe_video(path)
    (part,) = encode_parts(path, info, settings_for(info), [30], tmp_path)
    with av.open(str(part.path), format="mp4") as container:
        packet = [p for p in container.demux(video=0) if p.size][10]
    assert packet.pos is not None
    with part.path.open("r+b") as file:
        file.seek(packet.pos + 4)  # behind the length of its first NAL unit
        file.write(b"\0" * (packet.size - 4))
    with pytest.raises(SegmentError, match="not a readable segment"):
        count_frames(part.path, alone=alone)


def test_count_frames_of_no_segment(tmp_path: Path) -> None:
    path = tmp_path / "s.part"
    path.write_bytes(b"no segment")
    with pytest.raises(SegmentError, match="not a readable segment"):
        count_frames(path)


COLOURS = {
    "bt601": ColorInfo(full_range=False, matrix=6, primaries=6, transfer=6),
    "bt601-full": ColorInfo(full_range=True, matrix=6, primaries=6, transfer=6),
    "bt709": ColorInfo(full_range=False, matrix=1, primaries=1, transfer=1),
    "pal": ColorInfo(full_range=False, matrix=5, primaries=5, transfer=6),
}


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize("name", COLOURS)
def test_colours_survive(
    clip: GetClip, tmp_path: Path, name: str, depth: type[np.unsignedinteger]
) -> None:
    info = probe_video(clip("plain.mp4"))
    settings = settings_for(info, color=COLOURS[name], crf=1)
    # Blocks of one colour, so that the halved chroma loses nothing inside them.
    blocks = np.random.default_rng(1).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    rgb = blocks.repeat(16, 0).repeat(16, 1)
    scaled = rgb if depth is np.uint8 else rgb.astype(np.uint16) * 257
    path = tmp_path / "s.mp4"
    with SegmentWriter(path, settings, 0) as writer:
        writer.write(Frame(rgb=scaled, pts=0, index=0))
    back = probe_video(path)
    assert back.color == COLOURS[name]
    (frame,) = read_frames(path, back, 0, 1)
    error = np.abs(frame.rgb.astype(int) - rgb).reshape(6, 16, 8, 16, 3)[:, 4:12, :, 4:12]
    assert error.mean() < 1.5
    assert error.max() <= 5


@pytest.mark.parametrize("axis", [0, 1], ids=["vertical", "horizontal"])
def test_colour_is_not_shifted_against_brightness(clip: GetClip, tmp_path: Path, axis: int) -> None:
    info = probe_video(clip("plain.mp4"))
    ramp = (
        np.arange(128, dtype=np.uint8)[None, :] if axis else np.arange(96, dtype=np.uint8)[:, None]
    )
    rgb = np.full((96, 128, 3), 100, np.uint8)
    rgb[..., 2] = 40 + ramp
    path = tmp_path / "s.mp4"
    with SegmentWriter(path, settings_for(info, crf=1, color=COLOURS["bt709"]), 0) as writer:
        writer.write(Frame(rgb=rgb, pts=0, index=0))
    (frame,) = read_frames(path, probe_video(path), 0, 1)
    # The blue ramp rises by one level a pixel: its mean error is the shift in pixels.
    shift = (frame.rgb[..., 2].astype(float) - rgb[..., 2])[8:-8, 8:-8].mean()
    assert abs(shift) < 0.25


@pytest.mark.parametrize(
    "name",
    [
        *["edge/bt601_full_range.mp4", "edge/bt601_limited_range.mp4"],
        *["coffee_1280x720_2997.mp4", "eyes_212x120_25.mp4"],
    ],
)
def test_a_clip_keeps_its_levels(clip: GetClip, tmp_path: Path, name: str) -> None:
    path = clip(name)
    info = probe_video(path)
    settings = replace(settings_for(info), crf=4)
    (part,) = encode_parts(path, info, settings, [2], tmp_path)
    again = part.path.rename(tmp_path / "s.mp4")
    back = probe_video(again)
    assert back.color == info.color
    pairs = zip(read_frames(path, info, 0, 2), read_frames(again, back, 0, 2), strict=True)
    for source, result in pairs:
        cropped = source.rgb[: settings.height, : settings.width].astype(int)
        difference = result.rgb.astype(int) - cropped
        assert np.abs(difference.mean((0, 1))).max() < 1.5
        assert np.abs(difference).mean() < 3
