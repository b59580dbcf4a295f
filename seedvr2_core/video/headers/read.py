"""The headers of a source, read once, for whoever has it open."""

from dataclasses import dataclass
from pathlib import Path

from av.container import InputContainer
from av.stream import Stream
from av.video.stream import VideoStream

from seedvr2_core.errors import UnsupportedFormatError
from seedvr2_core.video.headers.boxes import read_tracks
from seedvr2_core.video.headers.elements import read_video_tracks
from seedvr2_core.video.headers.facts import TrackHeader
from seedvr2_core.video.headers.transport import read_programs
from seedvr2_core.video.picture.opening import is_archive

_DOLBY_VISION_TAGS = frozenset({"dvh1", "dvhe", "dav1", "dva1", "dvav"})
"""Sample entries whose pictures only Dolby Vision can show, unless a record says otherwise."""


@dataclass(frozen=True, slots=True)
class Headers:
    """What the headers of a source say about its streams."""

    by_id: dict[int, TrackHeader]
    videos: list[TrackHeader]
    """Where tracks can only be told by their order: those of video."""

    def of(self, container: InputContainer, stream: Stream) -> TrackHeader:
        """What they say about a stream; nothing where it is not known which it is."""
        if stream.id in self.by_id:
            return self.by_id[stream.id]
        order = [video.index for video in container.streams.video]
        index = order.index(stream.index) if stream.index in order else len(self.videos)
        return self.videos[index] if index < len(self.videos) else TrackHeader()

    def chapter_ids(self) -> set[int]:
        """Tracks whose text names chapters; these travel with the container."""
        return {id_ for track in self.by_id.values() for id_ in track.chapters}


def read_headers(path: Path, container: InputContainer) -> Headers:
    """Read what the media library does not tell.

    Args:
        path: the source.
        container: the same, open.

    Raises:
        FileReadError: the machine failed to read the file.
    """
    kind = container.format.name.partition(",")[0]
    # Pictures come as a QuickTime file that is nowhere.
    tracks = read_tracks(path) if kind == "mov" and not is_archive(path) else []
    if kind == "mpegts":
        tracks = read_programs(path)
    videos = read_video_tracks(path) if kind == "matroska" else []
    return Headers({track.id: track for track in tracks}, videos)


def refuse_dolby_vision(path: Path, container: InputContainer, stream: VideoStream) -> None:
    """Refuse pictures whose colours only a Dolby Vision decoder understands.

    Args:
        path: the source.
        container: the same, open.
        stream: the one to be restored.

    Raises:
        UnsupportedFormatError: profile 5, or another without a compatible base layer.
    """
    record = read_headers(path, container).of(container, stream).dolby_vision
    tag = stream.codec_context.codec_tag
    if record is not None and not record.compatibility:
        kind = f"Dolby Vision profile {record.profile}"
    elif record is None and tag in _DOLBY_VISION_TAGS:
        kind = f"Dolby Vision ({tag})"
    else:
        return
    raise UnsupportedFormatError(
        f"{path.name}: {kind} is not supported: its colours have no other form that could be "
        "shown; convert it to SDR BT.709 first"
    )
