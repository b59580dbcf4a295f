"""What the metrics say, read from Prefect: a bounded number of calls, shared by all who ask.

Gauges tell what is so now. Counters count what has ended since this gateway started, as Prometheus
expects of a process: it sees by itself when they begin anew.
"""

import asyncio
import contextlib
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from fastapi import HTTPException
from prefect.client.schemas.objects import FlowRun

from deployments.gateway.answers import STATE_TYPES, status_word
from deployments.gateway.prefect_api import WAITING, PrefectApi
from seedvr2_core.errors import split_code
from tasks.run import RESULT_KEY, read_result

CACHE_SECONDS = 10.0
"""How long a reading is good. Prometheus asks every 15 s or more seldom."""
MOST_POOLS = 8
"""Of the pools that make videos; those beyond are left out."""
_POOLS_SECONDS = 60.0
"""How long the list of pools is good."""
_PAGE, _MOST_PAGES = 50, 10
_OVERLAP = timedelta(minutes=2)
"""How late an end may reach the server: it is written by another machine's clock."""
_ENDED = ("completed", "failed", "cancelled")
_BUSY = ["upscale", "upscale-part"]
"""Flows whose runs hold a worker's device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolFigures:
    """A work pool, now."""

    pending: int
    processing: int
    oldest_seconds: float
    """How long the job that waits longest has waited; 0 where none waits."""
    workers: int
    """That are online."""
    busy: int
    """Runs of jobs and helpers at work: each holds a worker's device."""


@dataclass(slots=True, kw_only=True)
class Figures:
    """A reading."""

    up: bool
    """Whether Prefect has answered; where not, only the counters are right."""
    pools: dict[str, PoolFigures] = field(default_factory=dict)
    ended: dict[str, int] = field(default_factory=dict)
    """Status -> jobs that have ended so within a day."""


class Totals:
    """What has ended since the gateway started. Each reading adds what is new."""

    def __init__(self, prefect: PrefectApi) -> None:
        self._prefect = prefect
        self.frames: Counter[str] = Counter()
        """Engine -> restored frames of completed jobs."""
        self.gpu_seconds = 0.0
        self.output_bytes = 0.0
        self.failures: Counter[str] = Counter()
        """Code of the error -> jobs that failed with it."""
        self._since = datetime.now(UTC)
        self._seen: dict[UUID, datetime] = {}

    async def update(self) -> None:
        """Count what has ended since the last reading."""
        now = datetime.now(UTC)
        for run in await self._ended_runs():
            if self._is_new(run.id, run.end_time) and status_word(run) == "failed":
                self.failures[_code_of(run)] += 1
        for artifact in await self._results():
            if artifact.flow_run_id and self._is_new(artifact.id, artifact.created):
                self._add(read_result([artifact]))
        for one in [one for one, at in self._seen.items() if at < now - 2 * _OVERLAP]:
            del self._seen[one]

    def _is_new(self, one: UUID, at: datetime | None) -> bool:
        """Whether this was not counted yet, and did not end before the gateway started."""
        if at is None or at < self._since or one in self._seen:
            return False
        self._seen[one] = max(at, datetime.now(UTC))
        return True

    async def _ended_runs(self) -> list[FlowRun]:
        """Failed and crashed jobs of the last minutes."""
        body = {
            "flows": {"name": {"any_": ["upscale"]}},
            "flow_runs": {
                "state": {"type": {"any_": list(STATE_TYPES["failed"])}},
                "end_time": {"after_": self._horizon().isoformat()},
            },
            "sort": "END_TIME_DESC",
            "limit": _PAGE,
        }
        found: list[FlowRun] = []
        for page in range(_MOST_PAGES):
            runs = await self._prefect.runs(body | {"offset": page * _PAGE})
            found += runs
            if len(runs) < _PAGE:
                break
        return found

    async def _results(self) -> list[Any]:
        """The result artifacts of the last minutes."""
        found: list[Any] = []
        for page in range(_MOST_PAGES):
            artifacts = await self._prefect.newest(RESULT_KEY, limit=_PAGE, offset=page * _PAGE)
            found += artifacts
            if len(artifacts) < _PAGE or (artifacts[-1].created or self._since) < self._horizon():
                break
        return found

    def _horizon(self) -> datetime:
        return max(self._since, datetime.now(UTC) - _OVERLAP)

    def _add(self, result: Any) -> None:
        """Count what a job has made; one that found its output made nothing."""
        if result.get("already_done"):
            return
        frames = int(result.get("frames") or 0) - int(result.get("frames_reused") or 0)
        self.frames[str(result.get("engine") or "unknown")] += max(frames, 0)
        self.gpu_seconds += float(result.get("gpu_seconds") or 0.0)
        self.output_bytes += 1e6 * float(result.get("output_size_mb") or 0.0)


class Readings:
    """Reads the figures, at most once in `CACHE_SECONDS` however many ask."""

    def __init__(self, prefect: PrefectApi) -> None:
        self._prefect = prefect
        self.totals = Totals(prefect)
        self._turn = asyncio.Lock()
        self._latest = Figures(up=False)
        self._read_at = self._listed_at = float("-inf")
        self._pools: list[str] = []

    async def latest(self) -> Figures:
        """The figures as of now, or of some seconds ago."""
        async with self._turn:
            if time.monotonic() - self._read_at >= CACHE_SECONDS:
                self._latest = await self._read()
                self._read_at = time.monotonic()
        return self._latest

    async def _read(self) -> Figures:
        with contextlib.suppress(HTTPException):  # Prefect is away: that is what we tell
            pools = {name: await self._pool(name) for name in await self._pool_names()}
            ended = {status: await self._ended(STATE_TYPES[status]) for status in _ENDED}
            await self.totals.update()
            return Figures(up=True, pools=pools, ended=ended)
        return Figures(up=False)

    async def _pool_names(self) -> list[str]:
        """The pools of the deployments of `upscale`."""
        if time.monotonic() - self._listed_at >= _POOLS_SECONDS:
            self._pools = (await self._prefect.pools_of("upscale"))[:MOST_POOLS]
            self._listed_at = time.monotonic()
        return self._pools

    async def _pool(self, name: str) -> PoolFigures:
        now = datetime.now(UTC)
        due = {"expected_start_time": {"before_": now.isoformat()}}
        waiting = _jobs(name, WAITING, **due)
        oldest = await self._prefect.runs(
            waiting | {"sort": "EXPECTED_START_TIME_ASC", "limit": 1, "offset": 0}
        )
        began = oldest[0].expected_start_time if oldest else None
        busy = _jobs(name, ("RUNNING",)) | {"flows": {"name": {"any_": _BUSY}}}
        return PoolFigures(
            pending=await self._prefect.count(waiting),
            processing=await self._prefect.count(_jobs(name, STATE_TYPES["processing"])),
            oldest_seconds=max(0.0, (now - began).total_seconds()) if began else 0.0,
            workers=await self._prefect.num_workers(name),
            busy=await self._prefect.count(busy),
        )

    async def _ended(self, types: tuple[str, ...]) -> int:
        day_ago = datetime.now(UTC) - timedelta(days=1)
        state = {"state": {"type": {"any_": list(types)}}}
        wanted = state | {"end_time": {"after_": day_ago.isoformat()}}
        flows = {"name": {"any_": ["upscale"]}}
        return await self._prefect.count({"flows": flows, "flow_runs": wanted})


def _jobs(pool: str, types: tuple[str, ...], **more: Any) -> dict[str, Any]:
    """A filter for the jobs of a pool in these states."""
    return {
        "flows": {"name": {"any_": ["upscale"]}},
        "flow_runs": {"state": {"type": {"any_": list(types)}}, **more},
        "work_pools": {"name": {"any_": [pool]}},
    }


def _code_of(run: FlowRun) -> str:
    """The code of the error that a job failed with; the state's name where it has none."""
    message = (run.state.message or "") if run.state else ""
    _, kind = split_code(message)
    return kind.code if kind else (run.state.name or "unknown").lower() if run.state else "unknown"
