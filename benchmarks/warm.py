"""What a warm engine saves: seconds from a worker's taking a job to the engine's first frame.

`python benchmarks/warm.py [--repeats 3] [--load 10] [--json]`

A `seedvr2 serve` runs pairs of short jobs of the engine `sleep`, whose load takes `--load` seconds
here: a GPU's 16 GB take about as long. The first job of a pair finds no engine, because the one
that the pair before has left is ended; the second finds that of the first. Pictures have 96x54
pixels, so the processor stays free. A job counts from its state Running, by the server's clock on
the same machine. The ratio is fresh over warm, of medians.
"""

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.database import Stage
from benchmarks.fan_out import end_of, make_clip
from tasks.child.warm import warm_engines
from tasks.settings import Settings
from tests.kits.faults import SMALL_PICTURES, Fault, wait_until

FRAMES = 50


def measure(stage: Stage, mark: Path, settings: Settings, repeats: int) -> dict[str, Any]:
    """Run the pairs."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    end_of(stage, stage.submit())  # the first one imports cold files
    for _ in range(repeats):
        for warm in (False, True):
            if not warm:
                end_warm_engines(settings)
            first, told = first_frame(stage, mark)
            if told["engine_was_warm"] is not warm:
                raise RuntimeError(f"expected warm={warm}, got {told}")
            seconds[warm].append(first)
    fresh, warm = (statistics.median(seconds[kind]) for kind in (False, True))
    return {
        "fresh_first_frame_s": [round(s, 2) for s in seconds[False]],
        "warm_first_frame_s": [round(s, 2) for s in seconds[True]],
        "fresh_over_warm": round(fresh / warm, 2),
        "load": round(os.getloadavg()[0], 1),
    }


def first_frame(stage: Stage, mark: Path) -> tuple[float, dict[str, Any]]:
    """Seconds from the start of a new job to its first frame, and the job's result."""
    mark.unlink(missing_ok=True)
    job = stage.submit()
    wait_until(mark.exists, "the first frame was there")
    first = mark.stat().st_ctime  # a frame takes 50 ms: we are back before the second
    end_of(stage, job)
    run = stage.api.get(f"/flow_runs/{job}").raise_for_status().json()
    began = datetime.fromisoformat(run["start_time"]).timestamp()
    results = [
        json.loads(path.read_text()) for path in stage.serve.work_dir.glob("jobs/*/result.json")
    ]
    return first - began, next(result for result in results if result["job_id"] == job)


def end_warm_engines(settings: Settings) -> None:
    """End what earlier jobs have left."""
    for engine in warm_engines(settings):
        with suppress(ProcessLookupError):
            os.kill(engine.pid, signal.SIGKILL)
    wait_until(lambda: not warm_engines(settings), "no engine was warm")


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--load", type=float, default=10.0, help="seconds")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mark = folder / "frame"
        loads = Fault(
            at="seedvr2_core.engines.sleep:load", do="slow", call=round(1e3 * options.load)
        )
        frames = Fault(at="seedvr2_core.engines.sleep:_enlarge", do="count", mark=str(mark))
        stage = Stage(
            folder / "serve",
            make_clip(folder, FRAMES),
            faults=(SMALL_PICTURES, loads, frames),
            SEEDVR2_WARM_SECONDS="300",
        )
        try:
            settings = Settings(work_dir=stage.serve.work_dir)
            report = measure(stage, mark, settings, options.repeats)
        finally:
            stage.close()
    sys.stdout.write(json.dumps(report, indent=None if options.json else 2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
