"""Two real clips become a video, a picture and a page: matched by time, labelled, with sound."""

import dataclasses
import re
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from seedvr2_core.compare.clock import match
from seedvr2_core.compare.make import make_comparison
from seedvr2_core.compare.record import ComparedFile, Comparison, ComparisonResult
from seedvr2_core.compare.sheet import DIVIDER_PX
from seedvr2_core.errors import InvalidRequestError
from seedvr2_core.video.info import VideoInfo, video_of_frames
from seedvr2_core.video.probe import probe_video
from seedvr2_core.video.reader import read_frames
from tests.kits.clips.transparent import HEIGHT, WIDTH, disc, saved
from tests.kits.media import ffmpeg


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Grey levels that count the time: both clips show 40 levels more each fifth of a second."""
    folder = tmp_path_factory.mktemp("clips")
    made = {
        "slow": ("64x36", 10, 1.4, "440"),
        "fast": ("128x72", 25, 1.0, "880"),
        "tall": ("36x64", 25, 1.0, None),
    }
    for name, (size, rate, seconds, tone) in made.items():
        picture = f"color=black:s={size}:r={rate}:d={seconds}"
        levels = "geq=lum='30+40*floor(T*5+0.001)':cb=128:cr=128"
        sound = ["-f", "lavfi", "-i", f"sine=f={tone}:d={seconds}", "-c:a", "aac"] if tone else []
        ffmpeg(
            *["-f", "lavfi", "-i", picture, *sound, "-vf", levels],
            *["-c:v", "libx264", "-qp", "1", folder / f"{name}.mp4"],
        )
    return {name: folder / f"{name}.mp4" for name in made}


def compared(a: Path, b: Path, folder: Path, **changes: str) -> tuple[Comparison, ComparisonResult]:
    """Compare two files."""
    folder.mkdir(exist_ok=True)
    starts = {side: changes.pop(f"start_{side}", "") for side in "ab"}
    wanted = Comparison(
        a=ComparedFile(path=a, label="<b>before</b>", start=starts["a"]),
        b=ComparedFile(path=b, label="after", start=starts["b"]),
        folder=folder,
        title="<i>Two & more</i>",
        video_name="a b.mp4",
        **changes,  # type: ignore[arg-type]
    )
    return wanted, make_comparison(wanted)


def frames_of(path: Path) -> list[np.ndarray]:
    """All pictures of a file."""
    found = probe_video(path)
    return [frame.rgb for frame in read_frames(path, found, 0, found.num_frames)]


def halves(sheet: np.ndarray) -> tuple[float, float]:
    """Mean level of the lower half of either picture, where no label is."""
    rows, middle = sheet.shape[0], sheet.shape[1] // 2
    return float(sheet[rows // 2 :, : middle - 4].mean()), float(
        sheet[rows // 2 :, middle + 4 :].mean()
    )


def test_two_rates_and_sizes_are_matched_by_time(clips: dict[str, Path], tmp_path: Path) -> None:
    wanted, result = compared(clips["slow"], clips["fast"], tmp_path / "c", audio="b")
    frames = frames_of(wanted.video)
    # The faster one leads; the shorter one ends it.
    assert len(frames) == result.num_frames == 25
    assert frames[0].shape == (72, 2 * 128 + DIVIDER_PX, 3)
    assert (result.a.num_frames, result.a.frames_per_second) == (14, 10.0)
    for number, frame in enumerate(frames):
        left, right = halves(frame)
        if number % 5 == 4:
            continue  # the slow one shows its frame a moment longer
        assert abs(left - right) < 4, f"frame {number}: {left:.0f} and {right:.0f}"
    assert any("matched by time" in note for note in result.notes)
    assert any("1.40 s and B 1.00 s" in note for note in result.notes)


@pytest.mark.parametrize(("audio", "tone"), [("a", 440), ("b", 880), ("none", None)])
def test_the_sound_is_that_of_the_file_that_was_asked_for(
    clips: dict[str, Path], tmp_path: Path, audio: str, tone: int | None
) -> None:
    wanted, result = compared(clips["slow"], clips["fast"], tmp_path / "c", audio=audio)
    with av.open(str(wanted.video)) as container:
        assert [s.type for s in container.streams] == ["video", *(["audio"] if tone else [])]
        assert container.metadata["title"] == "<i>Two & more</i>"
        if tone is None:
            return
        stream = container.streams.audio[0]
        sound = np.concatenate([f.to_ndarray()[0] for f in container.decode(stream)])
    rate = stream.rate
    loudest = int(np.abs(np.fft.rfft(sound[:rate])).argmax() * rate / len(sound[:rate]))
    assert abs(loudest - tone) < 5
    assert abs(len(sound) / rate - result.duration_seconds) < 0.1, "cut where the pictures end"


def test_the_picture_is_of_the_most_different_or_of_the_chosen_moment(
    clips: dict[str, Path], tmp_path: Path
) -> None:
    _, result = compared(clips["fast"], clips["fast"], tmp_path / "same")
    assert result.largest_difference == 0.0
    # B runs 0.2 s ahead, 40 levels at any time.
    shifted, result = compared(clips["fast"], clips["fast"], tmp_path / "b", start_b="0.2")
    assert result.num_frames == 20
    assert 45 < result.mean_difference < 49  # 40 of the 219 levels of limited range
    shown = np.asarray(Image.open(shifted.picture))
    assert shown.shape == (72, 2 * 128 + DIVIDER_PX, 3)
    chosen, result = compared(
        clips["fast"], clips["fast"], tmp_path / "d", start_b="0.2", at="0.44"
    )
    assert result.picture_seconds == 0.44
    left, right = halves(np.asarray(Image.open(chosen.picture)))
    assert (left > 80, right - left > 30) == (True, True)
    page = chosen.page.read_text()
    assert page.index("At 0.44 s") < page.index("At 0.0"), "the chosen one is the first"
    with pytest.raises(InvalidRequestError, match="no moment 9: it has 20 frames"):
        compared(clips["fast"], clips["fast"], tmp_path / "e", start_b="0.2", at="9")


def test_pictures_of_other_shapes_are_whole(clips: dict[str, Path], tmp_path: Path) -> None:
    wanted, result = compared(clips["tall"], clips["slow"], tmp_path / "c", audio="none")
    # Both have the rows of the taller one; 64x36 becomes 114x64.
    assert (result.width, result.height) == (36 + 114 + DIVIDER_PX, 64)
    assert frames_of(wanted.video)[0].shape == (64, 154, 3)


def test_the_page_needs_nothing_and_holds_words_as_text(
    clips: dict[str, Path], tmp_path: Path
) -> None:
    wanted, _ = compared(clips["slow"], clips["fast"], tmp_path / "c")
    page = wanted.page.read_text()
    assert "&lt;i&gt;Two &amp; more&lt;/i&gt;" in page
    assert not re.search(r"<(b|i)>", page)
    assert "default-src 'none'; img-src data:; script-src 'sha256-" in page
    assert set(re.findall(r'(?:src|href)="([^"]{0,20})', page)) == {
        "a%20b.mp4",
        "data:image/jpeg;base",
    }
    assert " style=" not in page, "a policy with digests would refuse it"
    assert re.search(r"\son\w+=", page) is None


def test_what_alpha_hides_makes_no_difference(tmp_path: Path) -> None:
    """Nobody sees the colours behind alpha 0; in both videos it is black."""
    black, white = (disc(hidden=level) for level in (0, 255))
    a, b = saved(tmp_path / "png.mov", black), saved(tmp_path / "bgra.mkv", white)
    wanted, result = compared(a, b, tmp_path / "c", audio="none")
    assert result.largest_difference < 0.1
    shown = frames_of(wanted.video)[3].astype(int)
    visible = np.rint(black[3, ..., :3] * (black[3, ..., 3:] / 255))
    lower = slice(HEIGHT // 2, HEIGHT)  # no label is there
    for left in (0, WIDTH + DIVIDER_PX):
        assert np.abs(shown[lower, left : left + WIDTH] - visible[lower]).mean() < 4
    assert any("transparent is put on black" in note for note in result.notes)


def test_a_dark_and_deep_video_stays_deep(tmp_path: Path) -> None:
    source = tmp_path / "hdr.mp4"
    ffmpeg(
        *["-f", "lavfi", "-i", "testsrc2=s=64x36:r=10:d=0.3", "-pix_fmt", "yuv420p10le"],
        *["-vf", "setparams=color_trc=smpte2084:color_primaries=bt2020:colorspace=bt2020nc"],
        *["-c:v", "libx264", source],
    )
    wanted, result = compared(source, source, tmp_path / "c")
    made = probe_video(wanted.video)
    assert (made.codec, made.pix_fmt, made.color.hdr) == ("hevc", "yuv420p10le", "PQ")
    assert any("pale" in note for note in result.notes)


def info_of(times: list[Fraction], base: Fraction, last: Fraction) -> VideoInfo:
    """Frames at these times."""
    return dataclasses.replace(
        video_of_frames(16, 16, len(times)),
        time_base=base.as_integer_ratio(),
        pts=tuple(round(time / base) for time in times),
        last_duration=round(last / base),
    )


def test_times_that_a_container_has_rounded_are_the_same_moment() -> None:
    exact = info_of([Fraction(i, 30) for i in range(90)], Fraction(1, 30), Fraction(1, 30))
    rounded = info_of([Fraction(i, 30) for i in range(90)], Fraction(1, 1000), Fraction(1, 30))
    for pair in ((exact, rounded), (rounded, exact)):
        assert list(match(*pair).others) == list(range(90))


def test_the_one_with_more_frames_leads() -> None:
    slow = info_of([Fraction(i, 24) for i in range(48)], Fraction(1, 24), Fraction(1, 24))
    fast = info_of([Fraction(i, 60) for i in range(60)], Fraction(1, 60), Fraction(1, 60))
    matched = match(slow, fast)
    assert (matched.leads_a, len(matched.others)) == (False, 60)
    assert list(matched.others[:6]) == [0, 0, 1, 1, 1, 2]
    assert matched.others[-1] == 23
