"""What a picture and its stream tell beyond the pixels: colour tags, shape, turns."""

from dataclasses import dataclass
from fractions import Fraction

from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from seedvr2_core.video.headers.facts import Edges
from seedvr2_core.video.picture.beside import side_data
from seedvr2_core.video.picture.color import ColorTags
from seedvr2_core.video.picture.orientation import orientation_of


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureShape:
    """Size, place and shape of a picture; the fields of `VideoInfo` that have the same names."""

    width: int
    height: int
    rotation: int
    mirrored: bool
    sar: tuple[int, int]
    codec_sar: tuple[int, int]
    crop: tuple[int, int, int, int]
    warnings: tuple[str, ...]


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


def plausible_sar(sar: object) -> Fraction | None:
    """A sample aspect ratio, None if it is unknown or absurd."""
    if not isinstance(sar, Fraction) or not Fraction(1, 16) <= sar <= 16:
        return None
    return sar


def shape_of(first: VideoFrame, stream: VideoStream, edges: Edges) -> PictureShape:
    """The shape of a stream's pictures.

    Args:
        first: its first picture, from `decode_pictures`.
        stream: that has decoded it.
        edges: that the container hides.
    """
    beside = side_data(first)
    orientation = orientation_of(beside.get("DISPLAYMATRIX"))
    edges = edges.within(first.width, first.height)
    crop = (edges.left, edges.top, edges.right, edges.bottom)
    own = plausible_sar(first.opaque)
    sar = plausible_sar(stream.sample_aspect_ratio) or own or Fraction(1)
    told = "left {}, top {}, right {}, bottom {}".format(*crop)
    cropped = f"the container hides pixels at the edges ({told}); they are cut off"
    return PictureShape(
        width=first.width - edges.left - edges.right,
        height=first.height - edges.top - edges.bottom,
        rotation=orientation.rotation,
        mirrored=orientation.mirrored,
        sar=sar.as_integer_ratio(),
        codec_sar=own.as_integer_ratio() if own else (0, 1),
        crop=crop,
        warnings=(*((cropped,) if any(crop) else ()), *orientation.warnings),
    )
