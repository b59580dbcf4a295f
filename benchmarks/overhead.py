"""What a job costs besides its work: Prefect, planning, upload and verify on a warm worker.

`python benchmarks/overhead.py [--segments 10] [--repeats 3] [--json]`

A Prefect server and a process worker of their own run jobs of one clip (engine lanczos) that is cut
into one segment and into many. A job's overhead is the time from the flow's first line to the run's
final state, minus the time in which a child process (probe, restore, join) was alive. The overhead
per segment is what one more segment adds. The reference is the lifetime of the children in the same
run.
"""

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from pipeline import ffmpeg
from service import deploy, post, prefect_server, process, service_environment, until

CLIP = Path(__file__).parents[1] / "deployments" / "demo" / "bunny_320x180.mp4"
FRAMES_A_SEGMENT = 5
FPS = 25
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def make_source(folder: Path, segments: int) -> Path:
    """Make a clip without sound that has so many segments."""
    path = folder / f"clip{segments}.mp4"
    frames = str(FRAMES_A_SEGMENT * segments)
    ffmpeg("-i", CLIP, "-frames:v", frames, "-an", "-crf", "20", path)
    return path


class Children:
    """Records when our child processes were alive, by looking into /proc every 5 ms."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._seen: dict[int, list[float]] = {}

    def look(self) -> None:
        """Note which children are alive now."""
        now, known = time.time(), [self._root]
        for pid in known:
            try:
                for task in Path(f"/proc/{pid}/task").iterdir():
                    known += [int(child) for child in (task / "children").read_text().split()]
                if b"seedvr2_core.child" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    self._seen.setdefault(pid, [now, now])[1] = now
            except OSError:
                continue  # it ended meanwhile

    def seconds(self) -> float:
        """Seconds in which at least one child was alive."""
        total, end = 0.0, 0.0
        for first, last in sorted(self._seen.values()):
            total += max(0.0, last - max(first, end))
            end = max(end, last)
        return total


@contextmanager
def watch(root: int) -> Iterator[Children]:
    """Watch the children below a process while the block runs."""
    children, done = Children(root), threading.Event()

    def run() -> None:
        while not done.wait(0.005):
            children.look()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield children
    finally:
        done.set()
        thread.join()


def run_job(api: httpx.Client, worker: int, source: Path, crf: int) -> tuple[float, float]:
    """Run a job to its end; returns its overhead and its children's lifetime in seconds."""
    deployment = api.get("/deployments/name/upscale/local").raise_for_status().json()["id"]
    asked = {"video_path": str(source), "resolution": "720p", "model": "lanczos", "crf": crf}
    with watch(worker) as children:
        job = post(
            api,
            f"/deployments/{deployment}/create_flow_run",
            {"parameters": asked | {"preset": "ultrafast"}, "state": {"type": "SCHEDULED"}},
        )["id"]
        run = until(lambda: ended(api, job), "the job's end", seconds=600)
    if run["state"]["type"] != "COMPLETED":
        raise RuntimeError(f"the job ended {run['state']['name']}: {run['state']['message']}")
    whole = _time(run["end_time"]) - _time(run["start_time"])
    return whole - children.seconds(), children.seconds()


def ended(api: httpx.Client, job: str) -> dict[str, Any] | None:
    """Read a run; None if it has not ended."""
    run = api.get(f"/flow_runs/{job}").raise_for_status().json()
    return run if run["state"]["type"] in FINAL else None


def _time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def measure(api: httpx.Client, worker: int, folder: Path, options: Any) -> dict[str, Any]:
    """Run jobs of one and of many segments in turn, after one of each that warms the worker."""
    one, many = (make_source(folder, count) for count in (1, options.segments))
    rows = []
    for number in range(options.repeats + 1):
        # another crf makes another job: nothing is reused
        short = run_job(api, worker, one, 20 + number)
        long = run_job(api, worker, many, 20 + number)
        if number:
            rows.append((short, long))
    job = [long[0] for _, long in rows]
    segment = [(long[0] - short[0]) / (options.segments - 1) for short, long in rows]
    return {
        "segments": options.segments,
        "job_overhead_seconds": round(statistics.median(job), 2),
        "segment_overhead_seconds": round(statistics.median(segment), 3),
        "all_job_overheads": [round(value, 2) for value in job],
        "all_segment_overheads": [round(value, 3) for value in segment],
        "children_seconds": round(statistics.median(long[1] for _, long in rows), 2),
    }


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--segments", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = service_environment(folder)
        environment["SEEDVR2_SEGMENT_SECONDS"] = str(FRAMES_A_SEGMENT / FPS)
        start = ("prefect", "worker", "start", "--pool", "local", "--type", "process")
        with prefect_server(environment, folder) as api:
            deploy(environment)
            with process(environment, folder / "worker.log", *start) as worker:
                report = measure(api, worker, folder, options)
    print(json.dumps(report, indent=None if options.json else 2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
