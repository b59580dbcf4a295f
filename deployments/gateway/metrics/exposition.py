"""The metrics in the format of Prometheus. The names are an interface: they never change meaning.

`deployments/samples/grafana-board.json` shows them, and a test compares the two.
"""

from collections import Counter
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.gateway.metrics.figures import Figures, PoolFigures, Totals

_GAUGES = {
    "seedvr2_jobs": "Jobs that wait (pending) or are at work (processing), by pool.",
    "seedvr2_queue_age_seconds": "How long the job has waited that waits longest, by pool.",
    "seedvr2_workers": "Workers that are online, by pool. Each has one device.",
    "seedvr2_workers_busy": "Runs of jobs and of helpers at work, by pool.",
    "seedvr2_gpu_busy_ratio": "Share of the pool's workers that are at work, from 0 to 1.",
}


class RequestCounts:
    """Counts the gateway's answers by method and status; a middleware."""

    def __init__(self, app: ASGIApp, *, counts: Counter[tuple[str, str]]) -> None:
        self._app, self._counts = app, counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""

        async def send_and_count(message: Message) -> None:
            if message["type"] == "http.response.start":
                method = scope["method"] if scope["method"] in _METHODS else "other"
                self._counts[method, str(message["status"])] += 1
            await send(message)

        await self._app(scope, receive, send_and_count)


_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def exposition(figures: Figures, totals: Totals, requests: Counter[tuple[str, str]]) -> bytes:
    """The text that `GET /metrics` answers.

    Args:
        figures: what is so now.
        totals: what has ended since the gateway started.
        requests: (method, status) -> answers.
    """
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_Families(figures, totals, requests))
    return generate_latest(registry)


class _Families(Collector):
    """The families of one exposition."""

    def __init__(
        self, figures: Figures, totals: Totals, requests: Counter[tuple[str, str]]
    ) -> None:
        self._figures, self._totals, self._requests = figures, totals, requests

    def collect(self) -> Iterator[Metric]:
        """Yield each family once."""
        yield GaugeMetricFamily(
            "seedvr2_prefect_up",
            "1 if Prefect has answered all questions of this reading, else 0.",
            value=float(self._figures.up),
        )
        yield from self._pools()
        ended = GaugeMetricFamily(
            "seedvr2_jobs_ended_last_day",
            "Jobs that have ended within the last 24 hours, by status.",
            labels=["status"],
        )
        for status, number in self._figures.ended.items():
            ended.add_metric([status], number)
        yield ended
        yield from self._counters()

    def _pools(self) -> Iterator[Metric]:
        families = {
            name: GaugeMetricFamily(
                name, told, labels=["pool", "status"] if name == "seedvr2_jobs" else ["pool"]
            )
            for name, told in _GAUGES.items()
        }
        for pool, figures in self._figures.pools.items():
            jobs = families["seedvr2_jobs"]
            jobs.add_metric([pool, "pending"], figures.pending)
            jobs.add_metric([pool, "processing"], figures.processing)
            families["seedvr2_queue_age_seconds"].add_metric([pool], figures.oldest_seconds)
            families["seedvr2_workers"].add_metric([pool], figures.workers)
            families["seedvr2_workers_busy"].add_metric([pool], figures.busy)
            families["seedvr2_gpu_busy_ratio"].add_metric([pool], _ratio(figures))
        yield from families.values()

    def _counters(self) -> Iterator[Metric]:
        totals = self._totals
        frames = CounterMetricFamily(
            "seedvr2_frames", "Restored frames of completed jobs, by engine.", labels=["engine"]
        )
        for engine, number in totals.frames.items():
            frames.add_metric([engine], number)
        failures = CounterMetricFamily(
            "seedvr2_failures",
            "Jobs that have failed, by the code of the error (docs/errors.md).",
            labels=["code"],
        )
        for code, number in totals.failures.items():
            failures.add_metric([code], number)
        answers = CounterMetricFamily(
            "seedvr2_gateway_requests",
            "Answers of this gateway, by method and status.",
            labels=["method", "status"],
        )
        for (method, status), number in self._requests.items():
            answers.add_metric([method, status], number)
        yield from (frames, failures, answers)
        yield CounterMetricFamily(
            "seedvr2_gpu_seconds",
            "Seconds for which completed jobs have held a GPU.",
            value=totals.gpu_seconds,
        )
        yield CounterMetricFamily(
            "seedvr2_output_bytes", "Bytes of stored videos.", value=totals.output_bytes
        )


def _ratio(figures: PoolFigures) -> float:
    """Share of the workers at work; 1 where runs are at work and no worker is online."""
    if not figures.busy:
        return 0.0
    return min(1.0, figures.busy / max(figures.workers, 1))
