"""The three phases of a piece: encode its frames, restore its windows of latents, decode them.

Each phase has the device to itself: the others' caches and weights wait in host memory where the
plan says so. Values that are not finite are found here, slice by slice.

Shape legend: T frames, C channels, H W pixels (padded, where not said otherwise); Z latents,
h w latent grid.
"""

import functools
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from seedvr2_core.beat import Beat
from seedvr2_core.dit.model import DiTTables, FoldedDiT, make_tables
from seedvr2_core.engines.seedvr2.blend import StitchMode, join_windows
from seedvr2_core.engines.seedvr2.color import ColorMethod, needs_whole_shot, transfer_color
from seedvr2_core.engines.seedvr2.parking import GuestModule, Parking
from seedvr2_core.engines.seedvr2.sampler import latent_noise, restore_latents
from seedvr2_core.engines.seedvr2.shot import LatentState, PieceSpan, ShotGrid, slices_between
from seedvr2_core.errors import NumericalError, PlanError
from seedvr2_core.frames import Frame, crop, pad, padded_size, resize, rgb_to_tensor, tensor_to_rgb
from seedvr2_core.planning import Plan
from seedvr2_core.planning.plan import MemoryPlan
from seedvr2_core.vae.conv import LAYOUT
from seedvr2_core.vae.model import VideoVAE

ENCODE, RESTORE, DECODE = "vae-encode", "dit", "vae-decode"
"""Phases of the heartbeat; those of a warm-up have WARM_UP in front."""
WARM_UP = "warm-up "

_KEPT_TABLES = 2
"""Windows of a shot have two lengths at most (those of a lower rung two others)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """Loaded weights."""

    build_vae: Callable[[torch.dtype], VideoVAE]
    """A VAE on the device; asked again where a shot goes on in another dtype."""
    dit: FoldedDiT


def memory_of(plan: Plan) -> MemoryPlan:
    """The plan's memory plan.

    Raises:
        PlanError: it has none.
    """
    if plan.memory is None:
        raise PlanError(f"{plan.engine.name} needs a memory plan; plan the job again")
    return plan.memory


class Phases:
    """Models, device and plan, and the work they do on a `LatentState`."""

    def __init__(self, models: Models, plan: Plan, *, device: str, beat: Beat) -> None:
        """Takes the models over; the VAE of the plan's dtype is built now.

        Raises:
            PlanError: the plan has no memory plan.
        """
        self._memory = memory_of(plan)
        self._engine = plan.engine
        self._size = (plan.height, plan.width)
        color = plan.engine.color_correction
        self._color: ColorMethod = cast(Any, "wavelet" if color == "auto" else color)
        self._device = torch.device(device)
        self._beat = beat
        self.phase = ENCODE
        """What is, or was last, at work."""
        self._build_vae = models.build_vae
        self._vae: VideoVAE | None = models.build_vae(getattr(torch, self._memory.vae_dtype))
        self._dit = GuestModule(models.dit, self._device, resident=self._memory.weights_resident)
        self._parking = Parking(self._device, enabled=self._memory.park_caches)
        self._tables: dict[int, DiTTables] = {}
        self.vae_config = self._vae.config
        height, width = padded_size(*self._size)
        factor = self.vae_config.spatial_factor
        self.latent_shape = (height // factor, width // factor, self.vae_config.latent_channels)

    def use_memory(self, memory: MemoryPlan) -> None:
        """Go on with other slices, chunks and residency; states of before cannot be used."""
        if memory.weights_resident != self._memory.weights_resident:
            module, resident = self._dit.module, memory.weights_resident
            self._dit = GuestModule(module, self._device, resident=resident)
        self._memory = memory
        self._tables.clear()
        self._parking = Parking(self._device, enabled=memory.park_caches)

    def fresh_state(
        self, grid: ShotGrid, dtype: torch.dtype, *, encode_from: int = 0, decode_from: int = 0
    ) -> LatentState:
        """A state without a past, at the shot's start or where a warm-up begins."""
        vae = self._vae_of(dtype)
        return LatentState(
            dtype=dtype,
            encoder=vae.start_encoder(encode_from),
            encoded_ZhwC=torch.zeros((0, *self.latent_shape), device=self._device),
            decoder=vae.start_decoder(decode_from),
            next_frame=grid.first_frame(encode_from),
        )

    def on_device(self, x: Tensor) -> Tensor:
        """The tensor where the work is done."""
        return x.to(self._device)

    def encode(
        self,
        frames: Iterator[Frame],
        state: LatentState,
        grid: ShotGrid,
        stop: int,
        *,
        first_kept: int | None = None,
    ) -> None:
        """Encode up to latent `stop`; latents and frames before `first_kept` are a warm-up.

        Raises:
            NumericalError: a latent that is kept is not finite.
            SegmentError: a source frame is missing.
        """
        self.phase = ENCODE
        warm_up = first_kept is not None
        phase = WARM_UP + ENCODE if warm_up else ENCODE
        first_kept = first_kept or 0
        vae = self._vae_of(state.dtype)
        slices = slices_between(grid.encoder_slices, state.encoder.next_latent, stop)
        state.encoder = self._parking.fetch(state.encoder)
        kept = [state.encoded_ZhwC]
        for done, latents in enumerate(slices, start=1):
            taken = state.read(
                frames, grid.frames_of(latents).stop, keep_from=grid.first_frame(first_kept)
            )
            encoded_BZhwC, state.encoder = vae.encode_latents(
                self._as_video(taken, grid.num_frames(latents), state.dtype),
                state.encoder,
                max_frames=_bounds(self._memory.encoder_level_frames),
            )
            if latents.start >= first_kept:
                _check_finite(encoded_BZhwC[0], ENCODE, grid, latents)
                kept.append(encoded_BZhwC[0])
            self._beat(phase, done, len(slices))
        state.encoded_ZhwC = torch.cat(kept)
        state.encoder = self._parking.park(state.encoder)

    def restore_windows(
        self, state: LatentState, grid: ShotGrid, span: PieceSpan, windows: Sequence[range]
    ) -> Tensor:
        """Run the piece's windows and join them.

        Args:
            state: with all latents of the windows encoded.
            grid: of the shot.
            span: of the piece.
            windows: from its first latent to the last that it encodes; the grid's, or shorter.

        Returns:
            The latents that the piece owns, (Z, h, w, 16) float16 on the CPU.

        Raises:
            NumericalError: one is not finite or out of float16's range.
        """
        self.phase = RESTORE
        finals: list[Tensor] = []
        ends = [*(later.start for later in windows[1:]), span.owned.stop]
        with self._dit.on_device() as dit:
            for done, (window, end) in enumerate(zip(windows, ends, strict=True), start=1):
                owned = range(window.start, end)
                final_ZhwC, state.tail_KhwC = join_windows(
                    state.tail_KhwC,
                    self._restore_window(dit, state, grid, window, window.start - span.owned.start),
                    num_final=len(owned),
                    mode=cast(StitchMode, self._engine.stitch_mode),
                )
                _check_finite(final_ZhwC, RESTORE, grid, owned)
                finals.append(final_ZhwC.cpu())
                self._beat(RESTORE, done, len(windows))
        state.encoded_ZhwC = state.encoded_ZhwC[len(span.owned) :].clone()
        return torch.cat(finals)

    def warm_up_decoder(self, latents_ZhwC: Tensor, state: LatentState, grid: ShotGrid) -> None:
        """Decode latents whose frames nobody needs."""
        deque(self._decode(latents_ZhwC, state, grid, phase=WARM_UP + DECODE), maxlen=0)

    def decode(self, latents_ZhwC: Tensor, state: LatentState, grid: ShotGrid) -> Iterator[Frame]:
        """Decode the piece's final latents and give the frames the colour of their sources.

        Raises:
            NumericalError: a frame is not finite.
        """
        contents = self._decode(latents_ZhwC, state, grid, phase=DECODE)
        at_once = 1
        if needs_whole_shot(self._color):
            contents = iter([torch.cat(list(contents))])
            at_once = grid.shot.stop - grid.shot.start
        for content_TCHW in contents:
            waiting = deque(content_TCHW.split(at_once))
            del content_TCHW  # gone with its last part, before the next slice is decoded
            while waiting:
                part_TCHW = waiting.popleft()
                yield from self._finish(part_TCHW, [state.frames.popleft() for _ in part_TCHW])
                del part_TCHW

    def _decode(
        self, latents_ZhwC: Tensor, state: LatentState, grid: ShotGrid, *, phase: str
    ) -> Iterator[Tensor]:
        """The shot's own frames of each decoder slice, cropped: (T, 3, height, width) float32."""
        self.phase = DECODE
        vae = self._vae_of(state.dtype)
        first = state.decoder.next_latent
        slices = slices_between(grid.decoder_slices, first, first + len(latents_ZhwC))
        state.decoder = self._parking.fetch(state.decoder)
        for done, latents in enumerate(slices, start=1):
            part_ZhwC = latents_ZhwC[latents.start - first : latents.stop - first]
            video_BCTHW, state.decoder = vae.decode_latents(
                part_ZhwC[None].to(self._device),
                state.decoder,
                max_frames=_bounds(self._memory.decoder_level_frames),
            )
            video_TCHW = video_BCTHW[0].transpose(0, 1)
            if phase == DECODE:
                _check_finite(video_TCHW, DECODE, grid, latents)
            self._beat(phase, done, len(slices))
            yield crop(video_TCHW, self._size)[: len(grid.frames_of(latents))]
            del video_BCTHW, video_TCHW
        state.decoder = self._parking.park(state.decoder)

    def _vae_of(self, dtype: torch.dtype) -> VideoVAE:
        """The VAE in that dtype; one at a time is on the device."""
        if self._vae is None or self._vae.dtype != dtype:
            self._vae = None
            self._vae = self._build_vae(dtype)
        return self._vae

    def _picture(self, frame: Frame) -> Tensor:
        """(3, height, width) float32 in [-1, 1], resized to the target."""
        return resize(rgb_to_tensor(frame.rgb, device=self._device), self._size)

    def _as_video(self, frames: Sequence[Frame], num_frames: int, dtype: torch.dtype) -> Tensor:
        """(1, 3, num_frames, H, W), padded; the last frame is repeated where frames end."""
        size = (1, 3, num_frames, *padded_size(*self._size))
        video_BCTHW = torch.empty(size, dtype=dtype, device=self._device, memory_format=LAYOUT)
        for video_CHW, frame in zip(video_BCTHW[0].unbind(1), frames, strict=False):
            video_CHW.copy_(pad(self._picture(frame)))
        video_BCTHW[:, :, len(frames) :] = video_BCTHW[:, :, len(frames) - 1, None]
        return video_BCTHW

    def _restore_window(
        self, dit: FoldedDiT, state: LatentState, grid: ShotGrid, window: range, offset: int
    ) -> Tensor:
        """One window's own output, float32; `offset` is its place in the encoded latents."""
        height, width, channels = self.latent_shape
        noise_ZhwC = latent_noise(
            self._engine.seed,
            [grid.first_frame(latent) for latent in window],
            (height, width),
            channels=channels,
        )
        velocity = functools.partial(dit, tables=self._tables_for(dit, len(window)))
        encoded_ZhwC = state.encoded_ZhwC[offset : offset + len(window)]
        return restore_latents(velocity, encoded_ZhwC, noise_ZhwC.to(self._device))

    def _tables_for(self, dit: FoldedDiT, num_latents: int) -> DiTTables:
        """The transformer's tables for windows of that length, kept for the next one."""
        if num_latents not in self._tables:
            if len(self._tables) == _KEPT_TABLES:
                self._tables.clear()
            height, width, _ = self.latent_shape
            self._tables[num_latents] = make_tables(
                dit.config,
                (num_latents, height, width),
                len(dit.text_LD),
                chunk_tokens=self._memory.chunk_tokens or None,
                device=self._device,
            )
        return self._tables[num_latents]

    def _finish(self, content_TCHW: Tensor, sources: Sequence[Frame]) -> Iterator[Frame]:
        """Colour, then rounding to the integers of the source."""
        if self._color != "none":
            style_TCHW = torch.stack([self._picture(frame) for frame in sources])
            content_TCHW = transfer_color(content_TCHW, style_TCHW, self._color)
        for picture_CHW, source in zip(content_TCHW, sources, strict=True):
            kind: Any = source.rgb.dtype.name
            yield replace(source, rgb=tensor_to_rgb(picture_CHW, kind))


def _bounds(level_frames: Sequence[int]) -> list[int | None]:
    return [frames or None for frames in level_frames]


def _check_finite(x: Tensor, phase: str, grid: ShotGrid, latents: range) -> None:
    """Refuse NaN and infinities.

    Args:
        x: along its first axis the latents, or the frames that they stand for.
        phase: for the message.
        grid: of the shot.
        latents: of the shot.

    Raises:
        NumericalError: names phase, shot, latent and frame.
    """
    low, high = torch.aminmax(x)  # NaN spreads; an order faster than isfinite
    if math.isfinite(low.item()) and math.isfinite(high.item()):
        return
    place = next(i for i, part in enumerate(x) if not bool(torch.isfinite(part).all()))
    if phase == DECODE:
        frame = min(grid.first_frame(latents.start) + place, grid.shot.stop - 1)
        where = f"frame {frame}"
    else:
        latent = latents.start + place
        where = f"latent {latent} (frame {grid.first_frame(latent)})"
    raise NumericalError(
        f"{phase}: values of shot {grid.shot.index} are not finite at {where}; "
        "if bfloat16 fails too, the weights are damaged: run seedvr2 weights verify"
    )
