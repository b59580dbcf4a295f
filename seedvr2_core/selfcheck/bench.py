"""The bench of a selfcheck: loaded models, a clip, and the steps of a restoration to vary.

`Session` of restorer.py is the product and is measured as it is; here the same steps lie open, so
that a check can change one of them: the padding, the posterior, the windows, the seed.

Shape legend: T frames, H W pixels (padded, where not said otherwise); Z latents, h w latent grid,
C 16 channels.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from seedvr2_core.dit.model import DiTTables, make_tables
from seedvr2_core.engines.seedvr2.blend import join_windows
from seedvr2_core.engines.seedvr2.color import transfer_color
from seedvr2_core.engines.seedvr2.parking import GuestModule
from seedvr2_core.engines.seedvr2.phases import Models, memory_of
from seedvr2_core.engines.seedvr2.sampler import latent_noise, restore_latents
from seedvr2_core.engines.seedvr2.shot import ShotGrid
from seedvr2_core.errors import NumericalError
from seedvr2_core.frames import (
    BLACK_ROWS,
    SIZE_MULTIPLE,
    Frame,
    crop,
    pad,
    resize,
    rgb_to_tensor,
    tensor_to_rgb,
)
from seedvr2_core.planning import Options, Plan, build_plan
from seedvr2_core.planning.plan import EngineSettings
from seedvr2_core.planning.windows import owned_latents, plan_windows
from seedvr2_core.selfcheck.report import Clock, SavePicture
from seedvr2_core.vae.conv import LAYOUT
from seedvr2_core.vae.model import Posterior, VideoVAE, scale_latents
from seedvr2_core.video.info import VideoInfo

Pad = Callable[[Tensor], Tensor]
COLOR = "wavelet"
"""What colour method auto is."""
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
    """With the source's colour: the product."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """The clip restored in a single window: what variants are compared with."""

    encoded: Encoded
    latents_ZhwC: Tensor
    """Final, float16, on the CPU."""
    rendered: Rendered


class Bench:
    """Models on a device, a clip of 4n + 1 frames, and the steps between them."""

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
        """Takes the models over.

        Args:
            models: on the plan's device.
            plan: one shot, one window, with a memory plan.
            frames: of that shot.
            clock: asked before every slice and window.
            save: where pictures go.
            long_frames: of the shot that is taken up far behind its start.
        """
        self.plan, self.memory = plan, memory_of(plan)
        self.frames, self.long_frames = list(frames), list(long_frames)
        self.size = (plan.height, plan.width)
        self.device = torch.device(plan.device)
        self.clock, self.save = clock, save
        self.vae_dtype = self.memory.vae_dtype
        """What checks after the first use; lowered where float16 overflows."""
        self.models = Models(build_vae=functools.cache(models.build_vae), dit=models.dit)
        self._dit = GuestModule(models.dit, self.device, resident=self.memory.weights_resident)
        self._tables: dict[tuple[int, ...], DiTTables] = {}
        self._baseline: Baseline | None = None

    @property
    def num_latents(self) -> int:
        """Of the clip."""
        return (len(self.frames) - 1) // 4 + 1

    def vae(self) -> VideoVAE:
        """The VAE in the dtype that is used now; built once for each."""
        return self.models.build_vae(getattr(torch, self.vae_dtype))

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
        """A check has made it already."""
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

    def picture(self, index: int) -> Tensor:
        """The source at the target size, (3, height, width) in [-1, 1]."""
        return resize(rgb_to_tensor(self.frames[index].rgb, device=self.device), self.size)

    def source_rgb(self, index: int) -> np.ndarray:
        """The same as uint8."""
        return tensor_to_rgb(self.picture(index), "uint8")

    def sources_rgb(self) -> list[np.ndarray]:
        """All frames of the clip."""
        return [self.source_rgb(index) for index in range(len(self.frames))]

    def encode(
        self, frames: Sequence[Frame], *, padding: Pad = pad, strict: bool = True
    ) -> Encoded:
        """Frames (4n + 1 of them) as a clip of their own -> posterior.

        Raises:
            NumericalError: not finite; not if `strict` is off.
        """
        vae, grid = self.vae(), self._grid(len(frames))
        state, means, stds = vae.start_encoder(), [], []
        for latents in grid.encoder_slices:
            self.clock.tick()
            part = [frames[index] for index in grid.frames_of(latents)]
            moments_BCZhw, state = vae.encode(
                self._as_video(part, padding, vae.dtype),
                state,
                max_frames=_bounds(self.memory.encoder_level_frames),
            )
            posterior = Posterior.from_moments(moments_BCZhw.float())
            means.append(scale_latents(posterior.mean, vae.config)[0].permute(1, 2, 3, 0))
            stds.append(posterior.std[0].permute(1, 2, 3, 0) * vae.config.scaling_factor)
        encoded = Encoded(torch.cat(means), torch.cat(stds))
        if strict:
            _check_finite(encoded.mean_ZhwC, f"vae-encode ({self.vae_dtype})")
        return encoded

    def restore(
        self,
        encoded_ZhwC: Tensor,
        windows: Sequence[range] | None = None,
        *,
        fresh: Sequence[Tensor | None] = (),
        seed: int = _SEED,
    ) -> Tensor:
        """Encoded latents -> final latents, (Z, h, w, C) float16 on the CPU.

        Args:
            encoded_ZhwC: of the clip, on the device.
            windows: None: a single one.
            fresh: for each window, latents to take instead of the slice; None or absent: the slice.
            seed: of the noise.

        Raises:
            NumericalError: not finite, or beyond float16.
        """
        windows = [range(len(encoded_ZhwC))] if windows is None else windows
        tail_KhwC: Tensor | None = None
        finals: list[Tensor] = []
        with self._dit.on_device() as dit:
            for index, window in enumerate(windows):
                self.clock.tick()
                own = fresh[index] if index < len(fresh) else None
                input_ZhwC = encoded_ZhwC[window.start : window.stop] if own is None else own
                noise_ZhwC = latent_noise(
                    seed,
                    [max(0, 4 * latent - 3) for latent in window],
                    (input_ZhwC.shape[1], input_ZhwC.shape[2]),
                    channels=input_ZhwC.shape[3],
                ).to(self.device)
                velocity = functools.partial(dit, tables=self._tables_for(input_ZhwC))
                final_ZhwC, tail_KhwC = join_windows(
                    tail_KhwC,
                    restore_latents(velocity, input_ZhwC, noise_ZhwC),
                    num_final=len(owned_latents(windows, index)),
                    mode="crossfade",
                )
                finals.append(final_ZhwC.cpu())
        latents_ZhwC = torch.cat(finals)
        _check_finite(latents_ZhwC, f"dit ({self.memory.dit_dtype})")
        return latents_ZhwC

    def decode(self, latents_ZhwC: Tensor, *, strict: bool = True) -> Iterator[Tensor]:
        """Final latents -> frames, slice by slice: (T, 3, height, width) float32, cropped.

        Raises:
            NumericalError: not finite; not if `strict` is off.
        """
        vae, grid = self.vae(), self._grid(4 * len(latents_ZhwC) - 3)
        state = vae.start_decoder()
        for latents in grid.decoder_slices:
            self.clock.tick()
            video_BCTHW, state = vae.decode_latents(
                latents_ZhwC[None, latents.start : latents.stop].to(self.device),
                state,
                max_frames=_bounds(self.memory.decoder_level_frames),
            )
            if strict:
                _check_finite(video_BCTHW, f"vae-decode ({self.vae_dtype})")
            yield crop(video_BCTHW[0].transpose(0, 1), self.size)

    def render(self, latents_ZhwC: Tensor, *, strict: bool = True) -> Rendered:
        """Final latents -> pictures, raw and with the source's colour.

        Raises:
            NumericalError: not finite; not if `strict` is off.
        """
        rendered = Rendered([], [])
        for content_TCHW in self.decode(latents_ZhwC, strict=strict):
            for content_CHW in content_TCHW:
                style_CHW = self.picture(len(rendered.raw))
                colored_TCHW = transfer_color(content_CHW[None], style_CHW[None], COLOR)
                rendered.raw.append(tensor_to_rgb(content_CHW, "uint8"))
                rendered.colored.append(tensor_to_rgb(colored_TCHW[0], "uint8"))
        return rendered

    def _grid(self, num_frames: int) -> ShotGrid:
        """Slices of a clip that is one window."""
        shot = replace(self.plan.shots[0], stop=num_frames)
        engine = replace(self.plan.engine, window=max(self.num_latents, num_frames), overlap=0)
        return ShotGrid.build(shot, engine, self.memory)

    def _as_video(self, frames: Sequence[Frame], padding: Pad, dtype: torch.dtype) -> Tensor:
        """(1, 3, T, H, W) in the VAE's dtype; one frame at a time is float32."""
        video_BCTHW: Tensor | None = None
        for index, frame in enumerate(frames):
            picture_CHW = resize(rgb_to_tensor(frame.rgb, device=self.device), self.size)
            padded_CHW = padding(picture_CHW)
            if video_BCTHW is None:
                size = (1, 3, len(frames), *padded_CHW.shape[1:])
                video_BCTHW = torch.empty(
                    size, dtype=dtype, device=self.device, memory_format=LAYOUT
                )
            video_BCTHW[0, :, index].copy_(padded_CHW)
        assert video_BCTHW is not None
        return video_BCTHW

    def _tables_for(self, latents_ZhwC: Tensor) -> DiTTables:
        frames, height, width, _ = latents_ZhwC.shape
        key = (frames, height, width)
        if key not in self._tables:
            self._tables.clear()  # one at a time: they are large, and quickly made
            dit = self.models.dit
            self._tables[key] = make_tables(
                dit.config,
                key,
                len(dit.text_LD),
                chunk_tokens=self.memory.chunk_tokens or None,
                device=self.device,
            )
        return self._tables[key]


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


def _bounds(level_frames: Sequence[int]) -> list[int | None]:
    return [frames or None for frames in level_frames]


def _check_finite(x: Tensor, stage: str) -> None:
    if not bool(torch.isfinite(x).all()):
        raise NumericalError(
            f"{stage}: values are not finite; run seedvr2 weights verify, and see the check "
            "activations"
        )
