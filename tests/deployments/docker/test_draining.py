"""What a drained worker tells of itself; tests/faults and tests/apt/containers drain real ones."""

import asyncio
import os
import signal
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.workers.process import ProcessWorker

from deployments.docker.draining import DrainingProcessWorker
from tasks.run.appointments import LABEL_DRAINED


class Client:
    """Takes labels for runs, after it was away once."""

    def __init__(self) -> None:
        self.labels: dict[UUID, dict[str, object]] = {}
        self._is_away = True

    async def update_flow_run_labels(self, run_id: UUID, labels: dict[str, object]) -> None:
        if self._is_away:
            self._is_away = False
            raise OSError("away")
        assert run_id not in self.labels, "once is enough"
        self.labels[run_id] = labels


def test_a_drained_worker_labels_its_run_stays_healthy_and_ends_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Prefect's health server calls a worker that has not asked for five minutes a sick one."""
    signals: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: signals.append(number))
    run, client = FlowRun(id=uuid4(), flow_id=uuid4(), run_count=2), Client()

    async def drained() -> None:
        ended = asyncio.Event()

        async def work(*arguments: Any, **options: Any) -> None:
            await ended.wait()

        monkeypatch.setattr(ProcessWorker, "run", work)
        worker = DrainingProcessWorker("a-pool", create_pool_if_not_found=False)
        worker._client = client
        at_work = asyncio.create_task(worker.run(run))
        await asyncio.sleep(0)
        worker.drain()
        for _ in range(3):
            worker._last_polled_time = datetime(2026, 1, 1, tzinfo=UTC)
            assert not worker.is_worker_still_polling(10.0)
            assert await worker.get_and_submit_flow_runs() == []
            assert worker.is_worker_still_polling(10.0)
        assert client.labels == {run.id: {LABEL_DRAINED: 3}}
        assert signals == []
        ended.set()
        await at_work
        assert await worker.get_and_submit_flow_runs() == []

    asyncio.run(drained())
    assert signals == [signal.SIGTERM]
