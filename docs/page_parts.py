"""What generated pages are made of: paragraphs and tables in Markdown."""

import re
import textwrap
from collections.abc import Iterable, Sequence


def prose(text: str) -> str:
    """A paragraph, wrapped as the other pages are."""
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell(text) for text in line)} |" for line in lines)


def cell(text: str) -> str:
    """Text on one line, with its bars escaped."""
    return re.sub(r"\s+", " ", text).strip().replace("|", "\\|")
