"""Titles and chapters of a source, for the output."""

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from av.container import InputContainer

from seedvr2_core.video._container import open_source
from seedvr2_core.video.carry.way import Cut
from seedvr2_core.video.info import VideoInfo

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


def shifted_chapters(
    source: InputContainer, zero: Fraction, cut: Cut | None = None
) -> "list[Chapter]":
    """The source's chapters, their times counted from its zero; those of the part that is made."""
    chapters = source.chapters()
    for chapter in chapters:
        if chapter["time_base"] is not None:
            ticks = round(zero / chapter["time_base"])
            chapter["start"] -= ticks
            chapter["end"] -= ticks
    if cut is None:
        return chapters
    kept: list[Chapter] = []
    for chapter in chapters:
        base, start = chapter["time_base"], chapter["start"]
        left = cut.shown(start, chapter["end"] - start, base) if base is not None else None
        if left is not None:
            chapter["start"], chapter["end"] = left[0], sum(left)
            kept.append(chapter)
    return kept


def chapters_told(path: Path, info: VideoInfo, cut: Cut | None) -> list[dict[str, Any]]:
    """Start and end in seconds, and title, of each chapter of what is made of a source."""
    with open_source(path) as source:
        found = shifted_chapters(source, Fraction(*info.zero_offset), cut)
    return [
        {
            "start": float(chapter["start"] * chapter["time_base"]),
            "end": float(chapter["end"] * chapter["time_base"]),
            "title": chapter["metadata"].get("title", ""),
        }
        for chapter in found
        if chapter["time_base"] is not None
    ]


def kept_metadata(source: InputContainer, own: Mapping[str, str]) -> dict[str, str]:
    """The source's descriptive tags, overlaid by our own."""
    kept = {k: v for k, v in source.metadata.items() if k.lower() in _KEPT_TAGS}
    return {**kept, **own}
