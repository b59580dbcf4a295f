"""Helpers of a job in this process, on a real server: each runs as its worker would run it."""

import contextvars
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.flow_engine import run_flow
from prefect.states import Cancelled, Pending

from flows.upscale_part import upscale_part
from tasks.child.guard import Child
from tasks.child.session import SegmentWatch
from tasks.parts.crew import parts_of
from tests.kits.faults import wait_until

SLOW: dict[str, Any] = {"model": "sleep", "resolution": "720p", "preset": "ultrafast"}


def job_of(client: SyncPrefectClient, deployment: UUID, clip: Path, **more: object) -> FlowRun:
    parameters = {"video_path": str(clip), **SLOW, **more}
    return client.create_flow_run_from_deployment(deployment, parameters=parameters)


def end_all_that_wait(client: SyncPrefectClient, pool: str = "no-workers") -> None:
    """Cancel what other tests have left in the pool, also what is due later alone."""
    state = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED]))
    for left in client.read_flow_runs(
        flow_run_filter=FlowRunFilter(state=state),
        work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[pool])),
    ):
        client.set_flow_run_state(left.id, Cancelled(), force=True)


def helped(client: SyncPrefectClient, run: FlowRun) -> State:
    """Run a helper as its worker would; returns the state that it ends in."""
    client.set_flow_run_state(run.id, Pending(), force=True)
    run_flow(upscale_part, flow_run=client.read_flow_run(run.id), return_type="state")
    state = client.read_flow_run(run.id).state
    assert state is not None
    return state


def let_helpers_begin(
    monkeypatch: pytest.MonkeyPatch, begun: Callable[[SegmentWatch], object]
) -> None:
    """Let a job's own child wait until a helper of it has begun, as `begun` tells."""
    begin = SegmentWatch._start_child

    def begin_late(watch: SegmentWatch) -> Child:
        if not watch._helps:
            wait_until(lambda: begun(watch), "a helper was at work")
        return begin(watch)

    monkeypatch.setattr(SegmentWatch, "_start_child", begin_late)


class Worker:
    """Runs the first helper of a job, in a thread, as soon as there is one."""

    def __init__(self, job_id: UUID) -> None:
        self.state: State | None = None
        self.run_id: UUID | None = None
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._work, job_id))
        self._thread.start()

    def _work(self, job_id: UUID) -> None:
        with get_client(sync_client=True) as client:
            wait_until(lambda: parts_of(client, job_id), "the job asked for help", seconds=60)
            first = parts_of(client, job_id)[-1]
            self.run_id = first.id
            self.state = helped(client, first)

    def join(self) -> None:
        self._thread.join(timeout=120)
        assert not self._thread.is_alive()
