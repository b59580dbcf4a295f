"""Which files a folder or a pattern means, in which order, and what is missing."""

import os
import random
from pathlib import Path

import pytest

from seedvr2_core.errors import SourceRefusedError
from seedvr2_core.video.sequence.names import (
    first_gap,
    gap_told,
    natural_key,
    pattern_of,
    pictures_in_folder,
    pictures_of_pattern,
    title_of,
)


def made(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"x")
    return folder


def test_names_are_sorted_as_people_count() -> None:
    wanted = ["a.png", "A1.png", "a2.png", "a02b.png", "a10.png", "b.png", "b1c2.png", "b1c10.png"]
    for seed in range(5):
        names = random.Random(seed).sample(wanted, len(wanted))
        assert sorted(names, key=natural_key) == wanted


@pytest.mark.parametrize(
    ("pattern", "number", "name"),
    [
        ("%05d.png", 7, "00007.png"),
        ("shot_%d.exr", 7, "shot_7.exr"),
        ("%3d.tif", 7, "  7.tif"),
        ("100%%_%02d.png", 123, "100%_123.png"),
        ("f%04dx2.png", 12345, "f12345x2.png"),
    ],
)
def test_patterns_are_those_of_printf(pattern: str, number: int, name: str) -> None:
    assert pattern % number == name
    parsed = pattern_of(Path("frames") / pattern)
    assert parsed is not None
    assert (parsed.name(number), parsed.number(name)) == (name, number)


@pytest.mark.parametrize("name", ["00007.png", "%s.png", "%d_%d.png", "100%.png", "%%d.png"])
def test_what_is_no_pattern(name: str) -> None:
    assert pattern_of(Path(name)) is None


@pytest.mark.parametrize("name", ["0007.png", "7.png", "00007.PNG", "x00007.png", "+0007.png"])
def test_names_that_do_not_fit_a_pattern(name: str) -> None:
    parsed = pattern_of(Path("%05d.png"))
    assert parsed is not None
    assert parsed.number(name) is None


def test_a_pattern_begins_at_its_lowest_number_and_names_the_first_gap(tmp_path: Path) -> None:
    folder = made(tmp_path, *(f"f{n:03d}.png" for n in range(8, 12)), "f1.png", "notes.txt")
    pattern = pattern_of(folder / "f%03d.png")
    assert pattern is not None
    assert [one.name for one in pictures_of_pattern(pattern)] == [
        *("f008.png", "f009.png", "f010.png", "f011.png")
    ]
    (folder / "f009.png").unlink()
    with pytest.raises(SourceRefusedError, match=r"f009.png is missing: .* 8 to 11, and 1 of them"):
        pictures_of_pattern(pattern)
    nothing = pattern_of(folder / "g%03d.png")
    assert nothing is not None
    with pytest.raises(SourceRefusedError, match=r"no file in .* is called g000.png"):
        pictures_of_pattern(nothing)


def test_a_folder_gives_its_pictures(tmp_path: Path) -> None:
    folder = made(tmp_path, "f2.png", "f10.PNG", "f1.png", ".f0.png", "Thumbs.db", "a.mp4")
    (folder / "deeper.txt").mkdir()
    assert [one.name for one in pictures_in_folder(folder)] == ["f1.png", "f2.png", "f10.PNG"]
    with pytest.raises(SourceRefusedError, match="holds no picture"):
        pictures_in_folder(made(tmp_path / "nothing", "a.mp4"))
    with pytest.raises(SourceRefusedError, match="does not exist"):
        pictures_in_folder(tmp_path / "missing")


def test_links_are_followed_and_what_is_no_file_is_named(tmp_path: Path) -> None:
    folder = made(tmp_path / "in", "f1.png")
    outside = made(tmp_path / "out", "x.png") / "x.png"
    (folder / "f2.png").symlink_to(outside)
    assert len(pictures_in_folder(folder)) == 2
    outside.unlink()
    with pytest.raises(SourceRefusedError, match=r"f2.png is no regular file, or a link"):
        pictures_in_folder(folder)
    (folder / "f2.png").unlink()
    os.mkfifo(folder / "f2.png")
    with pytest.raises(SourceRefusedError, match=r"f2.png is no regular file"):
        pictures_in_folder(folder)


def test_jumps_in_the_numbers_are_told() -> None:
    assert first_gap([3, 4, 5]) is None
    assert first_gap([3, 4, 7]) == 5
    told = gap_told(["v2_f01.png", "v2_f02.png", "v2_f05.png"])
    assert "behind v2_f02.png comes v2_f05.png" in told
    for whole in (["f1.png", "f2.png"], ["a.png", "b.png"], ["f1_x1.png", "f2_x5.png"], ["f1.png"]):
        assert gap_told(whole) == ""


def test_titles(tmp_path: Path) -> None:
    folder = made(tmp_path / "shot 7")
    assert title_of(folder) == "shot 7"
    assert title_of(folder / "%05d.png") == "shot 7"
    assert title_of(folder / "bridge_%05d.png") == "bridge"
