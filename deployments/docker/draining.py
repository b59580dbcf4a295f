"""Workers that can be drained: on SIGUSR1 they take no more runs, finish those at work, and end.

SIGTERM ends a worker and its runs, which then go on elsewhere from their last segment. Whoever has
the time to wait, before an update or before a machine is taken away, loses nothing by a drain.

The runs at work get a label with the number of their present attempt. One that looks for lost runs
would go on for minutes: it ends then, and another worker's goes on (`tasks/recovery/sweep.py`). An
attempt that begins later, on whatever worker, has another number.
"""

import asyncio
import contextlib
import os
import signal
import warnings
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
from prefect.exceptions import PrefectException
from prefect.workers.process import ProcessWorker

from deployments.host.exits import say
from tasks.run.appointments import LABEL_DRAINED

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun
    from prefect.workers.base import BaseWorker

    _Base = BaseWorker[Any, Any, Any]
else:
    _Base = object


class Draining(_Base):
    """What makes a worker drainable; it comes before a class of Prefect's."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """What Prefect's worker takes."""
        super().__init__(*arguments, **options)
        self._draining = False
        self._at_work: list[tuple[UUID, int]] = []
        """Runs whose process or container this worker has started, each with its attempt. One that
        was taken for lost may be here twice."""
        self._told: set[tuple[UUID, int]] = set()
        """Those of them that have the label."""

    async def setup(self) -> None:
        """Listen for the signal, then do what Prefect's worker does."""
        loop = asyncio.get_running_loop()
        try:
            loop.add_signal_handler(signal.SIGUSR1, self.drain)
        except (RuntimeError, ValueError):  # not in the main thread: nobody can send it a signal
            say("note: this worker cannot be drained")
        await super().setup()

    def drain(self) -> None:
        """Take no more runs; end when those at work have ended."""
        self._draining = True
        say(f"draining: {len(self._at_work)} at work; the worker ends after that")

    async def run(self, flow_run: "FlowRun", *arguments: Any, **options: Any) -> Any:
        """Run a flow run, and know of it while it is at work."""
        attempt = (flow_run.id, flow_run.run_count + 1)  # it counts when it is running
        self._at_work.append(attempt)
        try:
            return await super().run(flow_run, *arguments, **options)  # pyright: ignore[reportAbstractUsage]
        finally:
            self._at_work.remove(attempt)

    async def get_and_submit_flow_runs(self) -> "list[FlowRun]":
        """Look for runs, unless this worker is being drained."""
        if not self._draining:
            return await super().get_and_submit_flow_runs()
        # Prefect's health server takes a worker for sick that has not asked for five minutes.
        self._last_polled_time = datetime.now(UTC)
        if not self._at_work and not self._submitting_flow_run_ids:
            os.kill(os.getpid(), signal.SIGTERM)  # ends an idle worker as it always does
        for run_id, number in [one for one in self._at_work if one not in self._told]:
            with contextlib.suppress(httpx.HTTPError, PrefectException, OSError):  # asked again
                await self.client.update_flow_run_labels(run_id, {LABEL_DRAINED: number})
                self._told.add((run_id, number))
        return []


# Prefect would tell every operator that a type was registered twice.
warnings.filterwarnings("ignore", message="Type 'DrainingProcessWorker' at .+ has key 'process'")


class DrainingProcessWorker(Draining, ProcessWorker):
    """Prefect's process worker, which can be drained."""
