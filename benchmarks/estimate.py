"""Compares predicted times with what jobs take: the plan, and the time left while they run.

    python benchmarks/estimate.py

Four jobs on a machine that is new to them: a short and a longer clip (the demo's, repeated), at
720p and 1080p, by lanczos and span. Each is the real flow with a Prefect server of its own, from
the plan to the stored output. For each: the plan's seconds over those of the job, the time left
that is shown after a tenth, a quarter and half of the frames over what was left, how often what was
left lay inside the range that was shown with it, and the longest time in which nothing that is
shown has changed. Aim: 0.7 to 1.3 from a tenth on, and 2 s. Run it
with nothing else on the machine.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import imageio_ffmpeg

from tasks.request.video import Model, Resolution
from tasks.settings import Settings, use_settings

if TYPE_CHECKING:  # Prefect reads its settings when it is imported, and `main` sets some.
    from tasks.run.record import JobProgress
    from tasks.schemas import PlannedJob

DEMO = Path(__file__).parents[1] / "deployments/demo/bunny_320x180.mp4"
CASES: tuple[tuple[Model, Resolution, int], ...] = (
    ("lanczos", "720p", 75),
    ("lanczos", "1080p", 750),
    ("span", "720p", 75),
    ("span", "1080p", 300),
)
SHARES = (0.1, 0.25, 0.5)


class Seen:
    """Keeps what the job tells, with the time."""

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
    parser.add_argument("--known", action="store_true", help="print a second run of each")
    options = parser.parse_args()
    os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
    os.environ["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] = "false"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PREFECT_HOME"] = str(Path(folder) / "prefect")
        settings = Settings(
            work_dir=Path(folder) / "work", allow_local_files=True, allow_cpu_engine=True
        )
        use_settings(settings)
        from deployments.host.prefect_server import open_api

        with open_api(Path(folder) / "prefect-server.log"):
            for engine, resolution, frames in CASES:
                clip = repeated(Path(folder), frames)
                if options.known:
                    run_case(clip, engine, resolution)
                line = run_case(clip, engine, resolution)
                print(f"{engine}, {resolution}, {frames} frames: {line}", flush=True)
    return 0


def repeated(folder: Path, frames: int) -> Path:
    """The demo clip, repeated up to so many frames."""
    clip = folder / f"{frames}.mp4"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-stream_loop", "-1"]
    command += ["-i", str(DEMO), "-frames:v", str(frames), "-c", "copy", "-an", str(clip)]
    subprocess.run(command, check=True)
    return clip


def run_case(clip: Path, engine: Model, resolution: Resolution) -> str:
    """Upscale a clip anew; returns the ratios in words."""
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
    told = [f"plan {job.eta_seconds:.1f} s of {wall:.1f} s: {job.eta_seconds / wall:.2f}"]
    for share in SHARES:
        at, left = next(
            (at, progress.seconds_left)
            for at, progress in seen.told
            if progress.seconds_left is not None and progress.frames >= share * job.num_frames
        )
        told.append(f"left after {share:.0%}: {(left or 0.0) / (ended - at):.2f}")
    told.append(f"inside the range {share_inside(seen, ended):.0%}")
    begun = next(at for at, progress in seen.told if progress.phase == "restore")
    joined = next(at for at, progress in seen.told if progress.phase == "deliver")
    told.append(f"loaded in {begun - seen.began:.1f} s, delivered in {ended - joined:.1f} s")
    told.append("longest pause {:.1f} s in {}".format(*longest_pause(seen, ended)))
    return ", ".join(told)


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
