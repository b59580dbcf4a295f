"""The job record: progress and result artifacts of the flow run, log lines, local listeners.

Record-keeping runs in a thread of its own with the latest value only: a Prefect server that is
away for minutes neither blocks the work nor fails the job.
"""

import contextlib
import contextvars
import logging
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.exceptions import PrefectException
from prefect.runtime import flow_run

from tasks.run.appointments import Watch
from tasks.run.artifacts import PROGRESS_KEY
from tasks.schemas import PlannedJob, Prospect

UPDATE_SECONDS = 1.0
RETRY_SECONDS = 10.0
DONE = "done"
DELIVERY_SECONDS = 2 * 3600.0
"""Longest silence after the last segment: joining and storing have limits of their own."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobProgress:
    """Where a job is."""

    phase: str
    frames: int
    num_frames: int
    stall_limit: float
    """Seconds without another sign of life after which this phase counts as hung."""
    detail: str = ""
    """What is going on within the phase, where frames do not tell."""
    deadline: datetime | None = None
    """When the job passes its limit; None in phases that it does not hold for."""
    beat_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def percent(self) -> float:
        """0..100; 100 is said only when the result is."""
        if self.phase == DONE:
            return 100.0
        return round(99.0 * self.frames / self.num_frames, 2) if self.num_frames else 0.0


class Listener(Protocol):
    """Somebody in this process who wants to see the job (the command's display)."""

    def planned(self, job: PlannedJob) -> None:
        """The plan is made."""

    def progressed(self, progress: JobProgress) -> None:
        """Called in the working thread with every heartbeat."""


_listeners: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())


@contextlib.contextmanager
def shown_to(listener: Listener) -> Iterator[None]:
    """Let somebody in this process see the jobs that run inside the `with` block."""
    token = _listeners.set((*_listeners.get(), listener))
    try:
        yield
    finally:
        _listeners.reset(token)


class JobRecord:
    """The record of one flow run."""

    def __init__(self, flow_run_id: str | None, run_logger: Any) -> None:
        self._flow_run_id = UUID(flow_run_id) if flow_run_id else None
        self._logger = run_logger
        self._listeners = _listeners.get()
        self._latest: JobProgress | None = None
        self._job: PlannedJob | None = None
        self._deadline: datetime | None = None
        self._watch = Watch(self._flow_run_id) if self._flow_run_id else None
        self._changed = threading.Event()
        self._ended = threading.Event()
        self._artifact_id: UUID | None = None
        # The run's context (API address, run id) does not follow into a thread by itself.
        context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=context.run, args=(self._keep,), daemon=True, name="record"
        )

    def log(self, line: str) -> None:
        """A line of the child's log, from any thread."""
        self._logger.info("%s", line)

    def planned(self, job: PlannedJob) -> None:
        """The plan is made: what will come out of it is shown from now on."""
        self._job = job
        for listener in self._listeners:
            listener.planned(job)
        # Another run of the same request may hold the job for as long as that.
        self.enter("planned", stall_limit=job.job_limit_seconds)

    def enter(self, phase: str, *, stall_limit: float, within: float | None = None) -> None:
        """A phase begins that may be silent for longer than the one before.

        Args:
            phase: its name.
            stall_limit: seconds of silence that are allowed.
            within: seconds to the job's limit, counted from the first phase that has one.
        """
        if within is None:
            self._deadline = None
        elif self._deadline is None:
            self._deadline = datetime.now(UTC) + timedelta(seconds=within)
        num_frames = self._job.num_frames if self._job else 0
        self.progress(phase=phase, frames=None, num_frames=num_frames, stall_limit=stall_limit)

    def progress(
        self,
        *,
        phase: str,
        frames: int | None,
        num_frames: int,
        stall_limit: float,
        detail: str = "",
    ) -> None:
        """Note progress; `frames` None keeps the last count. Called once per heartbeat."""
        if frames is None:
            frames = self._latest.frames if self._latest else 0
        self._latest = JobProgress(
            phase=phase,
            frames=frames,
            num_frames=num_frames,
            stall_limit=stall_limit,
            detail=detail,
            deadline=self._deadline,
        )
        self._changed.set()
        for listener in self._listeners:
            listener.progressed(self._latest)

    def start(self) -> None:
        """Begin to keep the record, if there is a run to keep it for."""
        if self._flow_run_id is not None:
            self._changed.set()
            self._thread.start()

    def finish(self) -> None:
        """The job is done; its record must not stay at the last thing that happened before."""
        num_frames = self._job.num_frames if self._job else 0
        self._latest = JobProgress(
            phase=DONE, frames=num_frames, num_frames=num_frames, stall_limit=DELIVERY_SECONDS
        )

    def stop(self) -> None:
        """Write the last value and stop keeping; waits a little for that."""
        self._ended.set()
        self._changed.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)

    def _keep(self) -> None:
        """Record thread: at most one update a second, the latest value only, and the last one."""
        posted: JobProgress | None = None
        while True:
            self._changed.wait()
            self._changed.clear()
            ended, latest = self._ended.is_set(), self._latest
            try:
                if not ended:
                    self._be_watched()
                if latest is not None and latest is not posted:
                    self._post(latest)
                    posted = latest
                    self._ended.wait(UPDATE_SECONDS)
            except (httpx.HTTPError, PrefectException, OSError) as error:
                logger.warning("progress is not recorded for now: %s", error)
                self._changed.set()
                self._ended.wait(RETRY_SECONDS)
            if ended:
                return

    def _be_watched(self) -> None:
        """Let `recover` look after the run."""
        if self._watch is not None:
            self._watch.keep(self._job.eta_seconds if self._job else None)

    def _post(self, latest: JobProgress) -> None:
        """Create or update the progress artifact."""
        beat = _beat(latest, self._job)
        done = latest.detail or f"{latest.frames} of {latest.num_frames} frames"
        description = f"{latest.phase}: {done} -> {self._job.output_name}" if self._job else done
        with get_client(sync_client=True) as client:
            if self._artifact_id is None:
                artifact = ArtifactCreate(
                    key=PROGRESS_KEY,
                    type="progress",
                    data=latest.percent,
                    description=description,
                    metadata_=beat,
                    flow_run_id=self._flow_run_id,
                )
                self._artifact_id = client.create_artifact(artifact).id
            else:
                update = ArtifactUpdate(
                    data=latest.percent, description=description, metadata_=beat
                )
                client.update_artifact(self._artifact_id, update)


def _beat(latest: JobProgress, job: PlannedJob | None) -> dict[str, str]:
    """What `recover` reads of a progress artifact: the last sign of life, and what it is for."""
    beat = {
        "beat_at": latest.beat_at.isoformat(timespec="milliseconds"),
        "phase": latest.phase,
        "stall_limit": str(latest.stall_limit),
    }
    if latest.deadline is not None:
        beat["deadline"] = latest.deadline.isoformat(timespec="seconds")
    if job is not None:
        beat["job"] = _prospect(job).model_dump_json()
    return beat


def _prospect(job: PlannedJob) -> Prospect:
    """What a job will give, without what only its own machine has a use for."""
    return Prospect(
        job_key=job.job_key,
        output_name=job.output_name,
        engine=job.engine,
        width=job.width,
        height=job.height,
        frames=job.num_frames,
        input_size_mb=round(job.source.num_bytes / 1e6, 3),
        eta_seconds=job.eta_seconds,
        job_limit_seconds=job.job_limit_seconds,
        notes=job.notes,
    )


class _Unrecorded(JobRecord):
    """Outside a run: listeners only."""

    def __init__(self) -> None:
        super().__init__(None, logger)


_current: ContextVar[JobRecord | None] = ContextVar("record", default=None)


def current() -> JobRecord:
    """The record of the run in this process."""
    return _current.get() or _Unrecorded()


@contextlib.contextmanager
def keep_record() -> Iterator[JobRecord]:
    """Keep the record of the flow run that is running now."""
    record = JobRecord(flow_run.id, get_run_logger())
    token = _current.set(record)
    record.start()
    try:
        yield record
        record.finish()
    finally:
        _current.reset(token)
        record.stop()
