"""Small files that ask for endless work or memory: many frames, long gaps, huge pictures."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from seedvr2_core.errors import UnsupportedFormatError
from seedvr2_core.video import probe
from seedvr2_core.video._container import MAX_PIXELS, thread_kind
from seedvr2_core.video.join import join_segments
from seedvr2_core.video.probe import probe_video
from tests.kits.media import encode_parts, ffmpeg, settings_for

GetClip = Callable[[str], Path]


@pytest.mark.parametrize("name", ["open_gop.mp4", "vfr.mkv", "stream.ts", "b_frames.avi"])
def test_more_frames_or_seconds_than_are_taken(clip: GetClip, name: str) -> None:
    info = probe_video(clip(name))
    frames = info.num_frames
    whole = probe_video(clip(name), max_frames=frames, max_seconds=info.duration_seconds)
    assert whole == info
    with pytest.raises(UnsupportedFormatError, match=f"more than {frames - 1} frames"):
        probe_video(clip(name), max_frames=frames - 1)
    with pytest.raises(UnsupportedFormatError, match=r"longer than 1.5 s.*MAX_VIDEO_SECONDS"):
        probe_video(clip(name), max_seconds=1.5)


def test_a_video_that_is_too_long_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=320x240:r=25:d=8", "-c:v", "mpeg4", "-q:v", "2", path)
    seen: list[int] = []
    with pytest.raises(UnsupportedFormatError):
        probe_video(path, max_frames=20, beat=lambda phase, done, total: seen.append(done))
    assert max(seen) < path.stat().st_size / 2


def test_the_first_pictures_are_looked_at_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    alive = most = 0

    class Picture:
        def __init__(self, pts: int) -> None:
            nonlocal alive, most
            self.pts = pts
            alive += 1
            most = max(most, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def pictures(container: object, stream: object) -> Iterator[Picture]:
        yield from map(Picture, range(30))

    monkeypatch.setattr(probe, "decode_pictures", pictures)
    stand_in: Any = None
    first, times = probe._first_pictures(stand_in, stand_in)
    assert first is not None
    assert times == list(range(16))
    assert most <= 3, "the first one, one that is made, and one that is let go"


@pytest.mark.parametrize(
    ("width", "height", "kind"), [(3840, 2160, "AUTO"), (7680, 4320, "AUTO"), (8192, 8192, "SLICE")]
)
def test_no_thread_has_a_huge_picture_of_its_own(width: int, height: int, kind: str) -> None:
    assert width * height <= MAX_PIXELS
    stream: Any = SimpleNamespace(codec_context=SimpleNamespace(width=width, height=height))
    assert thread_kind(stream) == kind


def with_gap(folder: Path, seconds: float, codec: str) -> Path:
    """A second of picture and tone, a gap in both, and another second."""
    path = folder / "gap.mkv"
    ffmpeg(
        *["-f", "lavfi", "-i", "testsrc2=s=64x48:r=25:d=2"],
        *["-f", "lavfi", "-i", "sine=f=440:d=2:r=48000"],
        *["-vf", f"setpts='if(lt(N,25),N/25/TB,(N/25+{seconds})/TB)'", "-fps_mode", "vfr"],
        "-af",
        f"asetnsamples=n=960,asetpts='if(lt(N,48000),N/SR/TB,(N/SR+{seconds})/TB)'",
        *["-c:v", "libx264", "-preset", "ultrafast", "-c:a", codec, path],
    )
    return path


@pytest.mark.parametrize("codec", ["pcm_s16le", "pcm_u8", "libvorbis"])
@pytest.mark.parametrize(("seconds", "filled"), [(1.5, True), (200, False)])
def test_sound_after_a_gap_is_where_it_was(
    tmp_path: Path, codec: str, seconds: float, filled: bool
) -> None:
    """And a long gap takes neither memory nor room: it is not filled."""
    path = with_gap(tmp_path, seconds, codec)
    info = probe_video(path)
    settings = settings_for(info)
    output = tmp_path / "out.mp4"
    parts = encode_parts(path, info, settings, [info.num_frames], tmp_path)
    join_segments(parts, path, info, settings, output, metadata={})
    heard, count = [], 0
    with av.open(str(output)) as container:
        for frame in container.decode(audio=0):
            count += 1
            if np.abs(frame.to_ndarray()).max() > 0.05:
                assert frame.pts is not None
                assert frame.time_base is not None
                heard.append(float(frame.pts * frame.time_base))
    breaks = [(a, b) for a, b in itertools.pairwise(heard) if b - a > 0.1]
    assert len(breaks) == 1
    ((before, after),) = breaks
    assert heard[0] == pytest.approx(0, abs=0.03)
    assert before == pytest.approx(1, abs=0.05)
    assert after == pytest.approx(1 + seconds, abs=0.03)
    assert heard[-1] == pytest.approx(2 + seconds, abs=0.05)
    assert count == pytest.approx((2 + seconds * filled) * 48000 / 1024, abs=6)
