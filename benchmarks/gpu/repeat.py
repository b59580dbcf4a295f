"""The same work again: at once, taken up in the middle, on a card that is nearly full, streamed.

Bits are compared by the digest of all restored frames. Peaks of the device's memory stand beside
the plan's. Whether bits depend on free memory is not known (cuDNN passes over a plan whose scratch
memory does not fit): a difference there is a result and no error. All others have to be equal.
"""

import dataclasses
import gc
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.gpu.report import LineReport
from benchmarks.model.run import plan_summary
from benchmarks.model.setup import BenchSetup
from benchmarks.model.source import PanningNoise
from benchmarks.model.timing import MemoryWatch
from seedvr2_core.engines.protocol import Commit
from seedvr2_core.engines.seedvr2.phases import Models
from seedvr2_core.engines.seedvr2.session import SeedVR2Session
from seedvr2_core.frames import Frame
from seedvr2_core.planning.memory import plan_memory
from seedvr2_core.planning.plan import MemoryPlan

STREAMED: Mapping[str, Mapping[str, Any]] = {
    "caches streamed": {"stream_caches": True, "park_caches": False},
    "caches and layers streamed": {
        "stream_caches": True,
        "streamed_layers": 2,
        "park_caches": False,
        "weights_resident": False,
    },
    "bands of rows": {
        "stream_caches": True,
        "encoder_block_bytes": 0,
        "decoder_block_bytes": 0,
        "encoder_bands": True,
        "decoder_bands": True,
        "park_caches": False,
    },
}
"""What stands in on a CPU, whose plans stream nothing."""
STEP = 0.9


@dataclass(frozen=True, slots=True)
class _Made:
    digest: str
    commit: Commit


class Repeats:
    """Restores the pieces of one setup in several ways."""

    def __init__(
        self, report: LineReport, device: torch.device, setup: BenchSetup, models: Models
    ) -> None:
        self._report, self._device, self._models = report, device, models
        self._setup = setup
        video = setup.plan.video
        source = PanningNoise(video.height, video.width)
        stop = setup.pieces[-1].stop
        overlap = 4 * (setup.plan.engine.overlap + 1)
        self._frames = [source.frame(i, video.pts[i]) for i in range(stop + overlap)]
        self._wanted: list[_Made] = []

    def run(self) -> None:
        """All of it; what fails is told, and the rest runs."""
        attempt = self._report.attempt
        if not attempt("first", lambda: self._tell("first", self._walk())):
            return
        attempt("again", lambda: self._tell("again", self._walk()))
        attempt("taken up", lambda: self._tell("taken up", self._taken_up()))
        attempt("unaided", lambda: self._tell("unaided", self._taken_up(unaided=True)))
        attempt("half of the card taken", self._under_pressure)
        for name, memory, limit in self._rungs():
            attempt(name, lambda n=name, m=memory, b=limit: self._streamed(n, m, b))

    def _walk(self, memory: MemoryPlan | None = None) -> list[_Made]:
        """All pieces from the shot's start."""
        with self._session(memory) as session:
            shot, frames = self._setup.plan.shots[0], iter(self._frames)
            state = session.begin(frames, shot=shot, piece=self._setup.pieces[0])
            return [self._made(session, frames, piece, state) for piece in self._setup.pieces]

    def _taken_up(self, *, unaided: bool = False) -> list[_Made]:
        """The last piece alone: behind what the pieces before committed, or without it."""
        piece, shot = self._setup.pieces[-1], self._setup.plan.shots[0]
        with self._session(None) as session:
            reads = session.reads(shot, [piece], unaided=unaided)
            frames = iter(self._frames[reads.frames.start : reads.frames.stop])
            before = None
            if not unaided:
                commits = [made.commit for made in self._wanted[:-1]]
                latents = torch.cat([c.latents for c in commits if c.latents is not None])
                kept = latents[reads.latents.start : reads.latents.stop]
                before = dataclasses.replace(commits[-1], latents=kept)
            state = session.begin(frames, shot=shot, piece=piece, before=before, unaided=unaided)
            return [self._made(session, frames, piece, state)]

    def _under_pressure(self) -> None:
        """Half of what is free is taken by a tensor that does nothing."""
        taken = 0
        dummy = None
        if self._device.type == "cuda":
            taken = torch.cuda.mem_get_info(self._device)[0] // 2
            dummy = torch.empty(taken, dtype=torch.uint8, device=self._device)
        try:
            self._tell("half of the card taken", self._walk(), must=False, taken_bytes=taken)
        finally:
            del dummy

    def _rungs(self) -> Iterator[tuple[str, MemoryPlan, int | None]]:
        """Memory plans of smaller cards that stream: the first that does, the first in bands of
        rows, also with whole frames on the card as it is, and the last that fits.

        Found by asking the planner for less and less.
        """
        memory, request = self._setup.memory, self._setup.request
        if self._device.type != "cuda":
            for name, changes in STREAMED.items():
                yield name, dataclasses.replace(memory, **changes), None
            return
        found: list[tuple[MemoryPlan, int]] = []
        limit = request.device_bytes or 0
        while limit > 1 << 30:
            try:
                plan = plan_memory(dataclasses.replace(request, device_bytes=limit))
            except Exception:  # noqa: BLE001 - the planner's refusal ends the search
                break
            if plan.stream_caches or plan.streamed_layers:
                found.append((plan, limit))
            limit = int(STEP * limit)
        banded = [item for item in found[1:-1] if item[0].encoder_bands and item[0].decoder_bands]
        for plan, limit in found[:1] + banded[:1] + found[1:][-1:]:
            name = f"streamed in {limit / 1e9:.1f} GB"
            yield name, plan, limit
            if plan.encoder_bands or plan.decoder_bands:
                whole = dataclasses.replace(plan, encoder_bands=False, decoder_bands=False)
                yield f"{name}, but whole frames", whole, None

    def _streamed(self, name: str, memory: MemoryPlan, limit: int | None) -> None:
        """On a card of which only the plan's memory may be taken."""
        plan = dataclasses.replace(self._setup.plan, memory=memory)
        summary = plan_summary(dataclasses.replace(self._setup, plan=plan))
        # As when such a plan loads it: the whole transformer would not fit the smaller card.
        self._models.dit.to("cpu")
        _free_cached(self._device)
        with _at_most(limit, self._device):
            # Other slices change the order of sums, so bits may differ from the first plan's.
            self._tell(name, self._walk(memory), must=False, plan=summary)
            self._tell(f"{name}, again", self._walk(memory), must=False)

    def _made(
        self, session: SeedVR2Session, frames: Iterator[Frame], piece: Any, state: Any
    ) -> _Made:
        digest = hashlib.sha256()
        shot = self._setup.plan.shots[0]
        for frame in session.restore(frames, shot=shot, piece=piece, state=state):
            digest.update(frame.rgb.tobytes())
        return _Made(digest.hexdigest()[:16], session.take_commit())

    @contextmanager
    def _session(self, memory: MemoryPlan | None) -> Iterator[SeedVR2Session]:
        plan = dataclasses.replace(self._setup.plan, memory=memory or self._setup.memory)
        self._watch = MemoryWatch(self._device)
        session = SeedVR2Session(
            self._models, plan, device=str(self._device), beat=self._report.beat
        )
        self._peaks = dict(plan.memory.peaks) if plan.memory else {}
        try:
            with self._watch.phase("all"):
                yield session
        finally:
            session.close()
            _free_cached(self._device)

    def _tell(self, name: str, made: Sequence[_Made], *, must: bool = True, **figures: Any) -> None:
        self._wanted = self._wanted or list(made)
        digests = [piece.digest for piece in made]
        same = digests == [piece.digest for piece in self._wanted[-len(made) :]]
        peak = self._watch.peaks.get("all")
        on_device = {phase: size for phase, size in self._peaks.items() if phase != "host"}
        self._report.line(
            name,
            same_bits=same,
            digests=digests,
            planned_peak=max(on_device.values(), default=None),
            used_peak=None if peak is None else peak.reserved + peak.outside,
            allocated_peak=None if peak is None else peak.allocated,
            **figures,
        )
        if must and not same:
            self._report.wrong()


def _free_cached(device: torch.device) -> None:
    """Give memory that nothing refers to back to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


@contextmanager
def _at_most(limit: int | None, device: torch.device) -> Iterator[None]:
    """torch's allocator takes no more than that of the card."""
    if limit is None:
        yield
        return
    total = torch.cuda.mem_get_info(device)[1]
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
