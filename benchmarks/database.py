"""How many workers Prefect's server on SQLite bears: what it logs, and how long writes take.

`python benchmarks/database.py [--workers 1 2 4 8] [--queued 5] [--seconds 180] [--json]`

For each number of workers a `seedvr2 serve` of its own runs, and more process workers for its pool
`local` beside the one that it has. As many jobs as there are workers are at work and so many more
are queued, all the time. A job takes a minute: the engine `sleep`, pictures of 96x54, so that the
processor stays free for the server.

Meanwhile a client does once a second what the record of a job does, and what a gateway does: it
renews an artifact, and reads a run. The figures of a number of workers: seconds of such a write and
such a read (median, 95th percentile, longest), how many were answered 503, what the logs say of a
locked database, tracebacks, lines in all logs for half an hour, and jobs ended. It means nothing on
a busy machine.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.pipeline import CLIP, ffmpeg
from deployments.host.attached import attached
from tests.kits.faults import SMALL_PICTURES, Fault
from tests.kits.server import Serve, eventually

ROOT = Path(__file__).parents[1]
JOB_FRAMES = 1200
HALF_AN_HOUR = 1800.0
OPTIONS = {"model": "sleep", "resolution": "720p", "preset": "ultrafast"}
LOCKED = re.compile("database is locked|SQLITE_BUSY", re.I)


@dataclass(kw_only=True)
class Asked:
    """What a client saw of one kind of request."""

    seconds: list[float] = field(default_factory=list)
    busy: int = 0
    """Answers 503: the database was locked, and the client has to ask again."""
    failed: int = 0
    """No answer within half a minute, or another error."""

    def told(self) -> dict[str, float]:
        """Figures."""
        fine = [*self.seconds, 0.0, 0.0]
        return {
            "asked": len(self.seconds),
            "median_s": round(statistics.median(fine), 3),
            "p95_s": round(statistics.quantiles(fine, n=20)[-1], 3),
            "longest_s": round(max(fine), 2),
            "busy_503": self.busy,
            "failed": self.failed,
        }


@dataclass(kw_only=True)
class Client:
    """Asks once a second what jobs and gateways ask, until it is stopped."""

    api: httpx.Client
    run: str
    artifact: str
    writes: Asked = field(default_factory=Asked)
    reads: Asked = field(default_factory=Asked)

    def ask(self) -> None:
        """One write and one read."""
        renewed = {"metadata_": {"at": str(time.time())}, "data": 50.0}
        self._ask(self.writes, "PATCH", f"/artifacts/{self.artifact}", json=renewed)
        self._ask(self.reads, "GET", f"/flow_runs/{self.run}")

    def _ask(self, asked: Asked, method: str, path: str, **how: Any) -> None:
        """Ask and note how long it took."""
        began = time.monotonic()
        try:
            answer = self.api.request(method, path, **how)
        except httpx.TransportError:
            asked.failed += 1
            return
        asked.seconds.append(time.monotonic() - began)
        asked.busy += answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
        asked.failed += answer.is_error and answer.status_code != httpx.codes.SERVICE_UNAVAILABLE


class Stage:
    """A `seedvr2 serve` and the jobs that keep it at work."""

    def __init__(
        self,
        folder: Path,
        source: Path,
        *,
        faults: Sequence[Fault] = (SMALL_PICTURES,),
        **settings: str,
    ) -> None:
        self._folder = folder
        self._source = source
        self._count = 0
        self.refused = 0
        """Jobs that the gateway did not take at first, because its server was busy."""
        self.serve = Serve(
            folder,
            PYTHONPATH=os.pathsep.join((str(ROOT / "tests" / "faults" / "inject"), str(ROOT))),
            SEEDVR2_TEST_FAULTS=json.dumps([asdict(fault) for fault in faults]),
            SEEDVR2_SEGMENT_SECONDS="10",
            cwd=ROOT,
            **settings,
        ).wait_until_ready()
        url = f"{self.serve.urls['prefect']}/api"
        self.api = httpx.Client(base_url=url, auth=self.serve.auth, timeout=30.0)
        self.gateway = httpx.Client(base_url=self.serve.urls["gateway"], timeout=60.0)

    @contextmanager
    def worker(self, number: int, *, work_dir: Path | None = None) -> Iterator[None]:
        """One more worker for the pool `local`, as `serve` starts its own.

        Args:
            number: names it.
            work_dir: a work directory of its own; None: that of `serve`.
        """
        user, password = self.serve.auth
        own = {
            "PREFECT_API_URL": str(self.api.base_url).rstrip("/"),
            "PREFECT_API_AUTH_STRING": f"{user}:{password}",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "SEEDVR2_WORK_DIR": str(work_dir or self.serve.work_dir),
            "SEEDVR2_ALLOW_LOCAL_FILES": "true",
            "SEEDVR2_ALLOW_CPU_ENGINE": "true",
        }
        words = ("worker", "start", "--type", "process", "--pool", "local", "--limit", "1")
        with (self.serve.work_dir / "logs" / f"worker{number}.log").open("ab") as out:
            process = subprocess.Popen(
                attached("prefect", *words, "--name", f"more-{number}"),
                env=self.serve.environment | own,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        try:
            yield
        finally:
            process.kill()
            process.wait()

    def submit(self, source: Path | None = None, **more: object) -> str:
        """Submit a job of its own: each source differs by a box that no player looks at.

        Args:
            source: the video; the stage's if not given.
            more: further fields of the request.

        Returns:
            The job's id.
        """
        self._count += 1
        own = self._folder / f"source{self._count}.mp4"
        shutil.copyfile(source or self._source, own)
        with own.open("ab") as out:
            out.write((24).to_bytes(4, "big") + b"free" + f"{self._count:016d}".encode())
        body = OPTIONS | {"video_path": str(own)} | more
        key = {"Idempotency-Key": f"benchmark-{self._count}"}
        while True:
            answer = self.gateway.post("/upscale", json=body, headers=key)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                return answer.raise_for_status().json()["job_id"]
            self.refused += 1
            time.sleep(1.0)

    def count(self, *states: str) -> int:
        """How many jobs are in these states."""
        wanted = {
            "flows": {"name": {"any_": ["upscale"]}},
            "flow_runs": {"state": {"type": {"any_": states}}},
        }
        for _ in range(20):
            answer = self.api.post("/flow_runs/count", json=wanted)
            if answer.is_success:
                return answer.json()
            time.sleep(0.5)
        raise TimeoutError("the server does not answer")

    def fill(self, jobs: int) -> None:
        """Submit until so many jobs are at work or wait."""
        for _ in range(jobs - self.count("SCHEDULED", "PENDING", "RUNNING")):
            self.submit()

    def client(self) -> Client:
        """A client with a run and an artifact of its own."""
        flow = self.api.post("/flows/", json={"name": "benchmark"}).raise_for_status().json()["id"]
        run = self.api.post("/flow_runs/", json={"flow_id": flow}).raise_for_status().json()["id"]
        body = {"key": "benchmark", "type": "progress", "data": 0.0, "flow_run_id": run}
        made = self.api.post("/artifacts/", json=body).raise_for_status().json()["id"]
        return Client(api=self.api, run=run, artifact=made)

    def logs(self) -> dict[str, list[str]]:
        """The lines of all logs, by name."""
        folder = self.serve.work_dir / "logs"
        return {path.stem: path.read_text("utf-8").splitlines() for path in folder.glob("*.log")}

    def close(self) -> None:
        """Kill all of it."""
        self.api.close()
        self.gateway.close()
        self.serve.close()
        eventually(lambda: not self.serve.processes(), "the end of all processes")


def measure(folder: Path, source: Path, workers: int, options: Any) -> dict[str, Any]:
    """Let so many workers work for a while, and count what the logs say."""
    stage = Stage(folder, source)
    with ExitStack() as until_end:
        until_end.callback(stage.close)
        for number in range(1, workers):
            until_end.enter_context(stage.worker(number))
        client, jobs = stage.client(), workers + options.queued
        stage.fill(jobs)
        eventually(lambda: stage.count("RUNNING") >= workers, f"{workers} jobs at work")
        before = sum(map(len, stage.logs().values()))
        done, stopped = stage.count("COMPLETED"), threading.Event()
        filler = threading.Thread(target=keep_filled, args=(stage, jobs, stopped))
        filler.start()
        end = time.monotonic() + options.seconds
        while (left := end - time.monotonic()) > 0:
            began = time.monotonic()
            client.ask()
            time.sleep(max(0.0, min(left, 1.0 - (time.monotonic() - began))))
        stopped.set()
        filler.join()
        logs = stage.logs()
        lines = [line for log in logs.values() for line in log]
        if options.keep:
            shutil.copytree(stage.serve.work_dir / "logs", options.keep / f"{workers}")
        return {
            "workers": workers,
            "write": client.writes.told(),
            "read": client.reads.told(),
            "locked_lines": sum(bool(LOCKED.search(line)) for line in lines),
            "tracebacks": sum("Traceback (most recent call last)" in line for line in lines),
            "log_lines_in_half_an_hour": {
                "all": round((len(lines) - before) * HALF_AN_HOUR / options.seconds),
                "server": len(logs["server"]),
            },
            "submits_503": stage.refused,
            "jobs_ended": stage.count("COMPLETED") - done,
            "jobs_lost": stage.count("CRASHED", "FAILED"),
            "load": round(os.getloadavg()[0], 1),
        }


def keep_filled(stage: Stage, jobs: int, stopped: threading.Event) -> None:
    """Submit a job for each that ends."""
    while not stopped.wait(2.0):
        stage.fill(jobs)


def main() -> int:
    """Print the figures, a line for each number of workers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--queued", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--keep", type=Path, help="folder for the logs")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "source.mp4"
        looped = ("-stream_loop", "-1", "-i", CLIP, "-an", "-frames:v", str(JOB_FRAMES))
        ffmpeg(*looped, "-c", "copy", source)
        for workers in options.workers:
            folder = Path(name) / str(workers)
            folder.mkdir()
            report = measure(folder, source, workers, options)
            sys.stdout.write(json.dumps(report, indent=None if options.json else 2) + "\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
