"""The flow's side of warm engines: lets a child rest after its job, and finds one that rests.

A child that rests keeps its engine loaded for `SEEDVR2_WARM_SECONDS` (seedvr2_core/child/warm). It
ends with the process that has started this one: a worker, or the shell of a command.
"""

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from seedvr2_core.child.messages.life import Rest
from seedvr2_core.child.warm.seat import SeatCall, remove_stale, seat_for, sockets_in
from seedvr2_core.child.warm.terms import terms_of
from seedvr2_core.engines.reuse import WeightsWanted
from seedvr2_core.errors import BudgetError, DeadlineError, SeedVR2Error
from tasks.child.awake import awake_seconds
from tasks.child.guard import Child
from tasks.child.processes import Attached, Pipes, child_command
from tasks.run import current
from tasks.schemas import Device
from tasks.settings import Settings, child_environment, get_settings

logger = logging.getLogger(__name__)

REST_SECONDS = 10.0
"""How long a child may take to end its work and give back the memory of its job."""
_KEEPER = os.getppid()
"""Who has started us. Where that one has ended, we have another parent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmEngine:
    """An engine that is kept loaded."""

    pid: int
    engine: str
    device: str
    seconds_left: float
    """How long it still waits."""
    device_bytes: int
    """What its end gives back of the device's memory."""
    host_bytes: int
    """The same of the host's."""


def attach(plan: WeightsWanted, device: str) -> Attached | None:
    """A warm process that has loaded what a plan wants; None if there is none.

    One that has something else loaded is told to end: its device is needed.

    Args:
        plan: of the job.
        device: torch device string.
    """
    settings = get_settings()
    if not settings.warm_seconds:
        return None
    path = _seat(settings, device).with_suffix(".sock")
    terms = _terms(plan, device)
    with _calling(path) as caller:
        if caller is None:
            return None
        pipes = Pipes()
        try:
            answer = caller.ask({"ask": "attach", "terms": terms}, pipes.its)
            if answer.get("taken") and caller.pid > 0:
                return Attached(caller.pid, pipes)
        except OSError as error:
            _end_silent(caller, error)
        finally:
            pipes.close(pipes.its)
        pipes.close(pipes.ours)
    return None


def rest_request(plan: WeightsWanted, device: str) -> Rest | None:
    """What a child is asked that may outlive the job; None if it is to end.

    Args:
        plan: of the job.
        device: torch device string.
    """
    settings = get_settings()
    if not settings.warm_seconds or os.getppid() != _KEEPER:
        return None
    if _runs_this_job_alone(_KEEPER):
        current().log(
            "SEEDVR2_WARM_SECONDS has no effect where each job has a container of its own"
        )
        return None
    terms = _terms(plan, device)
    if not terms:
        return None
    return Rest(
        seat=_seat(settings, device), terms=terms, seconds=settings.warm_seconds, keeper=_KEEPER
    )


def let_rest(child: Child, plan: WeightsWanted, device: str) -> bool:
    """Let a child that has made its segments wait for the next job; it may be ended afterwards.

    Whatever goes wrong with that costs the job nothing.

    Returns:
        Whether it was asked; it does nothing else then.
    """
    try:
        request = rest_request(plan, device)
        if request is None:
            return False
        child.send(request)
        told, end = "letting the engine rest", awake_seconds() + REST_SECONDS
        while not request.is_answered_by(
            event := child.next_event(stall_seconds=REST_SECONDS, doing=told, deadline=end)
        ):
            pass  # the end of its work is still being told
        if event.refused:
            current().log(event.refused)
        elif os.getppid() == _KEEPER:  # as it was when the child began to watch it
            child.let_go()
    except (SeedVR2Error, OSError) as error:
        current().log(f"the engine is not kept loaded: {error}")
    return True


def is_doubtful(child: Child, error: BaseException) -> bool:
    """Whether a fresh child might not fail: a warm one gave an error after which nothing is tried
    again. The limits of caller and operator are none of these.
    """
    limits = (BudgetError, DeadlineError)
    final = isinstance(error, SeedVR2Error) and error.permanent and not isinstance(error, limits)
    return child.warm and final


def make_way(lock: str) -> bool:
    """Ask the warm child that holds the lock of a GPU to end; returns whether one does.

    Args:
        lock: name of the lock's file.
    """
    for path in sockets_in(get_settings().warm_dir):
        with _calling(path) as caller:
            if caller is None:
                continue
            try:
                if caller.ask({"ask": "yield", "lock": lock}).get("ends"):
                    return True
            except OSError as error:
                _end_silent(caller, error)
    return False


def warm_engines(settings: Settings) -> list[WarmEngine]:
    """The engines that are kept loaded on this machine."""
    found: list[WarmEngine] = []
    for path in sockets_in(settings.warm_dir):
        with _calling(path) as caller, contextlib.suppress(OSError, TypeError):
            if caller is not None:
                found.append(WarmEngine(**caller.ask({"ask": "tell"})))
    return found


def with_returned(device: Device, resting: Sequence[WarmEngine], settings: Settings) -> Device:
    """A device as a job will find it: with the memory that a warm engine there gives back.

    It is not counted how the process itself weighs on the device, so the job is planned for a
    little less than without the engine, and never for more.

    Args:
        device: as it was found just now.
        resting: the warm engines before that; one that has ended or come since does not count.
        settings: of this machine.
    """
    if device.free_bytes is None or not resting:
        return device
    now = {engine.pid for engine in warm_engines(settings)}
    for engine in resting:
        if engine.device == device.name and engine.pid in now:
            host = device.host_bytes
            changed = {
                "free_bytes": device.free_bytes + engine.device_bytes,
                "host_bytes": None if host is None else host + engine.host_bytes,
            }
            return device.model_copy(update=changed)
    return device


def _runs_this_job_alone(pid: int) -> bool:
    """Whether a process was started for one run and ends with it, as in a container for a job."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return True
    return b"flow-run" in words and b"execute" in words


def _terms(plan: WeightsWanted, device: str) -> str:
    """On which terms a child that we would start now could take the place of a warm one."""
    return terms_of(plan, device, command=child_command(), environment=child_environment())


def _seat(settings: Settings, device: str) -> Path:
    return seat_for(settings.warm_dir, device, child_environment())


@contextlib.contextmanager
def _calling(path: Path) -> Iterator[SeatCall | None]:
    """A connection to the child at a socket; None if nobody is there."""
    if not path.exists():
        yield None
        return
    try:
        caller = SeatCall(path)
    except ConnectionRefusedError:
        remove_stale(path)
        yield None
        return
    except OSError:
        yield None
        return
    with caller:
        yield caller


def _end_silent(caller: SeatCall, error: OSError) -> None:
    """End a warm child that does not answer: it would hold its GPU for nothing."""
    if isinstance(error, TimeoutError):
        logger.warning("warm process %d does not answer and is ended", caller.pid)
        caller.kill()
