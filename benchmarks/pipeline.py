"""The path of frames through our pipeline, compared with one ffmpeg process for the same work.

`python benchmarks/pipeline.py [--frames 900] [--deep-frames 450] [--pairs 5] [--json]`

speed   Engine lanczos, 854x480 to 1280x720: our child process (start, probe, decode, resize,
        encode, check, commit, join, audio; on a CPU a job has one) against one ffmpeg process
        (decode, gbrp, scale, yuv420p, the same x264 settings and threads, audio copied). Ours and
        ffmpeg run in turn, pair by pair. The figure is our frames per second over ffmpeg's, the
        median of all pairs. Beside it stand the milliseconds of a processor that a frame takes of
        each, which other work on the machine disturbs less, and the digest of our output: a change
        that only saves time leaves it as it is.
deep    The same for a 10-bit HEVC source that becomes HEVC Main10, with the same x265 settings.
memory  Peak resident memory of our process tree for 3000 frames over that for 300 frames.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import imageio_ffmpeg

from seedvr2_core.child.protocol import Join, Prepare, Probe, Request, Restore
from seedvr2_core.files import file_sha256, read_record, write_record
from seedvr2_core.job import JobDir
from seedvr2_core.planning import Options, Plan, build_plan
from seedvr2_core.planning.plan import EngineSettings
from seedvr2_core.video.info import VideoInfo
from tasks.child import Child

ROOT = Path(__file__).parents[1]
CLIP = ROOT / "deployments" / "demo" / "bunny_320x180.mp4"
FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
SETTINGS = ("-profile:v", "high", "-threads", "8", "-g", "125")
X265 = "log-level=error:info=0:open-gop=0:repeat-headers=0:frame-threads=3:pools=8"
X264 = "open-gop=0:stitchable=1:lookahead-threads=1:sliced-threads=0"


def ffmpeg(*arguments: str | Path) -> None:
    """Run one ffmpeg process."""
    quiet = ["-hide_banner", "-loglevel", "error", "-nostdin", "-y"]
    subprocess.run([FFMPEG, *quiet, *map(str, arguments)], check=True)


def make_source(folder: Path, frames: int, *, deep: bool = False) -> Path:
    """Make a source: the demo clip, enlarged to 854x480 and repeated; 10-bit HEVC if `deep`."""
    path = folder / f"source{frames}{'deep' if deep else ''}.mp4"
    codec = ("-c:v", "libx265", "-x265-params", "log-level=error", "-pix_fmt", "yuv420p10le")
    loop = ("-stream_loop", "-1", "-i", CLIP, "-frames:v", str(frames), "-t", str(frames / 25))
    small = ("-vf", "scale=854:480", "-crf", "16", "-preset", "veryfast", *(codec if deep else ()))
    ffmpeg(*loop, *small, "-c:a", "aac", path)
    return path


def reference(source: Path, output: Path, preset: str, *, deep: bool = False) -> None:
    """Do the same work in one ffmpeg process."""
    rgb, yuv = ("gbrp16le", "yuv420p10le") if deep else ("gbrp", "yuv420p")
    filters = f"format={rgb},scale=1280:720:flags=lanczos,format={yuv}"
    codec = ("-c:v", "libx264", "-x264-params", X264, *SETTINGS)
    if deep:
        codec = ("-c:v", "libx265", "-x265-params", X265, "-g", "125")
    quality = ("-preset", preset, "-crf", "18")
    ffmpeg("-i", source, "-vf", filters, *codec, *quality, "-c:a", "copy", output)


def ours(source: Path, job_dir: Path, preset: str) -> None:
    """Probe, restore and join in a child, as the tasks do."""
    job_dir.mkdir(parents=True)
    with fresh_child() as child:
        _make(child, source, job_dir, preset)


@contextmanager
def fresh_child() -> Iterator[Child]:
    """A child for the length of a `with` block."""
    child = Child(log=lambda line: None)
    try:
        yield child
    finally:
        child.close()


def _make(child: Child, source: Path, job_dir: Path, preset: str) -> None:
    names, info_path = JobDir(job_dir), job_dir / "probe.json"
    child.send(Prepare())
    ask(child, Probe(path=source, out=info_path))
    write_record(names.plan_path, make_plan(read_record(info_path, VideoInfo), preset))
    plan = read_record(names.plan_path, Plan)
    restore = Restore(
        job_dir=job_dir,
        source=source,
        device="cpu",
        weights_dir=job_dir,
        lock_dir=job_dir,
        segments=tuple(segment.index for segment in plan.segments),
    )
    ask(child, restore)
    ask(child, Join(job_dir=job_dir, source=source, out=names.output_path, metadata={}))


def make_plan(info: VideoInfo, preset: str) -> Plan:
    """The plan that the command would make with --model lanczos --resolution 720p."""
    engine = EngineSettings.without_latents("lanczos")
    options = Options(
        resolution="720p",
        engine=engine,
        device="cpu",
        cpu_count=len(os.sched_getaffinity(0)),
        crf=18,
        preset=preset,
        segment_seconds=10,
    )
    return build_plan(info, "benchmark", options)


def ask(child: Child, request: Request[Any]) -> None:
    """Send a request and wait for the event that answers it."""
    child.send(request)
    while not request.is_answered_by(child.next_event(stall_seconds=600, doing="measuring")):
        pass


def seconds(work: Callable[[], None]) -> tuple[float, float]:
    """Seconds that a call takes, and those of a processor that its child processes do."""
    began, before = time.perf_counter(), _of_children()
    work()
    return time.perf_counter() - began, _of_children() - before


def _of_children() -> float:
    """Seconds of a processor, of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def speed(
    folder: Path, frames: int, pairs: int, preset: str, *, deep: bool = False
) -> dict[str, object]:
    """Measure pairs in turn; the figure is the median of their ratios."""
    source = make_source(folder, frames, deep=deep)
    kind = "deep" if deep else "plain"
    rows, cpu_rows, digests = [], [], set()
    for k in range(pairs + 1):
        job_dir = folder / f"{kind}{k}"
        mine, my_cpu = seconds(lambda job_dir=job_dir: ours(source, job_dir, preset))
        theirs, their_cpu = seconds(
            lambda: reference(source, folder / "out.mp4", preset, deep=deep)
        )
        digests.add(file_sha256(JobDir(job_dir).output_path))
        if k:  # the first pair warms the page cache
            rows.append((frames / mine, frames / theirs))
            cpu_rows.append((1000 * my_cpu / frames, 1000 * their_cpu / frames))
    return {
        "frames": frames,
        "preset": preset,
        "ours_fps": round(statistics.median(row[0] for row in rows), 2),
        "ffmpeg_fps": round(statistics.median(row[1] for row in rows), 2),
        "ratios": [round(a / b, 3) for a, b in rows],
        "median_ratio": round(statistics.median(a / b for a, b in rows), 3),
        "ours_cpu_ms": [round(row[0], 1) for row in cpu_rows],
        "ffmpeg_cpu_ms": [round(row[1], 1) for row in cpu_rows],
        "sha256": sorted(digests),
    }


def tree_rss() -> int:
    """Resident bytes of this process's descendants; a page that several share is counted once."""
    total, known = 0, [os.getpid()]
    for pid in known:
        try:
            for task in Path(f"/proc/{pid}/task").iterdir():
                known += [int(child) for child in (task / "children").read_text().split()]
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue  # it ended meanwhile
        if pid != os.getpid():
            total += 1024 * int(rollup.split("Pss:")[1].split()[0])
    return total


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Measure the process tree's memory while the block runs; yields a list that holds the peak."""
    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            peak[0] = max(peak[0], tree_rss())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def memory(folder: Path) -> dict[str, object]:
    """Peak memory at 300 and at 3000 frames."""
    peaks = {}
    for frames in (300, 3000):
        source = make_source(folder, frames)
        with peak_memory() as peak:
            ours(source, folder / f"memory{frames}", "ultrafast")
        peaks[frames] = peak[0]
    return {
        "peak_mb": {frames: round(value / 1e6) for frames, value in peaks.items()},
        "ratio": round(peaks[3000] / peaks[300], 3),
    }


def main() -> int:
    """Print both figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=900)
    parser.add_argument("--deep-frames", type=int, default=450, help="of HEVC; 0: none")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--preset", default="medium")
    parser.add_argument("--skip-memory", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        asked = (arguments.pairs, arguments.preset)
        report = {"speed": speed(folder, arguments.frames, *asked)}
        if arguments.deep_frames:
            report["deep"] = speed(folder, arguments.deep_frames, *asked, deep=True)
        if not arguments.skip_memory:
            report["memory"] = memory(folder)
    print(json.dumps(report, indent=None if arguments.json else 2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
