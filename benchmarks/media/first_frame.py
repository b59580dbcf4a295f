"""How much longer a device waits for the first frame of a film of two hours than for a minute's.

`python -m benchmarks.media.first_frame [--seconds 60 7200] [--rounds 3] [--json]`

What others do before a worker with a GPU is taken is done before the clock starts: the video is
probed and its cuts are known (`fetch-source`). Timed is what the worker's children do from then on:
look at the probe's record, plan for SeedVR2, read the plan, divide it into runs, and, with Lanczos
in the place of the model, restore the first frame. A frame of 64x36 is as good as any other for
that: none of it depends on the picture. Aim: less than five seconds more for the longer video.

The second pair of rows is that of one machine, as `seedvr2 upscale` has it: the cuts are not known,
and the clock starts with the search for them. That of a long video goes on until the first frame is
there, beside the work that is timed, and ends then.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.media.clips import run_ffmpeg
from seedvr2_core.child.protocol import (
    Event,
    FindCuts,
    MakePlan,
    Probe,
    Progressed,
    Request,
    Restore,
)
from seedvr2_core.files import read_record, write_record
from seedvr2_core.job import JobDir
from seedvr2_core.planning import Options, Plan
from seedvr2_core.planning.cutting import plan_runs
from seedvr2_core.planning.plan import CutList, EngineSettings, Rates
from seedvr2_core.video.info import VideoInfo
from tasks.child import Child
from tasks.early.search import SEARCH_DEVICE, marks_of

RATE = 24
SHOT = 100
"""Frames between two cuts."""
TURN = 240
"""Frames of what is repeated."""
SEEDVR2 = EngineSettings(
    name="seedvr2-7b",
    weights_digest="0" * 64,
    seed=100,
    window=25,
    overlap=3,
    stitch_mode="crossfade",
    color_correction="wavelet",
)


def main() -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seconds", type=int, nargs=2, default=[60, 7200])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    waits: dict[tuple[str, int], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        sources = {seconds: _prepared(Path(name), seconds) for seconds in options.seconds}
        for number in range(options.rounds):
            for seconds, source in sources.items():
                for where, measure in WAYS.items():
                    folder = source.with_name(f"{where}-{seconds}-{number}")
                    waits.setdefault((where, seconds), []).append(measure(source, folder))
    rows = {
        key: {step: statistics.median(one[step] for one in rounds) for step in rounds[0]}
        for key, rounds in waits.items()
    }
    told: dict[str, dict[str, Any]] = {}
    for where in WAYS:
        short, long = (rows[where, seconds] for seconds in options.seconds)
        more = sum(long.values()) - sum(short.values())
        told[where] = {**{str(s): rows[where, s] for s in options.seconds}, "more": more}
        if options.json:
            continue
        print(f"{where}:")
        for seconds in options.seconds:
            row = rows[where, seconds]
            steps = ", ".join(f"{step} {value:.2f}" for step, value in row.items())
            print(f"{seconds:6} s of video: {steps}; together {sum(row.values()):.2f} s")
        print(f"more for the longer one: {more:.2f} s")
    if options.json:
        print(json.dumps(told))
    return 0


def _prepared(folder: Path, seconds: int) -> Path:
    """A video whose probe and cuts are known; the same packets again and again."""
    part, source = folder / "part.mp4", folder / f"{seconds}.mp4"
    picture = f"testsrc2=s=64x36:r={RATE}:d={TURN / RATE}"
    if not part.exists():
        run_ffmpeg("-f", "lavfi", "-i", picture, "-c:v", "libx264", "-bf", "0", part)
    run_ffmpeg("-stream_loop", "-1", "-i", part, "-c", "copy", "-t", seconds, source)
    with _child() as child:
        _asked(child, Probe(path=source, out=source.with_suffix(".json")))
    info = read_record(source.with_suffix(".json"), VideoInfo)
    cuts = CutList(detector="known", frames=tuple(range(SHOT, len(info.pts), SHOT)))
    write_record(source.with_suffix(".cuts.json"), cuts)
    return source


def _steps(source: Path, folder: Path) -> dict[str, float]:
    """Seconds of each step where the cuts are known."""
    folder.mkdir()
    took: dict[str, float] = {}
    with _child() as child:
        with _timed(took, "probe"):
            _asked(child, Probe(path=source, out=source.with_suffix(".json")))
        _restore(child, source, folder, source.with_suffix(".cuts.json"), took)
    return took


def _steps_alone(source: Path, folder: Path) -> dict[str, float]:
    """Seconds of each step where they are not, and nobody else looks for them."""
    folder.mkdir()
    info = source.with_suffix(".json")
    request = FindCuts(
        path=source,
        info=info,
        device=SEARCH_DEVICE,
        detector="measured",
        out=folder / "cuts.json",
        marks=marks_of(len(read_record(info, VideoInfo).pts)),
    )
    took: dict[str, float] = {}
    with _child() as searcher, _child() as child:
        with _timed(took, "cuts"):
            cuts = _searched(searcher, request)
        _restore(child, source, folder, cuts, took)
    return took


def _searched(child: Child, request: FindCuts) -> Path:
    """Wait until so many cuts are known that the work can begin; returns their file."""
    if not request.marks:
        _asked(child, request)
        return request.out
    cuts = request.settled_path(request.marks[0])
    _wait(child, request, lambda event: cuts.exists())
    return cuts


def _restore(child: Child, source: Path, folder: Path, cuts: Path, took: dict[str, float]) -> None:
    """Plan by these cuts and restore up to the first frame, with the seconds of each step."""
    info, names = source.with_suffix(".json"), JobDir(folder)
    model = folder / "model.json"
    with _timed(took, "plan"):
        _asked(child, _planned(info, model, cuts, SEEDVR2, "cuda:0"))
    _asked(child, _planned(info, names.plan_path, None, _LANCZOS, "cpu"))
    with _timed(took, "plan read"):
        plan = read_record(model, Plan)
        plan_runs(plan, plan.segments)
    request = Restore(
        job_dir=folder,
        source=source,
        device="cpu",
        weights_dir=folder,
        lock_dir=folder,
        segments=tuple(range(len(read_record(names.plan_path, Plan).segments))),
    )
    with _timed(took, "first frame"):
        _wait(child, request, lambda event: isinstance(event, Progressed))


WAYS = {"cuts are known": _steps, "one machine": _steps_alone}
_LANCZOS = EngineSettings.without_latents("lanczos")


def _planned(
    info: Path, out: Path, cuts: Path | None, engine: EngineSettings, device: str
) -> MakePlan:
    options = Options(
        resolution="1x",
        engine=engine,
        device=device,
        cpu_count=16,
        crf=18,
        preset="medium",
        segment_seconds=10,
        device_bytes=80 * 10**9 if engine is SEEDVR2 else None,
    )
    return MakePlan(
        info=info, cuts=cuts, source_sha256="0" * 64, options=options, rates=Rates(), out=out
    )


@contextmanager
def _timed(took: dict[str, float], step: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    took[step] = time.perf_counter() - began


@contextmanager
def _child() -> Iterator[Child]:
    child = Child(log=lambda line: None)
    try:
        yield child
    finally:
        child.close()


def _asked(child: Child, request: Request[Any]) -> None:
    _wait(child, request, request.is_answered_by)


def _wait(child: Child, request: Request[Any], is_it: Callable[[Event], bool]) -> None:
    child.send(request)
    while not is_it(child.next_event(stall_seconds=600, doing="measuring")):
        pass


if __name__ == "__main__":
    sys.exit(main())
