"""What a GPU's worker decodes before its engine begins does not grow with the length of a film."""

from pathlib import Path
from typing import Any

import pytest

from seedvr2_core.planning import build_plan
from seedvr2_core.video import _container
from seedvr2_core.video.probe import probe_video
from seedvr2_core.video.probing import times
from seedvr2_core.video.reader import read_frames
from tests.kits.factories import make_options
from tests.kits.media import ffmpeg

SHORT, LONG = 3200, 9600
"""Frames: of both a deployed job's cuts are found elsewhere (decision 078)."""
KINDS = {
    "progressive.mp4": ["-c:v", "libx264", "-preset", "ultrafast", "-g", "50"],
    "interlaced.mkv": [
        *["-vf", "setfield=tff", "-flags", "+ilme+ildct", "-x264-params", "tff=1"],
        *["-c:v", "libx264", "-preset", "ultrafast", "-g", "50"],
    ],
    "alpha.mkv": ["-pix_fmt", "yuva420p", "-c:v", "ffv1", "-g", "1"],
    "broadcast.ts": ["-c:v", "mpeg2video", "-q:v", "5", "-g", "25"],
}


class _Counting:
    """A decoder that counts the pictures it gives."""

    def __init__(self, decoder: Any) -> None:
        self._decoder, self.count = decoder, 0

    def decode(self, packet: Any) -> list[Any]:
        pictures = self._decoder.decode(packet)
        self.count += len(pictures)
        return pictures


def film(path: Path, frames: int, options: list[str]) -> Path:
    picture = f"testsrc2=s=32x32:r=25:d={frames / 25}"
    ffmpeg("-f", "lavfi", "-i", picture, *options, path)
    return path


def decoded_before(path: Path, frames: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Pictures that are decoded until the engine gets its first frame; the cuts are known."""
    used: list[_Counting] = []
    real = _container.decoder_for

    def counting(*of: Any) -> Any:
        used.append(_Counting(real(*of)))
        return used[-1]

    with monkeypatch.context() as patch:
        patch.setattr(_container, "decoder_for", counting)
        # What takes a second is decoded whole; these tiny films stand for large ones.
        patch.setattr(times, "_CHEAP_PIXELS", 2**20)
        info = probe_video(path)
        assert info.num_frames == frames
        build_plan(info, "0" * 64, make_options(), cuts=(frames // 2,))
        next(read_frames(path, info, 0, 1))
    return sum(one.count for one in used)


@pytest.mark.parametrize(
    "name",
    [
        *("progressive.mp4", "broadcast.ts"),
        *(pytest.param(name, marks=pytest.mark.long) for name in ("interlaced.mkv", "alpha.mkv")),
    ],
)
def test_it_is_the_same_for_a_film_that_is_three_times_as_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    counts: list[int] = []
    for frames in (SHORT, LONG):
        folder = tmp_path / str(frames)
        folder.mkdir()
        path = film(folder / name, frames, KINDS[name])
        counts.append(decoded_before(path, frames, monkeypatch))
    assert 0 < counts[1] <= counts[0] < 800
