"""The types of a request's fields: what each may be, what older callers may write, what is refused.

Nothing here imports Prefect or torch.
"""

import difflib
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetJsonSchemaHandler,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from seedvr2_core.config import ENGINES
from seedvr2_core.planning.outputs import AUTO, no_nvenc
from seedvr2_core.planning.sizes import NAMED, RESOLUTION_PATTERN, parse_resolution
from seedvr2_core.video.alpha.wish import ALPHA_EXAMPLES, ALPHA_PATTERN, parse_alpha
from seedvr2_core.video.output.formats import NVENC, NVENC_CODECS
from seedvr2_core.video.wanted import place_of
from seedvr2_core.weights.table import model_of_file
from tasks.settings import get_settings


def offered_models() -> list[str]:
    """The models that a request may name: auto and the engines; test engines if they are on."""
    test_engines = get_settings().test_engines
    return ["auto", *(n for n, spec in ENGINES.items() if test_engines or not spec.test_only)]


def _offered_model(name: str) -> str:
    if name not in offered_models():
        raise ValueError(f"choose one of {', '.join(offered_models())}")
    return name


class _OfferedModels:
    """Makes the JSON schema list the models, so that forms offer them."""

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"type": "string", "enum": offered_models()}


Resolution = Annotated[
    str,
    AfterValidator(parse_resolution),
    WithJsonSchema({"type": "string", "pattern": RESOLUTION_PATTERN, "examples": list(NAMED)}),
]
ResolutionField = Annotated[
    Resolution,
    Field(
        description="Size of the result by its area: a 16:9 video becomes exactly 1280x720 (720p), "
        "1920x1080 (1080p), 2560x1440 (2k) or 3840x2160 (4k), another shape keeps its shape. "
        "`short:720` to `short:2160` set the shorter side: `short:1080` makes 1440x1080 of 4:3. "
        "Factors, `0.25x` to `16x`, multiply the sides as displayed. Boxes (`1920x1080`; sides 16 "
        "to 16384) hold the largest picture that fits inside. Both: at most 33,177,600 pixels.",
    ),
]
Model = Annotated[
    str, BeforeValidator(model_of_file), AfterValidator(_offered_model), _OfferedModels()
]


Text = Annotated[str, BeforeValidator(lambda value: "" if value is None else value)]
"""A text field of a form. Empty means not given; so does None, which older clients send."""
FileName = Annotated[
    str,
    BeforeValidator(lambda value: value or ""),
    Field(max_length=255, pattern=r"^[^/\\\x00]*$"),
]
"""The name of a file in a folder that is known; "" is not given."""
StitchMode = Literal["crossfade", "later"]
ColorCorrection = Literal["auto", "wavelet", "wavelet_rgb", "lab", "adain", "none"]
Preset = Literal[
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"
]
Picture = Literal["png", "tiff", "jpeg", "webp", "exr"]
"""A codec whose pictures are files, and the container that is one of them."""
Codec = Literal["auto", "h264", "hevc", "av1", "prores", "dnxhr", "ffv1", "vp9", Picture]
"""`auto` and the names in `CODECS`."""
Container = Literal["auto", "mp4", "mov", "mkv", "webm", "folder", Picture]
"""`auto` and the names in `CONTAINERS`."""
Audio = Literal["keep", "none", "aac"]
Encoder = Literal["software", "nvenc"]
"""`SOFTWARE` and `NVENC` of `formats`."""
Deinterlace = Literal["auto", "off", "bob", "film"]
DeinterlaceField = Annotated[
    Deinterlace,
    Field(
        description="What becomes of interlaced video. `auto` makes a whole frame of each picture "
        "(bwdif), where the video is interlaced; what that is, is measured. `bob` makes a frame of "
        "each field, at its own time, so that motion stays as smooth as it was. `film` undoes 3:2 "
        "pulldown, and refuses a video that has none. `off` leaves pictures as they are."
    ),
]


Alpha = Annotated[
    str,
    BeforeValidator(lambda value: value or "auto"),  # a field of a form that was cleared
    AfterValidator(parse_alpha),
    WithJsonSchema({"type": "string", "pattern": ALPHA_PATTERN, "examples": list(ALPHA_EXAMPLES)}),
]
AlphaField = Annotated[
    Alpha,
    Field(
        description="What becomes of a source that is transparent in places. `auto` keeps its "
        "alpha: the codec is then `prores` (4444) where it is left at `auto`, and one that cannot "
        "hold alpha is refused. `keep` does so even where alpha is opaque everywhere. `flatten` "
        "puts frames on black before they are restored, `flatten:#ffffff` on that colour. `refuse` "
        "takes no such source."
    ),
]


def _place(text: str) -> str:
    if text:
        place_of(text)
    return text.strip()


_Place = Annotated[
    str,
    BeforeValidator(lambda value: "" if value is None else str(value)),
    AfterValidator(_place),
]
"""A place in a video; "" is not given."""
StartField = Annotated[
    _Place,
    Field(
        max_length=40,
        description="Where the part of the video begins that is made: seconds (`90`, `1.5`), h:m:s "
        "(`1:02:03.5`) or a frame (`frame:1500`, counted from 0). The first frame is the first one "
        "that begins there or later. Sound and subtitles are cut with it. Empty: the beginning.",
    ),
]
EndField = Annotated[
    _Place,
    Field(
        max_length=40,
        description="Where that part ends, written as `start` is; a frame that begins there is "
        "left out. Empty: the end.",
    ),
]
CodecField = Annotated[
    Codec,
    Field(
        description="Codec of the result. `auto` is `h264` (High, 8 bits, plays everywhere) for "
        "8-bit SDR, and `hevc` (Main10) for more bits, HDR and BT.2020. `av1`, `prores` (422 HQ; "
        "4444 from quality 90 on), `dnxhr` (HQ or HQX; 444 from quality 90 on) and `ffv1` "
        "(lossless) are there for delivery and editing, `vp9` for WebM with alpha; `png`, `tiff` "
        "(16 bits), `jpeg`, `webp` and `exr` (linear light, half float) make a picture of each "
        "frame. A codec writes as many bits a sample as the source has, or the most that it can."
    ),
]
ContainerField = Annotated[
    Container,
    Field(
        description="File format of the result. `auto` is `mp4` (`mov` for ProRes and DNxHR, `mkv` "
        "for FFV1, `folder` for pictures), or `mkv` where that would lose sound, subtitles or "
        "attachments of the source; `png` for a picture (PNG, JPEG, TIFF, WebP, EXR). `webm` takes "
        "AV1, or VP9 with alpha, and sound becomes Opus. A `folder` of pictures is kept as a zip, "
        "uncompressed. `png`, `tiff`, `jpeg`, `webp` and `exr` are one picture."
    ),
]
QualityField = Annotated[
    int | None,
    Field(
        ge=1,
        le=100,
        description="Quality of the picture, on one scale for all codecs: more is better and "
        "larger. 75 is CRF 18; 8 less halve the file. Not set: as `crf` says.",
    ),
]
AudioField = Annotated[
    Audio,
    Field(
        description="`keep` copies every track of sound that the container takes and encodes the "
        "others anew, `aac` encodes all of them as AAC, `none` leaves them out."
    ),
]
CrfField = Annotated[
    int,
    Field(
        ge=0,
        le=51,
        description="Quality on the scale of x264, which other codecs follow. A smaller number "
        "gives a better picture and a larger file.",
    ),
]
PresetField = Annotated[
    Preset,
    Field(
        description="Speed of the encoder, from `ultrafast` to `veryslow`. "
        "A slower preset gives a smaller file of the same quality.",
    ),
]
EncoderField = Annotated[
    Encoder,
    Field(
        description="What codes the pictures: `software`, or `nvenc`, the video unit of an NVIDIA "
        "GPU, for `h264`, `hevc` and `av1`. It needs more bytes for the same quality, and a GPU "
        "that has one: L4, L40S and RTX cards do, A100, H100 and H200 do not.",
    ),
]
GrainField = Annotated[
    float,
    Field(
        ge=0,
        le=1,
        description="How much film grain is added to the restored pictures; 0 is none. At 1 its "
        "standard deviation is 10 levels of 255 in mid-grey. It is in brightness alone, drawn from "
        "`seed`, and takes more bytes.",
    ),
]
BatchSizeField = Annotated[
    int,
    Field(
        ge=1,
        le=10_000,
        description="How many frames a SeedVR2 model sees at once. More frames take more GPU "
        "memory. The small engines work frame by frame and ignore it.",
    ),
]
TemporalOverlapField = Annotated[
    int | None,
    Field(
        ge=0,
        description="How many frames neighbouring batches of a SeedVR2 model share. "
        "Not set: 12, or fewer if the batch is too small for that.",
    ),
]
ColorCorrectionField = Annotated[
    ColorCorrection,
    Field(
        description="How a SeedVR2 model's result gets the colours of the source back: `wavelet` "
        "(large areas from the source, in brightness and colour), `wavelet_rgb` (the same in red, "
        "green and blue), `lab` (histograms of a whole shot), `adain` (mean and spread of each "
        "frame) or `none`. `auto` is `wavelet`.",
    ),
]
StrengthField = Annotated[
    float,
    Field(
        ge=0,
        le=1,
        description="How much of a SeedVR2 model's detail is kept; 0 leaves the source's luma.",
    ),
]
StitchModeField = Annotated[
    StitchMode,
    Field(
        description="What becomes of the frames that two batches share: `crossfade` blends them; "
        "`later` keeps those of the earlier batch, so that the change comes after them.",
    ),
]
SeedField = Annotated[
    int,
    Field(
        ge=0,
        lt=2**64,
        description="Seed of the SeedVR2 models' noise. The same seed gives the same pixels.",
    ),
]


def check_encoder_of(encoder: str, codec: str) -> None:
    """Refuse an encoder that does not know the codec, or that is not built in.

    Raises:
        ValueError: what to choose. Whether a worker has a GPU for it is known there alone.
    """
    if encoder != NVENC:
        return
    if codec != AUTO and codec not in NVENC_CODECS:
        raise ValueError(no_nvenc(codec))
    from seedvr2_core.video.output.encoders import check_nvenc  # loads libav

    check_nvenc(codec)


_NOT_SHOWN = ("video_url", "video_base64", "output_url", "callback_url", "metadata")
"""Fields whose value is repeated in no message, because it may hold a secret or be huge."""


def sentence_of(error: object) -> str:
    """One of pydantic's validation errors in words."""
    assert isinstance(error, dict)
    where = ".".join(str(part) for part in error["loc"])
    message = str(error["msg"]).removeprefix("Value error, ")
    if not where:
        return message
    if error["type"] == "extra_forbidden":
        return f"{where}: there is no such option"
    if where.partition(".")[0] in _NOT_SHOWN:
        return f"{where}: {message}"
    given = str(error["input"])[:80]
    told = "" if repr(given) in message else f", got {given!r}"
    return f"{where}: {message}{told}{_suggestion(where, given)}"


def _suggestion(field: str, given: str) -> str:
    """The end of a message that names the value which was probably meant; "" if none is close."""
    names = offered_models() if field == "model" else []
    close = difflib.get_close_matches(given.lower().strip(), names, n=1)
    return f"; did you mean {close[0]}?" if close else ""
