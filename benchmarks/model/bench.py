"""A `SeedVR2Session` whose stages are timed and whose memory is watched; see __main__.py."""

import argparse
import gc
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from benchmarks.model.setup import BenchSetup, make_models
from benchmarks.model.source import PanningNoise
from benchmarks.model.timing import MemoryWatch, Seconds, StageClock
from seedvr2_core.beat import Beat, no_beat
from seedvr2_core.engines.seedvr2.phases import Models, Phases
from seedvr2_core.engines.seedvr2.session import SeedVR2Session
from seedvr2_core.engines.seedvr2.shot import LatentState, ShotGrid
from seedvr2_core.frames import Frame
from seedvr2_core.planning import Piece
from seedvr2_core.vae.model import VideoVAE

PREPARE, SAMPLE, FINISH, MOVE = "prepare", "sample", "finish", "move"
"""Stages around encoder, transformer and decoder. prepare: resize and padding. sample: noise and
join. finish: colour, rounding and the copy to the host. move: caches and weights that go to the
host and back."""
STAGES = (PREPARE, "encode", SAMPLE, "dit", "decode", FINISH, MOVE, "other")
RMS_RANGE = (1e-2, 1e2)
_SAMPLED = 4
"""The check of activations looks at every fourth row, column and token."""


class TimedPhases:
    """The session's phases, with each call timed as a stage and its memory watched."""

    def __init__(self, phases: Phases, clock: StageClock, watch: MemoryWatch) -> None:
        self._phases, self._clock, self._watch = phases, clock, watch
        inside = cast(Any, phases)
        for owner, name in ((inside._parking, "park"), (inside._parking, "fetch")):
            setattr(owner, name, self._moving(getattr(owner, name)))
        inside._dit.on_device = self._moving_guest(inside._dit.on_device)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._phases, name)

    def encode(self, *args: Any, **kwargs: Any) -> None:
        """As `Phases.encode`."""
        with self._watch.phase("encode"), self._clock.stage(PREPARE):
            self._phases.encode(*args, **kwargs)

    def restore_windows(self, *args: Any) -> Tensor:
        """As `Phases.restore_windows`."""
        with self._watch.phase("dit"), self._clock.stage(SAMPLE):
            return self._phases.restore_windows(*args)

    def decode(self, latents_ZhwC: Tensor, state: LatentState, grid: ShotGrid) -> Iterator[Frame]:
        """As `Phases.decode`. The caller must take the frames at once, or its time counts too."""
        with self._watch.phase("decode"), self._clock.stage(FINISH):
            yield from self._phases.decode(latents_ZhwC, state, grid)

    def _moving(self, call: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def timed(state: Any) -> Any:
            with self._clock.stage(MOVE):
                return call(state)

        return timed

    def _moving_guest(self, on_device: Callable[[], Any]) -> Callable[[], Any]:
        @contextmanager
        def timed() -> Iterator[Any]:
            guest = on_device()
            with self._clock.stage(MOVE):
                module = guest.__enter__()
            try:
                yield module
            finally:
                with self._clock.stage(MOVE):
                    guest.__exit__(*sys.exc_info())

        return timed


class TimedSession:
    """A session and what is measured of it."""

    def __init__(
        self,
        options: argparse.Namespace,
        setup: BenchSetup,
        device: torch.device,
        *,
        began: float,
        models: Models | None = None,
        beat: Beat = no_beat,
    ) -> None:
        """Begin a shot.

        Args:
            options: of the command line.
            setup: what is run.
            device: where.
            began: when the benchmark started, for its limit.
            models: loaded before; None: they are made here.
            beat: told of the session's signs of life.
        """
        self._began, self.num_warm = began, 0
        self._options, self._setup, self._device = options, setup, device
        self._clock = StageClock(device)
        self.watch = MemoryWatch(device)
        self.activations: dict[str, tuple[float, float]] = {}
        self._probes: dict[str, list[Tensor]] = {}
        self._hooks: list[Any] = []
        self._stage_hooks: list[Any] = []
        start = time.perf_counter()
        models = self._hooked(models or make_models(options, setup, device))
        session = SeedVR2Session(models, setup.plan, device=str(device), beat=beat)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.empty_cache()  # what loading and folding left behind
        self.load_seconds = time.perf_counter() - start
        inside = cast(Any, session)
        self.attention: str = inside._phases.attention
        """The VAE's way of attention that was chosen (vae/attention.py)."""
        inside._phases = TimedPhases(inside._phases, self._clock, self.watch)
        self._session = session
        info = setup.plan.video
        self._source = PanningNoise(info.height, info.width)
        self._made = 0
        self._frames: deque[Frame] = deque()
        self._shot = setup.plan.shots[0]
        self._left = list(setup.pieces)
        self._state = session.begin(iter(()), shot=self._shot, piece=self._left[0])

    def run(self) -> list[dict[str, Seconds]]:
        """Warm pieces, then measured ones, at least one of each; fewer where time runs out."""
        limit = self._options.time_limit
        for index in range(self._options.warm):
            self.piece()
            self.num_warm = index + 1
            if index == 0:
                self.check_activations()
            elif self._spent() > limit / 2:
                break
        self.watch.clear()
        measured: list[dict[str, Seconds]] = []
        while len(measured) < self._options.windows:
            measured.append(self.piece())
            longest = max(sum(s.wall for s in window.values()) for window in measured)
            if self._spent() + longest > limit:
                break
        return measured

    def _spent(self) -> float:
        return time.perf_counter() - self._began

    def profile(self) -> list[dict[str, Any]]:
        """Kernels of one more piece, the longest-running first; its times are not counted."""
        if not self._left:
            return []
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self._device.type == "cuda":
            activities = [torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as profiler:
            self.piece()
        events: list[Any] = list(profiler.key_averages())
        name = "self_device_time_total" if self._device.type == "cuda" else "self_cpu_time_total"
        events.sort(key=lambda event: -getattr(event, name))
        return [
            {"kernel": e.key[:160], "seconds": getattr(e, name) / 1e6, "calls": e.count}
            for e in events[:40]
        ]

    def close(self) -> None:
        """Release models and state."""
        self._session.close()
        for hook in (*self._hooks, *self._stage_hooks):
            hook.remove()
        del self._state, self._session
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def piece(self) -> dict[str, Seconds]:
        """Restore the next piece; seconds of each stage.

        Pieces are equal work, so what is switched between them can be compared.
        """
        piece: Piece = self._left.pop(0)
        self._make_frames(self._session.reads(self._shot, [piece]).frames.stop)
        self._clock.start()
        restored = self._session.restore(
            self._take_frames(), shot=self._shot, piece=piece, state=self._state
        )
        count = sum(1 for _ in restored)
        self._session.take_commit()
        spent = self._clock.stop()
        assert count == piece.stop - piece.start, f"{count} frames of {piece}"
        return spent

    def _make_frames(self, stop: int) -> None:
        """Frames before the clock starts: in production other threads decode them."""
        pts = self._setup.plan.video.pts
        self._frames += [self._source.frame(i, pts[i]) for i in range(self._made, stop)]
        self._made = stop

    def _take_frames(self) -> Iterator[Frame]:
        while self._frames:
            yield self._frames.popleft()

    def _hooked(self, models: Models) -> Models:
        """The models with their parts timed."""
        self._hook(models.dit, "dit")

        def build(dtype: torch.dtype) -> VideoVAE:
            vae = models.build_vae(dtype)
            self._hook(vae.encoder, "encode")
            self._hook(vae.decoder, "decode")
            return vae

        return replace(models, build_vae=build)

    def _hook(self, module: nn.Module, stage: str) -> None:
        """Time a part of the model, and look at what comes out of its parts in the first piece."""
        self._stage_hooks += [
            module.register_forward_pre_hook(lambda *_: self._clock.enter(stage)),
            module.register_forward_hook(lambda *_: self._clock.leave()),
        ]
        for name, part in module.named_modules():
            if name and name.rpartition(".")[0].endswith(("blocks", "mid_block.resnets")):
                self._hooks.append(part.register_forward_hook(self._probe(f"{stage}.{name}")))
        self._hooks.append(module.register_forward_hook(self._probe(stage)))

    def _probe(self, name: str) -> Callable[..., None]:
        def look(_: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            # A block of the transformer changes the video's rows in place and returns the text.
            in_place = name.startswith("dit.")
            x = inputs[0] if in_place else output
            x = x[::_SAMPLED] if in_place else x[..., ::_SAMPLED, ::_SAMPLED]
            if x.numel():
                self._probes.setdefault(name, []).append(x.float().square().mean().sqrt())

        return look

    def check_activations(self) -> None:
        for hook in self._hooks:
            hook.remove()
        low, high = RMS_RANGE
        for name, seen in self._probes.items():
            values = torch.stack(seen).tolist()
            self.activations[name] = (min(values), max(values))
            if not all(math.isfinite(v) and low <= v <= high for v in values):
                raise SystemExit(
                    f"activations of {name} have rms {values}, wanted finite in [{low}, {high}]: "
                    "times of such a run mean nothing"
                )
        self._probes = {}
