"""The codecs and containers that an output can have, as plain data; no av, no numpy.

A request names a codec and a container, or leaves them to us; `planning/outputs.py` chooses. What
the encoders are told stands in `encoders.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from seedvr2_core.video.info import EncoderSettings

_RGB_NAMES = ("rgb", "bgr", "gbr", "bayer", "pal8")


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecSpec:
    """A codec that an output can have."""

    pix_fmts: Mapping[int, str]
    """Bits a sample -> FFmpeg's pixel format, fewest bits first."""
    full_chroma: Mapping[int, str]
    """The same from the quality `FULL_CHROMA_QUALITY` on, where the codec has a better form."""
    containers: tuple[str, ...]
    """That can hold it, the usual one first."""
    by_quality: bool
    """Whether `crf` says how good the picture is; else its bits do not depend on it."""
    by_preset: bool
    """Whether it has a slow and a fast way to do the same."""
    slowness: float
    """Seconds of its encoder over those of x264 with the same preset; measured on two cores."""
    bits_per_pixel: float
    """Of an output frame at CRF 18, a guess until a segment is finished."""
    libav_name: str = ""
    """FFmpeg's name, where it is another one."""
    wide: bool = True
    """Whether it can say that its colours are those of BT.2020."""
    segments: str = "mp4"
    """FFmpeg's muxer of its segments; those in Matroska count frames, as its times are rounded."""
    ending: str = ""
    """Of its pictures, where each is a file of its own."""
    deep_bits_per_pixel: float = 0.0
    """`bits_per_pixel` of frames of 16 bits, where that is a guess of its own."""
    nvenc: str = ""
    """FFmpeg's name of NVIDIA's encoder of it; "" where there is none."""
    with_alpha: Mapping[int, str] = field(default_factory=dict)
    """As `pix_fmts`, of frames with alpha; empty where the codec cannot hold it."""
    matrix: int | None = None
    """H.273 code of the matrix of its Y'CbCr, where its standard leaves no choice."""
    full_range: bool = False
    """Whether its Y'CbCr has full range."""
    centred: bool = False
    """Whether the chroma of its 4:2:0 lies between two columns, not on the left one."""
    linear: bool = False
    """Whether it keeps light, which doubles where there is twice as much, and not coded values."""
    most_side: int = 0
    """Pixels of a side at the most; 0: more than anybody asks for."""
    least_size: tuple[int, int] = (2, 2)
    """Width and height of the smallest picture that its encoder takes, measured: of narrower ones
    x265 writes beyond its memory, SVT-AV1 waits for ever, and the encoder of DNxHR says no."""
    track: str = ""
    """What a segment's track is said to hold, of pictures that libav has no name for in any
    container; who reads one looks at the pictures' first bytes."""

    @property
    def is_rgb(self) -> bool:
        """Whether it keeps red, green and blue, and not Y'CbCr."""
        return all(map(is_rgb_format, self.pix_fmts.values()))


def is_rgb_format(pix_fmt: str) -> bool:
    """Whether a pixel format stores R'G'B' (palettes and Bayer patterns too), not Y'CbCr or grey.

    Its name says so (a test asks libav about all of them): who plans loads no libav.
    """
    return any(part in pix_fmt for part in _RGB_NAMES)


_MATROSKA = "matroska"
_BT601 = 5
"""H.273 code of the matrix of JPEG (JFIF) and WebP."""
CODECS: Mapping[str, CodecSpec] = {
    "h264": CodecSpec(
        pix_fmts={8: "yuv420p"},
        full_chroma={},
        containers=("mp4", "mov", "mkv"),
        by_quality=True,
        by_preset=True,
        slowness=1.0,
        bits_per_pixel=0.15,
        nvenc="h264_nvenc",
    ),
    "hevc": CodecSpec(
        pix_fmts={8: "yuv420p", 10: "yuv420p10le"},
        full_chroma={},
        containers=("mp4", "mov", "mkv"),
        by_quality=True,
        by_preset=True,
        slowness=3.0,
        bits_per_pixel=0.15,
        nvenc="hevc_nvenc",
        least_size=(64, 16),
    ),
    "av1": CodecSpec(
        pix_fmts={8: "yuv420p", 10: "yuv420p10le"},
        full_chroma={},
        containers=("mp4", "mkv", "webm"),
        by_quality=True,
        by_preset=True,
        slowness=1.2,
        bits_per_pixel=0.15,
        nvenc="av1_nvenc",
        least_size=(32, 32),
    ),
    "prores": CodecSpec(
        pix_fmts={10: "yuv422p10le"},
        full_chroma={10: "yuv444p10le"},
        containers=("mov", "mkv"),
        by_quality=False,
        by_preset=False,
        slowness=2.2,
        bits_per_pixel=4.2,
        segments="mov",
        with_alpha={10: "yuva444p10le"},
    ),
    "dnxhr": CodecSpec(
        pix_fmts={8: "yuv422p", 10: "yuv422p10le"},
        full_chroma={10: "yuv444p10le"},
        containers=("mov",),
        by_quality=False,
        by_preset=False,
        slowness=0.3,
        bits_per_pixel=3.6,
        libav_name="dnxhd",
        least_size=(256, 120),
        wide=False,  # libav's encoder always writes BT.709 into the header
        segments="mov",
    ),
    "ffv1": CodecSpec(
        pix_fmts={
            8: "yuv444p",
            10: "yuv444p10le",
            12: "yuv444p12le",
            16: "yuv444p16le",
        },
        full_chroma={},
        containers=("mkv",),
        by_quality=False,
        by_preset=False,
        slowness=0.7,
        bits_per_pixel=5.5,
        with_alpha={
            8: "yuva444p",
            10: "yuva444p10le",
            12: "yuva444p12le",
            16: "yuva444p16le",
        },
    ),
    "vp9": CodecSpec(
        pix_fmts={8: "yuv420p"},
        full_chroma={},
        containers=("webm",),
        by_quality=True,
        by_preset=True,
        slowness=4.0,
        bits_per_pixel=0.2,
        wide=False,
        segments=_MATROSKA,  # which alone has a place for its alpha
        with_alpha={8: "yuva420p"},
    ),
    "png": CodecSpec(
        pix_fmts={8: "rgb24", 16: "rgb48be"},
        full_chroma={},
        containers=("folder", "png"),
        by_quality=False,
        by_preset=False,
        slowness=1.0,
        bits_per_pixel=6.0,
        deep_bits_per_pixel=38.0,
        segments="mov",
        ending=".png",
        with_alpha={8: "rgba", 16: "rgba64be"},
    ),
    "tiff": CodecSpec(
        pix_fmts={16: "rgb48le"},
        full_chroma={},
        containers=("folder", "tiff"),
        by_quality=False,
        by_preset=False,
        slowness=0.3,
        bits_per_pixel=48.0,
        wide=False,  # a TIFF has no place for PQ, HLG and BT.2020
        segments="mov",
        ending=".tif",
        with_alpha={16: "rgba64le"},
    ),
    "jpeg": CodecSpec(
        pix_fmts={8: "yuv420p"},
        full_chroma={8: "yuv444p"},
        containers=("folder", "jpeg"),
        by_quality=True,
        by_preset=False,
        slowness=0.15,
        bits_per_pixel=0.5,
        libav_name="mjpeg",
        wide=False,
        segments="mov",
        ending=".jpg",
        matrix=_BT601,
        full_range=True,
        centred=True,
        most_side=65_500,
    ),
    "webp": CodecSpec(
        pix_fmts={8: "yuv420p"},
        full_chroma={},
        containers=("folder", "webp"),
        by_quality=True,
        by_preset=False,
        slowness=1.1,
        bits_per_pixel=0.3,
        wide=False,
        segments="mov",
        ending=".webp",
        with_alpha={8: "yuva420p"},
        matrix=_BT601,
        centred=True,
        most_side=16_383,
        track="png",
    ),
    "exr": CodecSpec(
        pix_fmts={16: "gbrpf32le"},
        full_chroma={},
        containers=("folder", "exr"),
        by_quality=False,
        by_preset=False,
        slowness=5.0,
        bits_per_pixel=30.0,
        wide=False,
        segments="mov",
        ending=".exr",
        with_alpha={16: "gbrapf32le"},
        linear=True,
    ),
}
"""Name in requests -> codec."""

SOFTWARE, NVENC = "software", "nvenc"
"""What can code the pictures: the processor, or the video unit of an NVIDIA GPU."""
NVENC_CODECS = tuple(name for name, spec in CODECS.items() if spec.nvenc)

FULL_CHROMA_CRF = 8
"""Of the common scale: from here on a codec that has it keeps the colours at full resolution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """A container that an output can have."""

    muxer: str
    """FFmpeg's name of what writes it."""
    demuxer: str
    ending: str
    sound: frozenset[str]
    """Codecs of sound that it holds and players read; other sound is encoded anew."""
    text: frozenset[str]
    """Codecs of subtitles that it holds."""
    plain_text: str
    """What other subtitles become that are text."""
    attachments: bool
    """Whether it holds fonts and pictures beside the streams."""
    has_index: bool
    """Whether it is mp4 or QuickTime, with all times in one index."""
    clock: int | None = None
    """Ticks a second of its times; None: those of the source."""
    new_sound: str = "aac"
    """Codec of sound that is encoded anew, where that has its layout of channels."""
    pictures: bool = False
    """Whether it is a folder of numbered pictures, with the other streams in a file beside them."""
    single: bool = False
    """Whether it is one picture, which is all that the file holds."""
    covers: frozenset[str] = frozenset()
    """Codecs of cover pictures that it holds as such; others may be attachments."""
    data: frozenset[str] = frozenset()
    """Kinds of tracks of data, as mp4 calls them, that libav writes into it."""


_MP4_SOUND = frozenset({"aac", "mp3", "ac3", "eac3", "opus", "alac", "flac"})
_PCM = frozenset(
    {"pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_s32le", "pcm_s32be", "pcm_f32le"}
    | {"pcm_f32be", "pcm_f64le", "pcm_f64be", "pcm_u8", "pcm_s8", "pcm_alaw", "pcm_mulaw"}
)
_MKV_PCM = frozenset({"pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_u8", "pcm_f32le", "pcm_f64le"})

_FILES: Mapping[str, ContainerSpec] = {
    "mp4": ContainerSpec(
        muxer="mp4",
        demuxer="mp4",
        ending=".mp4",
        sound=_MP4_SOUND,
        text=frozenset({"mov_text"}),
        plain_text="mov_text",
        attachments=False,
        has_index=True,
        covers=frozenset({"mjpeg", "png", "bmp"}),
        data=frozenset({"gpmd"}),
    ),
    "mov": ContainerSpec(
        muxer="mov",
        demuxer="mp4",
        ending=".mov",
        sound=frozenset({"aac", "mp3", "ac3", "eac3", "alac"}) | _PCM,
        text=frozenset({"mov_text"}),
        plain_text="mov_text",
        attachments=False,
        has_index=True,
        data=frozenset({"gpmd"}),
    ),
    "mkv": ContainerSpec(
        muxer="matroska",
        demuxer="matroska",
        ending=".mkv",
        sound=_MP4_SOUND | _MKV_PCM | {"vorbis", "mp2", "mp1", "dts", "truehd", "mlp", "wavpack"},
        text=frozenset(
            {"subrip", "ass", "webvtt", "hdmv_pgs_subtitle", "dvd_subtitle", "dvb_subtitle"}
            | {"text"}
        ),
        plain_text="subrip",
        attachments=True,
        has_index=False,
        clock=1000,
    ),
    "webm": ContainerSpec(
        muxer="webm",
        demuxer="matroska",
        ending=".webm",
        sound=frozenset({"opus", "vorbis"}),
        text=frozenset({"webvtt"}),
        plain_text="webvtt",
        attachments=False,
        has_index=False,
        clock=1000,
        new_sound="opus",
    ),
}
CONTAINERS: Mapping[str, ContainerSpec] = {
    **_FILES,
    "folder": replace(_FILES["mkv"], ending=".zip", clock=None, pictures=True),
    "png": replace(_FILES["mkv"], ending=".png", clock=None, single=True),
    "tiff": replace(_FILES["mkv"], ending=".tif", clock=None, single=True),
    "jpeg": replace(_FILES["mkv"], ending=".jpg", clock=None, single=True),
    "webp": replace(_FILES["mkv"], ending=".webp", clock=None, single=True),
    "exr": replace(_FILES["mkv"], ending=".exr", clock=None, single=True),
}
"""Name in requests -> container. A folder is kept as a zip whose files are stored as they are; its
other streams are a Matroska file in it. A picture is a container of its own."""
_OTHER_ENDINGS = {".tiff": "tiff", ".jpeg": "jpeg"}
OUTPUT_ENDINGS = (*(spec.ending for spec in CONTAINERS.values()), *_OTHER_ENDINGS)
PICTURE_CODECS = tuple(name for name, spec in CODECS.items() if spec.ending)


def container_of(path: Path) -> str:
    """The container that a file's ending promises; "" if it is none that we write."""
    named = {**{spec.ending: name for name, spec in CONTAINERS.items()}, **_OTHER_ENDINGS}
    return named.get(path.suffix.lower(), "")


def counts_frames(codec: str) -> bool:
    """Whether a segment of a codec counts its frames; else it has their times."""
    return CODECS[codec].segments == _MATROSKA


def holds_alpha(settings: EncoderSettings) -> bool:
    """Whether an output has alpha."""
    return settings.pix_fmt in CODECS[settings.codec].with_alpha.values()


def depth_of(settings: EncoderSettings) -> int:
    """Bits a sample of an output."""
    spec = CODECS[settings.codec]
    for table in (spec.pix_fmts, spec.full_chroma, spec.with_alpha):
        for bits, pix_fmt in table.items():
            if pix_fmt == settings.pix_fmt:
                return bits
    return max(spec.pix_fmts)
