"""Looks for lost runs that nothing else is checking, in one process for ten minutes.

A look costs a few requests, and a process seconds of a core until it can look. So one sweep looks
four times a minute until the next is at work, which Prefect's schedule begins every ten minutes.

A sweep that is killed must not leave ten minutes without a look. So each has a stand-in: one more
run that is due in a minute, and that the sweep puts off as long as it lives. Two sweeps may be at
work for a moment; the newest goes on. Both would make the same appointments, and each is made once.
A sweep whose worker is drained ends with its next look, and its stand-in goes on elsewhere.
"""

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import httpx
from prefect import get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowFilter, FlowRunFilter, WorkPoolFilter
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.runtime import flow_run
from prefect.states import Scheduled

from tasks.recovery.callbacks import send_waiting
from tasks.recovery.forgotten import appoint_unseen, runs_of, say_lost
from tasks.run.appointments import is_drained
from tasks.run.clock import server_now
from tasks.step import step

QUIET_SWEEP = "look at all"
"""Name of a run of `recover` that looks for lost runs, unless it has found one."""
LOOK_SECONDS = 15.0
"""Time between two looks."""
STAND_IN_SECONDS = 60.0
"""A sweep that has been gone for so long is replaced."""
_MOST_SECONDS = 900.0
"""Longest time of a sweep: its stand-in takes over where no schedule begins the next one."""
_MOST_FAILURES = 4
"""So many looks in a row may fail, because the server is away; the next process tries then."""
_ENDS_SECONDS = 120.0
"""An older sweep that is still there so long after the newest began has no process any more."""
_WAITED_SECONDS = 30.0
"""A run that somebody waits for and that no worker has begun for so long gets this one's place."""
_KEEP_SWEEPS = timedelta(hours=1)
"""How long a sweep that found nothing stays in Prefect's lists."""
_KEY = "sweep:"
"""Idempotency keys of stand-ins begin with this."""
_AWAY = (httpx.HTTPError, PrefectException, OSError)


@step(name="sweep")
def sweep() -> str:
    """Let `recover` look at lost runs that nobody looks at, and send callbacks that wait.

    A run that a schedule or a sweep has begun goes on until the next one is at work. Any other
    looks once.

    Returns:
        What was found, in words.

    Raises:
        PrefectException, httpx.HTTPError: the server was away for several looks.
    """
    told, failures, until = dict[str, None](), 0, time.monotonic() + _MOST_SECONDS
    one = _Sweep()
    while True:
        try:
            told |= dict.fromkeys(filter(None, one.look()))
            failures = 0
        except _AWAY as error:
            failures += 1
            if failures == _MOST_FAILURES:
                raise
            get_run_logger().warning("this look failed, the next comes soon: %s", error)
        if one.ended or time.monotonic() > until:
            return "; ".join(told) or "no lost run that nobody looked at"
        time.sleep(LOOK_SECONDS)


class _Sweep:
    """A sweep at work."""

    def __init__(self) -> None:
        self.ended = False
        """Whether another goes on, this one's worker waits for it, or one look was all."""
        self._own: FlowRun | None = None
        self._stand_in: UUID | None = None
        self._put_off_at = 0.0

    def look(self) -> list[str]:
        """Look once; returns what was found, in words."""
        with get_client(sync_client=True) as client:
            if self._own is None:
                self._own = client.read_flow_run(UUID(flow_run.id))
                forget_sweeps(client)
            at_work = list(runs_of(client, ("recover",), _state("RUNNING")))
            self._settle_who_goes_on(client, self._own, at_work)
            found = appoint_unseen(client, at_work)
        return [found, send_waiting()]

    def _settle_who_goes_on(
        self, client: SyncPrefectClient, own: FlowRun, at_work: Sequence[FlowRun]
    ) -> None:
        """End if another goes on; else put the stand-in off, and end sweeps without a process."""
        if not goes_on(own):
            self.ended = True
            return
        others = [run for run in at_work if goes_on(run) and run.id != own.id]
        if any(_began(run) > _began(own) for run in others):
            self._end(client)
            return
        now = server_now(client)
        if now - _began(own) > timedelta(seconds=_ENDS_SECONDS):
            for run in others:
                say_lost(client, run)
        self._put_off_stand_in(client, own, now)
        drained = any(is_drained(run) for run in at_work if run.id == own.id)
        # The stand-in goes on, on another worker, or after who waits.
        self.ended = drained or _somebody_waits(client, own, now)

    def _end(self, client: SyncPrefectClient) -> None:
        """Leave the work to the newer sweep, and its stand-in."""
        self.ended = True
        if self._stand_in is not None and _is_scheduled(client, self._stand_in):
            client.delete_flow_run(self._stand_in)

    def _put_off_stand_in(self, client: SyncPrefectClient, own: FlowRun, now: datetime) -> None:
        """Let the stand-in begin a minute from now, unless it was put off a moment ago."""
        if own.deployment_id is None or time.monotonic() < self._put_off_at:
            return
        told = "begins if the sweep that is at work is killed"
        due = Scheduled(scheduled_time=now + timedelta(seconds=STAND_IN_SECONDS), message=told)
        if self._stand_in is None:
            self._stand_in = client.create_flow_run_from_deployment(
                own.deployment_id, name=QUIET_SWEEP, state=due, idempotency_key=f"{_KEY}{uuid4()}"
            ).id
        elif _is_scheduled(client, self._stand_in):
            client.set_flow_run_state(self._stand_in, due)
        else:  # it has begun, or somebody has removed it
            self._stand_in = None
            return
        self._put_off_at = time.monotonic() + STAND_IN_SECONDS / 3


def goes_on(run: FlowRun) -> bool:
    """Whether a run of `recover` is a sweep that looks until the next one is at work."""
    ours = run.auto_scheduled or (run.idempotency_key or "").startswith(_KEY)
    return ours and not run.parameters.get("run_id")


def _began(run: FlowRun) -> datetime:
    return run.start_time or datetime.min.replace(tzinfo=UTC)


def _is_scheduled(client: SyncPrefectClient, run_id: UUID) -> bool:
    """Whether a run waits to begin; a worker takes it a few seconds before that at the most."""
    try:
        state = client.read_flow_run(run_id).state
    except ObjectNotFound:
        return False
    return state is not None and state.is_scheduled()


def _somebody_waits(client: SyncPrefectClient, own: FlowRun, now: datetime) -> bool:
    """Whether the slots of this run's pool are taken while runs are due that somebody waits for."""
    due = {"next_scheduled_start_time": {"before_": now - timedelta(seconds=_WAITED_SECONDS)}}
    pool = {"name": {"any_": [own.work_pool_name]}}
    return own.work_pool_name is not None and bool(
        client.read_flow_runs(
            flow_filter=FlowFilter.model_validate({"name": {"any_": ["recover", "route"]}}),
            flow_run_filter=FlowRunFilter.model_validate(due | _state("SCHEDULED")),
            work_pool_filter=WorkPoolFilter.model_validate(pool),
            limit=1,
        )
    )


def _state(kind: str) -> dict[str, object]:
    return {"state": {"type": {"any_": [kind]}}}


def forget_sweeps(client: SyncPrefectClient) -> None:
    """Delete old sweeps that found nothing, and those that are late: this one does their work.

    A worker that was away for a night would find six for each hour.
    """
    for run in runs_of(client, ("recover",), {"state": {"name": {"any_": ["Late"]}}}):
        if goes_on(run):
            client.delete_flow_run(run.id)
    old = {
        "name": {"any_": [QUIET_SWEEP]},
        "state": {"type": {"any_": ["COMPLETED"]}},
        "end_time": {"before_": (datetime.now(UTC) - _KEEP_SWEEPS).isoformat()},
    }
    for run in runs_of(client, ("recover",), old):
        client.delete_flow_run(run.id)
