"""Says which of a source's streams the output has no place for, one note for each."""

from collections.abc import Collection
from fractions import Fraction
from pathlib import Path

from av.container import InputContainer

from seedvr2_core.video.carry.streams import stream_name
from seedvr2_core.video.carry.timecode import given_timecode, timecode_of
from seedvr2_core.video.headers.read import read_headers
from seedvr2_core.video.info import StreamInfo, VideoInfo

_TIMECODE = "tmcd"
_DATA_NAMES = {
    _TIMECODE: "timecode",
    "mebx": "timed metadata",
    "gpmd": "GoPro telemetry",
    "camm": "camera motion",
    "rtp ": "hints for streaming",
}
"""Sample entries of mp4 and QuickTime -> what such a track holds."""


def unsaid_losses(
    path: Path, source: InputContainer, info: VideoInfo, kept: Collection[int] = ()
) -> list[str]:
    """Notes about the streams that are neither sound nor text.

    An mp4 keeps the names of its chapters in a track as well, and QuickTime its time code. Both
    travel with the container, so nothing is said about these.

    Args:
        path: the source.
        source: the same, open.
        info: of the source.
        kept: streams that the output has.

    Raises:
        FileReadError: the machine failed to read the file.
    """
    said = ("audio", "subtitle")
    left = [s for s in info.streams if s.kind not in said and s.index not in kept]
    notes = _uncounted(source, info)
    if not left:
        return notes
    headers = read_headers(path, source)
    chapters = headers.chapter_ids() if source.chapters() else set()
    for stream in left:
        id_ = source.streams[stream.index].id if stream.index < len(source.streams) else -1
        if stream.kind == "data" and id_ in chapters:
            continue
        entry = headers.by_id[id_].entry if id_ in headers.by_id else ""
        if entry == _TIMECODE:
            continue
        notes.append(f"{_name(stream, entry)} is not carried over")
    return notes


def _uncounted(source: InputContainer, info: VideoInfo) -> list[str]:
    """A note about a time code that the output cannot have."""
    text = given_timecode(source, info)
    if not text or timecode_of(source, info):
        return []
    rate = f"{float(Fraction(*info.nominal_rate)):.5g}"
    return [f"the time code {text} is not carried over: none counts {rate} frames a second"]


def _name(stream: StreamInfo, entry: str) -> str:
    """As other notes call it; a stream without a codec by what it holds."""
    if stream.codec != "unknown" or entry not in _DATA_NAMES:
        return stream_name(stream)
    return f"{stream.kind} stream {stream.index} ({_DATA_NAMES[entry]})"
