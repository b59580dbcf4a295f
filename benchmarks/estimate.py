"""Compares predicted times with what jobs take: the plan, and the time left while they run.

    python benchmarks/estimate.py

Ten jobs in segments of four seconds, one after another, on a machine that is new to them: the
demo's clip, repeated, by three engines at four sizes. What one job has taken is known to the next.
Each is the real flow with a Prefect server of its own, from the plan to the stored output.

For each: the plan's seconds over those of the job; the time left that is shown when the first
segment is done, over what was left; how often what was left lay inside the range that was shown
with it; the report's share of the job's time; and the longest time in which nothing that is shown
has changed. Aims: within 15 % after the first segment, inside in 80 %, a report under 5 %, and 2 s.
Run it with nothing else on the machine.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING

import imageio_ffmpeg

from tasks.request.video import Model, Resolution
from tasks.settings import Settings, use_settings

if TYPE_CHECKING:  # Prefect reads its settings when it is imported, and `main` sets some.
    from tasks.run.record import JobProgress
    from tasks.schemas import PlannedJob

DEMO = Path(__file__).parents[1] / "deployments/demo/bunny_320x180.mp4"
SEGMENT_SECONDS = 4.0
CASES: tuple[tuple[Model, Resolution, int], ...] = (
    ("lanczos", "720p", 200),
    ("lanczos", "1080p", 400),
    ("span", "720p", 200),
    ("lanczos", "720p", 800),
    ("span", "1080p", 200),
    ("lanczos", "2k", 300),
    ("waifu2x", "720p", 200),
    ("lanczos", "1080p", 800),
    ("span", "720p", 400),
    ("lanczos", "4k", 200),
)
WITHIN = 0.15
"""How far the time left after the first segment may be from what was left."""


@dataclass(frozen=True, slots=True)
class Case:
    """What a job has shown."""

    plan: float
    """The plan's seconds over those of the job."""
    left: float
    """The seconds left that were shown after the first segment over what was left."""
    inside: float
    """How often what was left lay inside the range that was shown."""
    report: float
    """The report's part of the job's time."""
    seconds: float
    pause: tuple[float, str]
    """The longest time without a change, and the phase it was in."""

    def __str__(self) -> str:
        """Everything, in a line."""
        return (
            f"{self.seconds:.1f} s, plan {self.plan:.2f}, left after the first segment "
            f"{self.left:.2f}, inside the range {self.inside:.0%}, report {self.report:.1%}, "
            "longest pause {:.1f} s in {}".format(*self.pause)
        )


class Seen:
    """Keeps what the job tells, with the time."""

    needs_whole_plan = False

    def __init__(self) -> None:
        self.job: PlannedJob | None = None
        self.began = 0.0
        self.told: list[tuple[float, JobProgress]] = []

    def planned(self, job: "PlannedJob") -> None:
        """The job begins: from here on the plan's seconds count."""
        self.job, self.began = job, time.monotonic()

    def progressed(self, progress: "JobProgress") -> None:
        """Keep it."""
        self.told.append((time.monotonic(), progress))


def main() -> int:
    """Run the cases and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--part", type=float, default=1.0, help="of the frames of jobs and segments; 0.5: half"
    )
    part = parser.parse_args().part
    os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
    os.environ["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] = "false"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PREFECT_HOME"] = str(Path(folder) / "prefect")
        settings = Settings(
            work_dir=Path(folder) / "work",
            allow_local_files=True,
            allow_cpu_engine=True,
            segment_seconds=part * SEGMENT_SECONDS,
        )
        use_settings(settings)
        from deployments.host.prefect_server import open_api

        with open_api(Path(folder) / "prefect-server.log"):
            found: list[Case] = []
            for engine, resolution, frames in CASES:
                clip = repeated(Path(folder), round(part * frames))
                found.append(run_case(clip, engine, resolution))
                print(f"{engine}, {resolution}, {clip.stem} frames: {found[-1]}", flush=True)
    tell(found)
    return 0


def tell(found: Sequence[Case]) -> None:
    """Print what all jobs come to."""
    wrong = [abs(case.left - 1) for case in found]
    within = sum(one <= WITHIN for one in wrong)
    print(
        f"time left after the first segment: wrong by {median(wrong):.0%} in the middle and "
        f"{max(wrong):.0%} at the most, {within} of {len(found)} within {WITHIN:.0%}\n"
        f"inside the range: {mean(case.inside for case in found):.0%}, at the least "
        f"{min(case.inside for case in found):.0%}\n"
        f"report: {max(case.report for case in found):.1%} at the most"
    )


def repeated(folder: Path, frames: int) -> Path:
    """The demo clip, repeated up to so many frames."""
    clip = folder / f"{frames}.mp4"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-stream_loop", "-1"]
    command += ["-i", str(DEMO), "-frames:v", str(frames), "-c", "copy", "-an", str(clip)]
    subprocess.run(command, check=True)
    return clip


def run_case(clip: Path, engine: Model, resolution: Resolution) -> Case:
    """Upscale a clip anew."""
    from flows.upscale import upscale
    from tasks.run.record import shown_to

    seen = Seen()
    with shown_to(seen):
        upscale(
            video_path=str(clip),
            resolution=resolution,
            model=engine,
            fresh=True,
        )
    ended, job = time.monotonic(), seen.job
    if job is None:
        raise RuntimeError("the job was never planned")
    wall = ended - seen.began
    at, left = next(
        (at, progress.seconds_left)
        for at, progress in seen.told
        if progress.seconds_left is not None and (progress.measures.segment or 1) > 1
    )
    return Case(
        plan=job.eta_seconds / wall,
        left=left / (ended - at),
        inside=share_inside(seen, ended),
        report=phase_seconds(seen, "report", ended) / wall,
        seconds=wall,
        pause=longest_pause(seen, ended),
    )


def phase_seconds(seen: Seen, phase: str, ended: float) -> float:
    """How long a phase has taken in all."""
    moments = [(at, progress.phase) for at, progress in seen.told]
    return sum(
        later - at for (at, now), (later, _) in pairwise([*moments, (ended, "")]) if now == phase
    )


def share_inside(seen: Seen, ended: float) -> float:
    """How often what was really left lay inside the range that was shown."""
    inside = [
        low <= ended - at <= high
        for at, progress in seen.told
        if (low := progress.measures.seconds_left_low) is not None
        and (high := progress.measures.seconds_left_high) is not None
    ]
    return sum(inside) / max(1, len(inside))


def longest_pause(seen: Seen, ended: float) -> tuple[float, str]:
    """The longest time without a change of what is shown, and the phase it was in."""
    moments = [(seen.began, "plan")]
    shown: tuple[object, ...] = ()
    for at, progress in seen.told:
        now = (progress.phase, round(progress.percent, 1), progress.detail)
        if now != shown:
            shown = now
            moments.append((at, progress.phase))
    moments.append((ended, ""))
    return max((later - at, phase) for (at, phase), (later, _) in pairwise(moments))


if __name__ == "__main__":
    sys.exit(main())
