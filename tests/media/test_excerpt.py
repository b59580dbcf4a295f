"""A part of a video: its frames, sound, texts and chapters, cut with it, and the film's noise."""

import dataclasses
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seedvr2_core.engines.seedvr2 import sampler
from seedvr2_core.errors import InvalidRequestError
from seedvr2_core.frames import Frame
from seedvr2_core.planning import Plan, Shot, build_plan
from seedvr2_core.planning.cutting import shots_between
from seedvr2_core.video.info import Reading
from seedvr2_core.video.probe import probe_video
from seedvr2_core.video.reader import read_frames
from seedvr2_core.video.wanted import Place, WantedFrames, place_of, wanted_frames
from tests.kits.clips.cases import make_video
from tests.kits.factories import make_info, make_options
from tests.kits.media import ffmpeg, shown_times
from tests.kits.restorer import make_frames, make_plan, pictures, run_whole

RATE = 25
TEXTS = "".join(
    f"{number}\n00:00:0{start},{millis:03} --> 00:00:0{stop},000\n{word}\n\n"
    for number, (start, millis, stop, word) in enumerate(
        [(0, 200, 1, "before"), (1, 0, 2, "over the start"), (2, 200, 4, "over the end")], 1
    )
)
CHAPTERS = ";FFMETADATA1\n" + "".join(
    f"[CHAPTER]\nTIMEBASE=1/1000\nSTART={start}\nEND={end}\ntitle={title}\n"
    for start, end, title in [(0, 1000, "one"), (1000, 2000, "two"), (2000, 4000, "three")]
)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four seconds, a tone whose pitch rises, three texts, three chapters; key frames are rare."""
    folder = tmp_path_factory.mktemp("excerpt")
    text, chapters, path = folder / "a.srt", folder / "a.txt", folder / "film.mkv"
    text.write_text(TEXTS)
    chapters.write_text(CHAPTERS)
    ffmpeg(
        *["-f", "lavfi", "-i", f"testsrc2=s=160x90:r={RATE}:d=4"],
        *["-f", "lavfi", "-i", "aevalsrc=sin(2*PI*t*(200+100*t)):s=48000:d=4"],
        *["-i", text, "-i", chapters, "-map", "0", "-map", "1", "-map", "2", "-map_metadata", "3"],
        *["-c:v", "libx264", "-preset", "veryfast", "-g", "90", "-c:a", "pcm_s16le"],
        *["-c:s", "subrip", path],
    )
    return path


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("90", Place(seconds=Fraction(90))),
        ("1.5", Place(seconds=Fraction(3, 2))),
        ("2:03", Place(seconds=Fraction(123))),
        ("1:02:03.25", Place(seconds=Fraction(3723) + Fraction(1, 4))),
        (" frame:1500 ", Place(frame=1500)),
    ],
)
def test_a_place(text: str, place: Place) -> None:
    assert place_of(text) == place


@pytest.mark.parametrize("text", ["-1", "1:60", "1:2:3:4", "12f", "frame:", "now", "1:75:00"])
def test_no_place(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="is no place in a video"):
        place_of(text)


@pytest.mark.parametrize(
    ("start", "end", "frames"),
    [
        ("", "1", range(0, 25)),
        ("1", "1.04", range(25, 26)),
        ("0.999", "1.041", range(25, 27)),
        ("frame:7", "frame:9", range(7, 9)),
        ("0:02", "", range(50, 300)),
        ("frame:299", "1:00:00", range(299, 300)),
    ],
)
def test_which_frames_are_in_it(start: str, end: str, frames: range) -> None:
    info = make_info()
    part = wanted_frames(info, WantedFrames(start=start, end=end))
    assert part.pts == tuple(range(len(frames)))
    assert part.reading.first == frames.start
    assert Fraction(*part.zero_offset) == Fraction(frames.start, RATE)
    assert part.reading.is_excerpt
    keys = {build_plan(v, "0" * 64, make_options()).job_key for v in (info, part)}
    assert len(keys) == 2


@pytest.mark.parametrize(("start", "end"), [("12", ""), ("2", "2"), ("3", "1"), ("frame:300", "")])
def test_a_part_without_frames_is_refused(start: str, end: str) -> None:
    with pytest.raises(InvalidRequestError, match="the video has 300 frames and ends at"):
        wanted_frames(make_info(), WantedFrames(start=start, end=end))


def test_all_of_it_is_no_part() -> None:
    info = make_info()
    assert wanted_frames(info, WantedFrames(start="0", end="99")) == info


def test_its_frames_are_those_of_the_film(film: Path) -> None:
    info = probe_video(film)
    part = wanted_frames(info, WantedFrames(start="frame:33", end="frame:41"))
    ours = [frame.rgb for frame in read_frames(film, part, 0, part.num_frames)]
    theirs = [frame.rgb for frame in read_frames(film, info, 33, 41)]
    assert all((a == b).all() for a, b in zip(ours, theirs, strict=True))


@pytest.mark.long
@pytest.mark.parametrize("container", ["mp4", "mkv"])
def test_all_that_belongs_to_it_is_cut(film: Path, tmp_path: Path, container: str) -> None:
    wanted = WantedFrames(start="1.2", end="3")
    job = make_video(film, tmp_path, wanted, container=container, audio="keep")
    times = [float(time) for time in shown_times(job.output, 0)]
    assert times == pytest.approx([index / RATE for index in range(45)], abs=0.00051)
    assert any("frames 30 to 74 of 100 are made" in note for note in job.notes)
    shown = ffmpeg("-i", job.output, "-map", "0:s:0", "-f", "srt", "-").decode()
    assert "before" not in shown
    assert "00:00:00,000 --> 00:00:00,800\nover the start" in shown
    assert "00:00:01,000 --> 00:00:01,800\nover the end" in shown
    told = ffmpeg("-i", job.output, "-f", "ffmetadata", "-").decode()
    assert "title=one" not in told
    assert "title=two" in told
    assert "title=three" in told
    ours, theirs = (sound(path, skip) for path, skip in ((job.output, 0.0), (film, 1.2)))
    assert abs(len(ours) - 1.8 * 8000) < 8000 * 0.05
    count = 8000
    shifts = [
        np.corrcoef(ours[400 : 400 + count], theirs[400 + s : 400 + s + count])[0, 1]
        for s in range(-40, 41)
    ]
    assert abs(int(np.argmax(shifts)) - 40) <= 8  # a millisecond
    assert max(shifts) > 0.95


def sound(path: Path, skip: float) -> np.ndarray:
    """Samples at 8 kHz, from `skip` seconds on; silence where the sound begins later."""
    raw = ffmpeg(
        *[
            "-i",
            path,
            "-map",
            "0:a",
            "-af",
            f"aresample=async=1:first_pts=0,atrim=start={skip},asetpts=PTS-STARTPTS",
        ],
        *["-ac", "1", "-ar", "8000", "-f", "s16le", "-"],
    )
    return np.frombuffer(raw, np.int16).astype(np.float64)


def test_times_of_any_frame_rate_are_exact() -> None:
    """Frames at uneven times: the first that begins at the start or later, none at the end."""
    info = make_info(pts=(0, 3, 10, 11, 25, 40))  # in 25ths of a second
    base = Fraction(*info.time_base)
    for index, time in enumerate(info.pts[1:], start=1):
        for start, first in ((time * base, index), (time * base - Fraction(1, 10**6), index)):
            part = wanted_frames(info, WantedFrames(start=f"{float(start):.9f}"))
            assert (part.reading.first, part.num_frames) == (first, 6 - first)
            head = wanted_frames(info, WantedFrames(end=f"{float(start):.9f}"))
            assert head.num_frames == first
        late = wanted_frames(info, WantedFrames(end=f"{float(time * base) + 1e-6:.9f}"))
        assert late.num_frames == index + 1


@pytest.mark.parametrize("inside", [1, 2, 3, 4, 5, 8, 11, 30])
def test_inside_of_a_shot_each_frame_has_the_noise_of_the_film(
    monkeypatch: pytest.MonkeyPatch, inside: int
) -> None:
    """Whatever frame it begins with: that frame's latent, too, is drawn as the film draws it."""
    drawn: dict[int, np.ndarray] = {}
    noise = sampler.latent_noise

    def spy(seed: int, first_frames: Sequence[int], *args: Any, **kwargs: Any) -> Any:
        made = noise(seed, first_frames, *args, **kwargs)
        drawn.update(zip(first_frames, made.numpy().copy(), strict=True))
        return made

    monkeypatch.setattr(sampler, "latent_noise", spy)
    film = make_plan(20, 45)
    source = make_frames(film)
    run_whole(film, source, shot=1)
    of_film = noise_by_frame(film.shots[1], drawn, offset=0)
    first = 20 + inside
    part, frames = part_of(film, source, first, began=-inside)
    drawn.clear()
    made = run_whole(part, frames)
    lead = -part.shots[0].start
    assert lead == inside % 4
    assert [frame.index for frame in made.frames] == list(range(-lead, 65 - first))
    assert [frame.pts for frame in made.frames[lead:]] == list(part.video.pts)
    of_part = noise_by_frame(part.shots[0], drawn, offset=first)
    assert of_part.keys() == set(range(first - lead, 65))
    for frame, tensor in of_part.items():
        assert (tensor == of_film[frame]).all(), frame


def noise_by_frame(shot: Shot, drawn: dict[int, np.ndarray], offset: int) -> dict[int, np.ndarray]:
    """The noise of the latent that holds each frame of a shot, counted in the film."""
    latents = sorted(drawn)
    found = {}
    for frame in range(shot.start + offset, shot.stop + offset):
        latent = max(first for first in latents if first <= frame)
        found[frame] = drawn[latent]
    return found


def part_of(
    film: Plan, source: Sequence[Frame], first: int, began: int
) -> tuple[Plan, list[Frame]]:
    """The plan of a film's frames from `first` on, and their source frames, as the reader counts.

    Args:
        film: the whole.
        source: its frames.
        first: the part's first frame.
        began: where its shot begins, counted from `first`.
    """
    video = wanted_frames(film.video, WantedFrames(start=f"frame:{first}"))
    shots = shots_between((), video.num_frames, began)
    part = dataclasses.replace(film, video=video, shots=shots)
    begin = first + shots[0].start
    return part, [
        dataclasses.replace(
            frame, index=frame.index - first, pts=video.time_of(frame.index - first)
        )
        for frame in source[begin:]
    ]


@pytest.mark.parametrize("offset", [20, 0])
def test_it_has_the_noise_of_the_film(offset: int) -> None:
    """A part that begins at a cut has the film's pixels; with noise counted anew it has others."""
    film = make_plan(20, 13)
    source = make_frames(film)
    wanted = pictures([run_whole(film, source, shot=1)])
    part = make_plan(13)
    reading = Reading(first=offset)
    part = dataclasses.replace(part, video=dataclasses.replace(part.video, reading=reading))
    frames = [dataclasses.replace(frame, index=frame.index - 20) for frame in source[20:]]
    made = pictures([run_whole(part, frames)])
    assert (made == wanted).all() == (offset == 20)
