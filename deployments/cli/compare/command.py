"""`seedvr2 compare A B`: two videos side by side: a video, a picture, a page with a slider."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Annotated

import typer

from deployments.cli.compare.display import open_compare_display
from deployments.cli.notify import Notify, notified
from deployments.cli.options import AsJson, WorkDir
from deployments.cli.words import absolute, duration
from deployments.host.exits import console, exit_codes, say, tell
from seedvr2_core.compare.record import SIDES, ComparedFile, Comparison, ComparisonResult
from seedvr2_core.errors import InvalidRequestError, SourceRefusedError
from seedvr2_core.files.place import place
from seedvr2_core.job.output_file import OutputFile, check_output_file
from seedvr2_core.video.wanted import place_of
from seedvr2_core.words import counted
from tasks.settings import Settings, use_settings

STALL_SECONDS = 120.0
"""Longest silence of the process that compares; it gives a sign of life with each frame."""
ENDINGS = (".mp4", ".png", ".html")
"""Of the three files: video, picture, page."""
MOST_NAME_CHARS = 40
"""Of each file's name in the name that we choose."""
MIN_HEIGHT, MAX_HEIGHT = 64, 2160


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A video file, shown on the left.")],
    b: Annotated[str, typer.Argument(metavar="B", help="A video file, shown on the right.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The video to write, which ends in .mp4; the picture (.png) and the page (.html) "
            "go beside it. Default: new ones in WORK_DIR/compare.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the three files of --output.")
    ] = False,
    at: Annotated[
        str,
        typer.Option(
            help="The moment of the picture: seconds (90), h:m:s (1:02:03.5) or a frame of the "
            "comparison (frame:1500); default: the one at which both differ most."
        ),
    ] = "",
    audio: Annotated[str, typer.Option(help="Whose sound is kept: a, b or none.")] = "a",
    label_a: Annotated[str, typer.Option(help="Written into A; default: its name.")] = "",
    label_b: Annotated[str, typer.Option(help="Written into B; default: its name.")] = "",
    start_a: Annotated[
        str, typer.Option(help="Begin here in A, as --at is written; default: its first frame.")
    ] = "",
    start_b: Annotated[str, typer.Option(help="The same in B.")] = "",
    height: Annotated[
        int,
        typer.Option(
            min=MIN_HEIGHT,
            max=MAX_HEIGHT,
            help="Most rows of either picture; never enlarged to it.",
        ),
    ] = 1080,
    notify: Notify = None,
    work_dir: WorkDir = None,
    as_json: AsJson = False,
) -> None:
    """Compare two videos side by side.

    Makes a video with both, a picture, and a page with a slider. The files may differ in size,
    frame rate and length: what both show at a time is compared, from the first frame of each on.
    The page needs nothing else and works without a network. The last line of stdout is its path. No
    file is replaced without --overwrite, and A and B never are.
    """
    with notified(notify), exit_codes("nothing was written", then="run it again"):
        settings = _settings(work_dir)
        one, other = _file(a, "A", label_a, start_a), _file(b, "B", label_b, start_b)
        _check_words(audio, at)
        target = _target(output, (one, other), settings, overwrite=overwrite)
        with _folder_beside(target) as folder:
            wanted = Comparison(
                a=one,
                b=other,
                folder=folder,
                title=f"{one.label} and {other.label}",
                video_name=target.name,
                audio=audio,
                at=at,
                height=height,
            )
            result = _compared(wanted)
            placed = _placed(wanted, target, overwrite=overwrite)
        for line in _ending(result, placed):
            say(line)
    tell(_as_json(result, placed) if as_json else str(placed[-1]))


def _settings(work_dir: Path | None) -> Settings:
    settings = Settings(allow_local_files=True)
    if work_dir is not None:
        chosen = absolute(work_dir, "--work-dir")
        settings = settings.model_copy(update={"work_dir": chosen})
    use_settings(settings)
    return settings


def _file(name: str, side: str, label: str, start: str) -> ComparedFile:
    """One of the two, looked at as far as this costs nothing.

    Raises:
        InvalidRequestError: the name is an address, or the place is none.
        SourceRefusedError: there is no such file.
        InvalidVideoError: it is no video.
    """
    if "://" in name:
        raise InvalidRequestError(f"{side} must be a file of this machine, got an address: {name}")
    if start:
        place_of(start)
    path = absolute(Path(name), side)
    if not path.is_file():
        raise SourceRefusedError(f"{side}: {path} is no file; name a video file")
    from seedvr2_core.video.foreign import media_errors_told
    from seedvr2_core.video.probe import sniff_video

    with media_errors_told(path, "its first picture is decoded"):
        sniff_video(path, allow_damaged=True, max_frames=None)
    return ComparedFile(path=path, label=label or f"{side}: {path.name}", start=start)


def _check_words(audio: str, at: str) -> None:
    if audio not in (*SIDES, "none"):
        raise InvalidRequestError(f"--audio must be a, b or none, got {audio!r}")
    if at:
        place_of(at)


def _target(
    output: Path | None,
    files: tuple[ComparedFile, ComparedFile],
    settings: Settings,
    *,
    overwrite: bool,
) -> Path:
    """The video to write; its picture and page can be written as well.

    Raises:
        InvalidRequestError: why one of the three cannot be written.
    """
    if output is None:
        if overwrite:
            raise InvalidRequestError("--overwrite is about the file of --output, which is missing")
        return _new_name(files, settings)
    wanted = absolute(output, "--output")
    if wanted.suffix.lower() != ENDINGS[0]:
        raise InvalidRequestError(f"--output must end in {ENDINGS[0]}, got {wanted.name}")
    for path in _three(wanted):
        for one in files:
            check_output_file(
                OutputFile(path=path, overwrite=overwrite, source=one.path, endings=ENDINGS)
            )
    return wanted


def _new_name(files: tuple[ComparedFile, ComparedFile], settings: Settings) -> Path:
    """A name in WORK_DIR/compare that nobody has."""
    folder = settings.work_dir.absolute() / "compare"
    folder.mkdir(parents=True, exist_ok=True)
    stems = [one.path.stem[:MOST_NAME_CHARS] for one in files]
    names = (f"{stems[0]}-{stems[1]}{'' if n == 1 else f'-{n}'}.mp4" for n in count(1))
    return next(
        folder / name
        for name in names
        if not any(os.path.lexists(path) for path in _three(folder / name))
    )


def _three(video: Path) -> list[Path]:
    return [video, *(video.with_suffix(ending) for ending in ENDINGS[1:])]


@contextmanager
def _folder_beside(target: Path) -> Iterator[Path]:
    """An empty hidden folder on the target's disk; removed unless something in it is needed."""
    folder = Path(tempfile.mkdtemp(prefix=".seedvr2-compare-", dir=target.parent))
    try:
        yield folder
    except _KeptError as kept:
        raise InvalidRequestError(str(kept)) from None
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


class _KeptError(Exception):
    """What was made has no name, and stays where it is."""


def _compared(wanted: Comparison) -> ComparisonResult:
    """Let a process of its own do it, as it reads files that anybody may have made."""
    from seedvr2_core.child.protocol import Compare, Compared, Heartbeat
    from tasks.child import Child

    with open_compare_display(console) as display:
        child = Child(log=_ignored)
        try:
            child.send(Compare(wanted=wanted))
            while True:
                event = child.next_event(stall_seconds=STALL_SECONDS, doing="comparing")
                if isinstance(event, Heartbeat):
                    display.progressed(event.phase, event.done, event.total)
                if isinstance(event, Compared):
                    return event.result
        finally:
            child.close()


def _ignored(line: str) -> None:
    """The child's log: its last lines are in the error, if there is one."""


def _placed(wanted: Comparison, target: Path, *, overwrite: bool) -> list[Path]:
    """Give the three files their names; returns these.

    Raises:
        _KeptError: somebody has taken one of the names meanwhile.
    """
    made = (wanted.video, wanted.picture, wanted.page)
    names = _three(target)
    for file, name in zip(made, names, strict=True):
        part = f".{wanted.folder.name}-{file.name}.part"
        if not place(file, name, part_name=part, replace=overwrite):
            raise _KeptError(
                f"{name} has come into being meanwhile, and is not replaced; the files of the "
                f"comparison are in {wanted.folder}"
            )
    return names


def _ending(result: ComparisonResult, placed: list[Path]) -> list[str]:
    """What was made, for people."""
    lines = [
        f"done: {placed[0]}",
        f"  {result.width}x{result.height}, {counted(result.num_frames, 'frame')}, "
        f"{duration(result.duration_seconds)}",
        f"  difference of the luma: {result.mean_difference:.2f} levels, most at "
        f"{result.largest_seconds:.2f} s ({result.largest_difference:.2f})",
        *(f"  note: {note}" for note in result.notes),
        f"  picture of {result.picture_seconds:.2f} s: {placed[1]}",
        f"  page: {placed[2]}",
    ]
    return lines


def _as_json(result: ComparisonResult, placed: list[Path]) -> str:
    """The result as one line of ASCII."""
    names = dict(zip(("video", "picture", "page"), map(str, placed), strict=True))
    return json.dumps({**names, **asdict(result)})
