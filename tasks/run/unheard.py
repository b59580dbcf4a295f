"""Ends the work of a run that is not this process's any more, where nobody has told the process.

Prefect's worker ends the process of a run that somebody has cancelled. It hears of that by an
event, and asks for events from its own time on: one whose clock is an hour ahead hears nothing for
an hour. One whose network was away for half a minute may have given up listening for good. A
process that was cut off for longer may find that another one has taken the run up meanwhile. So
the process asks for its run by itself, and ends itself where nobody else has done so for a while.
"""

import contextlib
import contextvars
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound, Pause, PrefectException
from prefect.runtime import deployment, flow_run
from prefect.states import Cancelled, Cancelling

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun, State

LOOK_SECONDS = 20.0
"""Time between two looks at the run."""
PATIENCE_SECONDS = 15.0
"""How long Prefect's worker has to end the process: without events, it asks every ten seconds."""
Why = Literal["", "cancelled", "elsewhere"]
"""What has become of the run: "" - nothing, it goes on; somebody has cancelled it; it has ended or
is at work in another process."""


class NotOursError(Exception):
    """The run was cancelled, or goes on elsewhere, and this process is to end."""

    def __init__(self, why: Why) -> None:
        """Note what has become of the run."""
        told = "it was cancelled" if why == "cancelled" else "it has ended, or goes on elsewhere"
        super().__init__(f"{told}, and its process was not told")
        self.why = why

    def leave(self) -> "State[Any]":
        """The state in which the run ends, after what its flow does at a cancellation.

        Raises:
            Pause: the run's state is left as it is; the process ends without a word about it.
        """
        get_run_logger().warning("this process ends: %s", self)
        with get_client(sync_client=True) as client:
            run = client.read_flow_run(UUID(str(flow_run.id)))
        if self.why == "elsewhere" or run.state is None or not run.state.is_cancelling():
            raise Pause(state=run.state)
        context = FlowRunContext.get()
        assert context is not None, "only a flow ends this way"
        assert context.flow is not None
        for hook in context.flow.on_cancellation_hooks:
            hook(context.flow, run, Cancelling(message=run.state.message))
        return Cancelled(message=run.state.message)


class Lookout:
    """Looks at the run of this process again and again, in a thread of its own."""

    def __init__(
        self,
        run_id: UUID,
        end: Callable[[], None],
        *,
        look_seconds: float,
        patience_seconds: float,
    ) -> None:
        """Look at nothing yet.

        Args:
            run_id: the run.
            end: ends the work; called once at most, in the thread, and not after `stop`.
            look_seconds: time between two looks.
            patience_seconds: how long a cancelled run may be left to Prefect's worker.
        """
        self.why: Why = ""
        """Why the work was ended."""
        self._run_id, self._end = run_id, end
        self._look_seconds, self._patience_seconds = look_seconds, patience_seconds
        self._attempt: int | None = None
        """Which start of the run this process is, counted by Prefect."""
        self._since: float | None = None
        """When it was first seen that the run is not at work here any more."""
        self._turn = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(
            target=contextvars.copy_context().run, args=(self._work,), daemon=True, name="lookout"
        )

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End nothing from now on. The thread ends by itself."""
        with self._turn:
            self._ended.set()

    def _work(self) -> None:
        """The thread."""
        while not self._ended.is_set():
            with contextlib.suppress(httpx.HTTPError, PrefectException, OSError):
                self._act(self._seen())
            self._ended.wait(self._look_seconds)

    def _seen(self) -> Why:
        """What has become of the run, by one request to Prefect."""
        try:
            with get_client(sync_client=True) as client:
                run = client.read_flow_run(self._run_id)
        except ObjectNotFound:
            return ""  # its record was removed; what is made may still be wanted
        if self._attempt is None:
            self._attempt = run.run_count
        return _fate_of(run, self._attempt)

    def _act(self, why: Why) -> None:
        """End the work if the run has not been at work here for long enough."""
        if not why:
            self._since = None
            return
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if now - self._since < self._patience_seconds:
            return
        with self._turn:
            if self._ended.is_set():
                return
            self.why = why
            self._ended.set()
            self._end()


def _fate_of(run: "FlowRun", attempt: int) -> Why:
    if run.run_count > attempt or (run.state is not None and run.state.is_cancelled()):
        return "elsewhere"
    return "cancelled" if run.state is not None and run.state.is_cancelling() else ""


@contextlib.contextmanager
def looked_after() -> Iterator[Lookout | None]:
    """Look after the run that a worker has started this process for, in the `with` block.

    Yields:
        What looks; None where no worker has: nobody expects such a run to end by itself.

    Side effects: SIGTERM to this process if its run is not its own any more. Prefect's engine
        raises an exception in the main thread for it.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if deployment.id is None or not is_main:
        yield None
        return
    lookout = Lookout(
        UUID(str(flow_run.id)),
        lambda: os.kill(os.getpid(), signal.SIGTERM),
        look_seconds=LOOK_SECONDS,
        patience_seconds=PATIENCE_SECONDS,
    )
    lookout.start()
    try:
        yield lookout
    finally:
        lookout.stop()
