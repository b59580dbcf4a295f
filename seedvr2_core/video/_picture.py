"""What a picture and its stream tell beyond the pixels: colour tags, shape, turns, losses."""

import struct
from fractions import Fraction

from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from seedvr2_core.video._color import ColorTags, bit_depth, has_alpha


def tags(context: VideoCodecContext) -> ColorTags:
    """Colour tags of a stream's header."""
    return ColorTags(
        range=context.color_range,
        matrix=context.colorspace,
        primaries=context.color_primaries,
        transfer=context.color_trc,
    )


def frame_tags(frame: VideoFrame) -> ColorTags:
    """Colour tags of a picture; they win over the header's."""
    return ColorTags(
        range=frame.color_range,
        matrix=frame.colorspace,
        primaries=frame.color_primaries,
        transfer=frame.color_trc,
    )


def sar(stream: VideoStream) -> tuple[int, int]:
    """Sample aspect ratio from container or codec; (1, 1) if unknown or absurd."""
    sar = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    if not sar or not Fraction(1, 16) <= sar <= 16:
        return 1, 1
    return sar.as_integer_ratio()


def rotation(frame: VideoFrame) -> tuple[int, tuple[str, ...]]:
    """Clockwise degrees (a multiple of 90) that make the picture upright, and warnings."""
    # FFmpeg's angle is counter-clockwise: how far the display matrix turns the coded picture.
    clockwise = -frame.rotation % 360
    turns = round(clockwise / 90) % 4 * 90
    warnings: list[str] = []
    if clockwise % 90:
        warnings.append(f"a rotation of {clockwise} degrees was taken as {turns}")
    if _is_mirrored(frame):
        warnings.append("the display matrix mirrors the picture; that is not applied")
    return turns, tuple(warnings)


def _is_mirrored(frame: VideoFrame) -> bool:
    """Whether the display matrix flips the picture (negative determinant)."""
    for entry in frame.side_data:
        if getattr(getattr(entry, "type", None), "name", "") == "DISPLAYMATRIX":
            a, b, _, c, d, *_ = struct.unpack("=9i", bytes(entry))  # type: ignore[arg-type]
            return a * d - b * c < 0
    return False


def picture_warnings(frame: VideoFrame, stream: VideoStream) -> tuple[str, ...]:
    """What is lost or doubtful about the pictures."""
    warnings: list[str] = []
    name = frame.format.name
    if frame.interlaced_frame:
        warnings.append("the video is interlaced; it is restored as it is, not deinterlaced")
    if has_alpha(name) or stream.metadata.get("alpha_mode") == "1":
        warnings.append("the video has transparency (alpha), which is dropped")
    if bit_depth(name) > 8:
        warnings.append(f"the video has {bit_depth(name)} bits a sample; it is restored as 8 bits")
    return tuple(warnings)
