"""The check of what a finished file says beside its packets: marks, chapters, tags and the like.

Containers have no place for some of it, which is no fault: notes name what is lost. What the
container is known to hold must be there, else the job fails, as with everything else that differs.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from av.container import InputContainer
from av.stream import Disposition

from seedvr2_core.errors import SegmentError
from seedvr2_core.files.reading import OnBytes
from seedvr2_core.video._segments import open_segment
from seedvr2_core.video.carry.about import About, attached_files, times_of_chapters
from seedvr2_core.video.carry.way import CarryWay
from seedvr2_core.video.output.gate import wrong

_TOLD_TAGS, _MOST_KEY = 5, 40
"""So many are named in a note, with so many characters each."""
_USUAL_TAGS = frozenset({"title", "artist", "album", "comment", "copyright"})
"""That every container has a place for."""
_USUAL_LANGUAGE = re.compile("[a-z]{3}")
_OF_OLD_LANGUAGES = frozenset({"mov"})
"""Containers that know no other languages than the first Macintosh did."""
_MOST_TITLE = 255
"""Bytes of a chapter's title in mp4."""
_CHAPTER_SECONDS = 0.002
"""By how much the beginning of a chapter may be rounded."""
_BY_ITSELF = Disposition.default | Disposition.descriptions
"""Marks that muxers add: the first track of its kind plays by itself, and mp4 says of comments for
people who see badly that they are descriptions."""


def check_said(output: Path, about: About, way: CarryWay, *, on_bytes: OnBytes) -> list[str]:
    """Compare what a file says with what it should say.

    Args:
        output: a finished file; folders of pictures are not looked at.
        about: what it should say.
        way: how it was written.
        on_bytes: called before every read of it.

    Returns:
        Notes about what it has no place for.

    Raises:
        SegmentError: something differs that the container does hold; the message names it.
        FileReadError: the machine failed to read it.
    """
    if way.container.pictures or way.container.single:
        return []
    demuxer = way.container.demuxer
    # The titles of the chapters of an mp4 lie among its media, which "index_only" would not read.
    with open_segment(output, demuxer=demuxer, on_bytes=on_bytes) as written:
        _check_marks(output, written, about)
        _check_chapters(output, written, about)
        _check_files(output, written, about)
        _check_timecode(output, written, about)
        found = {key.lower(): value for key, value in written.metadata.items()}
        languages = {stream.index: stream.language for stream in written.streams}
    _check_tags(output, found, about)
    return [
        *_lost_languages(output, languages, about, way),
        *_lost_tags(sorted(key for key in about.tags if key.lower() not in found), way),
    ]


def _check_marks(path: Path, written: InputContainer, about: About) -> None:
    for index, (name, wanted) in about.marks.items():
        got = written.streams[index].disposition
        if got & wanted != wanted or got & ~(wanted | _BY_ITSELF):
            raise wrong(path, f"marks of {name}", _names(got), _names(wanted))


def _names(marks: Disposition) -> str:
    return ", ".join(str(mark.name) for mark in marks) or "none"


def _check_chapters(path: Path, written: InputContainer, about: About) -> None:
    """Chapters as all programs write them; others are not compared, as libav puts them in order."""
    wanted = about.chapters
    begins = [start for start, _ in wanted]
    titles = [title.encode() for _, title in wanted]
    is_usual = (
        begins == sorted(set(begins))
        and min(begins, default=0.0) >= 0
        and all(title and title.decode().isprintable() for title in titles)
        and max(map(len, titles), default=0) <= _MOST_TITLE
    )
    if not is_usual:
        return
    got = times_of_chapters(written.chapters())
    if len(got) != len(wanted):
        raise wrong(path, "chapters", len(got), len(wanted))
    for number, (one, other) in enumerate(zip(got, wanted, strict=True), 1):
        if abs(one[0] - other[0]) > _CHAPTER_SECONDS:
            raise wrong(path, f"start of chapter {number}", f"{one[0]:.3f} s", f"{other[0]:.3f} s")
        if one[1] != other[1]:
            raise wrong(path, f"title of chapter {number}", repr(one[1]), repr(other[1]))


def _check_files(path: Path, written: InputContainer, about: About) -> None:
    """Pictures that are attached are covers to who reads the file, so these may be more."""
    got = set(attached_files(written))
    wanted = {file for file in about.files if not file.kind.startswith("image/")}
    if got != wanted:
        named = (sorted(file.name for file in files) for files in (got, wanted))
        if (got_names := next(named)) != (wanted_names := next(named)):
            raise wrong(path, "attachments", got_names, wanted_names)
        changed = sorted(file.name for file in got ^ wanted)
        raise SegmentError(f"{path.name}: the attachment {changed[0]} is not that of the source")
    covers = sum(stream.disposition & Disposition.attached_pic != 0 for stream in written.streams)
    if covers < (pictures := len(about.files) - len(wanted)):
        raise wrong(path, "cover pictures", covers, pictures)


def _check_timecode(path: Path, written: InputContainer, about: About) -> None:
    told = [written.metadata, *(stream.metadata for stream in written.streams)]
    codes = {value for one in told for key, value in one.items() if key.lower() == "timecode"}
    if about.timecode and codes != {about.timecode}:
        raise wrong(path, "time code", ", ".join(sorted(codes)) or "none", about.timecode)


def _check_tags(path: Path, found: Mapping[str, str], about: About) -> None:
    for key, value in about.tags.items():
        name = key.lower()
        if name in _USUAL_TAGS and value.isprintable() and found.get(name) != value:
            raise wrong(path, f"tag {name}", repr(found.get(name, "")), repr(value))


def _lost_languages(
    path: Path, languages: Mapping[int, str | None], about: About, way: CarryWay
) -> Iterator[str]:
    for index, (name, language) in about.languages.items():
        if languages.get(index) == language:
            continue
        if _USUAL_LANGUAGE.fullmatch(language) and way.name not in _OF_OLD_LANGUAGES:
            raise wrong(path, f"language of {name}", languages.get(index), language)
        yield f"{name} is in the language {_short(language)}: {way.name} cannot say so"


def _lost_tags(lost: Sequence[str], way: CarryWay) -> list[str]:
    """A note about tags that are lost."""
    if not lost:
        return []
    told = ", ".join(_short(key) for key in lost[:_TOLD_TAGS])
    more = f" and {len(lost) - _TOLD_TAGS} more" if len(lost) > _TOLD_TAGS else ""
    place = f"{way.name} has no place for"
    if len(lost) == 1:
        return [f"the tag {told} of the source is not carried over: {place} it"]
    return [f"the tags {told}{more} of the source are not carried over: {place} them"]


def _short(key: str) -> str:
    shown = "".join(letter if letter.isprintable() else "?" for letter in key)
    return shown if len(shown) <= _MOST_KEY else f"{shown[:_MOST_KEY]}..."
