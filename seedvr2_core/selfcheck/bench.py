"""What the checks of a selfcheck work with: loaded models, a clip, and the phases one by one.

`SeedVR2Session` runs the phases (engines/seedvr2/phases.py) in a fixed order with the plan's
settings; checks of the whole session are in sessions.py. Here a check runs a single phase and may
change one thing about it: the padding, the posterior, the windows, the seed.

Shape legend: T frames, C channels, H W pixels (padded, where not said otherwise); Z latents,
h w latent grid.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from seedvr2_core.engines.seedvr2.phases import Models, Phases
from seedvr2_core.engines.seedvr2.pictures import Padding
from seedvr2_core.engines.seedvr2.shot import LatentState, ShotGrid, memory_of
from seedvr2_core.frames import (
    BLACK_ROWS,
    SIZE_MULTIPLE,
    Frame,
    pad,
    tensor_to_rgb,
)
from seedvr2_core.planning import Options, Plan, build_plan
from seedvr2_core.planning.plan import EngineSettings
from seedvr2_core.planning.windows import first_frame, num_latents, plan_windows
from seedvr2_core.selfcheck.report import Clock, SavePicture
from seedvr2_core.vae.model import Posterior, VideoVAE
from seedvr2_core.video.info import VideoInfo

_SEED = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """The frames that are restored: one shot."""

    name: str
    sha256: str
    video: VideoInfo
    frames: tuple[Frame, ...]
    """Of the source, from its first on; at least 1."""

    def stretched(self, num_frames: int) -> list[Frame]:
        """So many frames, played forth and back where the clip is shorter; indices from 0."""
        last = len(self.frames) - 1
        turn = max(1, 2 * last)
        order = [min(i % turn, turn - i % turn) for i in range(num_frames)]
        return [Frame(self.frames[min(k, last)].rgb, i, i) for i, k in enumerate(order)]


@dataclass(frozen=True, slots=True)
class Encoded:
    """The posterior of a clip's latents, scaled as the transformer sees them; float32."""

    mean_ZhwC: Tensor
    std_ZhwC: Tensor


@dataclass(frozen=True, slots=True)
class Rendered:
    """Decoded frames as uint8 pictures."""

    raw: list[np.ndarray]
    """As the decoder draws them."""
    colored: list[np.ndarray]
    """With the source's colour: what a job puts out."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """The clip restored in a single window: what variants are compared with."""

    encoded: Encoded
    latents_ZhwC: Tensor
    """Final, float16, on the CPU."""
    rendered: Rendered


class Bench:
    """A clip of 4n + 1 frames, and the phases of models on a device to restore it with."""

    def __init__(
        self,
        models: Models,
        plan: Plan,
        frames: Sequence[Frame],
        *,
        clock: Clock,
        save: SavePicture,
        long_frames: Sequence[Frame],
    ) -> None:
        """Take the models over, and build the VAE in the plan's dtype.

        Args:
            models: on the plan's device.
            plan: one shot, one window, with a memory plan.
            frames: of that shot.
            clock: asked after every slice and window whether there is time left.
            save: where pictures go.
            long_frames: of the shot in which work is taken up far behind its start.
        """
        self.plan, self.memory = plan, memory_of(plan)
        self.frames, self.long_frames = list(frames), list(long_frames)
        self.size = (plan.height, plan.width)
        self.device = torch.device(plan.device)
        self.clock, self.save = clock, save
        self.vae_dtype = self.memory.vae_dtype
        """Of the VAE from now on; a check lowers it where float16 overflows."""
        self.models = Models(build_vae=functools.cache(models.build_vae), dit=models.dit)
        self._phases = Phases(self.models, plan, device=plan.device, beat=self._tick)
        self._baseline: Baseline | None = None

    @property
    def num_latents(self) -> int:
        """Of the clip."""
        return num_latents(len(self.frames))

    def vae(self) -> VideoVAE:
        """The VAE in the dtype that is used now; built once for each dtype."""
        return self.models.build_vae(self._torch_dtype())

    def baseline(self) -> Baseline:
        """The clip in a single window; made when it is first asked for.

        Raises:
            NumericalError: values are not finite.
        """
        if self._baseline is None:
            encoded = self.encode(self.frames)
            latents_ZhwC = self.restore(encoded.mean_ZhwC)
            self._baseline = Baseline(encoded, latents_ZhwC, self.render(latents_ZhwC))
        return self._baseline

    def keep_baseline(self, baseline: Baseline) -> None:
        """Take over a baseline that a check has made already."""
        self._baseline = baseline

    def plan_for(
        self, num_frames: int, *, window: int, overlap: int, size: tuple[int, int] | None = None
    ) -> Plan:
        """The plan of another shot of the same source, in the dtype that is used now."""
        height, width = size or self.size
        shot = replace(self.plan.shots[0], stop=num_frames)
        return replace(
            self.plan,
            width=width,
            height=height,
            video=replace(self.plan.video, pts=tuple(range(num_frames))),
            shots=(shot,),
            engine=replace(self.plan.engine, window=window, overlap=overlap),
            memory=replace(self.memory, vae_dtype=self.vae_dtype),
        )

    def windows(self, overlap: int) -> tuple[range, ...]:
        """Two windows over the clip that share `overlap` latents, so that there is one join."""
        window = math.ceil((self.num_latents + overlap) / 2)
        return plan_windows(self.num_latents, window=window, overlap=overlap)

    def source_rgb(self, index: int) -> np.ndarray:
        """A source frame at the target size, uint8."""
        return tensor_to_rgb(self._phases.pictures.picture(self.frames[index]), "uint8")

    def sources_rgb(self) -> list[np.ndarray]:
        """All source frames of the clip at the target size, uint8."""
        return [self.source_rgb(index) for index in range(len(self.frames))]

    def encode(
        self, frames: Sequence[Frame], *, padding: Padding = pad, check: bool = True
    ) -> Encoded:
        """Encode frames as a shot of their own.

        Args:
            frames: neighbouring ones, 4n + 1 of them.
            padding: of each picture.
            check: whether the latents must be finite.

        Raises:
            NumericalError: a latent is not finite.
        """
        grid = self._grid(len(frames), first_index=frames[0].index)
        state = self._fresh_state(grid)
        with _watch_deviations(self.vae()) as deviations:
            self._phases.encode(
                iter(frames), state, grid, num_latents(len(frames)), padding=padding, check=check
            )
        return Encoded(state.encoded_ZhwC, torch.cat(deviations))

    def restore(
        self,
        encoded_ZhwC: Tensor,
        windows: Sequence[range] | None = None,
        *,
        fresh_ZhwC: Tensor | None = None,
        seed: int | None = None,
    ) -> Tensor:
        """Encoded latents -> final latents, (Z, h, w, C) float16 on the CPU.

        Args:
            encoded_ZhwC: of the clip, on the device.
            windows: None: a single one.
            fresh_ZhwC: latents that the last window takes instead of its slice.
            seed: of the noise; None: the plan's.

        Raises:
            NumericalError: a latent is not finite, or beyond float16.
        """
        grid = self._grid(len(self.frames))
        windows = grid.windows if windows is None else windows
        state = self._fresh_state(grid)
        state.encoded_ZhwC, end = encoded_ZhwC, windows[-1].stop
        if fresh_ZhwC is None:
            owned = range(end)
            return self._phases.restore_windows(state, grid, owned, windows, seed=seed)
        *others, last = windows
        owned = range(last.start)
        before_ZhwC = self._phases.restore_windows(state, grid, owned, others, seed=seed)
        state.encoded_ZhwC = fresh_ZhwC
        owned = range(last.start, end)
        last_ZhwC = self._phases.restore_windows(state, grid, owned, [last], seed=seed)
        return torch.cat([before_ZhwC, last_ZhwC])

    def draw(self, latents_ZhwC: Tensor, *, check: bool = True) -> Iterator[Tensor]:
        """Decode final latents from the clip's first on, without colour, slice by slice.

        Args:
            latents_ZhwC: final latents.
            check: whether the frames must be finite.

        Yields:
            Frames as the decoder draws them, (T, 3, height, width) float32, cropped.

        Raises:
            NumericalError: a frame is not finite.
        """
        grid = self._grid(first_frame(len(latents_ZhwC)))
        return self._phases.draw(latents_ZhwC, self._fresh_state(grid), grid, check=check)

    def render(self, latents_ZhwC: Tensor, *, check: bool = True) -> Rendered:
        """Final latents -> pictures, as drawn and with the source's colour.

        Args:
            latents_ZhwC: final latents, from the clip's first on.
            check: whether the frames must be finite.

        Raises:
            NumericalError: a frame is not finite.
        """
        rendered = Rendered([], [])
        for content_TCHW in self.draw(latents_ZhwC, check=check):
            for content_1CHW in content_TCHW.split(1):
                source = self.frames[len(rendered.raw)]
                colored_1CHW = self._phases.pictures.color(content_1CHW, [source])
                rendered.raw.append(tensor_to_rgb(content_1CHW[0], "uint8"))
                rendered.colored.append(tensor_to_rgb(colored_1CHW[0], "uint8"))
        return rendered

    def pictures(self, num_frames: int) -> Tensor:
        """The first source frames at the target size: (T, 3, height, width) in [-1, 1]."""
        return torch.stack(
            [self._phases.pictures.picture(frame) for frame in self.frames[:num_frames]]
        )

    def _tick(self, phase: str, done: int, total: int) -> None:
        self.clock.tick()

    def _torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.vae_dtype)

    def _fresh_state(self, grid: ShotGrid) -> LatentState:
        return self._phases.fresh_state(grid, self._torch_dtype())

    def _grid(self, num_frames: int, *, first_index: int = 0) -> ShotGrid:
        """Slices of a shot that is one window."""
        shot = replace(self.plan.shots[0], start=first_index, stop=first_index + num_frames)
        engine = replace(self.plan.engine, window=num_latents(num_frames), overlap=0)
        return ShotGrid.build(shot, engine, self.memory)


@contextmanager
def _watch_deviations(vae: VideoVAE) -> Iterator[list[Tensor]]:
    """Collect the posterior's standard deviations, scaled: the phases keep its mean alone.

    Yields:
        A list that gets a float32 tensor (Z, h, w, C) for every slice that is encoded.
    """
    deviations: list[Tensor] = []

    def note(module: nn.Module, inputs: Any, moments_BCZhw: Tensor) -> None:
        std_BCZhw = Posterior.from_moments(moments_BCZhw.float()).std
        deviations.append(std_BCZhw[0].permute(1, 2, 3, 0) * vae.config.scaling_factor)

    hook = vae.encoder.register_forward_hook(note)
    try:
        yield deviations
    finally:
        hook.remove()


def pad_without_black(picture_CHW: Tensor) -> Tensor:
    """As `frames.pad`, to the same size, but the rows below are reflected to the end."""
    padded_CHW = pad(picture_CHW)
    rows = padded_CHW.shape[-2] - BLACK_ROWS
    mirrored = padded_CHW[..., rows - BLACK_ROWS : rows, :].flip(-2)
    padded_CHW[..., rows:, :] = mirrored
    return padded_CHW


def make_plan(
    video: VideoInfo,
    *,
    model: str,
    size: tuple[int, int],
    device: str,
    threads: int,
    num_frames: int,
) -> Plan:
    """The plan of one shot in a single window, memory still open.

    Args:
        video: of the source.
        model: name of the engine.
        size: (height, width) of the output; each at least SIZE_MULTIPLE.
        device: torch device string.
        threads: of torch.
        num_frames: of the shot.
    """
    assert min(size) >= SIZE_MULTIPLE
    engine = EngineSettings(
        name=model,
        weights_digest="",
        seed=_SEED,
        window=num_frames,
        overlap=3,
        stitch_mode="crossfade",
        color_correction="auto",
    )
    options = Options(
        resolution="1080p",
        engine=engine,
        device=device,
        cpu_count=threads,
        crf=18,
        preset="medium",
        segment_seconds=10,
    )
    shot = replace(video, pts=tuple(range(num_frames)))
    plan = build_plan(shot, "", options)
    return replace(plan, height=size[0], width=size[1])
