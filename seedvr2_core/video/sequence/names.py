"""Which files are the pictures of a sequence, and in which order.

A sequence is named by its folder, or by a pattern as C's printf has it: `frames/%05d.png`.
"""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from seedvr2_core.errors import SourceRefusedError

PICTURE_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".exr"})
_DIGITS = re.compile(r"(\d+)", re.ASCII)
_CONVERSION = re.compile(r"%%|%(0?)(\d{0,2})d")


def natural_key(name: str) -> tuple[tuple[str | int, ...], str]:
    """Sorts names as people count: `f2` before `f10`; upper and lower case are the same."""
    parts = _DIGITS.split(PurePosixPath(name.casefold()).stem)
    # Texts stand at even places and numbers at odd ones, so equal places are comparable.
    return tuple(int(part) if at % 2 else part for at, part in enumerate(parts)), name


def is_picture_name(name: str) -> bool:
    """Whether a file is called like a picture, and is not hidden."""
    return not name.startswith(".") and Path(name).suffix.lower() in PICTURE_ENDINGS


@dataclass(frozen=True, slots=True, kw_only=True)
class NumberPattern:
    """`shot_%04d.png`: the text before and after a number, and how the number is written."""

    folder: Path
    before: str
    after: str
    fill: str
    """What the number is filled up with: "0", or " "."""
    width: int

    @property
    def title(self) -> str:
        """What is before the number, or the name of the folder."""
        named = self.before.rstrip("_-. ")
        return named if len(named) > 1 else self.folder.name or named or "pictures"

    def name(self, number: int) -> str:
        """The name of the file with this number."""
        return f"{self.before}{str(number).rjust(self.width, self.fill)}{self.after}"

    def number(self, name: str) -> int | None:
        """The number in a name; None if the name does not fit."""
        if not (name.startswith(self.before) and name.endswith(self.after)):
            return None
        written = name[len(self.before) : len(name) - len(self.after)].lstrip(" ")
        if not (written.isascii() and written.isdigit()):
            return None
        return int(written) if self.name(int(written)) == name else None


def pattern_of(path: Path) -> NumberPattern | None:
    """The pattern that a path's last part is; None if it is none, or has several numbers."""
    found = [one for one in _CONVERSION.finditer(path.name) if one[0] != "%%"]
    if len(found) != 1:
        return None
    (number,) = found
    before, after = path.name[: number.start()], path.name[number.end() :]
    return NumberPattern(
        folder=path.parent,
        before=before.replace("%%", "%"),
        after=after.replace("%%", "%"),
        fill=number[1] or " ",
        width=int(number[2] or 0),
    )


def pictures_at(path: Path) -> list[Path]:
    """The pictures of a folder or of a pattern, in order.

    Raises:
        SourceRefusedError: there are none, one is missing on the way, or one is no file.
    """
    pattern = None if os.path.isdir(path) else pattern_of(path)
    return pictures_in_folder(path) if pattern is None else pictures_of_pattern(pattern)


def pictures_of_pattern(pattern: NumberPattern) -> list[Path]:
    """The files that a pattern names, by their numbers, from the lowest that is there.

    Raises:
        SourceRefusedError: there are none, one is missing on the way, or one is no file.
    """
    names = _names_in(pattern.folder)
    numbers = sorted(n for n in map(pattern.number, names) if n is not None)
    if not numbers:
        raise SourceRefusedError(
            f"no file in {pattern.folder} is called {pattern.name(0)}, {pattern.name(1)} or so; "
            "check the pattern"
        )
    if (missing := first_gap(numbers)) is not None:
        raise SourceRefusedError(
            f"{pattern.folder / pattern.name(missing)} is missing: the sequence has numbers "
            f"{numbers[0]} to {numbers[-1]}, and {numbers[-1] - numbers[0] + 1 - len(numbers)} of "
            "them are not there; make them, or give the folder, of which what is there is taken"
        )
    return _regular(pattern.folder / pattern.name(number) for number in numbers)


def pictures_in_folder(folder: Path) -> list[Path]:
    """The pictures of a folder by their names, in natural order; hidden ones are left out.

    Raises:
        SourceRefusedError: there are none, or one is no file.
    """
    names = sorted((n for n in _names_in(folder) if is_picture_name(n)), key=natural_key)
    if not names:
        raise SourceRefusedError(
            f"the folder {folder} holds no picture (by its name, such as .png or .exr); folders in "
            "it are not looked into"
        )
    return _regular(folder / name for name in names)


def first_gap(numbers: Sequence[int]) -> int | None:
    """The first number that is missing among rising ones; None if none is."""
    wanted = range(numbers[0], numbers[0] + len(numbers))
    return next((w for w, n in zip(wanted, numbers, strict=True) if w != n), None)


def gap_told(names: Sequence[str]) -> str:
    """Where the only number that changes in names jumps, in words; "" if it does not."""
    split = [_DIGITS.split(name) for name in names]
    if len({len(parts) for parts in split}) != 1:
        return ""
    changing = [at for at in range(len(split[0])) if len({parts[at] for parts in split}) > 1]
    if len(changing) != 1 or not changing[0] % 2:
        return ""
    numbers = [int(parts[changing[0]]) for parts in split]
    if len(set(numbers)) != len(numbers) or (missing := first_gap(numbers)) is None:
        return ""
    at = next(index for index, number in enumerate(numbers) if number > missing)
    return (
        f"the numbers of the pictures jump: behind {names[at - 1]} comes {names[at]}; what is "
        "there was taken, without a gap in time"
    )


def title_of(path: Path) -> str:
    """What a sequence is called, for titles and names of outputs: its folder, or what is before
    the number."""
    pattern = None if os.path.isdir(path) else pattern_of(path)
    if pattern is None:
        return path.name or "pictures"
    return pattern.title


def _names_in(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in folder.iterdir()]
    except FileNotFoundError as error:
        raise SourceRefusedError(f"{folder} does not exist; check the path") from error
    except (OSError, ValueError) as error:  # no folder, or a NUL in its name
        reason = getattr(error, "strerror", None) or str(error)
        raise SourceRefusedError(f"{str(folder)!r} cannot be read: {reason}") from error


def _regular(paths: Iterable[Path]) -> list[Path]:
    """The paths, each of which is a file or a link to one."""
    found: list[Path] = []
    for path in paths:
        try:
            regular = path.is_file()
        except OSError as error:
            raise SourceRefusedError(f"{path} cannot be read: {error.strerror}") from error
        if not regular:
            raise SourceRefusedError(
                f"{path} is no regular file, or a link that leads nowhere; a sequence is made of "
                "picture files"
            )
        found.append(path)
    return found
