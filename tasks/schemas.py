"""The request, the values that tasks hand each other, and the result: small and serialisable.

Nothing here imports Prefect or torch, so that the command line can refuse a bad request at once.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from seedvr2_core.errors import InvalidRequestError
from seedvr2_core.planning import plan_latent_windows
from seedvr2_core.planning.outputs import (
    CRF_DEFAULT,
    alpha_fault,
    container_fault,
    crf_of_quality,
)
from seedvr2_core.video.alpha.facts import KEEP
from seedvr2_core.video.info import VideoOutline
from seedvr2_core.video.wanted import WantedFrames
from seedvr2_core.weights.table import with_named_file
from tasks.request.delivery import (
    CallbackEventsField,
    CallbackUrlField,
    ExpiresInField,
    KeepMasterField,
    MetadataField,
    OutputUrlField,
    TagsField,
)
from tasks.request.preview import PreviewField
from tasks.request.shared import (
    Account,
    OutputFormat,
    PreviewPart,
    Record,
    output_key_of,
    own_folder,
)
from tasks.request.source import FpsField, VideoBase64Field, VideoPathField, VideoUrlField
from tasks.request.video import (
    AlphaField,
    AudioField,
    BatchSizeField,
    CodecField,
    ColorCorrectionField,
    ContainerField,
    CrfField,
    DeinterlaceField,
    EncoderField,
    EndField,
    FileName,
    GrainField,
    Model,
    PresetField,
    QualityField,
    ResolutionField,
    SeedField,
    StartField,
    StitchModeField,
    StrengthField,
    TemporalOverlapField,
    check_encoder_of,
    sentence_of,
)

MAX_BASE64_BYTES = 350_000  # characters: Prefect refuses parameters over 512 KB


class UpscaleRequest(Record):
    """One job: exactly one source and what to make of it."""

    video_url: VideoUrlField = None
    video_path: VideoPathField = None
    video_base64: VideoBase64Field = None
    fps: FpsField = ""
    resolution: ResolutionField = "1080p"
    model: Model = Field(
        default="auto",
        description="What restores the frames: `seedvr2-7b`, `seedvr2-7b-sharp`, `seedvr2-3b`, "
        "`seedvr2-1.4b` (for stills), `span` or `waifu2x` (small CNNs, also for CPUs; the "
        "latter takes away noise and traces of compression) or `lanczos` (plain resize). `auto` is "
        "`seedvr2-7b`; where there is no GPU or no weights it is `waifu2x` for a source that is "
        "much compressed and else `span`, if SEEDVR2_ALLOW_CPU_ENGINE allows that.",
    )
    weights_file: FileName = Field(
        default="",
        description="Name of the file in the folder of weights that the SeedVR2 model is read "
        "from. Not set: the best one that is there.",
    )
    batch_size: BatchSizeField = 100
    temporal_overlap: TemporalOverlapField = None
    stitch_mode: StitchModeField = "crossfade"
    seed: SeedField = 100
    deinterlace: DeinterlaceField = "auto"
    alpha: AlphaField = "auto"
    start: StartField = ""
    end: EndField = ""
    preview: PreviewField = ""
    color_correction: ColorCorrectionField = "auto"
    strength: StrengthField = 1.0
    codec: CodecField = "auto"
    container: ContainerField = "auto"
    quality: QualityField = None
    audio: AudioField = "keep"
    crf: CrfField = 18
    preset: PresetField = "medium"
    encoder: EncoderField = "software"
    grain: GrainField = 0.0
    allow_damaged: bool = Field(
        default=False,
        description="Take a video that ends before its header or index says, as a file does that "
        "was cut off, and upscale what is there. Off: such a file is refused, with how many frames "
        "it has and should have.",
    )
    fresh: bool = Field(
        default=False,
        description="Make everything anew, instead of using what an earlier run of the same "
        "request has finished.",
    )
    keep_master: KeepMasterField = False
    max_workers: int = Field(
        default=1,
        ge=1,
        le=256,
        description="On how many workers of its pool a long video may be made at once. The result "
        "is the same. Workers that no other job waits for help; one of them leaves after its "
        "segment when a job waits. A job with `max_seconds` or `max_price` is made on one.",
    )
    max_seconds: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="How many seconds the job may hold its device (GPU or CPU) in all of its runs. "
        "It is stopped before it takes more; the same request with a larger limit goes on. "
        "Not set: any.",
    )
    max_price: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="The same as a price, where SEEDVR2_HOUR_PRICE says what an hour costs.",
    )
    output_url: OutputUrlField = None
    callback_url: CallbackUrlField = None
    callback_events: CallbackEventsField = "ended"
    tags: TagsField = ""
    metadata: MetadataField = ""
    expires_in: ExpiresInField = None

    @model_validator(mode="before")
    @classmethod
    def _file_named_as_model(cls, given: Any) -> Any:
        return with_named_file(given)

    @model_validator(mode="after")
    def _check(self) -> "UpscaleRequest":
        sources = ("video_url", "video_path", "video_base64")
        given = [name for name in sources if getattr(self, name)]
        if len(given) != 1:
            told = "none" if not given else " and ".join(given)
            raise ValueError(
                f"exactly one source is needed (video_url, video_path or video_base64), got {told}"
            )
        if self.video_base64 and len(self.video_base64) > MAX_BASE64_BYTES:
            raise ValueError(
                f"video_base64 holds {len(self.video_base64)} characters, at most "
                f"{MAX_BASE64_BYTES} are taken; pass a URL or upload the file"
            )
        if self.quality is not None and self.crf != CRF_DEFAULT:
            raise ValueError(
                f"quality {self.quality} and crf {self.crf} say the same in two ways; give one"
            )
        check_encoder_of(self.encoder, self.codec)
        if fault := container_fault(self.codec, self.container, self.audio):
            raise ValueError(fault)
        if self.alpha == KEEP and (fault := alpha_fault(self.codec, self.container)):
            raise ValueError(f"alpha keep: {fault}")
        plan_latent_windows(self.batch_size, self.temporal_overlap)
        return self

    @property
    def wanted_frames(self) -> WantedFrames:
        """Which frames of the video are made."""
        return WantedFrames(
            deinterlace=self.deinterlace, start=self.start, end=self.end, alpha=self.alpha
        )

    @property
    def wanted_crf(self) -> int:
        """What `quality` or `crf` asks for, on the scale of x264."""
        return self.crf if self.quality is None else crf_of_quality(self.quality)


def check_request(**parameters: object) -> UpscaleRequest:
    """Validate the parameters of a flow run or a command.

    Raises:
        InvalidRequestError: one sentence that names each wrong field and its allowed values.
    """
    try:
        return UpscaleRequest.model_validate(parameters)
    except ValidationError as error:
        raise InvalidRequestError("; ".join(sentence_of(e) for e in error.errors())) from error


class FetchedSource(Record):
    """A whole source on this machine."""

    path: Path
    sha256: str
    """Hex, lower case."""
    num_bytes: int
    name: str
    """Its name for people: the file name in the URL or path, without directories or query."""


class Device(Record):
    """A device that an engine can run on."""

    name: str
    """Torch device string: "cuda:0", "cpu"."""
    kind: str
    """The GPU's model name; "cpu" for the CPU."""
    free_bytes: int | None = None
    """GPU memory that was free when the source was probed; None for the CPU."""
    host_bytes: int | None = None
    """Host memory that was free then; None for the CPU, and where nobody looked."""
    dit_dtype: str = "bfloat16"
    """Of a transformer's Linears, where the device is a GPU."""
    own_kernels: bool = True
    """Whether kernels of our own run there, if it is a GPU."""


class ProbedSource(Record):
    """A source that the probe has found to be a video, and the devices of this machine."""

    source: FetchedSource
    info_path: Path
    """JSON of `seedvr2_core.video.info.VideoInfo`."""
    video: VideoOutline
    devices: tuple[Device, ...]
    """Devices that the child process can use, best first."""
    cpu_count: int
    cuts_path: Path | None = None
    """JSON of `planning.plan.CutList`; None if the engine does not look at shots."""
    leaves_cuts: bool = False
    """The engine looks at shots, and the cuts are still to be looked for."""


class PlannedJob(Record):
    """A job whose plan.json has been written."""

    job_key: str
    job_dir: Path
    source: FetchedSource
    num_segments: int
    num_frames: int
    width: int
    height: int
    resolution: str
    engine: str
    engine_label: str
    """The engine's name for people and for the video's metadata."""
    device: str
    output_name: str
    eta_seconds: float
    eta_is_guess: bool = False
    """Nothing has been measured on this machine yet."""
    job_limit_seconds: float | None
    """Only where the operator has set one."""
    stall_limit_seconds: float
    duration_seconds: float
    format: OutputFormat = OutputFormat()
    seed: int | None = None
    """None for engines without noise."""
    max_seconds: float | None = None
    """As the request has it."""
    max_price: float | None = None
    """As the request has it."""
    tags: str = ""  # as the request has them, like the next two
    metadata: str = ""
    expires_in: float | None = None
    keep_master: bool = False
    coded_only: bool = False  # from masters, on a machine that has no engine
    preview: PreviewPart | None = None
    """The piece that alone is made. Segments and frames above are then those that it needs."""
    early: tuple[int, ...] | None = None
    """Segments that are made before all cuts are known; None: they are known."""
    early_seconds: float = 0.0
    """What this run has taken for such segments before; its limits count them."""
    notes: tuple[str, ...] = ()

    @property
    def segments(self) -> tuple[int, ...]:
        """Indices of the segments that this run makes."""
        if self.early is not None:
            return self.early
        return self.preview.segments if self.preview else tuple(range(self.num_segments))

    @property
    def own_dir(self) -> Path:
        """Where its result lies: in the job's directory, a preview's in a folder there."""
        return own_folder(self.job_dir, self.preview)

    @property
    def output_key(self) -> str:
        """What names its output."""
        return output_key_of(self.job_key, self.preview)


class Prospect(Record):
    """What a planned job will make; `recover` finds it in the progress artifact of a lost run."""

    job_key: str
    output_name: str
    source_name: str | None = None  # not in records of older versions
    engine: str
    width: int
    height: int
    frames: int
    input_size_mb: float
    eta_seconds: float
    job_limit_seconds: float | None
    notes: tuple[str, ...] = ()
    preview: PreviewPart | None = None


class JoinedVideo(Record):
    """The finished file in the job's directory."""

    path: Path
    sha256: str
    num_bytes: int
    num_frames: int
    preview: Path | None = None
    """Before/after picture in the same directory, if there is one."""
    before: Path | None = None  # the clip of the source beside a preview's
    notes: tuple[str, ...] = ()


class StoredVideo(Record):
    """The finished file in storage."""

    name: str
    url: str | None
    """Public address; None if the storage has none (a local folder that nobody serves)."""
    path: Path | None
    """The file in a local folder; None if it is not on this machine."""
    sha256: str
    num_bytes: int


class UpscaleResult(Account):
    """What the caller gets, result.json, and the artifact; what people look for comes first."""

    filename: str
    cdn_url: str | None
    output_path: str | None
    width: int
    height: int
    frames: int
    seconds: float
    engine: str
    input_size_mb: float
    output_size_mb: float
    segments_reused: int
    notes: tuple[str, ...] = ()
    preview_path: str | None = None
    """Before/after picture on the machine that ran the job."""
    source_name: str | None = None
    """The source's name for people; None in records of older versions."""
    frames_reused: int = 0
    """Frames that an earlier run had made."""
    already_done: bool = False
    """Whether an earlier run had finished the video, so that this one made nothing."""
    preview_url: str | None = None  # where the storage has public addresses, like `report_url`
    report_path: str | None = None
    """The page of the job's report, where the picture is."""
    report_url: str | None = None
    codec: str | None = None
    """As `OutputFormat` has it, like the next five; None in older records."""
    bits: int | None = None
    container: str | None = None
    hdr: Literal["experimental"] | None = None
    deinterlace: Literal["bwdif", "bob", "film"] | None = None
    alpha: Literal["kept", "flattened"] | None = None
    tags: tuple[str, ...] = ()
    """The caller's own, like the next."""
    metadata: dict[str, Any] = Field(default_factory=dict)
    expires_at: str | None = None
    """When the output is to be removed (ISO time); None: never."""
    preview: PreviewPart | None = None
    """What a preview shows; None: the output is the whole film."""
    status: Literal["completed"] = "completed"
    sha256: str
    job_key: str
    job_id: str
