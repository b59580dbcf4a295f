"""How long GET /status takes, compared with Prefect's own two calls for the same data.

`python benchmarks/gateway.py [--rate 25] [--seconds 8] [--rounds 5] [--json]`

A Prefect server and a gateway run as processes of their own, with 12 jobs that have a progress
artifact; half of them have ended with a result. Requests are sent at a fixed rate, however long the
answers take, to one job after the other. Rounds through the gateway and rounds to Prefect
alternate. The figure is the 95th percentile through the gateway over that of Prefect, as the median
of all rounds.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
from service import answers, deploy, post, prefect_server, process, service_environment, until

from tasks.run import PROGRESS_KEY, RESULT_KEY

JOBS = 12


def make_jobs(api: httpx.Client) -> list[str]:
    """Create runs of upscale/local with artifacts, as jobs make them; half of them have ended."""
    deployment = api.get("/deployments/name/upscale/local").raise_for_status().json()["id"]
    return [_make_job(api, deployment, number) for number in range(JOBS)]


def _make_job(api: httpx.Client, deployment: str, number: int) -> str:
    """Create a run and its artifacts; returns its id."""
    body = {"parameters": {"video_url": f"https://example.org/{number}.mp4"}}
    job = post(api, f"/deployments/{deployment}/create_flow_run", body)["id"]
    _set_state(api, job, "RUNNING", "Running")
    beat = {"phase": "encode", "beat_at": "2026-01-01T00:00:00+00:00", "stall_limit": "600.0"}
    progress = {"key": PROGRESS_KEY, "type": "progress", "data": 8.0 * number, "metadata_": beat}
    post(api, "/artifacts/", progress | {"flow_run_id": job})
    if number % 2:
        row = {"filename": f"{number}.mp4", "cdn_url": None, "input_size_mb": 1.5, "notes": []}
        result = {"key": RESULT_KEY, "type": "table", "data": json.dumps([row])}
        post(api, "/artifacts/", result | {"flow_run_id": job})
        _set_state(api, job, "COMPLETED", "Completed")
    return job


def _set_state(api: httpx.Client, job: str, kind: str, name: str) -> None:
    """Bring a run into a state."""
    body = {"state": {"type": kind, "name": name}, "force": True}
    post(api, f"/flow_runs/{job}/set_state", body)


async def through_gateway(client: httpx.AsyncClient, job: str) -> None:
    """Ask the gateway for a job's status."""
    (await client.get(f"/status/{job}")).raise_for_status()


async def through_prefect(client: httpx.AsyncClient, job: str) -> None:
    """Ask Prefect for the same data: the run, then its artifacts."""
    (await client.get(f"/flow_runs/{job}")).raise_for_status()
    wanted = {"flow_run_id": {"any_": [job]}, "key": {"any_": [PROGRESS_KEY, RESULT_KEY]}}
    body = {"artifacts": wanted, "sort": "CREATED_DESC", "limit": 200}
    (await client.post("/artifacts/filter", json=body)).raise_for_status()


Ask = Callable[[httpx.AsyncClient, str], Awaitable[None]]


async def p95(url: str, ask: Ask, jobs: list[str], *, rate: float, seconds: float) -> float:
    """95th percentile of the seconds that a request takes at a fixed rate."""
    async with httpx.AsyncClient(base_url=url, timeout=60.0) as client:
        await asyncio.gather(*(ask(client, job) for job in jobs))  # connections are warm

        async def timed(number: int) -> float:
            began = time.perf_counter()
            await ask(client, jobs[number % len(jobs)])
            return time.perf_counter() - began

        began, asked = time.perf_counter(), []
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
            asked.append(asyncio.ensure_future(timed(number)))
        took = await asyncio.gather(*asked)
    return statistics.quantiles(took, n=20)[-1]


def measure(gateway: str, prefect: str, jobs: list[str], options: Any) -> dict[str, Any]:
    """Measure both in alternate rounds, after one round of each that fills the caches."""
    rows = []
    for number in range(options.rounds + 1):
        load = {"rate": options.rate, "seconds": options.seconds if number else 1.0}
        ours = asyncio.run(p95(gateway, through_gateway, jobs, **load))
        theirs = asyncio.run(p95(prefect, through_prefect, jobs, **load))
        if number:
            rows.append((ours, theirs))
    return {
        "jobs": len(jobs),
        "requests_per_second": options.rate,
        "requests_a_round": int(options.rate * options.seconds),
        "gateway_p95_ms": round(1000 * statistics.median(row[0] for row in rows), 1),
        "prefect_p95_ms": round(1000 * statistics.median(row[1] for row in rows), 1),
        "ratios": [round(a / b, 3) for a, b in rows],
        "median_ratio": round(statistics.median(a / b for a, b in rows), 3),
    }


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=float, default=25.0)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = service_environment(folder)
        log = folder / "gateway.log"
        command = ("deployments.gateway", "--port", "0")
        with prefect_server(environment, folder) as api:
            deploy(environment)
            jobs = make_jobs(api)
            with process(environment, log, *command):
                url = until(lambda: log.read_text().partition("gateway: ")[2].strip(), "address")
                until(lambda: answers(f"{url}/healthz"), "the gateway")
                report = measure(url, environment["PREFECT_API_URL"], jobs, options)
    print(json.dumps(report, indent=None if options.json else 2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
