"""One long job on several workers, a short one that comes later, and many small ones.

`python benchmarks/fan_out.py [long] [store] [late] [small] [--workers 1 2 4] [--segments 60]
[--jobs 30] [--frame-ms 200] [--job-seconds 60] [--at-once] [--json]`

Jobs are made by the engine `sleep`, slowed to `--frame-ms` a frame, on pictures of 96x54, so that
the processor stays free and the workers are what is measured. A segment has 50 frames. Each number
of workers gets a `seedvr2 serve` of its own, and every number is what a caller sees: from the
request to the state Completed, by Prefect's clock. Who waits for it asks seldom: a gateway that is
asked twice a second for ten minutes takes its share of two cores.

long    one job for each number of workers; its speed-up is the seconds of one worker over those of
        several and over their number. Ideal is 1.
store   the same where each worker has a folder of its own, and the job's files go by an object
        store (moto's server, which takes its share of the processor as well).
late    a job of one segment that is sent when a long job holds all workers: seconds from the
        request to its first frame. The limit is one segment and 10 s.
small   `--jobs` jobs on four workers, and three on one, from whose median all of them on one worker
        are reckoned. Nobody can be faster than whole rounds: 30 jobs on 4 workers are 8 rounds,
        in which two workers have nothing to do at the end. That is the ideal here.

With `--at-once` the numbers of workers of `long` or `store` run beside each other, which saves time
and costs processor. It means little on a machine whose cores are busy.
"""

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.database import Stage
from benchmarks.pipeline import ffmpeg
from seedvr2_core.files import file_sha256
from tasks.net.bucket import Bucket
from tasks.settings import Settings
from tests.kits.faults import SMALL_PICTURES, Fault
from tests.kits.hosts.service import sha256_in
from tests.kits.http.s3 import S3, bucket_on, s3_server
from tests.kits.server import eventually

RATE = 5
"""Frames a second of the clips: few, so that encoding them costs nothing."""
SEGMENT_FRAMES = 10 * RATE
OWN_FRAME_MS = 50
"""What a frame takes without our slowing it down."""
HOURS = 3600.0
ASK_SECONDS = 3.0
"""Time between two questions of who waits for the end of a job."""
_MADE = re.compile(r"(\d+) segments? made")
LATE_TIMES = 3
"""The long job of `late` has so many times the segments: it is not to end meanwhile."""


def make_clip(folder: Path, frames: int) -> Path:
    """A clip of so many small frames."""
    path = folder / f"clip{frames}.mp4"
    source = f"testsrc2=s=96x54:r={RATE}:d={frames / RATE}"
    ffmpeg("-f", "lavfi", "-i", source, "-c:v", "libx264", "-preset", "ultrafast", path)
    return path


@contextmanager
def stage(
    folder: Path, source: Path, workers: int, frame_ms: int, *, store: S3 | None = None
) -> Iterator[Stage]:
    """A service with so many workers, on which each frame takes as long as asked.

    With a store each worker has a work directory of its own, and outputs go to the store's bucket.
    """
    folder.mkdir()
    slow = Fault(
        at="seedvr2_core.engines.sleep:_enlarge", do="slow", call=max(0, frame_ms - OWN_FRAME_MS)
    )
    stored = {} if store is None else store.variables() | _outputs_in(store)
    stage = Stage(folder, source, faults=(SMALL_PICTURES, slow), **stored)
    with ExitStack() as until_end:
        until_end.callback(stage.close)
        for number in range(1, workers):
            own = None if store is None else folder / f"worker{number}"
            until_end.enter_context(stage.worker(number, work_dir=own))
        eventually(lambda: _workers(stage) >= workers, f"{workers} workers")
        yield stage


def _outputs_in(store: S3) -> dict[str, str]:
    return {"SEEDVR2_STORAGE": "s3", "SEEDVR2_S3_OUTPUTS": f"s3://{store.bucket}/done"}


def _workers(stage: Stage) -> int:
    """How many workers of the pool `local` are online."""
    answer = stage.api.post("/work_pools/local/workers/filter", json={})
    found = answer.json() if answer.is_success else []
    return sum(worker["status"] == "ONLINE" for worker in found)


def end_of(stage: Stage, job: str) -> dict[str, Any]:
    """Wait until a job has ended well; returns the gateway's answer."""
    until = time.monotonic() + HOURS
    while not (answer := _status(stage, job, ("completed", "failed", "cancelled", "crashed"))):
        if time.monotonic() > until:
            raise TimeoutError(f"job {job} did not end within {HOURS:g} s")
        time.sleep(ASK_SECONDS)
    if answer["status"] != "completed":
        raise RuntimeError(f"job {job} ended as {answer}")
    return answer


def _status(stage: Stage, job: str, wanted: tuple[str, ...]) -> dict[str, Any] | None:
    answer = stage.gateway.get(f"/status/{job}")
    found = answer.json() if answer.is_success else {}
    return found if found.get("status") in wanted else None


def seconds_to(stage: Stage, job: str, began: float) -> float:
    """Seconds from `began`, by `time.time`, until a job was Completed; it has ended."""
    run = stage.api.get(f"/flow_runs/{job}").raise_for_status().json()
    return datetime.fromisoformat(run["end_time"]).timestamp() - began


def long(
    folder: Path, source: Path, workers: int, options: Any, *, by_store: bool = False
) -> dict[str, Any]:
    """One job on so many workers."""
    with ExitStack() as until_end:
        store = None
        if by_store:
            store = until_end.enter_context(bucket_on(until_end.enter_context(s3_server())))
        service = until_end.enter_context(
            stage(folder, source, workers, options.frame_ms, store=store)
        )
        began = time.time()
        job = service.submit(max_workers=workers)
        ended = end_of(service, job)
        return {
            "measured": "store" if by_store else "long",
            "workers": workers,
            "seconds": round(seconds_to(service, job, began), 1),
            "ideal_s": round(options.segments * SEGMENT_FRAMES * options.frame_ms / 1e3 / workers),
            "segments_by_helpers": _made_by_helpers(service),
            "sha256": _digest_of(store, ended)[:12],
            "load": round(os.getloadavg()[0], 1),
        }


def _made_by_helpers(stage: Stage) -> int:
    """How many segments helpers have made, as their runs say at their end."""
    eventually(lambda: not _running(stage), "the end of the helpers")
    wanted = {"flows": {"name": {"any_": ["upscale-part"]}}}
    runs = stage.api.post("/flow_runs/filter", json=wanted).raise_for_status().json()
    told = [(run.get("state") or {}).get("message") or "" for run in runs]
    return sum(int(made[1]) for words in told if (made := _MADE.match(words)))


def _digest_of(store: S3 | None, ended: dict[str, Any]) -> str:
    """The digest of a job's output."""
    if store is None:
        return file_sha256(Path(ended["output_path"]))
    done = Bucket(f"s3://{store.bucket}/done", Settings(**store.settings()))
    return sha256_in(done, ended)


def late(folder: Path, source: Path, workers: int, options: Any) -> dict[str, Any]:
    """Short jobs that come while a long one holds all workers."""
    short = make_clip(folder.parent, SEGMENT_FRAMES)
    segment = SEGMENT_FRAMES * options.frame_ms / 1e3
    waits: list[float] = []
    with stage(folder, source, workers, options.frame_ms) as service:
        service.submit(max_workers=max(2, workers))
        at_work = f"{workers} runs at work"
        eventually(lambda: _running(service) >= workers, at_work)
        for _ in range(3):
            time.sleep(segment * 1.7)  # at another place of a segment each time
            began = time.monotonic()
            job = service.submit(short)
            eventually(lambda job=job: _frames(service, job) > 0, "its first frame")
            waits.append(round(time.monotonic() - began, 1))
            end_of(service, job)
            eventually(lambda: _running(service) >= workers, at_work)
    return {
        "measured": "late",
        "workers": workers,
        "first_frame_after_s": waits,
        "limit_s": segment + 10.0,
        "load": round(os.getloadavg()[0], 1),
    }


def _running(stage: Stage) -> int:
    """Runs of jobs and of helpers that are at work."""
    wanted = {
        "flows": {"name": {"any_": ["upscale", "upscale-part"]}},
        "flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}},
    }
    answer = stage.api.post("/flow_runs/count", json=wanted)
    return answer.json() if answer.is_success else 0


def _frames(stage: Stage, job: str) -> int:
    """Frames that are restored of a job."""
    answer = stage.gateway.get(f"/status/{job}")
    found = answer.json() if answer.is_success else {}
    return found.get("frames_done") or 0


def small(folder: Path, source: Path, options: Any) -> dict[str, Any]:
    """Many small jobs on four workers, and a few on one."""
    workers = 4
    clip = make_clip(folder, round(options.job_seconds * 1e3 / options.frame_ms))
    seconds: list[float] = []
    with stage(folder / "one", clip, 1, options.frame_ms) as service:
        end_of(service, service.submit())  # the first one imports cold files
        for _ in range(3):
            began = time.time()
            job = service.submit()
            end_of(service, job)
            seconds.append(seconds_to(service, job, began))
    one = statistics.median(seconds)
    with stage(folder / "four", clip, workers, options.frame_ms) as service:
        began = time.time()
        jobs = [service.submit() for _ in range(options.jobs)]
        for job in jobs:
            end_of(service, job)
        four = max(seconds_to(service, job, began) for job in jobs)
    rounds = -(-options.jobs // workers)
    return {
        "measured": "small",
        "jobs": options.jobs,
        "one_worker_job_s": [round(s, 1) for s in seconds],
        "four_workers_s": round(four, 1),
        "of_ideal": round(rounds * one / four, 3),
        "of_workers_never_idle": round(options.jobs * one / (workers * four), 3),
        "load": round(os.getloadavg()[0], 1),
    }


def tell(report: dict[str, Any], options: Any) -> None:
    """Print figures."""
    sys.stdout.write(json.dumps(report, indent=None if options.json else 2) + "\n")
    sys.stdout.flush()


def measure_long(folder: Path, source: Path, options: Any, *, by_store: bool = False) -> None:
    """`long` or `store` for all numbers of workers, and the speed-ups."""
    name = "store" if by_store else "long"
    found: dict[int, dict[str, Any]] = {}

    def one(workers: int) -> None:
        place = folder / f"{name}{workers}"
        found[workers] = long(place, source, workers, options, by_store=by_store)
        tell(found[workers], options)

    works: list[Callable[[], None]] = [lambda n=n: one(n) for n in options.workers]
    if options.at_once:
        threads = [threading.Thread(target=work) for work in works]
        for thread in threads:
            thread.start()
            time.sleep(20.0)  # their servers do not start at the same moment
        for thread in threads:
            thread.join()
    else:
        for work in works:
            work()
    base = found[min(found)]
    ups = {
        n: round(base["workers"] * base["seconds"] / (n * told["seconds"]), 3)
        for n, told in sorted(found.items())
    }
    digests = len({told["sha256"] for told in found.values()})
    told = {"measured": f"speed-up of ideal, {name}", "by_workers": ups, "digests": digests}
    tell(told, options)


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="*", default=["long", "store", "late", "small"])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--segments", type=int, default=60)
    parser.add_argument("--frame-ms", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=30)
    parser.add_argument("--job-seconds", type=float, default=60.0)
    parser.add_argument("--at-once", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = make_clip(folder, options.segments * SEGMENT_FRAMES)
        if "long" in options.what:
            measure_long(folder, source, options)
        if "store" in options.what:
            measure_long(folder, source, options, by_store=True)
        if "late" in options.what:
            endless = make_clip(folder, LATE_TIMES * options.segments * SEGMENT_FRAMES)
            for workers in options.workers:
                tell(late(folder / f"late{workers}", endless, workers, options), options)
        if "small" in options.what:
            tell(small(folder, source, options), options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
