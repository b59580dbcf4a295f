"""Titles and chapters of a source, for the output."""

from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING

from av.container import InputContainer

if TYPE_CHECKING:
    from av.container.core import Chapter

_KEPT_TAGS = frozenset(
    {
        "title",
        "artist",
        "album",
        "album_artist",
        "composer",
        "copyright",
        "date",
        "description",
        "genre",
        "comment",
        "synopsis",
        "show",
        "episode_id",
        "location",
    }
)


def shifted_chapters(source: InputContainer, zero: Fraction) -> "list[Chapter]":
    """The source's chapters, their times counted from its zero."""
    chapters = source.chapters()
    for chapter in chapters:
        if chapter["time_base"] is not None:
            ticks = round(zero / chapter["time_base"])
            chapter["start"] -= ticks
            chapter["end"] -= ticks
    return chapters


def kept_metadata(source: InputContainer, own: Mapping[str, str]) -> dict[str, str]:
    """The source's descriptive tags, overlaid by our own."""
    kept = {k: v for k, v in source.metadata.items() if k.lower() in _KEPT_TAGS}
    return {**kept, **own}
