"""The records that make up the plan of a job (plan.json), and the options it is made from.

A plan is made once, written to plan.json and obeyed from then on; nothing in it is recomputed when
a job is resumed. Frames are counted from 0 in the order in which the file presents them; ranges are
half-open.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from seedvr2_core.files.durable import canonical_json
from seedvr2_core.video.info import EncoderSettings, OutputSettings, VideoInfo
from seedvr2_core.video.output.formats import is_rgb_format

PLAN_FORMAT = 1
_DEEP_BITS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class CutList:
    """Where the shots of a video begin, as a detector found it."""

    detector: str
    frames: tuple[int, ...]
    """First frames of all shots but the first."""
    began: int = 0
    """Where the first shot begins in the film, counted as frames are: of a part that begins inside
    a shot this is below 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """The frames between two cuts."""

    index: int
    start: int
    """Below 0 where a part of a film begins between two latents of the film: up to three frames
    before it are restored as well, and not written."""
    stop: int
    goes_on: bool = False
    """Whether it began in the film before `start`, at another latent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """The part of a shot that lies in one segment."""

    shot: int
    start: int
    """As of a shot, it may be below 0."""
    stop: int

    @property
    def written(self) -> range:
        """Its frames that are written."""
        return range(max(0, self.start), self.stop)


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """The unit of durable work: whole shots, or a part of one long shot."""

    index: int
    start: int
    stop: int
    pieces: tuple[Piece, ...]

    @property
    def num_frames(self) -> int:
        """Frames the segment owns."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Seconds after which the parent takes the child for hung and ends it.

    Plans of earlier versions also have a limit for each segment, which is not read.
    """

    load: float
    """Without a sign of life while the engine is loaded."""
    stall: float
    """Without a sign of life after that."""
    job: float | None
    """For all segments together; None: the operator has set no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """How a machine compares with the tables of `timing.py`: its seconds over theirs."""

    engine: float = 1.0
    encoder: float = 1.0
    delivery: float = 1.0
    """Of joining, checking and storing the result."""
    measured: bool = False
    """Whether they were measured; else the predicted time is a guess."""
    machine: str = ""
    """The machine that they hold for."""
    device_kind: str = ""
    """What the engine runs on there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameSeconds:
    """Predicted seconds for one frame."""

    engine: float
    encoder: float
    beside: bool
    """The engine has a device of its own, so the slower of the two counts; else the sum."""
    mpx: float
    """Output megapixels."""
    lookahead: int = 0
    """Frames that the encoder takes before it encodes the first."""
    check: float = 0.0
    """Of decoding what was written, to count its frames."""
    rates: Rates = Rates()
    """What the tables were corrected by."""

    @property
    def seconds(self) -> float:
        """Seconds for one frame in a long video."""
        return self.of(1, 1)

    def of(self, restored: float, encoded: float, checked: float | None = None) -> float:
        """Seconds for so many frames of the engine, of the encoder and of the check.

        Args:
            restored: frames that the engine makes.
            encoded: frames that are encoded.
            checked: of these, frames that are checked; None: all.
        """
        engine, encoder = restored * self.engine, encoded * self.encoder
        encoder += (encoded if checked is None else checked) * self.check
        return max(engine, encoder) if self.beside else engine + encoder


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """What the engine is told. Every field changes bytes of the output."""

    name: str
    weights_digest: str
    seed: int
    window: int
    """Latents per DiT window (engines with latents)."""
    overlap: int
    """Latents shared by neighbouring windows."""
    stitch_mode: str
    color_correction: str
    strength: float = 1.0
    """How much of the restored detail in luma is kept; less takes the rest from the source."""

    @classmethod
    def without_latents(cls, name: str, weights_digest: str = "") -> "EngineSettings":
        """Settings of an engine without latents: what it does not use is left empty.

        So options that it ignores do not change the job's key.
        """
        return cls(
            name=name,
            weights_digest=weights_digest,
            seed=0,
            window=0,
            overlap=0,
            stitch_mode="",
            color_correction="",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """What a transformer's quantised weights take in memory."""

    layers: tuple[tuple[int, int], ...]
    """Of each layer the numbers that they stand for, and their bytes with all that belongs to
    them."""
    largest: int
    """Numbers of the largest, which is expanded while it is used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """How an engine with latents uses the device's memory.

    None of this changes the quality, but every field can change the last bits of a result. So it is
    chosen once and obeyed when the job is resumed.
    """

    vae_dtype: str
    """"float16", "bfloat16" or "float32", as `dit_dtype`."""
    dit_dtype: str
    encoder_slice: int
    """Latents that the encoder takes at once."""
    decoder_slice: int
    encoder_level_frames: tuple[int, ...]
    """Most frames at once at each level of the encoder, top (full resolution) first; 0: all."""
    decoder_level_frames: tuple[int, ...]
    """Most frames at once at each level of the decoder, lowest resolution first; 0: all."""
    encoder_rings: bool = False
    """Whether the encoder keeps large frames in rings (vae/ring.py); not in earlier plans."""
    decoder_rings: bool = False
    stream_caches: bool = False
    """Whether each VAE cache waits in host memory but while its layer runs (vae/store.py)."""
    encoder_block_bytes: int | None = None
    """Of such caches those larger than this go straight to and from their layers, which wait for
    them; None: none does, as in earlier plans."""
    decoder_block_bytes: int | None = None
    encoder_bands: bool = False
    """Whether the encoder works large frames in bands of rows (vae/bands/rows.py); not in earlier
    plans."""
    decoder_bands: bool = False
    chunk_tokens: int
    """Tokens at once in the attention batches and the MLP of the DiT; 0: all."""
    park_caches: bool
    """Whether VAE caches wait in host memory while another phase runs."""
    streamed_layers: int = 0
    """How many layers of the DiT, the last ones, come from host memory one by one as it runs."""
    weights_resident: bool
    """Whether the DiT's weights stay on the device while the VAE runs."""
    peaks: tuple[tuple[str, int], ...] = ()
    """(phase, predicted peak bytes), for information."""
    moving_seconds: float = 0.0
    """What it takes at the most to stream caches and layers for 100 frames, for information."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything the child needs to know to make a job; written as plan.json."""

    format: int
    pixel_version: int
    job_key: str
    source_sha256: str
    video: VideoInfo
    resolution: str
    width: int
    """Of the output."""
    height: int
    engine: EngineSettings
    device: str
    """Torch device string the plan was made for; a resume elsewhere may use another."""
    torch_threads: int
    shots: tuple[Shot, ...]
    segments: tuple[Segment, ...]
    encoder: EncoderSettings
    memory: MemoryPlan | None
    """None for engines without latents."""
    eta_seconds: float
    limits: Limits
    frame_seconds: FrameSeconds | None = None
    """What `eta_seconds` was predicted from; None in plans of earlier versions."""
    output: OutputSettings = field(default_factory=OutputSettings)
    """What the joined file is."""
    deep: bool = False
    """Whether frames have 16 bits between the decoder and the encoder, not 8."""
    weights_file: str = ""
    """Name of the file in the folder of weights that the request names; "": any that serves."""
    notes: tuple[str, ...] = ()
    """Sentences for the user: warnings, lowered values, what was not carried over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a request asks for, with engine and device chosen: the input of `build_plan`."""

    resolution: str
    engine: EngineSettings
    device: str
    """Torch device string."""
    cpu_count: int
    crf: int
    preset: str
    segment_seconds: float
    codec: str = "auto"
    """A name in `formats.CODECS`, or "auto"."""
    container: str = "auto"
    """A name in `formats.CONTAINERS`, or "auto"."""
    audio: str = "keep"
    """As in `OutputSettings`."""
    encoder: str = "software"
    """Or "nvenc": what codes the pictures."""
    grain: float = 0.0
    """As in `EncoderSettings`, like the next."""
    grain_seed: int = 0
    device_kind: str = "cpu"
    """What the GPU is called; "cpu" for the host."""
    device_bytes: int | None = None
    """Free memory of the device; None for the host."""
    host_bytes: int | None = None
    """Free memory of the host; None: not known, and taken as enough."""
    dit_dtype: str = "bfloat16"
    """Of a transformer's Linears on a GPU, as kernels/devices.py has it."""
    own_kernels: bool = True
    """Whether kernels of our own run there; without them the transformer needs more memory."""
    batch_size: int = 100
    """Frames per window; the stall limit depends on it."""
    weights_file: str = ""
    """As in the plan."""
    quantized: Quantized | None = None
    """What the transformer's quantised weights take; None if there are none."""
    load_seconds: float = 0.0
    """Predicted for loading the engine's weights."""
    cut_detector: str = ""
    """Name of the detector that found the cuts; "" where none ran."""
    stall_seconds: float | None = None
    """Stall limit; None: `timing.stall_limit`."""
    job_seconds: float | None = None
    """Limit of the whole job; None: no limit."""
    notes: tuple[str, ...] = ()
    """Sentences for the user, which the plan passes on."""


def white_told(video: VideoInfo, *, deep: bool) -> dict[str, str]:
    """What keys have where earlier versions made other frames of 16 bits.

    They made them of R'G'B' of fewer bits by shifting, and white was up to 0.4 % too dark.
    """
    is_rgb = is_rgb_format(video.pix_fmt)
    return {"white": "65535"} if deep and is_rgb and video.bit_depth < _DEEP_BITS else {}


def job_key(options: Mapping[str, object]) -> str:
    """SHA-256, in hexadecimal, of everything that changes a byte of the output."""
    return hashlib.sha256(canonical_json(options).encode()).hexdigest()
