"""Which of a source's streams are carried that are neither sound nor text: covers, and data.

Only what the container takes as it is; `losses` names the rest.
"""

from pathlib import Path

from av.container import InputContainer

from seedvr2_core.video._container import is_cover
from seedvr2_core.video.headers.read import read_headers
from seedvr2_core.video.info import StreamInfo, VideoInfo
from seedvr2_core.video.output.formats import ContainerSpec


def streams_beside(
    path: Path, source: InputContainer, info: VideoInfo, container: ContainerSpec
) -> list[StreamInfo]:
    """The covers and the tracks of data that go into an output as they are.

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
