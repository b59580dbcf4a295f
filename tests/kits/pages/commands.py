"""The shell commands that a page shows: in blocks marked `sh`, and inside sentences.

A block that is marked `sh` holds commands that a reader may paste. Any other block is for reading;
one in which a line begins as a command does must say so (`text`, `json`), so that no command is
left out by mistake.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PAGES = (
    *("README.md", "docs/tutorial.md", "docs/operator.md"),
    *("docs/developer.md", "docs/operations.md", "docs/service.md", "docs/callbacks.md"),
)
"""The pages whose commands somebody pastes, in the order of reading."""

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.S | re.M)
_COMMAND = re.compile(
    r"^(\.venv/bin/|[A-Z][A-Z0-9_]+=|(seedvr2|make|prefect|python|curl|docker|git|bash|export) )",
    re.M,
)
_ASSIGNMENT = re.compile(r"^\w+=")


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a block, with all its lines."""

    page: str
    """The page's path in the project."""
    block: int
    """Which block of the page; commands of one block share the variables that they set."""
    text: str
    """The command as printed, comment included."""

    @property
    def bare(self) -> str:
        """The command without comment, on one line."""
        return " ".join(shlex.split(self.text.replace("\\\n", " "), comments=True))

    @property
    def words(self) -> list[str]:
        """Its words, without comment and without the variables that are set in front of it."""
        return words_of(self.text)


def commands_of(root: Path, page: str) -> list[Command]:
    """All commands of a page's `sh` blocks, in order.

    Raises:
        ValueError: a block does not say what it is, or a quotation in it has no end.
    """
    found: list[Command] = []
    for block, (kind, body) in enumerate(_BLOCK.findall((root / page).read_text())):
        if not kind and _COMMAND.search(body):
            raise ValueError(
                f"{page}: a block must say what it is; put ```sh or ```text above {body[:40]!r}"
            )
        if kind == "sh":
            found += [Command(page, block, text) for text in _joined(body)]
    return found


def inline_commands(root: Path, page: str, programs: tuple[str, ...]) -> list[str]:
    """What stands between backticks in prose and begins with one of the programs."""
    prose = _BLOCK.sub("", (root / page).read_text())
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
    return [span for span in spans if [w for w in words_of(span)[:1] if w in programs]]


def words_of(text: str) -> list[str]:
    """The words of a command, without comments and without the variables set in front of it."""
    try:
        words = shlex.split(text.replace("\\\n", " "), comments=True)
    except ValueError:
        return []  # a span such as `it's` is no command
    while words and _ASSIGNMENT.match(words[0]):
        words.pop(0)
    return words


def _joined(body: str) -> Iterator[str]:
    """Commands of a block; a backslash or an open quotation goes on in the next line."""
    lines: list[str] = []
    for line in body.splitlines():
        lines.append(line)
        text = "\n".join(lines)
        try:
            words = shlex.split(text, comments=True)
        except ValueError:
            continue  # a quotation goes on in the next line
        if not line.endswith("\\"):
            lines = []
            if words:
                yield text
    if lines:
        raise ValueError(f"a command has no end: {lines[0]!r}")
