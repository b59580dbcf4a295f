"""Tell the caller while a run is at work: that it has started, and how far it is.

A thread of its own sends, so the work never waits for a receiver. What is not taken goes into the
outbox, in the order in which it happened; of the progress only the latest is kept.
"""

import asyncio
import contextlib
import contextvars
import logging
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectException
from prefect.runtime import flow_run as this_run

from seedvr2_core.errors import SourceRefusedError
from tasks.run.callbacks import outbox
from tasks.run.callbacks.events import (
    CallbackEvent,
    progress_event,
    started_event,
    wanted_events,
)
from tasks.run.callbacks.sending import send_once
from tasks.run.record import JobProgress, shown_to
from tasks.schemas import PlannedJob, UpscaleRequest
from tasks.settings import Settings, get_settings

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

_END_SECONDS = 3.0
"""How long a run's end waits for the thread."""

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def announced(request: UpscaleRequest) -> Iterator[None]:
    """Tell the caller of the run at hand while the block is at work, if the request wants that."""
    wanted = set(request.callback_events.split(",")) & {"started", "progress"}
    if not request.callback_url or not wanted or this_run.id is None:
        yield
        return
    announcer = Announcer(request.callback_url, UUID(str(this_run.id)), get_settings())
    with shown_to(announcer):
        announcer.start()
        try:
            yield
        finally:
            announcer.stop()


class Announcer:
    """Sends the events of one attempt, from a thread of its own; a listener of the record."""

    needs_whole_plan = False

    def __init__(self, url: str, run_id: UUID, settings: Settings) -> None:
        self._url, self._run_id, self._settings = url, run_id, settings
        self._latest: JobProgress | None = None
        self._ended = threading.Event()
        self._number = 0
        self._failed = False
        """Whether something may wait in the outbox."""
        self._thread: threading.Thread | None = None

    def planned(self, job: PlannedJob) -> None:
        """Nothing is told of the plan."""

    def progressed(self, progress: JobProgress) -> None:
        """Note how far the job is; called with every heartbeat, so it only notes."""
        self._latest = progress

    def start(self) -> None:
        """Start the thread."""
        context = contextvars.copy_context()  # it knows the API
        self._thread = threading.Thread(
            target=context.run, args=(self._tell_all,), daemon=True, name="announcer"
        )
        self._thread.start()

    def stop(self) -> None:
        """End the thread. A receiver that hangs is not waited for."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(_END_SECONDS)

    def _tell_all(self) -> None:
        """The thread."""
        try:
            with get_client(sync_client=True) as client:
                run = client.read_flow_run(self._run_id)
            wanted = wanted_events(run)
            if "started" in wanted:
                self._tell(started_event(run))
            if "progress" in wanted:
                self._tell_progress(run)
        except (httpx.HTTPError, PrefectException, OSError, SourceRefusedError) as error:
            logger.warning("the caller is not told how far the job is: %s", error)

    def _tell_progress(self, run: "FlowRun") -> None:
        told: JobProgress | None = None
        while not self._ended.wait(self._settings.callback_progress_seconds):
            latest = self._latest
            if latest is None or latest is told:
                continue
            told = latest
            self._tell(progress_event(run, latest, self._number))
            self._number += 1

    def _tell(self, event: CallbackEvent) -> None:
        """Send an event, or put it behind those that wait.

        Raises:
            SourceRefusedError: the receiver wants none of them.
        """
        with get_client(sync_client=True) as client:
            before = outbox.waiting_of(client, self._run_id) if self._failed else []
            if before and before[-1].is_passing and event.status == "progress":
                outbox.replace(client, before[-1], event)
                return
            trouble = "" if before else asyncio.run(send_once(self._url, event, self._settings))
            self._failed = trouble is not None
            if trouble is None or (self._ended.is_set() and event.status == "progress"):
                return
            attempts = 1 if trouble else 0
            outbox.put(client, self._run_id, event, attempts=attempts, trouble=trouble)
