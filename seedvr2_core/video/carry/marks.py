"""What a stream is marked as: the one that plays by itself, for whom it is, what it holds."""

from av.stream import Disposition, Stream

_WORDS = {
    Disposition.default: "plays by itself",
    Disposition.dub: "is a dub",
    Disposition.original: "is in the original language",
    Disposition.comment: "is a commentary",
    Disposition.lyrics: "holds lyrics",
    Disposition.karaoke: "is for karaoke",
    Disposition.forced: "is shown in any case",
    Disposition.hearing_impaired: "is for people who hear badly",
    Disposition.visual_impaired: "is for people who see badly",
    Disposition.clean_effects: "is without voices",
    Disposition.captions: "holds captions",
    Disposition.descriptions: "holds descriptions",
}
"""Marks of sound and text, and what notes say of them. Others concern pictures."""
_OF_ALL = Disposition.default
_SPOKEN = (
    Disposition.dub
    | Disposition.comment
    | Disposition.forced
    | Disposition.hearing_impaired
    | Disposition.visual_impaired
    | Disposition.descriptions
)
_HELD = {
    "matroska": _OF_ALL | _SPOKEN | Disposition.original,
    "mp4": _OF_ALL | _SPOKEN | Disposition.captions,
    "mov": _OF_ALL,
    "webm": _OF_ALL | Disposition.forced,
}
"""Muxer -> the marks that libav 8 writes into such a file and finds there again (tried)."""


def copy_marks(template: Stream, out: Stream, muxer: str) -> str:
    """Mark a stream of the output as the source's is; returns the marks that are lost, in words.

    Args:
        template: stream of the source.
        out: the output's, not written yet.
        muxer: FFmpeg's name of what writes the output.

    Returns:
        "is a dub, holds lyrics"; "" if nothing is lost.
    """
    held = _HELD[muxer]
    marks = [mark for mark in _WORDS if mark in template.disposition]
    out.disposition = Disposition(sum(mark & held for mark in marks))
    return ", ".join(_WORDS[mark] for mark in marks if mark not in held)
