"""What kills cost, whether memory stays flat, and how busy the engine is kept.

`python benchmarks/durability.py [kills] [memory] [shot] [busy] [--kills 25] [--minutes 30]`

Without names, all four are run.

kills   The engine `sleep` restores a clip, and its child is killed with kill -9 at random moments
        until the work is done. Reported: kills survived, segments that each kill cost (begun and
        not yet on disk), and whether the joined file equals that of an undisturbed run. Kills of
        flow and worker are tests: tests/faults, `make soak`.
memory  Peak resident memory of the process tree for a source of --minutes over that for a source
        of one minute: 854x480, 25 frames a second, lanczos to 720p, preset fast.
shot    The same for the tiny SeedVR2 network and one shot of 5,000 frames over one of 500.
busy    The engine `sleep` takes 50 ms a frame. Reported: that time over the wall clock, from the
        end of its first segment to the end of its last. It means nothing on a busy machine.
"""

import argparse
import dataclasses
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.pipeline import CLIP, ask, ffmpeg, fresh_child, peak_memory
from seedvr2_core.child.protocol import (
    Event,
    Idle,
    Join,
    Probe,
    Ready,
    Restore,
    Restored,
    SegmentDone,
)
from seedvr2_core.engines.sleep import FRAME_SECONDS
from seedvr2_core.errors import ChildFailedError
from seedvr2_core.files import file_sha256, read_record
from seedvr2_core.job import JobDir, pending_segments
from seedvr2_core.job.plan_file import write_plan
from seedvr2_core.planning import Options, build_plan, sizes
from seedvr2_core.planning.outline import PlanOutline
from seedvr2_core.planning.plan import EngineSettings
from seedvr2_core.video.info import VideoInfo
from tasks.child import Child

PARTS = ("kills", "memory", "shot", "busy")
SHOT_FRAMES = (500, 5000)
SHOT_PIXELS = 96 * 54
BUSY_FRAMES = 1250
BARE = EngineSettings.without_latents("sleep")
TINY = dataclasses.replace(
    BARE,
    name="tiny",
    seed=1,
    window=25,
    overlap=3,
    stitch_mode="crossfade",
    color_correction="auto",
)


def main() -> int:
    """Run the benchmarks and print their figures as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], default=[])
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--minutes", type=int, default=30)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    work: dict[str, Callable[[Path], object]] = {
        "kills": lambda folder: kills(folder, arguments.kills),
        "memory": lambda folder: memory(folder, arguments.minutes),
        "shot": shot,
        "busy": busy,
    }
    report = {}
    with tempfile.TemporaryDirectory() as name:
        for part in arguments.parts or PARTS:
            folder = Path(name) / part
            folder.mkdir()
            report[part] = work[part](folder)
    sys.stdout.write(json.dumps(report, indent=None if arguments.json else 2) + "\n")
    return 0


def kills(folder: Path, wanted: int) -> dict[str, object]:
    """Repeat jobs until there were enough kills; each must give the file of an undisturbed one."""
    rng, lost, digests = random.Random(5), [], set()
    expected = finish(prepare(folder / "undisturbed", CLIP, BARE, seconds=0.5), CLIP)
    while len(lost) < wanted:
        job_dir = prepare(folder / f"job{len(digests)}-{len(lost)}", CLIP, BARE, seconds=0.5)
        plan = read_record(JobDir(job_dir).outline_path, PlanOutline)
        while pending_segments(JobDir(job_dir), plan) and len(lost) < wanted:
            cost = kill_after(rng.uniform(0.5, 4.0), job_dir, CLIP)
            lost += [] if cost is None else [cost]
        digests.add(finish(job_dir, CLIP))
    return {
        "kills_survived": len(lost),
        "segments_redone": sum(lost),
        "most_redone_after_one_kill": max(lost),
        "same_bytes_as_undisturbed": digests == {expected},
    }


def kill_after(seconds: float, job_dir: Path, source: Path) -> int | None:
    """Kill a child -9 so long after its engine is ready; None if it was done before that.

    Returns:
        Segments that it had begun and not committed.
    """
    child, begun, done = Child(log=lambda line: None), 0, 0
    try:
        child.send(restore_request(job_dir, source))
        moment = float("inf")
        while time.monotonic() < moment:
            event = next_event(child)
            if isinstance(event, Ready):
                begun, moment = 1, time.monotonic() + seconds
            begun += isinstance(event, Restored)
            done += isinstance(event, SegmentDone)
            if isinstance(event, Idle):
                return None
        os.kill(child.pid, signal.SIGKILL)
        try:
            while True:  # what it said before it died
                event = next_event(child)
                begun += isinstance(event, Restored)
                done += isinstance(event, SegmentDone)
        except ChildFailedError:
            return begun - done
    finally:
        child.close()


def memory(folder: Path, minutes: int) -> dict[str, object]:
    """Peak memory for a source of one minute and for one of `minutes`."""
    engine = dataclasses.replace(BARE, name="lanczos")
    once = folder / "once.mp4"
    ffmpeg("-i", CLIP, "-an", "-vf", "scale=854:480", "-crf", "16", once)
    peaks = {}
    for length in (1, minutes):
        source = folder / f"{length}.mp4"
        ffmpeg("-stream_loop", "-1", "-i", once, "-t", str(60 * length), "-c", "copy", source)
        job_dir = prepare(folder / f"job{length}", source, engine, preset="fast")
        peaks[length] = peak_of(job_dir, source)
    return told(peaks, "minutes")


def shot(folder: Path) -> dict[str, object]:
    """Peak memory for one short shot and for one long shot."""
    peaks = {}
    for frames in SHOT_FRAMES:
        source = folder / f"{frames}.mp4"
        looped = ("-stream_loop", "-1", "-i", CLIP, "-an", "-frames:v", str(frames))
        ffmpeg(*looped, "-vf", "scale=96:54", "-crf", "16", "-preset", "veryfast", source)
        job_dir = prepare(folder / f"job{frames}", source, TINY, pixels=SHOT_PIXELS)
        peaks[frames] = peak_of(job_dir, source)
    return told(peaks, "frames")


def peak_of(job_dir: Path, source: Path) -> int:
    """Peak bytes of the process tree while a job is restored and joined."""
    with peak_memory() as peak:
        finish(job_dir, source)
    return peak[0]


def told(peaks: dict[int, int], unit: str) -> dict[str, object]:
    """Peaks, and the ratio of the longest source's to the shortest's."""
    return {
        f"peak_mb_by_{unit}": {length: round(peak / 1e6, 1) for length, peak in peaks.items()},
        "ratio": round(peaks[max(peaks)] / peaks[min(peaks)], 3),
    }


def busy(folder: Path) -> dict[str, object]:
    """The engine's own time over the wall clock, from its first segment's end to its last's."""
    source = folder / "source.mp4"
    looped = ("-stream_loop", "-1", "-i", CLIP, "-an", "-frames:v", str(BUSY_FRAMES))
    ffmpeg(*looped, "-c:v", "copy", source)
    job_dir = prepare(folder / "job", source, BARE)
    plan = read_record(JobDir(job_dir).outline_path, PlanOutline)
    child = Child(log=lambda line: None)
    told_at: dict[int, Restored] = {}
    try:
        child.send(restore_request(job_dir, source))
        while not isinstance(event := next_event(child), Idle):
            if isinstance(event, Restored):
                told_at[event.segment] = event
    finally:
        child.close()
    first, last = told_at[0], told_at[len(plan.segments) - 1]
    frames = sum(segment.num_frames for segment in plan.segments[1:])
    wall = last.seconds - first.seconds
    return {
        "frames": frames,
        "segments": len(plan.segments) - 1,
        "wall_seconds": round(wall, 2),
        "busy_share": round(FRAME_SECONDS * frames / wall, 4),
        "waited_share": round((last.waited - first.waited) / wall, 4),
    }


def prepare(
    job_dir: Path,
    source: Path,
    engine: EngineSettings,
    *,
    seconds: float = 10,
    preset: str = "ultrafast",
    pixels: int | None = None,
) -> Path:
    """Probe a source and plan the job; `pixels` makes 720p that small."""
    job_dir.mkdir(parents=True)
    info_path = job_dir / "probe.json"
    with fresh_child() as child:
        ask(child, Probe(path=source, out=info_path))
    options = Options(
        resolution="720p",
        engine=engine,
        device="cpu",
        cpu_count=len(os.sched_getaffinity(0)) if pixels is None else 1,
        crf=18,
        preset=preset,
        segment_seconds=seconds,
    )
    budgets = sizes.BUDGETS_PX
    try:
        sizes.BUDGETS_PX = {"720p": pixels} if pixels else budgets
        plan = build_plan(read_record(info_path, VideoInfo), "benchmark", options)
    finally:
        sizes.BUDGETS_PX = budgets
    write_plan(JobDir(job_dir).plan_path, plan)
    return job_dir


def finish(job_dir: Path, source: Path) -> str:
    """Restore the missing segments and join them; returns the file's digest."""
    request = restore_request(job_dir, source)
    out = JobDir(job_dir).output_path
    with fresh_child() as child:
        if request.segments:
            ask(child, request)
        ask(child, Join(job_dir=job_dir, source=source, out=out, metadata={}))
    return file_sha256(out)


def restore_request(job_dir: Path, source: Path) -> Restore:
    """The request that the task sends to the child."""
    plan = read_record(JobDir(job_dir).outline_path, PlanOutline)
    return Restore(
        job_dir=job_dir,
        source=source,
        device="cpu",
        weights_dir=job_dir,
        lock_dir=job_dir,
        segments=tuple(pending_segments(JobDir(job_dir), plan)),
    )


def next_event(child: Child) -> Event:
    """Read the child's next event."""
    return child.next_event(stall_seconds=600, doing="measuring")


if __name__ == "__main__":
    sys.exit(main())
