"""What the probe found out about a video: plain data without av, which plan and model can import.

Times are integers in `time_base` ticks. Colour codes are the numbers of ITU-T H.273 (FFmpeg's
AVCOL_* are the same): matrix/primaries/transfer 1 = BT.709, 2 = unspecified, 9 = BT.2020.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

from seedvr2_core.errors import InvalidVideoError
from seedvr2_core.video.alpha.facts import KEEP, AlphaFacts
from seedvr2_core.video.fields.facts import Fields

BT2020 = 9
"""H.273 code of its primaries, and of its matrix with non-constant luminance."""
WIDE_BITS = 10
"""Fewest bits a sample in which HDR and the colours of BT.2020 show no steps."""
HDR_TRANSFERS = {16: "PQ", 18: "HLG"}
"""H.273 codes of the transfers of HDR."""

STILL_FORMATS = ("png", "jpeg", "tiff", "webp", "exr")
"""`VideoInfo.format_name` of pictures: videos of one frame."""
SEQUENCE_FORMAT = "sequence"
"""The same of pictures that are a video together; its codec is the kind of the pictures."""

AND_JUMPS = " and jumps"
"""What a cut detector's name has since it also compares neighbouring pictures (jumps.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColorInfo:
    """Colour as players understand it: gaps in the source's tags are already filled."""

    full_range: bool
    matrix: int
    primaries: int
    transfer: int

    @property
    def hdr(self) -> str:
        """ "PQ" or "HLG"; "" for SDR."""
        return HDR_TRANSFERS.get(self.transfer, "")

    @property
    def is_wide(self) -> bool:
        """Whether eight bits are too few for it: HDR, or the colours of BT.2020."""
        return bool(self.hdr) or self.primaries == BT2020


@dataclass(frozen=True, slots=True, kw_only=True)
class HdrMetadata:
    """What HDR video tells displays beside its colour tags; the same for the whole film."""

    mastering: tuple[int, ...] | None = None
    """The display it was graded on (SMPTE ST 2086): x and y of red, green, blue and white in units
    of 1/50000, then its highest and lowest luminance in units of 1/10000 cd/m2. Ten numbers."""
    light_level: tuple[int, int] | None = None
    """Luminance in cd/m2 (CTA-861.3): of the brightest pixel, and of the brightest frame's mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamInfo:
    """A stream of the source other than the video that is restored."""

    index: int
    """Index in the source container."""
    kind: str
    """"audio", "subtitle", "data", "attachment" or "video" (a second one, a cover picture)."""
    codec: str
    language: str | None
    num_packets: int
    """Packets met while demuxing; 0 for an empty or broken stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """From one packet of a stream on, its times are moved, until the stream's next shift."""

    stream: int
    """Index in the source container."""
    packet: int
    """How many packets of the stream come before it, as `demux_all` gives them in file order."""
    seconds: tuple[int, int]
    """Added to the packets' own times (a ratio); replaces what the stream's last shift adds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """How the times of a file that was joined from parts become one clock that rises.

    Recordings that were put behind each other, the cells of a DVD and streams after a reconnection
    count from anew in each part. The scan finds these places and moves every part behind the one
    before it: by the same seconds in all streams, so that picture and sound stay together. Most
    files have no shifts.

    `demux_all(container, *streams, timeline=info.timeline)` applies it: it gives packets whose pts
    and dts are moved already (it must read from the file's start, since packets are counted).
    `zero_offset` is in the moved times, so it is subtracted afterwards as ever. Where two parts
    meet, packets of a stream may overlap or leave a gap of up to about 0.1 s, because a part's
    streams begin and end at different times; a carrier should move the first packets of the new
    part behind the last ones rather than drop them.
    """

    shifts: tuple[Shift, ...] = ()
    """In the order of their packets within each stream."""

    def seconds(self, stream: int) -> Iterator[Fraction]:
        """What to add to the times of each packet of a stream, from its first one on."""
        added, done = Fraction(0), 0
        for shift in self.shifts:
            if shift.stream == stream:
                yield from itertools.repeat(added, shift.packet - done)
                added, done = Fraction(*shift.seconds), shift.packet
        yield from itertools.repeat(added)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How the frames of a job are made of the pictures that the file presents.

    By default each picture is a frame.
    """

    method: str = ""
    """"bwdif" (a frame of each picture), "bob" (of each field) or "film" (4 of 5 pictures); "":
    pictures are taken as they are."""
    top_first: bool | None = None
    """As in `Fields`."""
    pts: tuple[int, ...] = ()
    """With a method: times of the file's pictures, as `VideoInfo.pts` counts."""
    first: int = 0
    """Frames of the whole film before the first one of `VideoInfo.pts`."""
    began: int = 0
    """Time of the whole film's first frame, as `VideoInfo.pts` counts."""
    mixed: bool = False
    """With "bwdif": pictures whose fields were taken at once stay as they are."""
    ends: bool = False
    """Whether the film goes on behind the last one of `VideoInfo.pts`."""
    film: tuple[int, ...] = ()
    """Of a part: times of all frames of the film; empty in records of earlier versions."""
    alpha: str = ""
    """What becomes of alpha: "keep", or a colour that frames are put on ("#000000"); "": it is
    dropped, for there is none to be seen."""

    @property
    def is_excerpt(self) -> bool:
        """Whether there is more of the film than this."""
        return self.first > 0 or self.ends

    def told(self, num_frames: int) -> str:
        """In short, for keys and names; "" where each picture of the file is a frame."""
        order = {None: "auto", True: "top", False: "bottom"}[self.top_first]
        method = f"{self.method} {order}" if self.method else ""
        method += " mixed" if self.mixed else ""
        where = f"{self.first}+{num_frames}" if self.is_excerpt else ""
        alpha = f"alpha {self.alpha}" if self.alpha else ""
        return " ".join(part for part in (method, where, alpha) if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoOutline:
    """What a flow process is told of a source: nothing that grows with its frames."""

    width: int
    """Pixels that are shown, before rotation."""
    height: int
    rotation: int
    sar: tuple[int, int]
    num_frames: int
    duration_seconds: float
    ends_early: str
    wanted_bits: int = 8
    """Bits a sample that show all that the source has."""
    codec: str = ""
    bits_per_pixel: float = 0.0
    """As `VideoInfo` has them."""
    reading: str = ""
    """As `Reading.told` has it."""
    is_picture: bool = False
    """As `VideoInfo.is_picture`."""
    keeps_alpha: bool = False
    """As `VideoInfo.keeps_alpha`."""

    @property
    def upright_size(self) -> tuple[int, int]:
        """(width, height) in coded pixels after rotation, SAR not applied."""
        if self.rotation in (90, 270):
            return self.height, self.width
        return self.width, self.height

    @property
    def display_size(self) -> tuple[Fraction, Fraction]:
        """(width, height) as displayed: rotation applied, SAR resolved to square pixels."""
        width = self.width * Fraction(*self.sar)
        height = Fraction(self.height)
        return (height, width) if self.rotation in (90, 270) else (width, height)


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoInfo:
    """A source video, as its packets describe it; the header alone is never believed."""

    format_name: str
    size_bytes: int
    stream_index: int
    codec: str
    pix_fmt: str
    bit_depth: int
    width: int
    """Pixels that are shown, before rotation: the decoded picture without the `crop`."""
    height: int
    rotation: int
    """Clockwise quarter turns in degrees (0, 90, 180, 270) that make the picture upright."""
    sar: tuple[int, int]
    """Sample aspect ratio of the coded picture, (1, 1) where unknown."""
    color: ColorInfo
    time_base: tuple[int, int]
    pts: tuple[int, ...]
    """Presentation time of every presented frame, rising, relative to the container's zero."""
    last_duration: int
    """How long the last frame is shown, in ticks."""
    nominal_rate: tuple[int, int]
    """Frames per second as a ratio; what the encoder is told, never used for times."""
    zero_offset: tuple[int, int] = (0, 1)
    """Seconds (a ratio) subtracted from the times of every stream, so that they count from zero."""
    streams: tuple[StreamInfo, ...] = ()
    """All other streams of the container."""
    timeline: Timeline = Timeline()
    """How the times of its packets become `pts`, apart from `zero_offset`."""
    mirrored: bool = False
    """Whether the picture has to be flipped, left to right, after it was turned."""
    crop: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Pixels of the decoded picture, before rotation, that the container hides: left, top, right,
    bottom."""
    codec_sar: tuple[int, int] = (0, 1)
    """Sample aspect ratio that the codec itself gave for the first picture, (0, 1) where it gave
    none: another one later on is another shape."""
    seekable: bool = True
    """False: a frame can only be found by decoding from the file's start and counting."""
    hdr: HdrMetadata | None = None
    """Of the first picture or the container; None where they say nothing."""
    warnings: tuple[str, ...] = ()
    """Sentences for the user about what is lost or doubtful."""
    ends_early: str = ""
    """"the file ends early: 19 of about 75 frames" where so much is missing that the file is only
    taken if the request allows it; one of the warnings says so too."""

    bits_per_pixel: float = 0.0
    """Bits that the file spends on a pixel, over all pictures; 0 where nobody counted: in records
    of earlier versions, and for frames that lie in no file."""
    fields: Fields = field(default_factory=Fields)
    """What was found out about its fields; nothing in records of earlier versions."""
    alpha: AlphaFacts = field(default_factory=AlphaFacts)
    """What was found out about its alpha; nothing in records of earlier versions."""
    reading: Reading = Reading()
    """How frames are made of its pictures; `pts` are the times of the frames."""
    prober: str = ""
    """Which probe has found this out, as `probe.prober` has it."""

    @property
    def wanted_bits(self) -> int:
        """Bits a sample that show all that the source has."""
        return max(self.bit_depth, WIDE_BITS if self.color.is_wide else 0)

    @property
    def keeps_alpha(self) -> bool:
        """Whether its alpha goes into the output."""
        return self.reading.alpha == KEEP

    @property
    def is_picture(self) -> bool:
        """Whether the source is a picture, not a video."""
        return self.format_name in STILL_FORMATS

    @property
    def num_frames(self) -> int:
        """Number of presented frames."""
        return len(self.pts)

    def time_of(self, index: int) -> int:
        """Time of a frame; below 0 they are those of the film before this part of it."""
        return self.pts[index] if index >= 0 else self.reading.film[self.reading.first + index]

    @property
    def duration_seconds(self) -> float:
        """Seconds from the first frame's start to the last frame's end."""
        ticks = self.pts[-1] + self.last_duration - self.pts[0]
        return float(ticks * Fraction(*self.time_base))

    @property
    def decoded_size(self) -> tuple[int, int]:
        """(width, height) of the first picture as it comes from the decoder."""
        left, top, right, bottom = self.crop
        return left + self.width + right, top + self.height + bottom

    @property
    def upright_size(self) -> tuple[int, int]:
        """(width, height) in coded pixels after rotation, SAR not applied."""
        return self.outline.upright_size

    @property
    def display_size(self) -> tuple[Fraction, Fraction]:
        """(width, height) as displayed: rotation applied, SAR resolved to square pixels."""
        return self.outline.display_size

    @property
    def outline(self) -> VideoOutline:
        """The same without the times of the frames."""
        return VideoOutline(
            width=self.width,
            height=self.height,
            rotation=self.rotation,
            sar=self.sar,
            num_frames=self.num_frames,
            duration_seconds=self.duration_seconds,
            ends_early=self.ends_early,
            wanted_bits=self.wanted_bits,
            codec=self.codec,
            bits_per_pixel=self.bits_per_pixel,
            reading=self.reading.told(self.num_frames),
            is_picture=self.is_picture,
            keeps_alpha=self.keeps_alpha,
        )


def video_of_frames(
    width: int, height: int, num_frames: int, *, rate: int = 25, bit_depth: int = 8
) -> VideoInfo:
    """Frames that lie in no file, described like a video: R'G'B', `rate` of them a second."""
    return VideoInfo(
        format_name="memory",
        size_bytes=width * height * num_frames * 3 * math.ceil(bit_depth / 8),
        stream_index=0,
        codec="rawvideo",
        pix_fmt="rgb24" if bit_depth == 8 else "rgb48le",
        bit_depth=bit_depth,
        width=width,
        height=height,
        rotation=0,
        sar=(1, 1),
        color=ColorInfo(full_range=True, matrix=1, primaries=1, transfer=1),
        time_base=(1, rate),
        pts=tuple(range(num_frames)),
        last_duration=1,
        nominal_rate=(rate, 1),
    )


def ends_early(name: str, sentence: str) -> InvalidVideoError:
    """The error for a file whose end is missing, where the request does not allow that."""
    return InvalidVideoError(
        f"{name}: {sentence} are there; get the whole file, or allow_damaged (--allow-damaged) to "
        "upscale what is there"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSettings:
    """How every segment of a job is encoded; equal settings give packets that can be joined."""

    codec: str
    """A name in `formats.CODECS`."""
    preset: str
    """On x264's scale, "" where the codec has no such choice."""
    crf: int
    """On x264's scale, 0 where the codec does not go by quality."""
    pix_fmt: str
    width: int
    height: int
    time_base: tuple[int, int]
    """Of the source, so that its times stay exact."""
    rate: tuple[int, int]
    """Nominal frames per second told to the encoder (level, rate control); never used for times."""
    keyint: int
    """Most frames between key frames."""
    threads: int
    color: ColorInfo
    """Colour tags of the output."""
    hdr: HdrMetadata | None = None
    """Written beside the colour tags."""
    encoder: str = ""
    """"nvenc": the GPU's own encoder; "" for software, as in plans of earlier versions."""
    grain: float = 0.0
    """How strong the grain is that is added to the pictures before they are coded, 0 to 1."""
    grain_seed: int = 0
    """What the grain is drawn from; 0 without any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSettings:
    """What the joined file is, beside its video; plans of earlier versions have none."""

    container: str = "mp4"
    """A name in `formats.CONTAINERS`."""
    audio: str = "keep"
    """"keep", "none", or "aac": every track is encoded as AAC."""
