"""Says which of a source's streams the output has no place for, one note for each."""

from collections.abc import Collection
from pathlib import Path

from av.container import InputContainer

from seedvr2_core.video.carry.streams import stream_name
from seedvr2_core.video.headers.read import read_headers
from seedvr2_core.video.info import StreamInfo, VideoInfo

_DATA_NAMES = {
    "tmcd": "timecode",
    "mebx": "timed metadata",
    "gpmd": "GoPro telemetry",
    "camm": "camera motion",
    "rtp ": "hints for streaming",
}
"""Sample entries of mp4 and QuickTime -> what such a track holds."""


def unsaid_losses(
    path: Path, source: InputContainer, info: VideoInfo, attached: Collection[int] = ()
) -> list[str]:
    """Notes about the streams that are neither sound nor text.

    An mp4 keeps the names of its chapters in a track as well. Chapters travel with the container,
    so nothing is said about that one.

    Args:
        path: the source.
        source: the same, open.
        info: of the source.
        attached: streams that are attachments of the output.

    Raises:
        FileReadError: the machine failed to read the file.
    """
    said = ("audio", "subtitle")
    left = [s for s in info.streams if s.kind not in said and s.index not in attached]
    if not left:
        return []
    headers = read_headers(path, source)
    chapters = headers.chapter_ids() if source.chapters() else set()
    notes: list[str] = []
    for stream in left:
        id_ = source.streams[stream.index].id if stream.index < len(source.streams) else -1
        if stream.kind == "data" and id_ in chapters:
            continue
        entry = headers.by_id[id_].entry if id_ in headers.by_id else ""
        notes.append(f"{_name(stream, entry)} is not carried over")
    return notes


def _name(stream: StreamInfo, entry: str) -> str:
    """As other notes call it; a stream without a codec by what it holds."""
    if stream.codec != "unknown" or entry not in _DATA_NAMES:
        return stream_name(stream)
    return f"{stream.kind} stream {stream.index} ({_DATA_NAMES[entry]})"
