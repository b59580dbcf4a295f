"""What the encoder of each codec is told.

Every segment of a job is encoded for itself and its packets are joined afterwards. So all segments
must have the same header, begin with a key frame and refer to no picture of another one (closed
groups of pictures); and the same frames must give the same bytes on every machine, so nothing may
depend on the number of its cores.
"""

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

import av
import av.error
from av.codec.context import CodecContext
from av.codec.context import Flags as CodecFlags
from av.container import OutputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from seedvr2_core.errors import InvalidRequestError, ResourceError, SegmentError
from seedvr2_core.video.foreign import libav_heard
from seedvr2_core.video.info import EncoderSettings
from seedvr2_core.video.output.formats import CODECS, NVENC, NVENC_CODECS
from seedvr2_core.video.output.hdr import svtav1_hdr, x265_hdr
from seedvr2_core.video.output.scales import (
    av1_crf,
    jpeg_quantiser,
    nvenc_cq,
    vp9_crf,
    webp_quality,
    x264_crf,
)
from seedvr2_core.video.picture.color import sws_range

_SVTAV1_PRESETS: Mapping[str, str] = {
    "ultrafast": "10",
    "superfast": "10",
    "veryfast": "9",
    "faster": "9",
    "fast": "8",
    "medium": "7",
    "slow": "6",
    "slower": "4",
    "veryslow": "3",
}
"""Its faster ones are for tests of tools, says SVT-AV1; one of them made pictures that nobody can
decode."""
_VP9_SPEEDS: Mapping[str, str] = {
    "ultrafast": "5",
    "superfast": "5",
    "veryfast": "5",
    "faster": "4",
    "fast": "3",
    "medium": "2",
    "slow": "1",
    "slower": "1",
    "veryslow": "0",
}
_NVENC_PRESETS: Mapping[str, str] = {
    "ultrafast": "p1",
    "superfast": "p1",
    "veryfast": "p2",
    "faster": "p3",
    "fast": "p4",
    "medium": "p5",
    "slow": "p6",
    "slower": "p7",
    "veryslow": "p7",
}
_TRACK_PIX_FMT = "rgb24"
"""Of a track that only is said to hold PNGs."""
_X265_FRAME_THREADS = 3
"""Pictures at once. x265's bytes depend on it, and on its pool of threads: 2 give others than 4 and
8, which give the same. So neither follows the machine's cores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSpec:
    """How libav encodes a codec."""

    name: str
    """Of the encoder."""
    options: Callable[[EncoderSettings], dict[str, str]]
    tag: str = ""
    """Of the samples in mp4; "" for libav's own choice."""
    full_chroma_tag: str = ""
    """The same where the colours have full resolution."""
    reads_tags: bool = False
    """It takes the colour tags from each picture."""
    all_keys: bool = False
    """Every picture stands for itself."""
    reorder: int | None = None
    """How many pictures a packet may come before its turn, where the encoder's decode times cannot
    be used as they are (x265's are wrong for a segment of one or two frames)."""
    takes: Mapping[str, str] = field(default_factory=dict)
    """Pixel formats that it knows in another order of bytes alone -> the one that it takes."""


def _params(values: Mapping[str, object]) -> str:
    return ":".join(f"{name}={value}" for name, value in values.items())


def _x264(settings: EncoderSettings) -> dict[str, str]:
    x264 = {"open-gop": 0, "stitchable": 1, "lookahead-threads": 1, "sliced-threads": 0}
    return {
        "preset": settings.preset,
        "crf": str(x264_crf(settings.crf)),
        "profile": "high",
        "x264-params": _params(x264),
    }


def _x265(settings: EncoderSettings) -> dict[str, str]:
    x265: dict[str, object] = {
        "log-level": "error",
        "info": 0,
        "open-gop": 0,
        "repeat-headers": 0,
        "frame-threads": _X265_FRAME_THREADS,
        "pools": settings.threads,
    }
    return {
        "preset": settings.preset,
        "crf": str(settings.crf),
        "x265-params": _params(x265 | x265_hdr(settings.hdr)),
    }


def _svtav1(settings: EncoderSettings) -> dict[str, str]:
    svtav1: dict[str, object] = {
        "irefresh-type": 2,
        "lp": 4,
        "chroma-sample-position": "left",  # where the writer puts it
    }
    return {
        "preset": _SVTAV1_PRESETS[settings.preset],
        "crf": str(av1_crf(settings.crf)),
        "svtav1-params": _params(svtav1 | svtav1_hdr(settings.hdr)),
    }


def _vp9(settings: EncoderSettings) -> dict[str, str]:
    """libvpx at constant quality; with alpha it has no pictures that are only referred to."""
    return {
        "crf": str(vp9_crf(settings.crf)),
        "b": "0",
        "deadline": "good",
        "cpu-used": _VP9_SPEEDS[settings.preset],
        "auto-alt-ref": "0" if settings.pix_fmt.startswith("yuva") else "1",
    }


def _nvenc(settings: EncoderSettings) -> dict[str, str]:
    """NVIDIA's encoder at constant quality, without pictures that are coded out of turn.

    Then decode times are the pictures' own, in segments of any length. Every group begins with a
    picture that nothing behind it looks past; lookahead is off, so no other one comes to be.
    """
    options = {"preset": _NVENC_PRESETS[settings.preset], "tune": "hq", "rc": "vbr", "b": "0"}
    options |= {"cq": str(nvenc_cq(settings.codec, settings.crf)), "bf": "0", "forced-idr": "1"}
    if settings.codec == "h264":
        options["profile"] = "high"
    if settings.codec == "hevc":
        options["profile"] = "main10" if "10" in settings.pix_fmt else "main"
    return options


def _prores(settings: EncoderSettings) -> dict[str, str]:
    full_chroma = "444" in settings.pix_fmt
    return {"profile": "4444" if full_chroma else "hq", "vendor": "apl0"}


def _dnxhr(settings: EncoderSettings) -> dict[str, str]:
    profiles = {"yuv422p": "dnxhr_hq", "yuv422p10le": "dnxhr_hqx", "yuv444p10le": "dnxhr_444"}
    return {"profile": profiles[settings.pix_fmt]}


def _ffv1(settings: EncoderSettings) -> dict[str, str]:
    return {"level": "3", "slices": "4", "slicecrc": "1"}


def _png(settings: EncoderSettings) -> dict[str, str]:
    """Half the time of zlib's usual level, for 8 % more bytes (720p, 8 bits)."""
    return {"pred": "mixed", "compression_level": "3"}


def _tiff(settings: EncoderSettings) -> dict[str, str]:
    """Uncompressed: of 16 bits, what compression TIFF has saves next to nothing."""
    return {"compression_algo": "raw"}


def _jpeg(settings: EncoderSettings) -> dict[str, str]:
    """One quantiser for all of a picture; PyAV cannot ask for it otherwise."""
    quantiser = str(jpeg_quantiser(settings.crf))
    return {"qmin": quantiser, "qmax": quantiser, "huffman": "optimal"}


def _webp(settings: EncoderSettings) -> dict[str, str]:
    return {"lossless": "0", "quality": str(webp_quality(settings.crf)), "preset": "none"}


def _exr(settings: EncoderSettings) -> dict[str, str]:
    return {"compression": "zip16", "format": "half"}


ENCODERS: Mapping[str, EncoderSpec] = {
    "h264": EncoderSpec(name="libx264", options=_x264),
    # QuickTime and Safari play HEVC only with the tag hvc1.
    "hevc": EncoderSpec(name="libx265", options=_x265, tag="hvc1", reorder=2),
    "av1": EncoderSpec(name="libsvtav1", options=_svtav1),
    "prores": EncoderSpec(
        name="prores_ks",
        options=_prores,
        tag="apch",
        full_chroma_tag="ap4h",
        reads_tags=True,
        all_keys=True,
    ),
    "dnxhr": EncoderSpec(name="dnxhd", options=_dnxhr, all_keys=True),
    "ffv1": EncoderSpec(name="ffv1", options=_ffv1, all_keys=True),
    "vp9": EncoderSpec(name="libvpx-vp9", options=_vp9),
    "png": EncoderSpec(name="png", options=_png, reads_tags=True, all_keys=True),
    "tiff": EncoderSpec(name="tiff", options=_tiff, all_keys=True),
    "jpeg": EncoderSpec(name="mjpeg", options=_jpeg, all_keys=True),
    "webp": EncoderSpec(name="libwebp", options=_webp, all_keys=True),
    "exr": EncoderSpec(name="exr", options=_exr, all_keys=True),
}
"""The codecs of `formats.CODECS`. x265 takes the CRF of x264. Measured on one clip of 50
frames, preset medium, CRF 18: VMAF 95.0 and 47.8 dB of luma, x264's are 94.6 and 47.3."""


_TEN_BITS = {"yuv420p10le": "p010le"}
_NVENC: Mapping[str, EncoderSpec] = {
    name: EncoderSpec(
        name=CODECS[name].nvenc, options=_nvenc, tag=ENCODERS[name].tag, takes=_TEN_BITS
    )
    for name in NVENC_CODECS
}
"""The same by the video unit of an NVIDIA GPU. No GPU has run it here."""


def spec_of(settings: EncoderSettings) -> EncoderSpec:
    """How a job's pictures are encoded.

    Raises:
        SegmentError: the codec is not known.
    """
    table = _NVENC if settings.encoder == NVENC else ENCODERS
    if settings.codec not in table:
        raise SegmentError(f"codec {settings.codec!r} is not known, expected {sorted(table)}")
    return table[settings.codec]


def check_nvenc(codec: str) -> None:
    """Refuse NVIDIA's encoder where this build of libav lacks it; it asks no driver.

    Args:
        codec: a name in `formats.CODECS`, or "auto".

    Raises:
        InvalidRequestError: what is missing, and what to choose.
    """
    names = NVENC_CODECS if codec == "auto" else (codec,)
    if missing := [name for name in names if CODECS[name].nvenc not in av.codecs_available]:
        wanted = " and ".join(CODECS[name].nvenc for name in missing)
        raise InvalidRequestError(
            f"encoder nvenc needs {wanted}, which this build of PyAV (libav) does not have; choose "
            "encoder software"
        )


def check_encoder(settings: EncoderSettings) -> None:
    """Try the encoder of a GPU, before any work is spent on frames that it is to code.

    Software can be used wherever it is built in, so it is not tried.

    Raises:
        ResourceError: this machine has no such unit, driver or free session; what to choose.
    """
    if settings.encoder != NVENC:
        return
    spec = spec_of(settings)
    told = (
        "choose encoder software, or a machine whose NVIDIA driver offers NVENC (A100, H100 and "
        "H200 have no such unit; L4, L40S and the RTX cards do)"
    )
    if spec.name not in av.codecs_available:
        raise ResourceError(f"encoder nvenc: this build of libav lacks {spec.name}; {told}")
    with (
        av.open(io.BytesIO(), mode="w", format="matroska") as container,
        libav_heard() as lines,
    ):
        try:
            add_encoder(container, settings).encoder.open()
        except MemoryError:
            raise
        except av.error.FFmpegError as error:
            why = next((line for _, _, line in lines), str(error)).strip()
            raise ResourceError(
                f"encoder nvenc cannot code {settings.codec} at {settings.width}x{settings.height} "
                f"on this machine ({why}); {told}"
            ) from error


def tag_of(settings: EncoderSettings) -> str:
    """The tag of the samples in mp4; "" where it is left to libav."""
    spec = spec_of(settings)
    return spec.full_chroma_tag or spec.tag if "444" in settings.pix_fmt else spec.tag


class Encoding(NamedTuple):
    """Where packets go, and what makes them."""

    stream: VideoStream
    encoder: VideoCodecContext
    """The stream's own, unless libav has no name for what it makes in a container."""

    def packets(self, picture: VideoFrame | None) -> "Iterator[Packet[VideoStream]]":
        """What comes out of the encoder for a picture; None drains it."""
        for packet in self.encoder.encode_lazy(picture):
            packet.stream = self.stream
            yield packet


def add_encoder(container: OutputContainer, settings: EncoderSettings) -> Encoding:
    """A track, and an encoder that is set up the same for every segment of a job.

    Raises:
        SegmentError: the codec is not known.
    """
    spec, rate = spec_of(settings), Fraction(*settings.rate)
    track = CODECS[settings.codec].track
    if track:
        stream = container.add_stream(track, rate=rate)
        context = CodecContext.create(spec.name, "w")
        context.options = spec.options(settings)
    else:
        stream = container.add_stream(spec.name, rate=rate, options=spec.options(settings))
        context = stream.codec_context
    assert isinstance(stream, VideoStream)
    assert isinstance(context, VideoCodecContext)
    for one in {context, stream.codec_context}:
        one.width, one.height = settings.width, settings.height
        one.time_base = Fraction(*settings.time_base)
        one.sample_aspect_ratio = Fraction(1)
    if track:
        context.framerate = rate
        stream.codec_context.pix_fmt = _TRACK_PIX_FMT
    context.pix_fmt = spec.takes.get(settings.pix_fmt, settings.pix_fmt)
    context.gop_size = 1 if spec.all_keys else settings.keyint
    context.thread_count = settings.threads
    context.flags |= CodecFlags.bitexact.value
    context.color_range = sws_range(settings.color.full_range)
    context.colorspace = settings.color.matrix
    context.color_primaries = settings.color.primaries
    context.color_trc = settings.color.transfer
    if tag := tag_of(settings):
        context.codec_tag = tag
    return Encoding(stream, context)
