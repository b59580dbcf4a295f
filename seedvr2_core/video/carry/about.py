"""Titles and chapters of a source, for the output."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from av.container import InputContainer, OutputContainer
from av.stream import AttachmentStream, Disposition, Stream

from seedvr2_core.video._container import open_source
from seedvr2_core.video.carry.timecode import timecode_of, write_timecode
from seedvr2_core.video.carry.way import CarryWay, Cut
from seedvr2_core.video.info import VideoInfo

if TYPE_CHECKING:
    from av.container.core import Chapter

_TECHNICAL = frozenset(
    {
        *("major_brand", "minor_version", "compatible_brands", "encoder", "duration", "software"),
        *("wmfsdkversion", "wmfsdkneeded", "deviceconformancetemplate", "isvbr"),
        *("company_name", "product_name", "product_version", "product_uid", "toolkit_version"),
        *("uid", "generation_uid", "application_platform", "operational_pattern_ul"),
        *("modification_date", "material_package_umid"),
        *("variant_bitrate", "timecode", "creation_tool", "writing_application", "writing_library"),
        *("metadatacreator", "hasvideo", "hasaudio", "hasmetadata", "hascuepoints", "canseektoend"),
        *("haskeyframes", "videosize", "audiosize", "datasize", "lasttimestamp"),
        *("lastkeyframetimestamp", "lastkeyframelocation", "filesize", "videodatarate"),
        *("audiodatarate", "framerate", "width", "height", "totalduration", "totaldatarate"),
        *("videocodecid", "audiocodecid", "audiosamplerate", "audiosamplesize", "stereo"),
    }
)
"""Tags about the source's file itself, which hold for no other."""
LANGUAGE, TITLE, HANDLER = "language", "title", "handler_name"
"""Labels of streams."""
_NONE = "und"
"""The language of a stream that has none."""
_MOST_TAG = 2**16
"""Characters of a tag; longer ones are no words about a film."""
_COMMENT = "comment"


class AttachedFile(NamedTuple):
    """A file that lies in another one."""

    name: str
    kind: str
    """Its media type."""
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What an output should say of what it shows."""

    tags: Mapping[str, str] = field(default_factory=dict)
    languages: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    """Index of a stream -> what notes call it, and its language."""
    marks: Mapping[int, tuple[str, Disposition]] = field(default_factory=dict)
    """Index of a stream -> what notes call it, and its marks."""
    chapters: tuple[tuple[float, str], ...] = ()
    """When each begins, in seconds, and its title."""
    files: frozenset[AttachedFile] = frozenset()
    """What is attached to it."""
    timecode: str = ""
    notes: tuple[str, ...] = ()
    """What it cannot say."""


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


def write_about(
    output: OutputContainer,
    source: InputContainer,
    info: VideoInfo,
    way: CarryWay,
    own: Mapping[str, str],
    *,
    names: Mapping[int, str],
    chapters: bool,
) -> "About":
    """Give an output, before it is written, the source's titles, time code and chapters.

    Args:
        output: with its streams; the first one is the video, if it has one.
        source: open.
        info: of the source, or of the part of it that is made.
        way: into which container.
        own: our own tags.
        names: of its streams beside the video, by their index in it, for notes.
        chapters: whether it gets chapters.

    Returns:
        What it should say when it is read again.
    """
    found = shifted_chapters(source, Fraction(*info.zero_offset), way.cut) if chapters else []
    if found:
        output.set_chapters(found)
    tags, notes, code = kept_metadata(source, own), tuple[str, ...](), ""
    output.metadata.update(tags)
    marks = {index: (name, output.streams[index].disposition) for index, name in names.items()}
    covers = Disposition.attached_pic  # these have another place in the finished file
    marks = {index: told for index, told in marks.items() if not told[1] & covers}
    if output.streams.video:
        video = output.streams.video[0]
        copy_labels(source.streams[info.stream_index], video, (LANGUAGE, TITLE))
        code = timecode_of(source, info)
        kind, chaptered = way.container, bool(found)
        notes = write_timecode(output, video, code, info, kind, chapters=chaptered)
        code = "" if notes else code
        names = {**names, video.index: "the video"}
    return About(
        tags=tags,
        languages={
            stream.index: (names[stream.index], stream.metadata[LANGUAGE])
            for stream in output.streams
            if stream.index in names and stream.metadata.get(LANGUAGE, _NONE) != _NONE
        },
        marks=marks,
        chapters=times_of_chapters(found),
        files=frozenset(attached_files(output)),
        timecode=code,
        notes=notes,
    )


def copy_labels(template: Stream, out: Stream, keys: Sequence[str]) -> None:
    """What a stream says of itself in words."""
    for key in keys:
        if key in template.metadata:
            out.metadata[key] = template.metadata[key]


def times_of_chapters(chapters: "Sequence[Chapter]") -> tuple[tuple[float, str], ...]:
    """When each begins, in seconds, and its title."""
    return tuple(
        (float(chapter["start"] * chapter["time_base"]), chapter["metadata"].get("title", ""))
        for chapter in chapters
        if chapter["time_base"] is not None
    )


def attached_files(container: InputContainer | OutputContainer) -> Iterator[AttachedFile]:
    """What is attached to a file that is written or read, but for covers."""
    for stream in container.streams:
        if isinstance(stream, AttachmentStream):
            digest = hashlib.sha256(stream.data).hexdigest()
            yield AttachedFile(stream.name or "", stream.mimetype or "", digest)


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
    """The source's tags about what it shows, and our own; of a comment in both, theirs is first."""
    kept = {
        key: value
        for key, value in source.metadata.items()
        if key.lower() not in _TECHNICAL and value and len(value) <= _MOST_TAG
    }
    theirs = next((kept.pop(key) for key in list(kept) if key.lower() == _COMMENT), "")
    if theirs and _COMMENT in own:
        return {**kept, **own, _COMMENT: f"{theirs}; {own[_COMMENT]}"}
    return {**kept, **({_COMMENT: theirs} if theirs else {}), **own}
