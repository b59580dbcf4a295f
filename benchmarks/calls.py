"""What a job costs: calls of Prefect's API, bytes of PostgreSQL, requests to the object store.

`python benchmarks/calls.py [--jobs 10] [--frames 300] [--idle 120] [--json]`

It needs Debian's package postgresql. A server on PostgreSQL of its own, the deployments as
`make deploy` makes them, a worker of `local` and one of `cpu`, a gateway. First all of it idles for
a while; then the jobs run one after the other, each sent to the gateway and asked for once a
second, as a caller does who polls. The jobs are of the engine `sleep`: 50 ms a frame, so what is
told is a job of so many seconds. The figures:

- calls of the API a minute while idle, by path;
- calls of one job beyond that, by path; those for each second of work are in PATCH /artifacts;
- bytes of PostgreSQL a job, by table, indexes included, after VACUUM;
- requests to the object store a job, by method (a run in a process of its own, moto's server);
- renewals of artifacts that the server takes in a second, the one figure of time: on a busy machine
  it is too low.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.pipeline import ffmpeg
from deployments.host.attached import attached
from tests.kits.containers.cluster import Postgres, postgres
from tests.kits.faults import SMALL_PICTURES, carrying
from tests.kits.http.s3 import bucket_on, s3_server
from tests.kits.processes import ROOT, ends_with_us
from tests.kits.server import Server, eventually

OPTIONS = {"model": "sleep", "resolution": "720p", "preset": "ultrafast"}
_CALL = re.compile(r'"(GET|POST|PUT|PATCH|DELETE) (/api\S*) HTTP')
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}")
_SIZES = (
    "SELECT relname, pg_total_relation_size(relid) FROM pg_catalog.pg_statio_user_tables "
    "ORDER BY 2 DESC"
)


class Log:
    """The server's log, of which only calls count."""

    def __init__(self, path: Path) -> None:
        self._path, self._read = path, 0

    def calls(self) -> Counter[str]:
        """The calls since the last look, by method and path without ids."""
        with self._path.open() as file:
            file.seek(self._read)
            text = file.read()
            self._read = file.tell()
        found = _CALL.findall(text)
        return Counter(f"{method} {_path_of(path)}" for method, path in found)


def _path_of(path: str) -> str:
    plain = _ID.sub("ID", path.partition("?")[0].removeprefix("/api"))
    return re.sub(r"/name/.*", "/name/NAME", plain)


@contextmanager
def process(environment: Mapping[str, str], log: Path, *words: str) -> Iterator[None]:
    """A process that ends with the block."""
    with (
        log.open("wb") as out,
        subprocess.Popen(
            words,
            env=dict(environment),
            cwd=ROOT,
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            preexec_fn=ends_with_us(),
        ) as running,
    ):
        try:
            yield
        finally:
            running.send_signal(signal.SIGTERM)
            try:
                running.wait(60)
            except subprocess.TimeoutExpired:
                running.kill()


@contextmanager
def service(folder: Path, database: Postgres) -> Iterator[tuple[Server, str]]:
    """Server, workers and gateway; yields the server and the gateway's address."""
    small = carrying(SMALL_PICTURES)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("SEEDVR2_")},
        **small,
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": database.url,
        "PREFECT_SERVER_LOGGING_LEVEL": "INFO",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "SEEDVR2_WORK_DIR": str(folder / "work"),
        "SEEDVR2_TEST_ENGINES": "true",
        "SEEDVR2_ALLOW_LOCAL_FILES": "true",
        "SEEDVR2_ALLOW_CPU_ENGINE": "true",
        "SEEDVR2_DEPLOYMENTS": "*=upscale/local",
        "SEEDVR2_IMAGE": "seedvr2:none",
    }
    with ExitStack() as stack:
        server = stack.enter_context(Server(environment))
        own = server.environment
        subprocess.run(
            [sys.executable, "-P", "-m", "deployments.deploy", "deploy"],
            env={**own, "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            check=True,
            capture_output=True,
            timeout=300,
        )
        for pool, limit in (("local", "1"), ("cpu", "4")):
            words = ("worker", "start", "--type", "process", "--pool", pool, "--limit", limit)
            command = attached("prefect", *words)
            stack.enter_context(process(own, folder / f"{pool}.log", *command))
        port = server.url.rpartition(":")[2].partition("/")[0]
        gateway = f"http://127.0.0.1:{int(port) + 1}"
        words = ("-P", "-m", "deployments.gateway", "--port", str(int(port) + 1))
        own = {**own, "PYTHONPATH": str(ROOT)}
        log = folder / "gateway.log"
        stack.enter_context(process(own, log, sys.executable, *words))
        eventually(lambda: _is_up(gateway), f"the gateway's start ({log})")
        yield server, gateway


def _is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=10).is_success
    except httpx.TransportError:
        return False


def run_job(gateway: str, clip: Path, seed: int) -> float:
    """Send a job and ask for it until it has completed; returns its seconds."""
    began = time.monotonic()
    asked = {"video_path": str(clip), "seed": seed, **OPTIONS, "fresh": True}
    job = httpx.post(f"{gateway}/upscale", json=asked, timeout=60).json()["job_id"]
    while True:
        time.sleep(1.0)
        told = httpx.get(f"{gateway}/status/{job}", timeout=60).json()
        if told.get("status") in ("completed", "failed", "cancelled"):
            assert told["status"] == "completed", told
            return time.monotonic() - began


def sizes(database: Postgres) -> dict[str, int]:
    """Bytes of each table with its indexes."""
    database.ask("VACUUM")
    return {name: int(size) for name, size in database.ask(_SIZES)}


def measure_service(folder: Path, clip: Path, num_jobs: int, idle_seconds: float) -> dict[str, Any]:
    """Calls and bytes of jobs."""
    with postgres() as database, service(folder, database) as (server, gateway):
        log = Log(folder / "prefect" / "server.log")
        run_job(gateway, clip, 0)  # what is made once
        time.sleep(30.0)
        log.calls()
        time.sleep(idle_seconds)
        idle = {path: 60.0 * n / idle_seconds for path, n in log.calls().items()}
        before, began = sizes(database), time.monotonic()
        log.calls()
        seconds = [run_job(gateway, clip, number) for number in range(1, num_jobs + 1)]
        time.sleep(20.0)  # logs and events come in batches
        minutes = (time.monotonic() - began) / 60.0
        calls, after = log.calls(), sizes(database)
        of_job = {
            path: (number - minutes * idle.get(path, 0.0)) / num_jobs
            for path, number in calls.items()
        }
        grown = {name: (size - before.get(name, 0)) / num_jobs for name, size in after.items()}
        renewals = renewals_a_second(server.url)
        events = database.ask("SELECT event, count(*) FROM events GROUP BY 1 ORDER BY 2 DESC")
    return {
        "job_seconds": sum(seconds) / num_jobs,
        "idle_calls_a_minute": sum(idle.values()),
        "idle": _largest(idle),
        "calls_a_job": sum(of_job.values()),
        "job": _largest(of_job),
        "postgres_bytes_a_job": sum(grown.values()),
        "tables": _largest(grown),
        "postgres_bytes_at_first": sum(before.values()),
        "renewals_a_second": renewals,
        "events": {name: int(number) for name, number in events[:12]},
    }


def renewals_a_second(api: str, seconds: float = 10.0, threads: int = 8) -> float:
    """How often the server renews artifacts, as jobs at work do, with nothing else to do."""

    def renew(number: int) -> int:
        done = 0
        with httpx.Client(base_url=api, timeout=60) as client:
            made = {"key": f"calls-{number}", "type": "progress", "data": 0.0}
            artifact = client.post("/artifacts/", json=made).json()["id"]
            while time.monotonic() < until:
                told = {"data": float(done % 100), "metadata_": {"phase": "dit"}}
                client.patch(f"/artifacts/{artifact}", json=told).raise_for_status()
                done += 1
        return done

    until = time.monotonic() + seconds
    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(renew, range(threads))) / seconds


def measure_store(folder: Path, clip: Path, segment_seconds: float) -> dict[str, Any]:
    """Requests of one job to the object store, with so long segments."""
    with s3_server() as url, bucket_on(url) as s3:
        environment = {
            **{name: v for name, v in os.environ.items() if not name.startswith("SEEDVR2_")},
            **carrying(SMALL_PICTURES),
            **s3.variables(),
            "PREFECT_HOME": str(folder / "home"),
            "SEEDVR2_TEST_ENGINES": "true",
            "SEEDVR2_STORAGE": "s3",
            "SEEDVR2_S3_OUTPUTS": f"s3://{s3.bucket}/done",
            "SEEDVR2_SEGMENT_SECONDS": str(segment_seconds),
            "SEEDVR2_WORK_DIR": str(folder / f"work-{segment_seconds:g}"),
        }
        words = ["upscale", str(clip), "--model", "sleep", "--resolution", "720p", "--json"]
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "deployments.cli.app", *words],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, done.stderr
        methods = Counter(request.split()[0] for request in s3.line.requests)
    return {
        "segments": json.loads(done.stdout.splitlines()[-1]).get("frames"),
        "seconds": time.monotonic() - began,
        "requests": dict(methods),
    }


def _largest(found: Mapping[str, float]) -> dict[str, float]:
    ranked = sorted(found.items(), key=lambda item: -item[1])
    return {name: round(number, 2) for name, number in ranked[:24] if round(number, 2)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=10)
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--idle", type=float, default=120.0, help="seconds")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = folder / "clip.mp4"
        ffmpeg(
            *("-f", "lavfi", "-i", f"testsrc=size=64x48:rate=25:duration={asked.frames / 25}"),
            clip,
        )
        told = measure_service(folder, clip, asked.jobs, asked.idle)
        told["store"] = {
            f"{seconds:g} s a segment": measure_store(folder, clip, seconds) for seconds in (10, 2)
        }
    print(json.dumps(told, indent=None if asked.json else 2))


if __name__ == "__main__":
    main()
