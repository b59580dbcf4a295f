"""The events: what the child tells its parent."""

from dataclasses import dataclass

from seedvr2_core.child.messages.fields import Event
from seedvr2_core.compare.record import ComparisonResult
from seedvr2_core.kernels.devices import FoundDevice
from seedvr2_core.video.info import VideoOutline


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeFound(Event):
    """How large the pictures of a file are as displayed, in pixels."""

    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed(Event):
    """The source was read to its end and what was found is in the request's `out`."""

    video: VideoOutline
    devices: tuple[FoundDevice, ...]
    """Best first."""
    cpu_count: int
    """Cores that the child may use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CutsFound(Event):
    """The cuts are in the request's `out`."""

    num_cuts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanMade(Event):
    """The plan is in the request's `out`, and its outline beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanChecked(Event):
    """Whether the plan can be obeyed; if so, its outline is in the request's `out`."""

    fault: str
    """Why it cannot be, as a sentence; "" if it can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting(Event):
    """Another process (`whom`, in words) holds the job or the GPU; repeated while that lasts."""

    whom: str
    lock: str = ""
    """Name of the lock, if it is a GPU's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready(Event):
    """The engine is loaded."""

    engine: str
    device: str
    warm: bool = False
    """It was loaded for an earlier job."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodingAgain(Event):
    """Segments are coded from their masters now, without an engine or a device."""

    active: bool
    """False: that is over, and an engine is loaded for what is left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken(Event):
    """The child has taken these segments and will make them; no other process does meanwhile."""

    segments: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat(Event):
    """A sign of life from a thread that does the work (never from a timer)."""

    phase: str
    done: int
    total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Progressed(Event):
    """How far the work is. A heartbeat says that the child is alive; this, that it gets ahead."""

    restored: int
    """Frames that the engine has made, of the segments that were asked for."""
    work: float
    """The same, with what is done of the frames that the engine is making now, in frames."""
    encoded: int
    """Frames that have left the encoder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored(Event):
    """The engine has made the last frame of a segment, which is not on disk yet."""

    segment: int
    seconds: float
    """Since the engine began its pass over the pending segments."""
    waited: float
    """Seconds of these in which the engine waited for the decoder, the encoder or the disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentDone(Event):
    """A segment is on disk and has its sidecar."""

    segment: int
    seconds: float
    """From the first frame that the encoder asked for to the commit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured(Event):
    """What a frame of the job takes on this machine."""

    engine_seconds: float
    """Of the engine, with decoding and conversions. On a CPU: if it had all cores for itself."""
    encoder_seconds: float
    """Of the encoder, if it had all cores for itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle(Event):
    """Every segment that was asked for is done, or is made by others that were asked to help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExcerptFound(Event):
    """Which frames of a job an excerpt has."""

    first: int
    stop: int
    start_seconds: float
    """When the first of them is shown, in the job's film."""
    end_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined(Event):
    """The joined file is in the request's `out`."""

    notes: tuple[str, ...]
    """Sentences for the user: what could not be carried over from the source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Previewed(Event):
    """The before/after picture is in the request's `out`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportMade(Event):
    """The report is in the job's directory."""

    warnings: tuple[str, ...]
    """Sentences about the result's quality, which the report holds as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared(Event):
    """The comparison's files are in its folder."""

    result: ComparisonResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(Event):
    """The child could not do what was asked, and ends."""

    kind: str
    """Name of the error's class in `seedvr2_core.errors`."""
    message: str
