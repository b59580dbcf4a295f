"""Which videos a command line with several sources means, and when a watched file is ready."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from deployments.cli.batch import sources
from deployments.cli.batch.sources import VideoBatch, batch_of, resting_files
from seedvr2_core.errors import InvalidRequestError

Choose = Callable[..., VideoBatch | None]


@pytest.fixture
def choose() -> Choose:
    """`batch_of` with nothing but what a test gives."""

    def call(*given: str | Path, **options: Any) -> VideoBatch | None:
        usual = {"list_file": None, "watch_folder": None, "output": None, "overwrite": False}
        return batch_of([str(one) for one in given] or None, **usual | options)

    return call


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three videos by their names, and what is none."""
    made = tmp_path / "in"
    (made / "deeper.mp4").mkdir(parents=True)
    for name in ("b.mkv", "a.MP4", "c [1].mov", "notes.txt", ".hidden.mp4", "a.mp4.part"):
        (made / name).write_bytes(b"x")
    return made


def test_one_video_is_no_batch(choose: Choose, tmp_path: Path) -> None:
    clip = tmp_path / "a.mp4"
    for given in ([], [clip], ["https://example.org/a.mp4"], [tmp_path / "missing.mp4"]):
        assert choose(*given, overwrite=True) is None


def test_a_folder_gives_its_videos_and_each_source_counts_once(
    choose: Choose, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = [str(folder / name) for name in ("a.MP4", "b.mkv", "c [1].mov")]
    assert choose(folder) == VideoBatch(sources=tuple(inside))
    monkeypatch.chdir(folder)
    address = "https://example.org/a.mp4"
    found = choose("b.mkv", address, folder, address, "gone.mp4")
    assert found is not None
    assert found.sources == (inside[1], address, inside[0], inside[2], str(folder / "gone.mp4"))
    assert found.example == inside[1]


def test_a_list_counts_paths_from_its_own_folder(choose: Choose, folder: Path) -> None:
    names = folder / "videos.txt"
    names.write_text(f"# mine\n\n b.mkv \n{folder}/a.MP4\nhttps://example.org/x.mp4\nb.mkv\n.\n")
    found = choose(list_file=names)
    assert found is not None
    assert [Path(one).name for one in found.sources] == ["b.mkv", "a.MP4", "x.mp4", "c [1].mov"]


@pytest.mark.parametrize(
    ("given", "options", "sentence"),
    [
        ([], {"list_file": "no.txt"}, "no.txt cannot be read: No such file"),
        ([], {"list_file": "empty.txt"}, "names no video"),
        ([], {"list_file": "bytes.txt"}, "it is no text"),
        (["nothing"], {}, "holds no video"),
        (["nothing", "x.mp4"], {}, "holds no video"),
        (["x.mp4", "y.mp4"], {"overwrite": True}, "--overwrite is for one video"),
        (["x.mp4", "y.mp4"], {"output": "a.mp4"}, "--output must be a folder"),
        (["x.mp4", "y.mp4"], {"output": "no/such"}, "--output must be a folder"),
        (["x.mp4"], {"watch_folder": "nothing"}, "takes no SOURCE"),
        ([], {"watch_folder": "nothing", "list_file": "empty.txt"}, "takes no SOURCE"),
        ([], {"watch_folder": "a.mp4"}, "must be a folder"),
        ([], {"watch_folder": "nothing", "output": "nothing/../nothing"}, "the same folder"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    choose: Choose, tmp_path: Path, given: list[str], options: dict[str, Any], sentence: str
) -> None:
    (tmp_path / "nothing").mkdir()
    for name, content in (("a.mp4", b"x"), ("empty.txt", b"# \n"), ("bytes.txt", b"\xff\xfe")):
        (tmp_path / name).write_bytes(content)
    options = {k: tmp_path / v if isinstance(v, str) else v for k, v in options.items()}
    with pytest.raises(InvalidRequestError, match=sentence):
        choose(*(tmp_path / one for one in given), **options)


@pytest.mark.parametrize("given", [[""], ["x.mp4", " "]])
def test_an_empty_source_is_not_the_folder_where_we_are(choose: Choose, given: list[str]) -> None:
    """A variable of the shell that is not set must not make a job of each video there."""
    with pytest.raises(InvalidRequestError, match="a SOURCE is empty; name a file"):
        choose(*given)


def test_the_folder_of_results_is_made(choose: Choose, folder: Path, tmp_path: Path) -> None:
    made = choose(folder, output=tmp_path / "out")
    assert made is not None
    assert made.output == tmp_path / "out"
    assert (tmp_path / "out").is_dir()
    watched = choose(watch_folder=folder, output=folder / "out")
    assert watched == VideoBatch(watched=folder, output=folder / "out")


class Days:
    """A clock, and what happens at which second."""

    def __init__(self, happens: Mapping[int, Callable[[], object]]) -> None:
        self.now = 0.0
        self._happens = happens

    def sleep(self, seconds: float) -> None:
        for second in range(int(self.now) + 1, int(self.now + seconds) + 1):
            self._happens.get(second, lambda: None)()
        self.now += seconds
        if self.now > 60:
            raise KeyboardInterrupt


def test_a_file_is_taken_once_it_rests_and_again_if_it_changes(tmp_path: Path) -> None:
    def write(name: str, size: int) -> Callable[[], object]:
        return lambda: (tmp_path / name).write_bytes(b"x" * size)

    def touch(name: str, at: int) -> Callable[[], object]:
        return lambda: os.utime(tmp_path / name, (at, at))

    write("early.mp4", 5)()
    grows = {second: write("slow.mp4", second) for second in range(3, 20)}
    days = Days(
        {
            **grows,
            2: write("empty.mp4", 0),
            21: write("note.txt", 9),
            25: lambda: (tmp_path / "gone.mp4").write_bytes(b"x"),
            27: lambda: (tmp_path / "gone.mp4").unlink(),
            30: touch("early.mp4", 7),
            40: write("empty.mp4", 3),
        }
    )
    taken: list[tuple[str, float]] = []

    def take() -> None:
        for path in resting_files(tmp_path, clock=lambda: days.now, sleep=days.sleep):
            taken.append((path.name, days.now))

    with pytest.raises(KeyboardInterrupt):
        take()
    names = [name for name, _ in taken]
    assert names == ["early.mp4", "slow.mp4", "early.mp4", "empty.mp4"]
    last_written = (0, 19, 30, 40)
    for (_, at), written in zip(taken, last_written, strict=True):
        assert sources.REST_SECONDS <= at - written <= sources.REST_SECONDS + 2


def test_the_size_alone_or_the_time_alone_is_not_enough(tmp_path: Path) -> None:
    """A file of full length whose bytes come later changes its time only."""
    path = tmp_path / "a.mp4"
    path.write_bytes(b"\0" * 9)
    happens = {n: lambda n=n: os.utime(path, (n, n)) for n in range(1, 12)}
    days = Days(happens)
    files = resting_files(tmp_path, clock=lambda: days.now, sleep=days.sleep)
    assert next(files) == path
    assert days.now >= 11 + sources.REST_SECONDS


def test_a_folder_of_pictures_needs_a_word_more(choose: Choose, tmp_path: Path) -> None:
    """It may be one video, or many jobs; the sentence says both ways."""
    frames = tmp_path / "frames"
    frames.mkdir()
    for name in ("1.png", "2.PNG", ".3.png"):
        (frames / name).write_bytes(b"x")
    with pytest.raises(InvalidRequestError, match=r"2 pictures and no video; --fps 24 .*frames/\*"):
        choose(frames)
    assert choose(frames, fps="24") is None, "one video"
    each = choose(*(frames / name for name in ("1.png", "2.PNG")))
    assert each is not None
    assert len(each.sources) == 2
    (frames / "a.mp4").write_bytes(b"x")
    assert choose(frames) == VideoBatch(sources=(str(frames / "a.mp4"),))


def test_several_sequences_are_a_batch(choose: Choose, tmp_path: Path) -> None:
    shots = [tmp_path / "a", tmp_path / "b"]
    for shot in shots:
        shot.mkdir()
    pattern = tmp_path / "c" / "%04d.exr"
    found = choose(*shots, pattern, fps="24")
    assert found == VideoBatch(sources=(*map(str, shots), str(pattern)))
    with pytest.raises(InvalidRequestError, match="nobody knows when a sequence"):
        choose(watch_folder=shots[0], fps="24")
