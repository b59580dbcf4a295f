"""One request to a child that ends when it has answered, or waits for the next one in line."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TypeVar

from seedvr2_core.child.protocol import Event, Heartbeat, Idle, Prepare, Probe, Request, Restore
from seedvr2_core.errors import SeedVR2Error
from tasks.child.guard import Child
from tasks.child.processes import ChildProcess
from tasks.run import current

STALL_SECONDS = 60.0
"""Longest silence: probing, joining and looking for cuts send a heartbeat every few seconds, and
planning with each step. There is no other limit: a source is read once, so whoever beats comes to
its end."""
_END_SECONDS = 10.0
"""Longest silence of a child between its last segment and the end of that work."""
STARTING = "starting"
"""What is shown of a phase until the child says that it has begun: a fresh one loads Python and our
code first, which takes a second of a processor."""

E = TypeVar("E", bound=Event)


def load_detail(beat: Heartbeat) -> str:
    """What is shown of an engine's loading, which begins with a second or two for torch."""
    if beat.total:
        return f"{100 * beat.done // beat.total} % of the weights"
    return "PyTorch" if beat.phase == Restore.phase else ""


class _Place:
    """Where a child waits for its next request."""

    def __init__(self) -> None:
        self._child: Child | None = None

    def take(self) -> Child | None:
        """The child, if it lives; whoever takes it has to give it back or close it."""
        child, self._child = self._child, None
        if child is not None and not child.alive:
            child.close()
            return None
        return child

    def give(self, child: Child) -> None:
        """Keep a child that has answered; one that waits already is ended."""
        self.close()
        self._child = child

    def close(self) -> None:
        """End the child, if there is one."""
        if child := self.take():
            child.close()


class _Spare(_Place):
    """The child of the last operation, which waits for the next one."""

    def __init__(self, *, restores: bool) -> None:
        super().__init__()
        self.restores = restores
        """Whether segments are made in the block."""
        self.engine = _Place()
        """Of the child whose engine is loaded, between two sessions of one job."""


_spare: ContextVar[_Spare | None] = ContextVar("spare_child", default=None)


@contextlib.contextmanager
def one_child(*, restores: bool = True) -> Iterator[None]:
    """Let the operations in the `with` block share a child, as long as none of them fails.

    A start loads Python, numpy and the codecs, which takes a second of a processor, and a short job
    has six operations. A child whose operation has failed ends, and the next one gets a fresh one.
    On a CPU the watch over the segments takes the child that waits, too (`waiting_child`), and
    leaves it here when they are made (`pass_on`).

    Args:
        restores: segments are made in the block, so a child that probes loads torch meanwhile.
    """
    spare = _Spare(restores=restores)
    token = _spare.set(spare)
    try:
        yield
    finally:
        _spare.reset(token)
        spare.close()
        spare.engine.close()


def waiting_child() -> Child | None:
    """The child that the last operation of a `one_child` block has left, for other use.

    Returns:
        A child that waits for a request; whoever takes it has to close it. None if there is none.
    """
    spare = _spare.get()
    child = spare.take() if spare else None
    if child is not None:
        child.begin_anew()
    return child


def pass_on(child: Child, device: str, *, is_idle: bool, goes_on: bool = False) -> Child | None:
    """Leave a child that has made its segments to the operations that follow in the block.

    On a CPU alone: with a GPU it has to end, so that others find the GPU's memory free. Where the
    job goes on with another session, it is left to that, with its engine loaded (`drop_engine`).

    Args:
        child: the caller's.
        device: that it has worked on.
        is_idle: whether it has said that it has ended its work; else it is waited for.
        goes_on: whether the job has more segments, which another session makes.

    Returns:
        None if it was left; else the child, which is still the caller's to close.
    """
    spare = _spare.get()
    if spare is None or (device != "cpu" and not goes_on):
        return child
    try:
        while not is_idle:
            event = child.next_event(stall_seconds=_END_SECONDS, doing="the engine is closed")
            is_idle = isinstance(event, Idle)
    except SeedVR2Error as error:
        current().log(f"what is left is done by a fresh process: {error}")
        return child
    (spare.engine if goes_on else spare).give(child)
    return None


def drop_engine() -> None:
    """End the child that was left to the next session: that begins later, or not at all."""
    if spare := _spare.get():
        spare.engine.close()


def child_for(device: str, warm: ChildProcess | None) -> Child:
    """The child that restores on a device: that of the session before, or a warm one.

    Else, on a CPU, the one that has probed, which has its packages loaded. With a GPU it may have
    memory there, which it must not hold while it waits for its turn: a fresh one is taken.
    """
    spare = _spare.get()
    if warm is None and spare is not None and (child := spare.engine.take()):
        child.begin_anew()
        return child
    probed = waiting_child() if warm is None and device == "cpu" else None
    return probed or Child(log=current().log, process=warm)


def run_operation(request: Request[E], *, doing: str) -> E:
    """Let a child carry out one request; its heartbeats go into the run's record.

    Args:
        request: what to do.
        doing: the same in words, for messages: "probing the source".

    Returns:
        The event that answers the request.

    Raises:
        SeedVR2Error: what the child reported, that it died, or that it hangs.
    """
    child = waiting_child() or _fresh_child(request)
    try:
        event = _answer(child, request, doing)
    except BaseException:
        child.close()
        raise
    if spare := _spare.get():
        spare.give(child)
    else:
        child.close()
    return event


def _fresh_child(request: Request[E]) -> Child:
    """A child for a request. Who probes a job's source makes its segments later, on a CPU."""
    child, spare = Child(log=current().log), _spare.get()
    if spare and spare.restores and isinstance(request, Probe):
        child.send(Prepare())
    return child


def _answer(child: Child, request: Request[E], doing: str) -> E:
    """Send the request, and note the heartbeats until it is answered."""
    current().progress(phase=request.phase, detail=STARTING, stall_seconds=STALL_SECONDS)
    child.send(request)
    while True:
        event = child.next_event(stall_seconds=STALL_SECONDS, doing=doing)
        if isinstance(event, Heartbeat):
            current().beat(event.phase, event.done, event.total, stall_seconds=STALL_SECONDS)
        if request.is_answered_by(event):
            return event
