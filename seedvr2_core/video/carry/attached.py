"""What lies beside the sound and text of a source: fonts and other files, cover pictures, data."""

from collections.abc import Iterator
from pathlib import Path

from av.container import InputContainer, OutputContainer
from av.stream import AttachmentStream, Stream

from seedvr2_core.video._container import demux_all, is_cover, open_source
from seedvr2_core.video.headers.read import read_headers
from seedvr2_core.video.info import StreamInfo, VideoInfo
from seedvr2_core.video.output.formats import ContainerSpec

_COVERS = {"mjpeg": ("cover.jpg", "image/jpeg"), "png": ("cover.png", "image/png")}
"""Codec of a cover picture -> what Matroska calls it as an attachment."""
_ANY_TYPE = "application/octet-stream"


def attach_all(
    output: OutputContainer, path: Path, source: InputContainer, info: VideoInfo
) -> frozenset[int]:
    """Attach everything that can be to an output that is not written yet.

    Args:
        output: takes attachments.
        path: the source.
        source: the same, open.
        info: of the source.

    Returns:
        Indices of the source's streams that were attached.

    Raises:
        FileReadError: the machine failed to read the file.
    """
    attached: set[int] = set()
    for stream, name, kind, content in _attachments(path, source, info):
        output.add_attachment(name, kind, content)
        attached.add(stream.index)
    return frozenset(attached)


def _attachments(
    path: Path, source: InputContainer, info: VideoInfo
) -> Iterator[tuple[Stream, str, str, bytes]]:
    """(stream, file name, media type, content) of each."""
    known = [s for s in info.streams if s.index < len(source.streams)]
    for told in known:
        stream = source.streams[told.index]
        if isinstance(stream, AttachmentStream):
            name = stream.name or f"attachment {told.index}"
            yield stream, name, stream.mimetype or _ANY_TYPE, stream.data
        elif told.codec in _COVERS and is_cover(stream):
            content = _only_packet(path, told.index)
            if content:
                yield (stream, *_COVERS[told.codec], content)


def _only_packet(path: Path, index: int) -> bytes:
    """The bytes of a cover picture."""
    with open_source(path) as own:
        packets = demux_all(own, own.streams[index])
        return next((bytes(packet) for packet in packets if packet.size), b"")


def streams_beside(
    path: Path, source: InputContainer, info: VideoInfo, container: ContainerSpec
) -> list[StreamInfo]:
    """The covers and tracks of data that go into an output as they are; `losses` names the rest.

    Args:
        path: the source.
        source: the same, open.
        info: of the source.
        container: of the output.

    Raises:
        FileReadError: the machine failed to read the file.
    """
    known = [
        stream
        for stream in info.streams
        if stream.num_packets and stream.index < len(source.streams)
    ]
    covers = [
        stream
        for stream in known
        if stream.codec in container.covers and is_cover(source.streams[stream.index])
    ]
    if not container.data or not any(stream.kind == "data" for stream in known):
        return covers
    tracks = read_headers(path, source).by_id
    return covers + [
        stream
        for stream in known
        if stream.kind == "data"
        and (track := tracks.get(source.streams[stream.index].id)) is not None
        and track.entry in container.data
    ]
