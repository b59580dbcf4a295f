"""Which videos `seedvr2 upscale` is asked for, if they are more than one: files, folders, a list.

With --fps a folder is one video, made of its pictures. Without it a folder of pictures is refused:
whoever has 5000 frames there does not want 5000 jobs.

`--watch-folder` is the endless kind: files are taken as they come, once nobody writes to them.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from deployments.cli.words import absolute, check_named
from seedvr2_core.errors import InvalidRequestError
from seedvr2_core.video.sequence.names import is_picture_name
from seedvr2_core.words import counted

ENDINGS = {
    *(".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".m2p", ".m2ts", ".m2v"),
    *(".m4v", ".mkv", ".mod", ".mov", ".mp4", ".mpeg", ".mpg", ".mpv", ".mts", ".mxf", ".nut"),
    *(".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".tod", ".ts", ".vob", ".webm", ".wmv", ".y4m"),
}
"""Names of videos: of a folder only such files are taken."""
LOOK_SECONDS, REST_SECONDS = 1.0, 4.0
"""Pause between two looks at a folder, and how long a file must have had one size and time."""

ListFile = Annotated[
    Path | None,
    typer.Option(
        "--list",
        metavar="FILE",
        help="A text file with a SOURCE a line, besides those of the command line; paths count "
        "from its folder, lines that begin with # are left out.",
    ),
]
WatchFolder = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Upscale each video of this folder, and those that come later once nobody writes to "
        "them, until Ctrl-C.",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoBatch:
    """Several videos with the same options."""

    sources: tuple[str, ...] = ()
    """Absolute paths and addresses, each once."""
    watched: Path | None = None
    """A folder whose videos come one by one; then `sources` is empty."""
    output: Path | None = None
    """Folder of the results; None: that of the settings."""

    @property
    def example(self) -> str:
        """A source by which the options can be checked; none need be there yet."""
        return self.sources[0] if self.sources else str(self.watched)


def batch_of(
    sources: Sequence[str] | None,
    *,
    list_file: Path | None,
    watch_folder: Path | None,
    output: Path | None,
    overwrite: bool,
    fps: str = "",
) -> VideoBatch | None:
    """The videos that a command line names; None if it is one video, or none.

    With `fps` a folder is one video, whose pictures are in it.

    Raises:
        InvalidRequestError: a source names nothing, a list or folder cannot be read or has no
            videos, or options of one video and of many are mixed.
    """
    check_named(sources or ())
    is_folder = [not fps and "://" not in one and Path(one).is_dir() for one in sources or ()]
    many = len(sources or ()) > 1 or any(is_folder) or list_file is not None
    if not many and watch_folder is None:
        return None
    if overwrite:
        raise InvalidRequestError("--overwrite is for one video; results of several have new names")
    if watch_folder is not None:
        if many or sources:
            raise InvalidRequestError("--watch-folder takes no SOURCE beside it and no --list")
        if fps:
            raise InvalidRequestError(
                "--watch-folder takes videos as they come, and nobody knows when a sequence of "
                "pictures is whole; leave --fps out, or name the folder of pictures as SOURCE"
            )
        watched = absolute(watch_folder, "--watch-folder")
        if not watched.is_dir():
            raise InvalidRequestError(f"--watch-folder must be a folder, got {watched}")
        return VideoBatch(watched=watched, output=_output_folder(output, watched))
    found = [one for given in sources or () for one in _videos_of(given, fps)]
    found += _listed(absolute(list_file, "--list"), fps) if list_file is not None else []
    return VideoBatch(sources=tuple(dict.fromkeys(found)), output=_output_folder(output, None))


def _output_folder(output: Path | None, watched: Path | None) -> Path | None:
    """The folder that --output names, which is made if it is not there.

    Raises:
        InvalidRequestError: it is no folder, or the one that is watched.
    """
    if output is None:
        return None
    folder = absolute(output, "--output")
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise InvalidRequestError(
            f"--output must be a folder where several videos are made, got {folder}: "
            f"{error.strerror}"
        ) from error
    if watched is not None and folder.samefile(watched):
        raise InvalidRequestError(
            f"--output and --watch-folder are the same folder, {folder}: results would be upscaled "
            "again; name another"
        )
    return folder


def _videos_of(given: str, fps: str) -> list[str]:
    """A file, a sequence or an address as it is; of a folder, its videos by name, hidden ones left
    out."""
    if "://" in given:
        return [given]
    path = absolute(Path(given), "SOURCE")
    if fps or not path.is_dir():
        return [str(path)]
    found = sorted(str(one) for one in _videos_in(path))
    if not found:
        _refuse_pictures(path)
        raise InvalidRequestError(
            f"the folder {path} holds no video (by its name, such as .mp4 or .mkv); folders in it "
            "are not looked into"
        )
    return found


def _refuse_pictures(folder: Path) -> None:
    """Refuse a folder of pictures: they may be one video, or a job each, and only people know."""
    names = (path.name for path in folder.iterdir())
    count = sum(is_picture_name(name) for name in names)
    if count:
        raise InvalidRequestError(
            f"the folder {folder} holds {counted(count, 'picture')} and no video; --fps 24 makes "
            f"one video of them, and {folder}/* names each as a job of its own"
        )


def _videos_in(folder: Path) -> Iterator[Path]:
    """The files of a folder that are called like videos.

    Raises:
        InvalidRequestError: it cannot be read.
    """
    try:
        for path in folder.iterdir():
            named = path.suffix.lower() in ENDINGS and not path.name.startswith(".")
            if named and path.is_file():
                yield path
    except OSError as error:
        raise InvalidRequestError(f"{folder} cannot be read: {error.strerror}") from error


def _listed(path: Path, fps: str) -> list[str]:
    """The sources in a list file.

    Raises:
        InvalidRequestError: it cannot be read, or names nothing.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise InvalidRequestError(f"--list {path} cannot be read: {reason}") from error
    named = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not named:
        raise InvalidRequestError(f"--list {path} names no video; expected a path a line")
    return [
        one
        for line in named
        for one in _videos_of(line if "://" in line else str(path.parent / line), fps)
    ]


def resting_files(
    folder: Path,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Path]:
    """The videos of a folder, each once it rests, and again if it has changed; never ends.

    A file rests when its size and time have not changed for `REST_SECONDS`, and it is not empty.

    Args:
        folder: what is watched.
        clock: seconds that pass.
        sleep: waits for so many seconds.
    """
    seen: dict[Path, tuple[tuple[int, int], float]] = {}  # what it was, and since when
    taken: dict[Path, tuple[int, int]] = {}
    while True:
        now = clock()
        for path in sorted(_videos_in(folder)):
            what = _what(path)
            if what is None or what == taken.get(path):
                continue
            if what != seen.get(path, (None, 0.0))[0]:
                seen[path] = (what, now)
            elif what[0] and now - seen[path][1] >= REST_SECONDS:
                taken[path] = what
                yield path
        sleep(LOOK_SECONDS)


def _what(path: Path) -> tuple[int, int] | None:
    """Size and time of a file; None if it has gone."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
