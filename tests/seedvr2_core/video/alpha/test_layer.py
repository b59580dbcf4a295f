"""HEVC with alpha in a layer of its own is read, or named; never flattened without a word."""

import random
from pathlib import Path

import av
import pytest

from seedvr2_core.errors import InvalidRequestError
from seedvr2_core.video.alpha.layer import _announces_alpha, _of_header, _of_packet
from seedvr2_core.video.probe import probe_video
from seedvr2_core.video.wanted import WantedFrames, wanted_frames
from tests.kits.clips.transparent import disc, saved
from tests.kits.media import ffmpeg

X265 = ["-c:v", "libx265", "-preset", "ultrafast"]
WITH_ALPHA = [*X265, "-pix_fmt", "yuva420p", "-x265-params", "log-level=error:alpha=1"]
NAMES = ("a.mov", "a.mkv", "a.ts")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disc as HEVC with alpha, in every container, and `plain.mov` without."""
    folder = tmp_path_factory.mktemp("layers")
    saved(folder / "a.mov", disc(), *WITH_ALPHA, "-tag:v", "hvc1")
    for name in NAMES[1:]:
        ffmpeg("-i", folder / "a.mov", "-map", "0:v", "-c", "copy", folder / name)
    saved(folder / "plain.mov", disc(), *X265, "-pix_fmt", "yuv420p")
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_it_is_known_whether_it_is_read(folder: Path, name: str) -> None:
    """A decoder that gives it as a plane has read it; one that does not has passed over it."""
    info = probe_video(folder / name)
    is_read = info.pix_fmt.startswith("yuva")
    assert (info.alpha.unread, info.alpha.transparent) == (not is_read, is_read)


def test_other_videos_have_none(folder: Path) -> None:
    assert not probe_video(folder / "plain.mov").alpha.unread


def test_what_cannot_be_read_is_named_or_refused(folder: Path) -> None:
    info = probe_video(folder / "a.mov")
    if not info.alpha.unread:
        assert wanted_frames(info, WantedFrames()).keeps_alpha
        return
    for wish in ("auto", "flatten", "flatten:#ffffff"):
        video = wanted_frames(info, WantedFrames(alpha=wish))
        assert not video.keeps_alpha
        assert "HEVC with alpha), which cannot be read here and is lost" in video.warnings[-1]
    for wish, words in (("keep", "nor kept; convert it to ProRes"), ("refuse", "alpha refuse was")):
        with pytest.raises(InvalidRequestError, match=words):
            wanted_frames(info, WantedFrames(alpha=wish))


def test_a_message_that_takes_it_back_announces_nothing() -> None:
    header = bytes([39 << 1, 1])
    assert _announces_alpha(header + bytes([165, 2, 0x10, 0x20, 0x80]))
    assert not _announces_alpha(header + bytes([165, 2, 0x90, 0x20, 0x80]))
    assert _announces_alpha(header + bytes([137, 1, 0, 165, 1, 0x10, 0x80])), "the second one"
    assert not _announces_alpha(header + bytes([255, 165, 1, 0x10, 0x80])), "kind 420"
    assert not _announces_alpha(bytes([40 << 1, 1, 165, 1, 0x10, 0x80])), "behind the picture"


def test_headers_of_strangers_end(folder: Path) -> None:
    with av.open(str(folder / "a.mov")) as container:
        header = container.streams.video[0].codec_context.extradata or b""
        packet = next(bytes(p) for p in container.demux(video=0) if p.size)
    assert any(map(_announces_alpha, _of_header(header)))
    draw = random.Random(3)
    for _ in range(300):
        spoilt, cut = bytearray(header), bytearray(packet)
        for content in (spoilt, cut):
            content[draw.randrange(len(content))] = draw.randrange(256)
            del content[draw.randrange(len(content)) :]
        for unit in (*_of_header(bytes(spoilt)), *_of_packet(bytes(cut), header)):
            _announces_alpha(unit)
