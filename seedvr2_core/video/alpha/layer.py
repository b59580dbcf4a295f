"""Alpha that HEVC has in a layer of its own, beside the pictures (Apple's "HEVC with alpha").

The decoder gives it as a fourth plane where it can. Where it cannot, it says nothing and gives the
pictures alone, so whether there is such a layer is read here (`headers/layers.py`).
"""

from dataclasses import replace
from pathlib import Path

from seedvr2_core.files.reading import OnBytes
from seedvr2_core.video._container import open_source, video_of
from seedvr2_core.video.alpha.facts import AlphaFacts
from seedvr2_core.video.headers.layers import has_alpha_layer
from seedvr2_core.video.headers.read import read_headers
from seedvr2_core.video.info import VideoInfo

_LOOKED_AT = 2**20
"""Bytes of the first packet: messages stand before the picture."""


def with_alpha_layer(path: Path, info: VideoInfo, on_bytes: OnBytes) -> VideoInfo:
    """Note alpha that nobody reads: of HEVC whose pictures come without any.

    Args:
        path: the video.
        info: what else is known of it; its pictures have no alpha.
        on_bytes: called before every read.

    Raises:
        FileReadError: the machine failed to read it.
    """
    if info.codec != "hevc":
        return info
    with open_source(path, on_bytes=on_bytes) as container:
        stream = video_of(container, path, info.stream_index)
        header = stream.codec_context.extradata or b""
        record = read_headers(path, container).of(container, stream).layers
        packet = next((packet for packet in container.demux(stream) if packet.size), None)
        first = b"" if packet is None else bytes(packet)[:_LOOKED_AT]
    if not has_alpha_layer(header, first, record):
        return info
    return replace(info, alpha=AlphaFacts(unread=True))
