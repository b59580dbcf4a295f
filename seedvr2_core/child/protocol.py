"""What the parent and its child process say to each other: typed messages, one JSON line each.

The parent writes requests to the child's stdin, the child writes events to its own stdout. A line
is a JSON object with the message's name and its fields:

    {"op": "probe", "path": "/clips/a.mp4", "out": "/work/probes/1f.json"}
    {"event": "heartbeat", "phase": "decode", "done": 10, "total": 250}

Both are of the same version, so a message that one of them does not know is a mistake. A line that
is no event (a stray print, half a line) is log text. Loads neither numpy nor pydantic.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from seedvr2_core.child.messages.events import (
    CodingAgain,
    Compared,
    CutsFound,
    ExcerptFound,
    Failed,
    Heartbeat,
    Idle,
    Joined,
    Measured,
    PlanChecked,
    PlanMade,
    Previewed,
    Probed,
    Progressed,
    Ready,
    ReportMade,
    Restored,
    SegmentDone,
    SizeFound,
    Taken,
    Waiting,
)
from seedvr2_core.child.messages.fields import Event, Request, message_of, object_in
from seedvr2_core.child.messages.life import Prepare, Rest, Resting, Stop
from seedvr2_core.compare.record import Comparison
from seedvr2_core.errors import ChildFailedError
from seedvr2_core.planning import Options
from seedvr2_core.planning.plan import Rates
from seedvr2_core.report.record import AboutJob
from seedvr2_core.video.wanted import ALL_FRAMES, WantedFrames

__all__ = [
    "BEAT_SECONDS",
    "EVENTS",
    "OPENING",
    "REQUESTS",
    "CheckPlan",
    "CodingAgain",
    "Compare",
    "Compared",
    "CutExcerpt",
    "CutsFound",
    "Event",
    "ExcerptFound",
    "Failed",
    "FindCuts",
    "FindExcerpt",
    "FindSize",
    "Heartbeat",
    "Idle",
    "Join",
    "Joined",
    "MakePlan",
    "MakeReport",
    "Measure",
    "Measured",
    "PlanChecked",
    "PlanMade",
    "Prepare",
    "Preview",
    "Previewed",
    "Probe",
    "Probed",
    "Progressed",
    "Ready",
    "ReportMade",
    "Request",
    "Rest",
    "Resting",
    "Restore",
    "Restored",
    "SegmentDone",
    "SizeFound",
    "Stop",
    "Taken",
    "Waiting",
    "decode_event",
    "decode_request",
    "encode_event",
    "encode_request",
]

BEAT_SECONDS = 0.2
"""Shortest time between two heartbeats of one phase."""
OPENING = "opening"
"""Phase of the heartbeat with which a child has loaded torch and turns to the engine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FindSize(Request[SizeFound]):
    """Decode the first picture of a video, to know its size."""

    answer: ClassVar = SizeFound
    phase: ClassVar = "probe"
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe(Request[Probed]):
    """Read every packet of a video and write its `VideoInfo`."""

    answer: ClassVar = Probed
    phase: ClassVar = "probe"
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
    phase: ClassVar = "cuts"
    path: Path
    info: Path
    """What `Probe` wrote."""
    device: str
    detector: str
    """Name of the detector, for the record."""
    out: Path
    marks: tuple[int, ...] = ()
    """Frames of a whole video, rising. Once all cuts up to such a frame are known, they are written
    to `settled_path` of it."""

    def settled_path(self, mark: int) -> Path:
        """Where the cuts up to a mark are written, a `CutList`."""
        return self.out.with_suffix(f".{mark}.json")

    def settled_by(self, mark: int) -> str:
        """The detector's name in that file: no plan takes these for all the cuts."""
        return f"{self.detector} up to frame {mark}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MakePlan(Request[PlanMade]):
    """Plan a job for a probed video: it takes the times of all frames, which no parent holds."""

    answer: ClassVar = PlanMade
    phase: ClassVar = "plan"
    info: Path
    """What `Probe` wrote."""
    cuts: Path | None
    """What `FindCuts` wrote; None: the engine does not look at shots."""
    source_sha256: str
    options: Options
    """But for the cut detector, which is that of `cuts`."""
    rates: Rates
    out: Path
    like: tuple[Path, ...] = ()
    """Outlines of plans that knew fewer cuts. The memory settings of the first one for the same
    work are taken over, so that the segments which were made by it fit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckPlan(Request[PlanChecked]):
    """Look whether the plan of an earlier run is whole and of the same job."""

    answer: ClassVar = PlanChecked
    phase: ClassVar = "plan"
    plan: Path
    """Of the earlier run."""
    planned: Path
    """Outline of the plan that would take its place."""
    out: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class FindExcerpt(Request[ExcerptFound]):
    """Find the frames of a planned job that a preview shows."""

    answer: ClassVar = ExcerptFound
    phase: ClassVar = "plan"
    plan: Path
    wanted: str
    """LENGTH@PLACE, as `wanted_excerpt` reads it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure(Request[Measured]):
    """Restore and encode the first frames of a job for some seconds, and keep nothing of it."""

    answer: ClassVar = Measured
    phase: ClassVar = "measure"
    plan: Path
    """Of the job."""
    source: Path
    device: str
    folder: Path
    """For a temporary file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restore(Request[Idle]):
    """Make segments of a job, in order.

    The child says `Waiting` (while others have the job, the GPU or all that is left), `Taken` and
    `Ready` (or `CodingAgain`, where segments have masters), and for each segment `Restored` and
    `SegmentDone`, with heartbeats in between.
    """

    answer: ClassVar = Idle
    phase: ClassVar = "load"
    job_dir: Path
    source: Path
    device: str
    weights_dir: Path
    lock_dir: Path
    """Of this machine's children, for the locks of its GPUs."""
    segments: tuple[int, ...]
    """Indices, rising."""
    left_out: tuple[int, ...] = ()
    """Of the other segments, those that are not finished and that nobody is asked for now."""
    workers: int = 1
    """By how many processes the job is shared; each takes a part of what is left at a time."""
    helps: str = ""
    """Id of the run that this child helps; it stops when that run wants no help any more. "": the
    child is that run's own, and waits for what the others make."""
    waits: bool = False
    """A helper waits as well while nothing is free, for as long as help is wanted: its flow's
    process holds what others make on other machines, and lets go of what is for this child."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Join(Request[Joined]):
    """Join the finished segments of a job and carry the source's other streams over."""

    answer: ClassVar = Joined
    phase: ClassVar = "join"
    job_dir: Path
    source: Path
    out: Path
    metadata: Mapping[str, str]
    """Tags of the output file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CutExcerpt(Request[Joined]):
    """Cut an excerpt out of the finished segments of a job, with the same of its source."""

    answer: ClassVar = Joined
    phase: ClassVar = "join"
    job_dir: Path
    source: Path
    first: int
    stop: int
    out: Path
    """The clip of the result."""
    before: Path
    """The clip of the source."""
    picture: Path
    """Both in one picture."""
    metadata: Mapping[str, str]
    """Tags of the clip of the result."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview(Request[Previewed]):
    """Draw the before/after picture of a joined job."""

    answer: ClassVar = Previewed
    phase: ClassVar = "picture"
    job_dir: Path
    source: Path
    output: Path
    """The joined file."""
    out: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class MakeReport(Request[ReportMade]):
    """Compare a job's result with its source, and write the job's report."""

    answer: ClassVar = ReportMade
    phase: ClassVar = "report"
    job_dir: Path
    source: Path
    about: AboutJob
    seconds: float
    """How long it may look at frames."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compare(Request[Compared]):
    """Compare two videos."""

    answer: ClassVar = Compared
    wanted: Comparison


REQUESTS: Mapping[str, type[Request[Any]]] = {
    "find_size": FindSize,
    "probe": Probe,
    "find_cuts": FindCuts,
    "make_plan": MakePlan,
    "check_plan": CheckPlan,
    "find_excerpt": FindExcerpt,
    "measure": Measure,
    "restore": Restore,
    "join": Join,
    "cut_excerpt": CutExcerpt,
    "preview": Preview,
    "make_report": MakeReport,
    "compare": Compare,
    "prepare": Prepare,
    "rest": Rest,
    "stop": Stop,
}
EVENTS: Mapping[str, type[Event]] = {
    "size_found": SizeFound,
    "probed": Probed,
    "cuts_found": CutsFound,
    "plan_made": PlanMade,
    "plan_checked": PlanChecked,
    "excerpt_found": ExcerptFound,
    "waiting": Waiting,
    "ready": Ready,
    "coding_again": CodingAgain,
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
    "compared": Compared,
    "resting": Resting,
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
