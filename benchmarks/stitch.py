"""Joining the segments of a large output, compared with one copy of the same bytes.

`python benchmarks/stitch.py [--gigabytes 2] [--pairs 3] [--folder DIR] [--json]`

The segments are real ones of 250 frames whose packets are blown up with filler units, about 1 MB a
frame; all of them share one file's bytes by hard links, so that making them takes no time. The join
does all that the task's child does: it looks through the segments, writes the output with its index
in front, syncs it and checks it. The reference reads the same segments and writes them to one file,
in pieces of 1 MB, and syncs it. Both run in turn.

speed    our seconds over the copy's, the median of all pairs
cpu      our seconds of the processor over the copy's: the part that other work does not change
silence  the longest time between two beats while joining, in seconds (the limit is 60)
memory   the process's high-water mark, in MB, before the first join and after the last
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import av
import numpy as np

from seedvr2_core.files.durable import sync_file
from seedvr2_core.files.reading import FileReader
from seedvr2_core.files.writing import FileWriter
from seedvr2_core.frames import Frame
from seedvr2_core.video.info import ColorInfo, EncoderSettings, VideoInfo
from seedvr2_core.video.join import JoinPart, join_segments
from seedvr2_core.video.writer import SegmentWriter
from tests.kits.hosts.memory import peak_kib

T = TypeVar("T")
FRAMES = 250
RATE = 25
FILLER_BYTES = 2**20
FILLER_UNIT = 12
"""H.264's type of a unit whose content means nothing."""
COLOR = ColorInfo(full_range=False, matrix=1, primaries=1, transfer=1)
SETTINGS = EncoderSettings(
    codec="h264",
    preset="ultrafast",
    crf=30,
    pix_fmt="yuv420p",
    width=64,
    height=64,
    time_base=(1, RATE),
    rate=(RATE, 1),
    keyint=FRAMES,
    threads=1,
    color=COLOR,
)


def make_segment(folder: Path) -> Path:
    """A segment of FRAMES frames with much in it; returns its path."""
    small, large = folder / "small.mp4", folder / "large.mp4"
    with SegmentWriter(small, SETTINGS, 0) as writer:
        for index in range(FRAMES):
            rgb = np.full((64, 64, 3), index % 256, np.uint8)
            writer.write(Frame(rgb=rgb, pts=index, index=index))
    content = np.random.default_rng(1).integers(1, 255, FILLER_BYTES, np.uint8).tobytes()
    unit = (len(content) + 1).to_bytes(4, "big") + bytes([FILLER_UNIT]) + content
    with av.open(str(small)) as source, av.open(str(large), "w", format="mp4") as target:
        stream = target.add_stream_from_template(source.streams.video[0], opaque=True)
        stream.time_base = Fraction(1, RATE)
        for packet in source.demux(video=0):
            if packet.size:
                blown = av.Packet(bytes(packet) + unit)
                blown.pts, blown.dts, blown.duration = packet.pts, packet.dts, packet.duration
                blown.time_base, blown.is_keyframe = packet.time_base, packet.is_keyframe
                blown.stream = stream
                target.mux(blown)
    return large


def make_job(folder: Path, gigabytes: float) -> tuple[list[JoinPart], VideoInfo, Path]:
    """Segments of so many bytes in all, what the probe would say, and a source without sound."""
    large = make_segment(folder)
    count = max(1, round(gigabytes * 1e9 / large.stat().st_size))
    parts = []
    for index in range(count):
        path = folder / f"{index:05d}.mp4"
        os.link(large, path)
        parts.append(JoinPart(path=path, first_pts=index * FRAMES, num_frames=FRAMES))
    info = VideoInfo(
        format_name="mp4",
        size_bytes=0,
        stream_index=0,
        codec="h264",
        pix_fmt="yuv420p",
        bit_depth=8,
        width=64,
        height=64,
        rotation=0,
        sar=(1, 1),
        color=COLOR,
        time_base=(1, RATE),
        pts=tuple(range(count * FRAMES)),
        last_duration=1,
        nominal_rate=(RATE, 1),
    )
    return parts, info, folder / "small.mp4"


def join(job: tuple[list[JoinPart], VideoInfo, Path], output: Path) -> tuple[float, float]:
    """Seconds of the whole join, and the longest silence in it."""
    parts, info, source = job
    began = last = time.monotonic()
    silence = 0.0

    def beat(done: int, total: int) -> None:
        nonlocal last, silence
        now = time.monotonic()
        silence, last = max(silence, now - last), now

    join_segments(parts, source, info, SETTINGS, output, metadata={}, on_bytes=beat)
    beat(0, 0)
    sync_file(output)
    return time.monotonic() - began, silence


def copy(job: tuple[list[JoinPart], VideoInfo, Path], output: Path) -> float:
    """Seconds of reading every segment once and writing it once."""
    began = time.monotonic()
    with FileWriter(output) as target:
        for part in job[0]:
            with FileReader(part.path) as file:
                while piece := file.read(2**20):
                    target.write(piece)
    sync_file(output)
    return time.monotonic() - began


def peak_mb() -> float:
    """The most memory that this process has had so far."""
    return peak_kib() / 1e3


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What the work returns, and its seconds of the processor, all threads together."""
    began = time.process_time()
    return work(), time.process_time() - began


def main() -> None:
    """Run the benchmark and print its figures."""
    parser = argparse.ArgumentParser(description="Time of joining a large output, over a copy")
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None, help="where to work; default: /tmp")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    joins, copies, silences, cpu, num_bytes = [], [], [], [], 0
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        job = make_job(folder, asked.gigabytes)
        output, before = folder / "output.mp4", peak_mb()
        for _ in range(asked.pairs):
            copied, copy_cpu = timed(lambda: copy(job, output))
            output.unlink()
            (seconds, silence), join_cpu = timed(lambda: join(job, output))
            copies.append(copied)
            joins.append(seconds)
            cpu.append(join_cpu / copy_cpu)
            silences.append(silence)
            num_bytes = output.stat().st_size
            output.unlink()
    ratios = [ours / theirs for ours, theirs in zip(joins, copies, strict=True)]
    figures = {
        "gigabytes": round(num_bytes / 1e9, 2),
        "join_seconds": round(statistics.median(joins), 2),
        "copy_seconds": round(statistics.median(copies), 2),
        "ratio": round(statistics.median(ratios), 2),
        "cpu": round(statistics.median(cpu), 2),
        "longest_silence_seconds": round(max(silences), 2),
        "memory_mb": [round(before), round(peak_mb())],
    }
    print(json.dumps(figures) if asked.json else figures)


if __name__ == "__main__":
    main()
