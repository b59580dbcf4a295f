"""The shared failing inputs: what is right for each, and a job made of one, small and in process.

`cases/expected.json` of the shared folder is the oracle; `cases/README.md` there says what its
fields mean. A file is found by its name, what may differ by its kind, so a larger set works too.
"""

import contextlib
import json
import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import av.error
import numpy as np
import pytest

from seedvr2_core.planning import sizes
from seedvr2_core.planning.build import build_plan
from seedvr2_core.planning.plan import Plan
from seedvr2_core.video.join import JoinPart, join_segments
from seedvr2_core.video.output.formats import CONTAINERS
from seedvr2_core.video.probe import probe_video, sniff_video
from seedvr2_core.video.wanted import ALL_FRAMES, WantedFrames, wanted_frames
from tests.kits.factories import make_options
from tests.kits.media import ROOT, ffmpeg
from tests.kits.pipeline import KeepTorch, make_segments

FOLDER = Path(os.environ.get("SEEDVR2_SHARED", ROOT.parent / "shared")) / "cases"
_PIXELS = 160 * 96


@dataclass(frozen=True, kw_only=True)
class Case:
    """A file and what is right for it."""

    name: str
    kind: str
    """Its number: "01"."""
    frames: int
    pts: list[float]
    """Seconds, by ffmpeg's counting."""
    shown: tuple[Fraction, Fraction]
    """Width and height of the first picture in square pixels, upright."""
    sounds: list[float]
    """Decoded seconds of each audio stream."""

    @property
    def path(self) -> Path:
        """Where the file lies."""
        return FOLDER / self.name


def all_cases() -> list[Case]:
    """Every case of the shared folder; none where there is no such folder."""
    table = FOLDER / "expected.json"
    if not table.is_file():
        return []
    return [_case(name, value) for name, value in json.loads(table.read_text()).items()]


def _case(name: str, value: dict) -> Case:
    size = next(iter(value["sizes"]), "2x2")
    width, height = (Fraction(side) for side in size.split("x"))
    num, den = (int(part) for part in next(iter(value["sar"]), "1/1").split("/"))
    return Case(
        name=name,
        kind=value["kind"].partition("-")[0],
        frames=value["frames"],
        pts=value["pts"],
        shown=(width * Fraction(num or den, den), height),
        sounds=value["audio_seconds_decoded"],
    )


@dataclass(frozen=True, kw_only=True)
class Made:
    """A finished job."""

    plan: Plan
    output: Path
    notes: tuple[str, ...]
    """Those of the plan and of the join."""


IN_MP4: dict[str, object] = {"codec": "h264", "container": "mp4"}
"""Options of an output as most tests look at it."""


def use_case_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let plans for 720p have as many pixels as most cases, until the end of the test."""
    monkeypatch.setattr(sizes, "BUDGETS_PX", {**sizes.BUDGETS_PX, "720p": _PIXELS})


def make_video(
    source: Path, folder: Path, wanted: WantedFrames = ALL_FRAMES, **changes: object
) -> Made:
    """Make a job of a file: door, probe, plan, segments, join; with `lanczos`, in this process.

    Args:
        source: the file.
        folder: for the job and its output.
        wanted: which frames of it.
        changes: to the options; by default the best H.264 in mp4, in segments of a second.
    """
    sniff_video(source)
    usual = {"preset": "ultrafast", "crf": 1, "segment_seconds": 1.0, **IN_MP4}
    options = make_options(**{**usual, **changes})
    plan = build_plan(wanted_frames(probe_video(source), wanted), "0" * 64, options)
    with KeepTorch():
        make_segments(plan, folder / "job", source, range(len(plan.segments)))
    parts = [
        JoinPart(
            path=folder / "job" / "segments" / f"{segment.index:05}.mp4",
            first_pts=plan.video.pts[segment.start],
            num_frames=segment.num_frames,
        )
        for segment in plan.segments
    ]
    output = folder / f"output{CONTAINERS[plan.output.container].ending}"
    joined = join_segments(
        parts, source, plan.video, plan.encoder, output, metadata={}, wanted=plan.output
    )
    return Made(plan=plan, output=output, notes=(*plan.notes, *joined.notes))


def times_of(path: Path) -> list[float]:
    """Seconds at which the frames of a finished output are shown, edit lists applied."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        times = [p.pts for p in container.demux(stream) if p.size and not p.is_discard]
        return [float(time * stream.time_base) for time in sorted(times)]


def sound_of(path: Path) -> list[float]:
    """Decoded seconds of each audio track of a file; a packet that does not decode has none."""
    with av.open(str(path)) as container:
        count = len(container.streams.audio)
    seconds: list[float] = []
    for index in range(count):
        with av.open(str(path)) as container:
            heard = 0.0
            for packet in container.demux(container.streams.audio[index]):
                with contextlib.suppress(av.error.InvalidDataError):
                    heard += sum(frame.samples / frame.sample_rate for frame in packet.decode())
            seconds.append(heard)
    return seconds


def pictures(path: Path, index: int, chosen: list[int], size: tuple[int, int]) -> list[np.ndarray]:
    """Y, U and V planes, (T, pixels) float each, of frames as ffmpeg shows them, by number.

    They are scaled in R'G'B' by ffmpeg's Lanczos filter and become BT.709, as the output is.
    """
    width, height = size
    wanted = "+".join(rf"eq(n\,{number})" for number in chosen)
    exact = "accurate_rnd+full_chroma_int"
    scaled = f"scale={width}:{height}:flags=lanczos+{exact},format=gbrp"
    coded = f"scale=out_color_matrix=bt709:out_range=tv:flags=area+{exact},format=yuv420p"
    raw = ffmpeg(
        *["-analyzeduration", "100M", "-probesize", "50M", "-i", path, "-map", f"0:{index}"],
        *["-fps_mode", "passthrough", "-vf", f"select={wanted},{scaled},{coded}"],
        *["-f", "rawvideo", "-"],
    )
    frames = np.frombuffer(raw, np.uint8).astype(np.float64).reshape(len(chosen), -1)
    ends = (width * height, width * height * 5 // 4)
    return np.split(frames, ends, axis=1)
