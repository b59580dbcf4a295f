"""Makes the segments of a job in the test's own process, without a child: plans and runs."""

import dataclasses
import queue
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from seedvr2_core.beat import Beat
from seedvr2_core.child import segments
from seedvr2_core.child.protocol import Event
from seedvr2_core.child.shares import Work
from seedvr2_core.engines import reuse
from seedvr2_core.engines.seedvr2.session import SeedVR2Session
from seedvr2_core.files.durable import read_record
from seedvr2_core.job import JobDir
from seedvr2_core.job.plan_file import write_plan
from seedvr2_core.job.sidecar import Sidecar
from seedvr2_core.planning import sizes
from seedvr2_core.planning.build import build_plan
from seedvr2_core.planning.plan import Plan
from seedvr2_core.video.probe import probe_video
from tests.kits.factories import make_options
from tests.kits.restorer import ENGINE


class Heard:
    """Takes the place of the channel to the flow process: it keeps what it is told."""

    def __init__(self) -> None:
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.beats: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        """Phase -> what was done, and of how much."""

    def emit(self, event: Event) -> None:
        """Keep an event."""
        self.events.put(event)

    def beat(self, phase: str, done: int, total: int) -> None:
        """Keep a beat."""
        self.beats[phase].append((done, total))


def tiny_plan(
    clip: Path,
    *,
    window: int = 3,
    overlap: int = 1,
    seconds: float = 0.5,
    cuts: Sequence[int] = (),
    codec: str = "auto",
) -> Plan:
    """Plan the clip for the tiny network, as one shot if no cuts are given.

    Args:
        clip: a video.
        window: latents of a window.
        overlap: latents that neighbouring windows share.
        seconds: length of a segment.
        cuts: first frames of the other shots.
        codec: of the output.
    """
    options = make_options(segment_seconds=seconds, preset="ultrafast", cpu_count=1, codec=codec)
    engine = dataclasses.replace(ENGINE, name="tiny", window=window, overlap=overlap)
    options = dataclasses.replace(options, engine=engine)
    return build_plan(probe_video(clip), "0" * 64, options, cuts=cuts)


def use_small_pictures(monkeypatch: pytest.MonkeyPatch, width: int = 32, height: int = 18) -> None:
    """Let plans for 720p have so many pixels until the end of the test."""
    monkeypatch.setattr(sizes, "BUDGETS_PX", {"720p": width * height})


def use_sessions(monkeypatch: pytest.MonkeyPatch, make: Callable[[Plan], SeedVR2Session]) -> None:
    """Let `make` open every session until the end of the test."""

    def open_session(
        plan: Plan, *, device: str, beat: Beat, weights_dir: Path | None
    ) -> SeedVR2Session:
        return make(plan)

    engine = SimpleNamespace(open_session=open_session)
    monkeypatch.setattr(reuse, "load_engine", lambda name: engine)


def make_segments(
    plan: Plan,
    job_dir: Path,
    source: Path,
    indices: Sequence[int],
    work: Work | None = None,
    heard: Heard | None = None,
) -> Heard:
    """Do what the child does when it is asked for segments; returns the events that it sent."""
    if not (job_dir / "plan.json").exists():
        job_dir.mkdir(exist_ok=True)
        write_plan(job_dir / "plan.json", plan)
    heard = heard or Heard()
    segments.restore_segments(
        plan,
        JobDir(job_dir),
        source=source,
        device="cpu",
        weights_dir=None,
        lock_dir=job_dir,
        work=work or Work(indices=tuple(indices)),
        events=heard,
    )
    return heard


def sidecars(plan: Plan, job_dir: Path) -> list[Sidecar | None]:
    """The sidecar of each segment, or None where there is none."""
    paths = [JobDir(job_dir).sidecar_path(segment.index) for segment in plan.segments]
    return [read_record(path, Sidecar) if path.exists() else None for path in paths]


def packets(plan: Plan, job_dir: Path) -> list[bytes]:
    """The bytes of each segment's file."""
    return [JobDir(job_dir).video_path(segment.index).read_bytes() for segment in plan.segments]


class KeepTorch:
    """Puts torch's thread count and determinism back afterwards.

    A child sets them once and ends. In a test's process other tests follow, which must not notice.
    """

    def __enter__(self) -> None:
        self._before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()

    def __exit__(self, *_: object) -> None:
        threads, deterministic = self._before
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode("error" if deterministic else "default")
