"""What the parent and its child process say to each other: typed messages, one JSON line each.

The parent writes requests to the child's stdin, the child writes events to its own stdout. A line
is a JSON object with the message's name and its fields:

    {"op": "probe", "path": "/clips/a.mp4", "out": "/work/probes/1f.json"}
    {"event": "heartbeat", "phase": "decode", "done": 10, "total": 250}

Both are of the same version, so a message that one of them does not know is reported as a mistake.
A line that is no event at all (a stray print, half a line of a child that was killed) is log text.
This module loads neither numpy nor pydantic.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from seedvr2_core.child.fields import Event, Request, message_of, object_in
from seedvr2_core.errors import ChildFailedError
from seedvr2_core.kernels.devices import CPU
from seedvr2_core.planning import Options
from seedvr2_core.planning.plan import Rates
from seedvr2_core.report.record import AboutJob
from seedvr2_core.video.info import VideoOutline
from seedvr2_core.video.wanted import ALL_FRAMES, WantedFrames

BEAT_SECONDS = 0.2
"""Shortest time between two heartbeats of one phase."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundDevice:
    """A device that torch can use in the child."""

    name: str
    """Torch device string: "cuda:0", "cpu"."""
    kind: str
    """What the GPU is called; "cpu" for the host."""
    free_bytes: int | None
    """Memory that is free on it; None for the host."""
    host_bytes: int | None = None
    """Memory of the host that is free for work on it; None for the host itself."""
    dit_dtype: str = CPU.dit_dtype
    """Of a transformer's Linears there, as the table of devices has it."""
    own_kernels: bool = True
    """Whether kernels of our own run there, if it is a GPU."""


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
    """Another process holds the job or the GPU; repeated while that lasts."""

    whom: str
    """Whom the child waits for, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready(Event):
    """The engine is loaded."""

    engine: str
    device: str


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
class Failed(Event):
    """The child could not do what was asked, and ends."""

    kind: str
    """Name of the error's class in `seedvr2_core.errors`."""
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe(Request[Probed]):
    """Read every packet of a video and write its `VideoInfo`."""

    answer: ClassVar = Probed
    path: Path
    out: Path
    max_frames: int | None = None
    """A longer video is refused while it is read; None: any is taken."""
    max_seconds: float | None = None
    wanted: WantedFrames = ALL_FRAMES
    """Which frames of it; `out` and the answer describe these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FindCuts(Request[CutsFound]):
    """Find the cuts of a probed video and write its `CutList`."""

    answer: ClassVar = CutsFound
    path: Path
    info: Path
    """What `Probe` wrote."""
    device: str
    detector: str
    """Name of the detector, for the record."""
    out: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class MakePlan(Request[PlanMade]):
    """Plan a job for a probed video: it takes the times of all frames, which no parent holds."""

    answer: ClassVar = PlanMade
    info: Path
    """What `Probe` wrote."""
    cuts: Path | None
    """What `FindCuts` wrote; None: the engine does not look at shots."""
    source_sha256: str
    options: Options
    """But for the cut detector, which is that of `cuts`."""
    rates: Rates
    out: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckPlan(Request[PlanChecked]):
    """Look whether the plan of an earlier run is whole and of the same job."""

    answer: ClassVar = PlanChecked
    plan: Path
    """Of the earlier run."""
    planned: Path
    """Outline of the plan that would take its place."""
    out: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure(Request[Measured]):
    """Restore and encode the first frames of a job for some seconds, and keep nothing of it."""

    answer: ClassVar = Measured
    plan: Path
    """Of the job."""
    source: Path
    device: str
    folder: Path
    """For a temporary file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restore(Request[Idle]):
    """Make segments of a job, in order.

    The child says `Waiting` (while somebody else has the job, the GPU or all segments that are
    left), `Taken` and `Ready`, and for each segment `Restored` and `SegmentDone`, with heartbeats
    in between.
    """

    answer: ClassVar = Idle
    job_dir: Path
    source: Path
    device: str
    weights_dir: Path
    lock_dir: Path
    """Folder that all children of this machine share, for the locks of its GPUs."""
    segments: tuple[int, ...]
    """Indices, rising."""
    workers: int = 1
    """By how many processes the job is shared; each takes a part of what is left at a time."""
    helps: str = ""
    """Id of the run that this child helps; it stops when that run wants no help any more. "": the
    child is that run's own, and waits for what the others make."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Join(Request[Joined]):
    """Join the finished segments of a job and carry the source's other streams over."""

    answer: ClassVar = Joined
    job_dir: Path
    source: Path
    out: Path
    metadata: Mapping[str, str]
    """Tags of the output file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview(Request[Previewed]):
    """Draw the before/after picture of a joined job."""

    answer: ClassVar = Previewed
    job_dir: Path
    source: Path
    output: Path
    """The joined file."""
    out: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeReport(Request[ReportMade]):
    """Compare a job's result with its source, and write the job's report."""

    answer: ClassVar = ReportMade
    job_dir: Path
    source: Path
    about: AboutJob
    seconds: float
    """How long it may look at frames."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop(Request[Event]):
    """End the process. There is no answer."""

    answer: ClassVar = Event


REQUESTS: Mapping[str, type[Request[Any]]] = {
    "probe": Probe,
    "find_cuts": FindCuts,
    "make_plan": MakePlan,
    "check_plan": CheckPlan,
    "measure": Measure,
    "restore": Restore,
    "join": Join,
    "preview": Preview,
    "make_report": MakeReport,
    "stop": Stop,
}
EVENTS: Mapping[str, type[Event]] = {
    "probed": Probed,
    "cuts_found": CutsFound,
    "plan_made": PlanMade,
    "plan_checked": PlanChecked,
    "waiting": Waiting,
    "ready": Ready,
    "taken": Taken,
    "heartbeat": Heartbeat,
    "progressed": Progressed,
    "restored": Restored,
    "segment_done": SegmentDone,
    "measured": Measured,
    "idle": Idle,
    "joined": Joined,
    "previewed": Previewed,
    "report_made": ReportMade,
    "error": Failed,
}
_NAMES: Mapping[type, str] = {kind: name for name, kind in [*REQUESTS.items(), *EVENTS.items()]}


def encode_request(request: Request[Any]) -> str:
    """A request as one line of JSON, without the newline."""
    return _encode("op", request)


def encode_event(event: Event) -> str:
    """An event as one line of JSON, without the newline."""
    return _encode("event", event)


def decode_request(line: str) -> Request[Any]:
    """A request from its line.

    Raises:
        ChildFailedError: the line is no request, or one with unknown, missing or wrong fields.
    """
    told = object_in(line)
    if told is None or not isinstance(name := told.pop("op", None), str):
        raise ChildFailedError(f"the parent sent a line that is no request: {line[:200]!r}")
    return message_of(REQUESTS, name, told)


def decode_event(line: str) -> Event | None:
    """An event from its line; None for a line that is log text.

    Raises:
        ChildFailedError: the line is an event, but an unknown one or with unknown, missing or wrong
            fields.
    """
    told = object_in(line)
    if told is None or not isinstance(name := told.pop("event", None), str):
        return None
    return message_of(EVENTS, name, told)


def _encode(key: str, message: Any) -> str:
    return json.dumps({key: _NAMES[type(message)], **asdict(message)}, default=os.fspath)
