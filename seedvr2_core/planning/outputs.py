"""Chooses the codec, the depth and the container of an output; arithmetic only.

Eight-bit SDR becomes H.264 High in mp4, which everything plays. More bits, HDR and the colours of
BT.2020 become HEVC Main10, and a picture becomes a PNG. The container is the codec's usual one, or
Matroska where that one would lose sound or text of the source.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from seedvr2_core.errors import PlanError
from seedvr2_core.planning.sizes import refuse_size
from seedvr2_core.video.info import (
    BT2020,
    WIDE_BITS,
    ColorInfo,
    EncoderSettings,
    OutputSettings,
    StreamInfo,
    VideoInfo,
    VideoOutline,
)
from seedvr2_core.video.output.formats import (
    CODECS,
    CONTAINERS,
    FULL_CHROMA_CRF,
    NVENC,
    NVENC_CODECS,
    CodecSpec,
    ContainerSpec,
)
from seedvr2_core.video.picture.light import SRGB, transfer_name

if TYPE_CHECKING:
    from seedvr2_core.planning.plan import Options

AUTO = "auto"
BASE_CODEC, DEEP_CODEC = "h264", "hevc"
"""What `auto` takes for 8-bit SDR, and for all else."""
PICTURE_CODEC, ALPHA_CODEC = "png", "prores"
"""What `auto` takes for a picture, and for a video whose alpha is kept."""
_RICH_CONTAINER = "mkv"
CRF_QUALITY, CRF_DEFAULT, CRF_PER_QUALITY = 75, 18, 18 / 25
"""Quality 75 is CRF 18; 100 is 0."""
MAX_CRF = 51
KEYINT_SECONDS = 5
"""Longest time between two key frames of the output."""
MAX_KEYINT = 100_000
"""Frames; a clip that claims a million frames a second has a key frame more often."""
ENCODER_THREADS = 8
"""A fixed number, because x264's output depends on it."""
BT709, UNSPECIFIED = 1, 2
"""H.273 codes of colour primaries, transfer and matrix."""
RGB = 0
"""The matrix of R'G'B'."""
_CAMERA_TRANSFERS = frozenset({1, 6, 14, 15})
"""BT.709 and its like: displays show such video as they show sRGB, and a picture that said BT.709
would be shown lighter than the video it is from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputChoice:
    """What a job writes."""

    codec: str
    bits: int
    """A sample."""
    pix_fmt: str
    settings: OutputSettings
    notes: tuple[str, ...]
    """Sentences for the user: what was chosen, and what is lost by it."""


def crf_of_quality(quality: int) -> int:
    """The CRF of x264 that a quality of the common scale (1 to 100, more is better) stands for."""
    return min(MAX_CRF, round(CRF_DEFAULT + (CRF_QUALITY - quality) * CRF_PER_QUALITY))


def encoder_name(codec: str, preset: str, encoder: str = "") -> str:
    """What the speed of an encoder is kept under: "medium", "hevc medium", "ffv1", "nvenc h264 ..".

    `encoder` is as in a request, or in a plan.
    """
    preset = preset if CODECS[codec].by_preset else ""
    if encoder == NVENC:
        return f"{NVENC} {codec} {preset}"
    return preset if codec == BASE_CODEC else f"{codec} {preset}".strip()


def choose_output(video: VideoInfo, options: "Options") -> OutputChoice:
    """What a job writes.

    Raises:
        PlanError: codec and container do not go together, the codec cannot hold alpha or has too
            few bits for HDR, or the container's clock is too coarse for the frames.
    """
    refuse_alpha(video, options.codec, options.container)
    codec = chosen_codec(video, options)
    spec = CODECS[codec]
    if options.encoder == NVENC and not spec.nvenc:
        raise PlanError(no_nvenc(codec))
    if video.color.is_wide and not _holds_wide(spec):
        able = [name for name, other in CODECS.items() if _holds_wide(other)]
        raise PlanError(
            f"the source is {_kind(video)}, which codec {codec} cannot hold: it takes "
            f"{WIDE_BITS} bits a sample and the tags of BT.2020; choose codec "
            f"{' or '.join(able)}, or leave codec at auto"
        )
    bits, pix_fmt = _pixels(_table_of(spec, video, options.crf), video.wanted_bits)
    container, note = _container(video, codec, options)
    notes = [note, _depth_note(video, codec, bits), *_hdr_notes(video), _light_note(video, spec)]
    notes += _coding_notes(video, options)
    if video.keeps_alpha and options.codec == AUTO and not video.is_picture:
        notes.append(
            f"the codec is {codec}, because {BASE_CODEC} and {DEEP_CODEC} hold no alpha; alpha "
            "flatten puts the video on black and leaves the choice to them"
        )
    return OutputChoice(
        codec=codec,
        bits=bits,
        pix_fmt=pix_fmt,
        settings=OutputSettings(container=container, audio=options.audio),
        notes=tuple(text for text in notes if text),
    )


def no_nvenc(codec: str) -> str:
    """What is told where NVIDIA's encoder is asked for a codec that it does not know."""
    return (
        f"encoder nvenc codes {', '.join(NVENC_CODECS)}, and the codec is {codec}; choose one of "
        "these, or encoder software"
    )


def _coding_notes(video: VideoInfo, options: "Options") -> list[str]:
    """What the user should know of an encoder that is not the usual one, and of grain."""
    notes: list[str] = []
    if options.encoder == NVENC:
        notes.append(
            "encoder nvenc: the GPU codes the pictures, with more bytes than software for the same "
            "quality; another GPU or driver may give other bytes"
        )
    if options.encoder == NVENC and video.color.hdr and video.hdr is not None:
        notes.append("the metadata of HDR is in the container alone, as nvenc takes none")
    if options.grain:
        notes.append(
            f"grain {options.grain:g}: grain is added to the restored pictures, which takes more "
            "bytes"
        )
    return notes


def encoder_settings(
    video: VideoInfo, width: int, height: int, choice: OutputChoice, options: "Options"
) -> EncoderSettings:
    """How every segment is encoded.

    The matrix is BT.709, which players assume for HD, or BT.2020 with the primaries of that, or the
    only one that the codec has;
    primaries and transfer are the source's, because the engines work on the coded R'G'B' and do not
    convert between them.

    Raises:
        PlanError: the codec has no pictures of this size.
    """
    rate, spec = Fraction(*video.nominal_rate), CODECS[choice.codec]
    other = PICTURE_CODEC if spec.ending else ALPHA_CODEC
    refuse_size(choice.codec, width, height, other=other)
    primaries, transfer = _tagged(video.color.primaries), _tagged(video.color.transfer)
    matrix = BT2020 if primaries == BT2020 else BT709
    return EncoderSettings(
        codec=choice.codec,
        preset=options.preset if spec.by_preset else "",
        crf=options.crf if spec.by_quality else 0,
        pix_fmt=choice.pix_fmt,
        width=width,
        height=height,
        time_base=video.time_base,
        rate=video.nominal_rate,
        keyint=min(MAX_KEYINT, max(1, math.ceil(rate * KEYINT_SECONDS))),
        threads=ENCODER_THREADS,
        color=ColorInfo(
            full_range=spec.is_rgb or spec.full_range,
            matrix=RGB if spec.is_rgb else spec.matrix or matrix,
            primaries=primaries,
            transfer=SRGB if spec.ending and transfer in _CAMERA_TRANSFERS else transfer,
        ),
        hdr=video.hdr if video.color.is_wide else None,
        encoder=NVENC if options.encoder == NVENC else "",
        grain=options.grain,
        grain_seed=options.grain_seed if options.grain else 0,
    )


def _tagged(code: int) -> int:
    """An H.273 code, or that of BT.709 where the source does not say."""
    return BT709 if code in (0, UNSPECIFIED) else code


def chosen_codec(video: VideoInfo | VideoOutline, options: "Options") -> str:
    """The codec that is asked for, or the usual one."""
    if options.codec != AUTO:
        return options.codec
    if video.keeps_alpha and (holder := _alpha_codec(video, options.container)):
        return holder
    if video.is_picture and options.container in (AUTO, *CODECS[PICTURE_CODEC].containers):
        return PICTURE_CODEC
    usual = BASE_CODEC if video.wanted_bits <= max(CODECS[BASE_CODEC].pix_fmts) else DEEP_CODEC
    if options.container in (AUTO, *CODECS[usual].containers):
        return usual
    return next(name for name, spec in CODECS.items() if options.container in spec.containers)


def _alpha_codec(video: VideoInfo | VideoOutline, container: str) -> str:
    """What `auto` takes for a source whose alpha is kept; "" if the container holds none."""
    usual = PICTURE_CODEC if video.is_picture else ALPHA_CODEC
    able = [usual, *(name for name, spec in CODECS.items() if spec.with_alpha)]
    return next((name for name in able if container in (AUTO, *CODECS[name].containers)), "")


def refuse_alpha(video: VideoInfo | VideoOutline, codec: str, container: str) -> None:
    """Refuse a source whose alpha is to be kept where the output cannot hold it.

    Raises:
        PlanError: which outputs can.
    """
    if video.keeps_alpha and (fault := alpha_fault(codec, container)):
        raise PlanError(f"the source is transparent in places, and {fault}")


def alpha_fault(codec: str, container: str) -> str:
    """Why an output cannot hold alpha, and what to choose; "" if it can.

    Args:
        codec: as requests have it.
        container: the same.
    """
    able = {name: spec for name, spec in CODECS.items() if spec.with_alpha}
    asked = able.values() if codec == AUTO else [able[codec]] if codec in able else []
    if any(container in (AUTO, *spec.containers) for spec in asked):
        return ""
    named, choices = f"codec {codec}", f"codec {' or '.join(able)}"
    if asked:
        holders = dict.fromkeys(name for spec in asked for name in spec.containers)
        named, choices = f"container {container}", f"container {' or '.join(holders)}"
    return (
        f"{named} cannot hold alpha; choose {choices}, or alpha flatten, which puts the source on "
        "black or on another colour (flatten:#ffffff)"
    )


def _holds_wide(spec: CodecSpec) -> bool:
    """Whether a codec can hold HDR and the colours of BT.2020."""
    return spec.wide and max(spec.pix_fmts) >= WIDE_BITS


def _table_of(spec: CodecSpec, video: VideoInfo, crf: int) -> Mapping[int, str]:
    """The pixel formats that come into question."""
    if video.keeps_alpha:
        return spec.with_alpha
    return spec.full_chroma if spec.full_chroma and crf <= FULL_CHROMA_CRF else spec.pix_fmts


def _pixels(table: Mapping[int, str], wanted: int) -> tuple[int, str]:
    """The fewest bits that are enough, else the most that there are, and the pixel format."""
    bits = next((bits for bits in sorted(table) if bits >= wanted), max(table))
    return bits, table[bits]


def _container(video: VideoInfo, codec: str, options: "Options") -> tuple[str, str]:
    """The container, and a note about the choice; "" where there is nothing to say."""
    names = CODECS[codec].containers
    if options.container != AUTO:
        if fault := container_fault(codec, options.container, options.audio):
            raise PlanError(fault)
        if CONTAINERS[options.container].single and video.num_frames != 1:
            raise PlanError(
                f"container {options.container} is one picture, and {video.num_frames} frames are "
                "to be written; choose container folder (numbered pictures) or a video's"
            )
        if not _counts(video, CONTAINERS[options.container]):
            raise PlanError(
                f"container {options.container} counts in 1/{CONTAINERS[options.container].clock} "
                "s, and several frames of the source share such a moment; choose another container"
            )
        return options.container, ""
    if video.is_picture and (single := [name for name in names if CONTAINERS[name].single]):
        return single[0], ""
    usual, rich = names[0], CONTAINERS[_RICH_CONTAINER]
    if CONTAINERS[usual].pictures:
        return usual, ""
    if _RICH_CONTAINER not in names or usual == _RICH_CONTAINER or not _counts(video, rich):
        return usual, ""
    lost = _lost(video, CONTAINERS[usual], options.audio)
    if len(_lost(video, rich, options.audio)) >= len(lost):
        return usual, ""
    return _RICH_CONTAINER, (
        f"the output is {_RICH_CONTAINER}, because {usual} cannot hold {_named(lost)} as it is; "
        f"with container {usual} it is converted or left out"
    )


def container_fault(codec: str, container: str, audio: str) -> str:
    """What speaks against an asked container, whatever the video is; "" for nothing.

    Args:
        codec: a name of `CODECS`, or AUTO.
        container: a name of `CONTAINERS`, or AUTO.
        audio: as a request has it.
    """
    if container == AUTO:
        return ""
    if codec != AUTO and container not in (names := CODECS[codec].containers):
        able = [name for name, spec in CODECS.items() if container in spec.containers]
        return (
            f"container {container} cannot hold codec {codec}; choose container "
            f"{' or '.join(names)}, or codec {' or '.join(able)}"
        )
    if audio not in ("keep", "none", new := CONTAINERS[container].new_sound):
        return (
            f"container {container} cannot hold sound as {audio}; leave audio at keep, which makes "
            f"{new} of what the container does not take, or choose mkv"
        )
    return ""


def _counts(video: VideoInfo, container: ContainerSpec) -> bool:
    """Whether every frame has a time of its own in the container."""
    if container.clock is None:
        return True
    scale = Fraction(*video.time_base) * container.clock
    times = [round(time * scale) for time in video.pts]
    return all(a < b for a, b in itertools.pairwise(times))


def _lost(video: VideoInfo, container: ContainerSpec, audio: str) -> list[StreamInfo]:
    """Streams that the container cannot hold as they are."""
    sound = container.sound if audio == "keep" else frozenset()
    return [
        stream
        for stream in video.streams
        if (stream.kind == "audio" and audio == "keep" and _is_new(stream, sound))
        or (stream.kind == "subtitle" and _is_new(stream, container.text))
        or (stream.kind == "attachment" and not container.attachments)
    ]


def _is_new(stream: StreamInfo, held: frozenset[str]) -> bool:
    return bool(stream.num_packets) and stream.codec not in held


def _named(streams: Sequence[StreamInfo]) -> str:
    return ", ".join(f"{stream.kind} stream {stream.index} ({stream.codec})" for stream in streams)


def _kind(video: VideoInfo) -> str:
    """What is special about its colours."""
    return f"HDR ({video.color.hdr})" if video.color.hdr else "wide-gamut (BT.2020)"


def _depth_note(video: VideoInfo, codec: str, bits: int) -> str:
    """What becomes of bits that the codec does not have."""
    if bits >= video.bit_depth:
        return ""
    return f"the source has {video.bit_depth} bits a sample; codec {codec} writes {bits}"


def _light_note(video: VideoInfo, spec: CodecSpec) -> str:
    """How coded values become the light that a codec keeps; "" where it keeps coded values."""
    if not spec.linear:
        return ""
    curve = transfer_name(_tagged(video.color.transfer))
    return (
        "the pictures hold linear light as half float, from 0 to 1, which is made of the restored "
        f"values by the transfer {curve}"
        + ("; colours are multiplied by alpha, as EXR has it" if video.keeps_alpha else "")
    )


def _hdr_notes(video: VideoInfo) -> list[str]:
    """What the user should know about HDR."""
    if not video.color.hdr:
        return []
    return [
        f"{_kind(video)} is experimental: the engines were made for SDR and see the coded values; "
        "colour tags and static metadata are kept"
    ]
