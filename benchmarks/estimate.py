"""Compares predicted times with what jobs take: the plan, and the time left while they run.

    python benchmarks/estimate.py

Four jobs on a machine that is new to them: a short and a longer clip (the demo's, repeated), at
720p and 1080p, by lanczos and span. For each: the plan's seconds over those of the job, and the
time left that is shown after a tenth, a quarter and half of the frames over what was left. Aim:
0.7 to 1.3 from a tenth on. Run it with nothing else on the machine.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import imageio_ffmpeg

from seedvr2_core.files import write_record
from seedvr2_core.job import JobDir
from seedvr2_core.planning import Options, Plan, build_plan
from seedvr2_core.planning.plan import EngineSettings
from seedvr2_core.video.probe import probe_video
from tasks.child.rates import known_rates, measure
from tasks.child.session import SegmentWatch
from tasks.run.record import JobProgress, shown_to
from tasks.schemas import FetchedSource, PlannedJob
from tasks.settings import Settings, use_settings

DEMO = Path(__file__).parents[1] / "deployments/demo/bunny_320x180.mp4"
CASES = (
    ("lanczos", "720p", 75),
    ("lanczos", "1080p", 750),
    ("span", "720p", 75),
    ("span", "1080p", 300),
)
SHARES = (0.1, 0.25, 0.5)


class Seen:
    """Keeps what the job tells while it restores, with the time."""

    def __init__(self) -> None:
        self.told: list[tuple[float, JobProgress]] = []

    def planned(self, job: PlannedJob) -> None:
        """Nothing: there is no flow run."""

    def progressed(self, progress: JobProgress) -> None:
        """Keep it."""
        self.told.append((time.monotonic(), progress))


def main() -> int:
    """Run the cases and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--known", action="store_true", help="print a second run of each")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(work_dir=Path(folder))
        use_settings(settings)
        for engine, resolution, frames in CASES:
            clip = repeated(Path(folder), frames)
            if options.known:
                run_case(clip, engine, resolution, settings)
            line = run_case(clip, engine, resolution, settings)
            print(f"{engine}, {resolution}, {frames} frames: {line}", flush=True)
    return 0


def repeated(folder: Path, frames: int) -> Path:
    """The demo clip, repeated up to so many frames."""
    clip = folder / f"{frames}.mp4"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-stream_loop", "-1"]
    command += ["-i", str(DEMO), "-frames:v", str(frames), "-c", "copy", "-an", str(clip)]
    subprocess.run(command, check=True)
    return clip


def run_case(clip: Path, engine: str, resolution: str, settings: Settings) -> str:
    """Plan and restore a clip; returns the ratios in words."""
    plan = planned(clip, engine, resolution, settings)
    job = planned_job(plan, clip, settings.jobs_dir / f"{engine}-{time.monotonic_ns()}")
    seen, began = Seen(), time.monotonic()
    with shown_to(seen):
        watch = SegmentWatch(job)
        for index in range(job.num_segments):
            watch.wait_for(index)
        watch.close()
    ended = time.monotonic()
    told = [f"plan {plan.eta_seconds:.1f} s of {ended - began:.1f} s"]
    told.append(f"{plan.eta_seconds / (ended - began):.2f}")
    for share in SHARES:
        at, left = next(
            (at, progress.seconds_left)
            for at, progress in seen.told
            if progress.seconds_left is not None and progress.frames >= share * job.num_frames
        )
        told.append(f"left after {share:.0%}: {(left or 0.0) / (ended - at):.2f}")
    return ", ".join(told)


def planned(clip: Path, engine: str, resolution: str, settings: Settings) -> Plan:
    """The plan, by what is known of this machine or is measured now."""
    rates = known_rates(engine, "medium", "cpu", settings)
    options = Options(
        resolution=resolution,
        engine=EngineSettings(
            name=engine,
            weights_digest="",
            seed=0,
            window=0,
            overlap=0,
            stitch_mode="",
            color_correction="",
        ),
        device="cpu",
        cpu_count=len(os.sched_getaffinity(0)),
        crf=18,
        preset="medium",
        segment_seconds=10,
    )
    video = probe_video(clip)
    plan = build_plan(video, "benchmark", options, rates=rates)
    if not rates.measured:
        plan = build_plan(video, "benchmark", options, rates=measure(plan, clip, settings))
    return plan


def planned_job(plan: Plan, clip: Path, folder: Path) -> PlannedJob:
    """The job of a plan, with its directory."""
    folder.mkdir(parents=True)
    write_record(JobDir(folder).plan_path, plan)
    return PlannedJob(
        job_key="benchmark",
        job_dir=folder,
        source=FetchedSource(path=clip, sha256="", num_bytes=0, name=clip.name),
        num_segments=len(plan.segments),
        num_frames=plan.video.num_frames,
        width=plan.width,
        height=plan.height,
        resolution=plan.resolution,
        engine=plan.engine.name,
        engine_label=plan.engine.name,
        device="cpu",
        output_name="",
        eta_seconds=plan.eta_seconds,
        job_limit_seconds=None,
        stall_limit_seconds=plan.limits.stall,
        duration_seconds=0.0,
    )


if __name__ == "__main__":
    sys.exit(main())
