"""The shots of a part of a film are those of the film, and where its first one begins is known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from seedvr2_core.video import shots
from seedvr2_core.video.cuts import detect_cuts
from seedvr2_core.video.info import VideoInfo
from seedvr2_core.video.probe import probe_video
from seedvr2_core.video.reader import read_frames
from seedvr2_core.video.wanted import WantedFrames, wanted_frames
from tests.kits.media import ffmpeg

pytestmark = pytest.mark.slow

LENGTHS = (37, 240, 3, 41, 30)
"""Frames of the film's shots: the second is longer than the first look back."""
CUTS = (37, 277, 280, 321)
_PICTURES = (
    "smptebars=s=96x54:r=25",
    "mandelbrot=s=96x54:r=25:start_scale=0.3:end_scale=0.2",
    "gradients=s=96x54:r=25:c0=red:c1=blue:seed=3:speed=0.02",
    "testsrc2=s=96x54:r=25",
    "gradients=s=96x54:r=25:c0=yellow:c1=black:seed=9:speed=0.02",
)


def silent(phase: str, done: int, total: int) -> None:
    """Nobody listens."""


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shots") / "film.mp4"
    inputs = [word for picture in _PICTURES for word in ("-f", "lavfi", "-i", picture)]
    graph = "".join(
        f"[{k}:v]trim=end_frame={count},setpts=PTS-STARTPTS,setsar=1,format=yuv420p[v{k}];"
        for k, count in enumerate(LENGTHS)
    )
    graph += "".join(f"[v{k}]" for k in range(len(LENGTHS))) + f"concat=n={len(LENGTHS)}"
    ffmpeg(*inputs, "-filter_complex", graph, "-c:v", "libx264", "-crf", "20", "-g", "100", path)
    return path


@pytest.fixture(scope="module")
def info(film: Path) -> VideoInfo:
    return probe_video(film)


@pytest.fixture(scope="module")
def cuts(film: Path, info: VideoInfo) -> tuple[int, ...]:
    found = detect_cuts(film, info, beat=silent)
    assert set(CUTS) <= set(found)
    return found


def part_of(info: VideoInfo, first: int, stop: int) -> VideoInfo:
    return wanted_frames(info, WantedFrames(start=f"frame:{first}", end=f"frame:{stop}"))


@pytest.mark.long
@pytest.mark.parametrize(
    ("first", "stop"),
    [
        pytest.param(36, 39, id="around a cut"),
        pytest.param(274, 276, id="far from its cut"),
        pytest.param(278, 281, id="a short shot"),
        pytest.param(0, 120, id="from the film's beginning"),
        pytest.param(37, 120, id="from a cut"),
        pytest.param(38, 351, id="a frame after a cut"),
        pytest.param(350, 351, id="the last frame"),
    ],
)
def test_a_part_has_the_shots_of_the_film(
    film: Path, info: VideoInfo, cuts: tuple[int, ...], first: int, stop: int
) -> None:
    part = part_of(info, first, stop)
    found = shots.find_shots(film, part, beat=silent)
    assert found.cuts == tuple(cut - first for cut in cuts if first < cut < stop)
    assert found.began == max((cut for cut in cuts if cut <= first), default=0) - first


@pytest.mark.long
def test_all_of_it_is_looked_at_as_before(
    film: Path, info: VideoInfo, cuts: tuple[int, ...]
) -> None:
    assert shots.find_shots(film, info, beat=silent) == (cuts, 0)


@pytest.mark.long
def test_it_is_looked_back_no_further_than_to_the_cut(film: Path, info: VideoInfo) -> None:
    """And what was looked at never becomes less, nor more than it is of."""
    for first, most in ((330, 52), (274, 302)):
        beats: list[tuple[str, int, int]] = []
        part = part_of(info, first, first + 2)
        shots.find_shots(film, part, beat=lambda *beat, to=beats: to.append(beat))
        done = [beat[1] for beat in beats]
        assert {beat[0] for beat in beats} == {"cuts"}
        assert done == sorted(done)
        assert all(beat[1] <= beat[2] <= most for beat in beats)


def test_a_place_at_the_edge_of_a_look_is_no_cut_yet() -> None:
    """Its neighbour, which nobody has looked at, may be the better one."""
    film = VideoInfo.__new__(VideoInfo)
    object.__setattr__(film, "pts", tuple(range(200)))
    logits = np.full(50, -9, np.float32)
    logits[0] = logits[20] = logits[49] = 5
    assert shots._picked(logits, (), range(1, 2), film) == [71]
    assert shots._picked(logits, (63,), range(0, 1), film) == [1, 21, 63]
    assert shots._picked(logits, (), range(3, 4), film) == [171]


@pytest.mark.parametrize("method", ["auto", "bob"])
def test_frames_before_a_part_are_those_of_the_film(
    film: Path, info: VideoInfo, method: str
) -> None:
    interlaced = replace(info.fields, interlaced=method == "bob", top_first=True)
    marked = replace(info, fields=interlaced)
    whole = wanted_frames(marked, WantedFrames(deinterlace=method))
    part = wanted_frames(
        marked, WantedFrames(deinterlace=method, start="frame:101", end="frame:120")
    )
    first = part.reading.first
    ours = list(read_frames(film, part, -3, 4))
    theirs = list(read_frames(film, whole, first - 3, first + 4))
    assert [frame.index for frame in ours] == list(range(-3, 4))
    for a, b in zip(ours, theirs, strict=True):
        assert (a.rgb == b.rgb).all()
        assert a.pts - ours[3].pts == b.pts - theirs[3].pts
    assert ours[3].pts == part.pts[0] == 0
    with pytest.raises(ValueError, match=rf"do not lie in \[{-first}, "):
        list(read_frames(film, part, -first - 1, 4))
