"""The record of the flow run that this process works on: progress, log lines, local listeners.

`keep_record` opens the record in the flow; tasks reach it with `current()`. A thread of its own
publishes the latest progress to Prefect, so a Prefect server that is away for minutes neither
delays the work nor fails the job.
"""

import contextlib
import contextvars
import logging
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.exceptions import PrefectException
from prefect.runtime import flow_run

from seedvr2_core.words import counted
from tasks.run.appointments import Watch
from tasks.run.artifacts import SavedProgress, save_progress
from tasks.run.measures import Measures
from tasks.schemas import PlannedJob, Prospect
from tasks.settings import get_settings

ALIVE_SECONDS = 10.0
"""Longest time between two updates: without one, `recover` takes the process for lost."""
RETRY_SECONDS = 10.0
"""Wait after the Prefect server did not take an update."""
DONE = "done"
"""The last phase: the result is published."""
WAIT = "wait"
"""The phase in which a job waits for somebody else; the detail says for whom."""
WAIT_STALL_SECONDS = 600.0
"""Longest silence of a job that waits."""
DELIVERY_SECONDS = 2 * 3600.0
"""Longest silence after the last segment: joining and storing have limits of their own."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobProgress:
    """Where a job is. Frames and percentage never run backward in a run."""

    phase: str
    frames: int
    """Restored frames, those that an earlier run has kept included."""
    num_frames: int
    stall_seconds: float
    """Seconds without another sign of life after which this phase counts as hung."""
    work: float | None = None
    """Work done, in frames: one is whole when it is restored and encoded. None: `frames`."""
    detail: str = ""
    """What is going on, in phases where the number of frames does not say it."""
    seconds_left: float | None = None
    """Until the output is stored; None where nothing is known about it."""
    deadline: datetime | None = None
    """When the job passes the limit that the operator set; None in all phases without one."""
    hands: int = 1
    """How many runs make its segments."""
    beat_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    measures: Measures = field(default_factory=Measures)

    @property
    def percent(self) -> float:
        """0..100; at most 99 until the result is published."""
        if self.phase == DONE:
            return 100.0
        work = self.frames if self.work is None else self.work
        return round(99.0 * min(1.0, work / self.num_frames), 2) if self.num_frames else 0.0


class Listener(Protocol):
    """Code in this process that follows the job, such as the command's display."""

    needs_whole_plan: bool
    """Whether nothing is to be made before the job is planned with all its cuts."""

    def planned(self, job: PlannedJob) -> None:
        """The job is planned. One that is begun early is planned twice (`job.early`)."""

    def progressed(self, progress: JobProgress) -> None:
        """Called with every heartbeat, in the thread that works on the job."""


# Context variables, so that two runs in one process do not see each other's. Prefect runs our
# flow and its tasks in one thread and context, also tasks with a timeout.
_listeners: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())
_current: ContextVar["JobRecord | None"] = ContextVar("record", default=None)


@contextlib.contextmanager
def shown_to(listener: Listener) -> Iterator[None]:
    """Let a listener follow the jobs that run inside the `with` block."""
    token = _listeners.set((*_listeners.get(), listener))
    try:
        yield
    finally:
        _listeners.reset(token)


@contextlib.contextmanager
def keep_record(*, at_least_seconds: float = 0.0) -> Iterator["JobRecord"]:
    """Keep the record of the flow run that is running now.

    Args:
        at_least_seconds: between two updates of its artifact, if the setting `progress_seconds`
            has less.
    """
    update_seconds = max(at_least_seconds, get_settings().progress_seconds)
    record = JobRecord(flow_run.id, get_run_logger(), update_seconds=update_seconds)
    token = _current.set(record)
    record.start()
    try:
        yield record
        record.finish()
    finally:
        _current.reset(token)
        record.stop()


def current() -> "JobRecord":
    """The record that `keep_record` opened; outside it, one that only tells the listeners."""
    return _current.get() or JobRecord(None, logger)


class JobRecord:
    """The record of one flow run."""

    def __init__(
        self,
        flow_run_id: str | None,
        run_logger: Any,
        *,
        update_seconds: float = 0.0,
    ) -> None:
        """Make a record that is not kept yet.

        Args:
            flow_run_id: the run whose artifacts show the progress; None: there is no run.
            run_logger: takes the child's log lines.
            update_seconds: shortest time between two updates of the artifact.
        """
        self.hands = 1
        """How many runs make segments of the job; whoever shares it out keeps this up to date."""
        self._update_seconds = update_seconds
        self._flow_run_id = UUID(flow_run_id) if flow_run_id else None
        self._logger = run_logger
        self._listeners = _listeners.get()
        self._latest: JobProgress | None = None
        self._stages: dict[str, float] = {}
        self._stage, self._stage_began = "prepare", time.monotonic()
        self._job: PlannedJob | None = None
        self._changed = threading.Event()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def stage_seconds(self) -> dict[str, float]:
        """Phase -> seconds of this run so far, in the order in which the phases began."""
        told = dict(self._stages)
        told[self._stage] = told.get(self._stage, 0.0) + time.monotonic() - self._stage_began
        return told

    def log(self, line: str) -> None:
        """Pass on a line of the child's log; may be called from any thread."""
        self._logger.info("%s", line)

    @property
    def may_begin_early(self) -> bool:
        """Whether nobody waits for the whole plan."""
        return not any(listener.needs_whole_plan for listener in self._listeners)

    def planned(self, job: PlannedJob) -> None:
        """Note the plan; from now on the record shows what will come out of it."""
        self._job = job
        for listener in self._listeners:
            listener.planned(job)
        self.enter("planned", stall_seconds=DELIVERY_SECONDS)

    def enter(self, phase: str, *, stall_seconds: float) -> None:
        """Begin a phase that may be silent for so many seconds."""
        self.progress(phase=phase, stall_seconds=stall_seconds)

    def wait(self, whom: str, *, stall_seconds: float = WAIT_STALL_SECONDS) -> None:
        """Say that the job waits for somebody; called again and again while it waits.

        Args:
            whom: who that is, in words: "another run of the same request", "cuda:0".
            stall_seconds: the longest time between two calls.
        """
        self.progress(phase=WAIT, detail=f"waiting for {whom}", stall_seconds=stall_seconds)

    def beat(self, phase: str, done: int, total: int, *, stall_seconds: float) -> None:
        """Note a heartbeat of work that is not counted in frames; `total` 0: not known."""
        detail = f"{100 * min(done, total) // total} %" if total else ""
        self.progress(phase=phase, detail=detail, stall_seconds=stall_seconds)

    def still_alive(self, done: int, total: int) -> None:
        """Note that the phase at hand goes on: a large file is read, so many bytes of all."""
        del done, total
        if self._latest is None:
            self.enter("planned", stall_seconds=DELIVERY_SECONDS)
        else:
            self._tell(replace(self._latest, beat_at=datetime.now(UTC)))

    def progress(  # noqa: PLR0913 - a keyword for each field of the record
        self,
        *,
        phase: str,
        stall_seconds: float,
        frames: int | None = None,
        work: float | None = None,
        num_frames: int | None = None,
        seconds_left: float | None = None,
        within: float | None = None,
        detail: str = "",
        measures: Measures | None = None,
    ) -> None:
        """Note progress; called with every heartbeat.

        Args:
            phase: what kind of work is under way.
            stall_seconds: how long it may be silent.
            frames: restored frames of the job. None, or fewer than before: the last count stays.
            work: work done, in frames; a frame is whole when it is restored and encoded. None, in
                phases after the work: all of `frames`.
            num_frames: of the job; None: as planned.
            seconds_left: until the output is stored.
            within: seconds to the limit that the operator has set for the job, if it counts now.
            detail: what is going on, where the number of frames does not say it.
            measures: of the work; None, in phases without: what stays true of the last ones.
        """
        if phase != self._stage:
            self._stages, self._stage = self.stage_seconds, phase
            self._stage_began = time.monotonic()
        before = self._latest
        frames = max(frames or 0, before.frames if before else 0)
        if num_frames is None:
            num_frames = self._job.num_frames if self._job else 0
        done = max(frames if work is None else work, (before.work or 0.0) if before else 0.0)
        now = datetime.now(UTC)
        self._tell(
            JobProgress(
                phase=phase,
                frames=frames,
                num_frames=num_frames,
                stall_seconds=stall_seconds,
                work=done,
                detail=detail,
                seconds_left=None if seconds_left is None else round(seconds_left, 1),
                deadline=None if within is None else now + timedelta(seconds=within),
                hands=self.hands,
                beat_at=now,
                measures=self._measured(measures),
            )
        )

    def _measured(self, measures: Measures | None) -> Measures:
        """The latest measures; a rate and a range end with the work that they are of."""
        if measures is None:
            last = self._latest.measures if self._latest else Measures()
            measures = replace(
                last, frames_per_second=None, seconds_left_low=None, seconds_left_high=None
            )
        if self._job is None:
            return measures
        job = self._job
        return replace(measures, segments=job.num_segments, device=job.device, seed=job.seed)

    def _tell(self, progress: JobProgress) -> None:
        """Keep the latest progress, and tell the thread and the listeners."""
        self._latest = progress
        self._changed.set()
        for listener in self._listeners:
            listener.progressed(progress)

    def start(self) -> None:
        """Start the thread that publishes the record, if there is a run to publish it for."""
        if self._flow_run_id is None:
            return
        self._changed.set()  # the first pass labels the run, before there is any progress
        # A new thread has an empty context: copy the one that knows the API and the run.
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._keep, self._flow_run_id), daemon=True, name="record"
        )
        self._thread.start()

    def finish(self) -> None:
        """Note that the job is done, so that `stop` publishes this and not the step before."""
        num_frames = self._job.num_frames if self._job else 0
        self.progress(
            phase=DONE, frames=num_frames, seconds_left=0.0, stall_seconds=DELIVERY_SECONDS
        )

    def stop(self) -> None:
        """Publish the last value and end the thread; waits at most five seconds for it."""
        self._ended.set()
        self._changed.set()
        if self._thread is not None:
            self._thread.join(timeout=5.0)

    def _keep(self, run_id: UUID) -> None:
        """The thread: publish the latest value, not more often than asked for, and the last one.

        Where nothing changes, the same value is published again as the process's sign of life.
        """
        watch = Watch(run_id)
        posted: JobProgress | None = None
        artifact_id: UUID | None = None
        while True:
            renew = not self._changed.wait(max(0.0, ALIVE_SECONDS - self._update_seconds))
            self._changed.clear()
            # Read before the latest value: what was noted before the end must not be missed.
            ended = self._ended.is_set()
            latest = self._latest
            try:
                if not ended:
                    watch.keep(self._job.eta_seconds if self._job else None)
                if renew or artifact_id is None or latest is not posted:
                    artifact_id = save_progress(run_id, _saved(latest, self._job), artifact_id)
                    posted = latest
                    self._ended.wait(self._update_seconds)
                if ended and latest is not None and latest.phase == DONE:
                    watch.take_back()
            except (httpx.HTTPError, PrefectException, OSError) as error:
                logger.warning("progress is not recorded for now: %s", error)
                self._changed.set()
                self._ended.wait(RETRY_SECONDS)
            if ended:
                return


def _saved(latest: JobProgress | None, job: PlannedJob | None) -> SavedProgress:
    """What the progress artifact is to say; `latest` is None until the job is planned."""
    if latest is None:
        return SavedProgress(
            phase="prepare",
            percent=0.0,
            description="prepare: fetching and probing the source",
            alive_seconds=ALIVE_SECONDS,
        )
    done = latest.detail or f"{latest.frames} of {counted(latest.num_frames, 'frame')}"
    if latest.hands > 1:
        done += f", {latest.hands} workers"
    if latest.seconds_left and not latest.detail:
        done += f", about {latest.seconds_left:.0f} s left"
    return SavedProgress(
        phase=latest.phase,
        percent=latest.percent,
        frames=latest.frames,
        num_frames=latest.num_frames,
        seconds_left=latest.seconds_left,
        detail=latest.detail or None,
        description=f"{latest.phase}: {done} -> {job.output_name}" if job else done,
        beat_at=latest.beat_at,
        stall_seconds=latest.stall_seconds,
        deadline=latest.deadline,
        alive_seconds=ALIVE_SECONDS,
        prospect_json=_prospect(job).model_dump_json() if job else None,
        measures=latest.measures,
    )


def _prospect(job: PlannedJob) -> Prospect:
    """What a job will produce, without what only its own machine can use."""
    return Prospect(
        job_key=job.job_key,
        output_name=job.output_name,
        source_name=job.source.name,
        engine=job.engine,
        width=job.width,
        height=job.height,
        frames=job.num_frames,
        input_size_mb=round(job.source.num_bytes / 1e6, 3),
        eta_seconds=job.eta_seconds,
        job_limit_seconds=job.job_limit_seconds,
        notes=job.notes,
        preview=job.preview,
    )
