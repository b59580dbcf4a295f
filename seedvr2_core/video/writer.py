"""Encodes one segment at final settings, so that segments join without encoding again."""

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av.error
import numpy as np
from av.container import InputContainer
from av.filter import Graph
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, VideoReformatter
from av.video.stream import VideoStream

from seedvr2_core.errors import SegmentError
from seedvr2_core.frames import Frame
from seedvr2_core.video._container import UNSEEN, decoder_for
from seedvr2_core.video._segments import open_segment
from seedvr2_core.video.alpha.planes import levels_of, to_bits, write_plane
from seedvr2_core.video.info import EncoderSettings
from seedvr2_core.video.output.encoded import EncodedFile
from seedvr2_core.video.output.encoders import add_encoder, spec_of
from seedvr2_core.video.output.formats import CODECS, counts_frames, depth_of, holds_alpha
from seedvr2_core.video.output.hdr import add_hdr_boxes
from seedvr2_core.video.output.segment import coded_as
from seedvr2_core.video.picture.color import FROM_RGB, sws_colorspace, sws_range
from seedvr2_core.video.picture.levels import rgb_planes, shifted_bits, to_shifted
from seedvr2_core.video.picture.light import LINEAR, light_of

_RGB_FORMATS = {np.dtype(np.uint8): "rgb24", np.dtype(np.uint16): "gbrp16le"}
"""Of 16 bits swscale makes the same from planes as from rgb48le, in half the time."""
_RGBA_FORMATS = {np.dtype(np.uint8): "rgba", np.dtype(np.uint16): "rgba64le"}


def _nobody(num_packets: int) -> None:
    """Ignore the count: the default of `on_packet`."""


class SegmentWriter(EncodedFile):
    """Context manager that encodes frames into one closed-GOP segment.

    The same frames and settings give the same bytes.

    Args:
        path: as `EncodedFile` has it.
        settings: fixed for the job.
        first_pts: pts of the segment's first frame, subtracted from all.
        on_packet: called with the number of frames that have left the encoder, for each of them;
            the last ones leave it when the block ends.
    """

    def __init__(
        self,
        path: Path,
        settings: EncoderSettings,
        first_pts: int,
        *,
        on_packet: Callable[[int], None] = _nobody,
    ) -> None:
        self._settings, self._spec = settings, spec_of(settings)
        self._first_pts = first_pts
        self._on_packet = on_packet
        self._num_frames = self._num_packets = 0
        self._counts = counts_frames(settings.codec)
        self._last_pts = first_pts - 1
        self._reorder = _Reorder.of(settings)
        self._time_base = Fraction(*coded_as(settings).time_base)
        self._reformatter = VideoReformatter()
        self._canvases: dict[str, VideoFrame] = {}
        self._holds_alpha = settings.codec in CODECS and holds_alpha(settings)
        self._shifted_bits = shifted_bits(settings.pix_fmt, full_range=settings.color.full_range)
        super().__init__(path, CODECS[settings.codec].segments)
        try:
            self._encoding = add_encoder(self._container, coded_as(settings))
        except Exception:
            self._discard()
            raise

    def write(self, frame: Frame) -> None:
        """Encode the next frame.

        Args:
            frame: (height, width, 3) of the settings, uint8 or uint16, pts rising; with alpha of
                the same size and type where the output holds that.

        Raises:
            SegmentError: size, type or time is not what the segment needs, or the encoder failed.
        """
        picture = self._to_yuv(frame)
        if frame.pts <= self._last_pts:
            raise SegmentError(
                f"frame {frame.index} has pts {frame.pts} after {self._last_pts}; times must rise"
            )
        self._last_pts = frame.pts
        picture.pts = self._num_frames if self._counts else frame.pts - self._first_pts
        self._num_frames += 1
        if self._reorder is not None:
            self._reorder.shown(picture.pts)
        picture.time_base = self._time_base
        self._encode(picture)

    def _to_yuv(self, frame: Frame) -> VideoFrame:
        settings = self._settings
        rgb = frame.rgb
        pix_fmt = _RGB_FORMATS.get(rgb.dtype)
        if rgb.shape != (settings.height, settings.width, 3) or pix_fmt is None:
            raise SegmentError(
                f"frame {frame.index} is {rgb.dtype} {rgb.shape}, expected uint8 or uint16 "
                f"({settings.height}, {settings.width}, 3)"
            )
        alpha = self._checked_alpha(frame) if self._holds_alpha else None
        codec = CODECS[settings.codec]
        if codec.linear:
            return _as_light(rgb, alpha, settings)
        if codec.is_rgb:
            if alpha is not None:
                rgb, pix_fmt = np.dstack([rgb, alpha]), _RGBA_FORMATS[rgb.dtype]
            return self._tagged(_as_rgb(rgb, pix_fmt, settings.pix_fmt))
        if pix_fmt not in self._canvases:
            place = "center" if codec.centred else "left"
            self._canvases[pix_fmt] = _sited_canvas(settings, pix_fmt, place)
        canvas = self._canvases[pix_fmt]
        if rgb.dtype == np.uint8:
            canvas.to_ndarray()[:] = rgb
        else:
            for channel, plane_HW in enumerate(rgb_planes(canvas)):
                to_shifted(rgb[:, :, channel], self._shifted_bits, plane_HW)
        picture = self._reformatter.reformat(
            canvas,
            format=settings.pix_fmt.replace("yuva", "yuv"),
            src_color_range=ColorRange.JPEG,
            dst_colorspace=sws_colorspace(settings.color.matrix),
            dst_color_range=sws_range(settings.color.full_range),
            interpolation=FROM_RGB,
            threads=1,
        )
        if alpha is not None:
            picture = self._with_alpha(picture, alpha)
        elif wanted := self._spec.takes.get(settings.pix_fmt):
            picture = picture.reformat(format=wanted)  # the same samples in another order
        return self._tagged(picture)

    def _checked_alpha(self, frame: Frame) -> np.ndarray:
        """The frame's alpha, which the output holds."""
        alpha, (height, width) = frame.alpha, frame.rgb.shape[:2]
        if alpha is None or alpha.shape != (height, width) or alpha.dtype != frame.rgb.dtype:
            got = "none" if alpha is None else f"{alpha.dtype} {alpha.shape}"
            raise SegmentError(
                f"the alpha of frame {frame.index} is {got}, expected {frame.rgb.dtype} "
                f"({height}, {width})"
            )
        return alpha

    def _with_alpha(self, picture: VideoFrame, alpha: np.ndarray) -> VideoFrame:
        """A Y'CbCr picture with one more plane, which no colour conversion has touched."""
        whole = VideoFrame(picture.width, picture.height, self._settings.pix_fmt)
        added = to_bits(alpha, depth_of(self._settings))
        colours = (levels_of(plane, added.dtype) for plane in picture.planes)
        for plane, levels in zip(whole.planes, (*colours, added), strict=True):
            write_plane(plane, levels)
        whole.colorspace, whole.color_range = picture.colorspace, picture.color_range
        return whole

    def _tagged(self, picture: VideoFrame) -> VideoFrame:
        """The picture with the colour tags, where the encoder takes them from it."""
        if self._spec.reads_tags:
            picture.color_primaries = self._settings.color.primaries
            picture.color_trc = self._settings.color.transfer
        return picture

    def _packets(self, picture: VideoFrame | None) -> Iterator[Packet]:
        for packet in super()._packets(picture):
            if self._reorder is not None:
                packet.dts = self._reorder.decode_time()
            yield packet
            self._num_packets += 1
            self._on_packet(self._num_packets)

    def _finish(self) -> None:
        if self._last_pts < self._first_pts:
            raise SegmentError(f"{self._path.name}: a segment without frames")
        super()._finish()
        if self._settings.hdr is not None:
            add_hdr_boxes(self._path, self._settings.hdr)


class _Reorder:
    """Decode times for an encoder whose own cannot be used: those of the pictures, some later.

    Packet i is decoded at the time of picture i - depth, and the first ones lie before the first
    picture, as `join.py` has it for the whole track.
    """

    def __init__(self, depth: int, step: int) -> None:
        self._depth, self._step = depth, step
        self._shown: list[int] = []
        self._num_packets = 0

    @classmethod
    def of(cls, settings: EncoderSettings) -> "_Reorder | None":
        """What a codec needs; None where its encoder's own times are used."""
        depth = spec_of(settings).reorder
        if depth is None:
            return None
        step = 1 / (Fraction(*settings.rate) * Fraction(*settings.time_base))
        return cls(depth, max(1, round(step)))

    def shown(self, pts: int) -> None:
        """Note the time of the next picture."""
        self._shown.append(pts)

    def decode_time(self) -> int:
        """Of the next packet."""
        position, self._num_packets = self._num_packets - self._depth, self._num_packets + 1
        return self._shown[position] if position >= 0 else self._shown[0] + position * self._step


def _as_rgb(rgb: np.ndarray, pix_fmt: str, wanted: str) -> VideoFrame:
    """A picture of its own with these samples; only their byte order may change."""
    picture = VideoFrame.from_ndarray(rgb, format=pix_fmt)
    return picture if wanted == pix_fmt else picture.reformat(format=wanted)


def _as_light(rgb: np.ndarray, alpha: np.ndarray | None, settings: EncoderSettings) -> VideoFrame:
    """A picture of floats that hold light, multiplied by alpha where there is some."""
    channels = [light_of(rgb[:, :, channel], settings.color.transfer) for channel in (1, 2, 0)]
    if alpha is not None:
        shown = light_of(alpha, LINEAR)
        channels = [*(light * shown for light in channels), shown]
    picture = VideoFrame(settings.width, settings.height, settings.pix_fmt)
    for plane, light in zip(picture.planes, channels, strict=True):  # green, blue, red
        # libav cuts off what a half has no bits for, so it is rounded here.
        write_plane(plane, light.astype(np.float16).astype(np.float32))
    return picture


def _sited_canvas(settings: EncoderSettings, pix_fmt: str, place: str) -> VideoFrame:
    """A picture to paint on whose 4:2:0 form has its chroma where players look for it.

    Untagged pictures get chroma centred between two columns, as JPEG means it. H.264 means "on the
    left one": half a pixel of colour shift. PyAV cannot tag a frame's chroma location; a filter
    can, and the tag then holds for what swscale makes of the frame.
    """
    width, height = settings.width, settings.height
    graph = Graph()
    source = graph.add_buffer(
        width=width, height=height, format=VideoFormat(pix_fmt), time_base=Fraction(1)
    )
    tag = graph.add("setparams", f"chroma_location={place}")
    sink = graph.add("buffersink")
    source.link_to(tag)
    tag.link_to(sink)
    graph.configure()
    blank = VideoFrame(width, height, pix_fmt)
    blank.pts = 0
    graph.push(blank)
    canvas = graph.pull()
    assert isinstance(canvas, VideoFrame)
    canvas.make_writable()
    return canvas


def count_frames(
    path: Path, *, alone: bool = False, on_frame: Callable[[int], None] | None = None
) -> int:
    """Frames that decode from a segment or joined file.

    Args:
        path: the file.
        alone: nothing else needs the cores, so all of them decode.
        on_frame: told after each frame how many there are so far.

    Raises:
        SegmentError: it cannot be opened, or a packet does not decode.
    """
    try:
        with open_segment(path) as container:
            stream = container.streams.video[0]
            # An encoder needs the cores. Without smoothing of block edges and without threads a
            # 720p frame takes 4.1 ms of CPU instead of 5.7.
            stream.thread_type = "AUTO" if alone else "NONE"
            stream.codec_context.options = dict(UNSEEN)
            found = 0
            for found, _ in enumerate(_decoded(container, stream), start=1):
                if on_frame is not None:
                    on_frame(found)
            return found
    except MemoryError:
        raise
    except (av.error.FFmpegError, IndexError) as error:
        raise SegmentError(f"{path.name}: not a readable segment: {error}") from error


def _decoded(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """All pictures of a segment; what cannot be decoded is raised."""
    decoder: VideoCodecContext | None = None
    for packet in container.demux(stream):
        if decoder is None:
            decoder = decoder_for(stream, packet)
        yield from decoder.decode(packet)
