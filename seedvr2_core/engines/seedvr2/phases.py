"""The three phases of a piece: encode its frames, run the transformer (DiT), decode the latents.

Each phase has the device to itself: the others' caches and weights wait in host memory where the
plan says so. Every slice and window is checked for values that are not finite.

The session is built on these phases, and so is the selfcheck, which changes one thing at a time:
the padding, the windows, the seed.

Shape legend: B = 1 batch, T frames, C channels, H W pixels (padded, where not said otherwise);
Z latents, K latents shared by two windows, h w latent grid.
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
from seedvr2_core.engines.seedvr2.shot import LatentState, ShotGrid, slices_between
from seedvr2_core.errors import NumericalError, PlanError
from seedvr2_core.frames import Frame, crop, pad, padded_size, resize, rgb_to_tensor, tensor_to_rgb
from seedvr2_core.planning import Plan
from seedvr2_core.planning.plan import MemoryPlan
from seedvr2_core.vae.conv import LAYOUT
from seedvr2_core.vae.model import VideoVAE

ENCODE, DIT, DECODE = "encode", "dit", "decode"
"""The phases, under the names that the memory plan has for them too."""
RESTORE, WARM_UP = "restore", "warm-up"
"""What stands in front of the phase in a beat: whether its result is kept. It also tells the VAE's
phases from the video codecs' "encode" and "decode" in the same child process."""

Padding = Callable[[Tensor], Tensor]
"""A picture (3, height, width) in [-1, 1] -> padded to `frames.padded_size`."""

_KEPT_TABLES = 2
"""Windows of a shot have two lengths at most (those of a lower rung two others)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """The loaded networks of a model."""

    build_vae: Callable[[torch.dtype], VideoVAE]
    """A VAE on the device; asked again where a shot goes on in another dtype."""
    dit: FoldedDiT


def memory_of(plan: Plan) -> MemoryPlan:
    """The memory plan of a job's plan.

    Raises:
        PlanError: the plan has none.
    """
    if plan.memory is None:
        raise PlanError(f"{plan.engine.name} needs a memory plan; plan the job again")
    return plan.memory


class Phases:
    """Models on a device, and the phases that they carry out on a `LatentState`."""

    def __init__(self, models: Models, plan: Plan, *, device: str, beat: Beat) -> None:
        """Take the models over, and build the VAE in the plan's dtype.

        Args:
            models: on the device.
            plan: size, seed, windows, slices and colour are obeyed.
            device: torch device string.
            beat: called after every slice and window.

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
        """The phase at work, or the last one."""
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
        """Go on with other slices, chunks and residency; earlier states cannot be used."""
        if memory.weights_resident != self._memory.weights_resident:
            module, resident = self._dit.module, memory.weights_resident
            self._dit = GuestModule(module, self._device, resident=resident)
        self._memory = memory
        self._tables.clear()
        self._parking = Parking(self._device, enabled=memory.park_caches)

    def fresh_state(
        self, grid: ShotGrid, dtype: torch.dtype, *, encode_from: int = 0, decode_from: int = 0
    ) -> LatentState:
        """A state without a past, at the shot's start or where a warm-up begins.

        The VAE runs in `dtype`; latents are encoded and decoded from the given ones on.
        """
        vae = self._vae_of(dtype)
        return LatentState(
            dtype=dtype,
            encoder=vae.start_encoder(encode_from),
            encoded_ZhwC=torch.zeros((0, *self.latent_shape), device=self._device),
            decoder=vae.start_decoder(decode_from),
            next_frame=grid.first_frame(encode_from),
        )

    def on_device(self, x: Tensor) -> Tensor:
        """The tensor on the device of the models."""
        return x.to(self._device)

    def encode(
        self,
        frames: Iterator[Frame],
        state: LatentState,
        grid: ShotGrid,
        stop: int,
        *,
        first_kept: int | None = None,
        padding: Padding = pad,
        check: bool = True,
    ) -> None:
        """Encode up to a latent; the results are appended to `state.encoded_ZhwC`.

        Args:
            frames: source frames from `state.next_frame` on.
            state: continued in place.
            grid: of the shot.
            stop: one past the last latent to encode; the end of a slice.
            first_kept: first latent that is kept; those before, and their frames, only bring the
                encoder's caches to the state that they had. None: all are kept.
            padding: of each picture.
            check: whether the latents must be finite.

        Raises:
            NumericalError: a latent that is kept is not finite.
            SegmentError: a source frame is missing.
        """
        self.phase = ENCODE
        beat_name = f"{RESTORE if first_kept is None else WARM_UP} {ENCODE}"
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
                self._as_video(taken, grid.num_frames(latents), state.dtype, padding),
                state.encoder,
                max_frames=_bounds(self._memory.encoder_level_frames),
            )
            if latents.start >= first_kept:
                if check:
                    _check_finite(encoded_BZhwC[0], ENCODE, _name(state.dtype), grid, latents)
                kept.append(encoded_BZhwC[0])
            self._beat(beat_name, done, len(slices))
        state.encoded_ZhwC = torch.cat(kept)
        state.encoder = self._parking.park(state.encoder)

    def restore_windows(
        self,
        state: LatentState,
        grid: ShotGrid,
        owned: range,
        windows: Sequence[range],
        *,
        seed: int | None = None,
    ) -> Tensor:
        """Run the transformer on neighbouring windows and join their outputs.

        Args:
            state: `encoded_ZhwC` begins at the first window and holds all latents of the windows;
                what belongs to `owned` is taken from it.
            grid: of the shot.
            owned: latents that become final, from the first window's first on.
            windows: the grid's, or shorter ones over the same latents.
            seed: of the noise; None: the plan's.

        Returns:
            The owned latents, (Z, h, w, 16) float16 on the CPU.

        Raises:
            NumericalError: one is not finite or out of float16's range.
        """
        self.phase = DIT
        finals: list[Tensor] = []
        ends = [*(later.start for later in windows[1:]), owned.stop]
        with self._dit.on_device() as dit:
            for done, (window, end) in enumerate(zip(windows, ends, strict=True), start=1):
                offset = window.start - owned.start
                final_ZhwC, state.tail_KhwC = join_windows(
                    state.tail_KhwC,
                    self._restore_window(
                        dit, state.encoded_ZhwC[offset : offset + len(window)], grid, window, seed
                    ),
                    num_final=end - window.start,
                    mode=cast(StitchMode, self._engine.stitch_mode),
                )
                latents = range(window.start, end)
                _check_finite(final_ZhwC, DIT, self._memory.dit_dtype, grid, latents)
                finals.append(final_ZhwC.cpu())
                self._beat(f"{RESTORE} {DIT}", done, len(windows))
        state.encoded_ZhwC = state.encoded_ZhwC[len(owned) :].clone()
        return torch.cat(finals)

    def warm_up_decoder(self, latents_ZhwC: Tensor, state: LatentState, grid: ShotGrid) -> None:
        """Decode latents only to bring the decoder's caches to the state that they had."""
        frames = self.draw(latents_ZhwC, state, grid, beat_name=f"{WARM_UP} {DECODE}", check=False)
        deque(frames, maxlen=0)

    def decode(self, latents_ZhwC: Tensor, state: LatentState, grid: ShotGrid) -> Iterator[Frame]:
        """Decode the piece's final latents and give the frames the colour of their sources.

        Args:
            latents_ZhwC: (Z, h, w, 16), anywhere; the decoder is before the first of them.
            state: continued in place; the source frames are taken from it.
            grid: of the shot.

        Raises:
            NumericalError: a frame is not finite.
        """
        contents = self.draw(latents_ZhwC, state, grid)
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

    def draw(
        self,
        latents_ZhwC: Tensor,
        state: LatentState,
        grid: ShotGrid,
        *,
        beat_name: str = f"{RESTORE} {DECODE}",
        check: bool = True,
    ) -> Iterator[Tensor]:
        """Decode without colour: the frames of each slice as the decoder draws them.

        Args:
            latents_ZhwC: as for `decode`.
            state: the decoder's is continued in place.
            grid: of the shot.
            beat_name: first argument of the beats.
            check: whether the frames must be finite.

        Yields:
            Float32 (T, 3, height, width), about [-1, 1], cropped, without the frames that were
            repeated at the shot's end.

        Raises:
            NumericalError: a frame is not finite.
        """
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
            if check:
                _check_finite(video_TCHW, DECODE, _name(state.dtype), grid, latents)
            self._beat(beat_name, done, len(slices))
            yield crop(video_TCHW, self._size)[: len(grid.frames_of(latents))]
            del video_BCTHW, video_TCHW
        state.decoder = self._parking.park(state.decoder)

    def picture(self, frame: Frame) -> Tensor:
        """A source frame at the target size: (3, height, width) float32 in [-1, 1]."""
        return resize(rgb_to_tensor(frame.rgb, device=self._device), self._size)

    def color(self, content_TCHW: Tensor, sources: Sequence[Frame]) -> Tensor:
        """Give drawn frames the colour of their sources; float32 of the same shape."""
        if self._color == "none":
            return content_TCHW
        style_TCHW = torch.stack([self.picture(frame) for frame in sources])
        return transfer_color(content_TCHW, style_TCHW, self._color)

    def _vae_of(self, dtype: torch.dtype) -> VideoVAE:
        """The VAE in that dtype; one at a time is on the device."""
        if self._vae is None or self._vae.dtype != dtype:
            self._vae = None
            self._vae = self._build_vae(dtype)
        return self._vae

    def _as_video(
        self, frames: Sequence[Frame], num_frames: int, dtype: torch.dtype, padding: Padding
    ) -> Tensor:
        """(1, 3, num_frames, H, W), padded; the last frame is repeated where frames end."""
        size = (1, 3, num_frames, *padded_size(*self._size))
        video_BCTHW = torch.empty(size, dtype=dtype, device=self._device, memory_format=LAYOUT)
        for video_CHW, frame in zip(video_BCTHW[0].unbind(1), frames, strict=False):
            video_CHW.copy_(padding(self.picture(frame)))
        video_BCTHW[:, :, len(frames) :] = video_BCTHW[:, :, len(frames) - 1, None]
        return video_BCTHW

    def _restore_window(
        self, dit: FoldedDiT, encoded_ZhwC: Tensor, grid: ShotGrid, window: range, seed: int | None
    ) -> Tensor:
        """One window's own output, (Z, h, w, 16) float32."""
        height, width, channels = self.latent_shape
        noise_ZhwC = latent_noise(
            self._engine.seed if seed is None else seed,
            [grid.first_frame(latent) for latent in window],
            (height, width),
            channels=channels,
        )
        velocity = functools.partial(dit, tables=self._tables_for(dit, len(window)))
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
        for picture_CHW, source in zip(self.color(content_TCHW, sources), sources, strict=True):
            kind: Any = source.rgb.dtype.name
            yield replace(source, rgb=tensor_to_rgb(picture_CHW, kind))


def _bounds(level_frames: Sequence[int]) -> list[int | None]:
    return [frames or None for frames in level_frames]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _check_finite(x: Tensor, phase: str, dtype: str, grid: ShotGrid, latents: range) -> None:
    """Refuse NaN and infinities in latents, or in the frames that they stand for (first axis).

    Raises:
        NumericalError: names phase, dtype, shot, latent and frame.
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
        f"phase {phase} ({dtype}): values of shot {grid.shot.index} are not finite at {where}; "
        "if bfloat16 fails too, the weights are damaged: run seedvr2 weights verify"
    )
