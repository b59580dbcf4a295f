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
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from seedvr2_core.beat import Beat
from seedvr2_core.dit.model import FoldedDiT
from seedvr2_core.dit.sdpa import job_sdpa
from seedvr2_core.dit.tables import KeptTables
from seedvr2_core.engines.seedvr2.blend import StitchMode, join_windows
from seedvr2_core.engines.seedvr2.color import needs_whole_shot
from seedvr2_core.engines.seedvr2.finite import check_finite, extremes
from seedvr2_core.engines.seedvr2.parking import (
    Parking,
    guest_of,
    start_decoder,
    start_encoder,
)
from seedvr2_core.engines.seedvr2.pictures import Padding, Pictures, framed
from seedvr2_core.engines.seedvr2.sampler import NoiseAhead, restore_latents
from seedvr2_core.engines.seedvr2.shot import LatentState, ShotGrid, memory_of, slices_between
from seedvr2_core.engines.seedvr2.transfer import Begun, Landing, Lanes
from seedvr2_core.frames import Frame, crop, pad, padded_size
from seedvr2_core.kernels.devices import on_gpu
from seedvr2_core.planning import Plan
from seedvr2_core.planning.plan import MemoryPlan
from seedvr2_core.vae.model import VideoVAE

ENCODE, DIT, DECODE = "encode", "dit", "decode"
"""The phases, under the names that the memory plan has for them too."""
RESTORE, WARM_UP = "restore", "warm-up"
"""What stands in front of the phase in a beat: whether its result is kept. It also tells the VAE's
phases from the video codecs' "encode" and "decode" in the same child process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """The loaded networks of a model."""

    build_vae: Callable[[torch.dtype], VideoVAE]
    """A VAE on the device; asked again where a shot goes on in another dtype."""
    dit: FoldedDiT


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
        self._film_offset = plan.video.reading.first
        self._device = torch.device(device)
        self._beat = beat
        self.phase = ENCODE
        """The phase at work, or the last one."""
        self._build_vae = models.build_vae
        self._vae: VideoVAE | None = models.build_vae(getattr(torch, self._memory.vae_dtype))
        self._dit = guest_of(models.dit, self._memory, self._device)
        self._parking = Parking(self._device, enabled=self._memory.park_caches)
        self._lanes = Lanes(self._device)
        color = plan.engine.color_correction
        method: Any = "wavelet" if color == "auto" else color
        picture, strength = (plan.height, plan.width), plan.engine.strength
        self.pictures = Pictures(picture, method, self._lanes, self._device, strength=strength)
        self._noise = NoiseAhead(pin_memory=on_gpu(self._device))
        self.vae_config = self._vae.config
        height, width = padded_size(plan.height, plan.width)
        factor = self.vae_config.spatial_factor
        self.latent_shape = (height // factor, width // factor, self.vae_config.latent_channels)
        self.attention = self._vae.choose_attention(math.prod(self.latent_shape[:2]))
        """The VAE's way of attention, for the sidecar."""
        config, text_len = models.dit.config, len(models.dit.text_LD)
        latent_hw = (height // factor, width // factor)
        self._tables = KeptTables(config, latent_hw, text_len, device=self._device)
        # By what the job is planned with; lower rungs of memory keep the choice.
        chunk = self._memory.chunk_tokens or None
        size = (plan.engine.window, *latent_hw)
        self._sdpa = job_sdpa(config, size, text_len, chunk_tokens=chunk)

    def use_memory(self, memory: MemoryPlan) -> None:
        """Go on with other slices, chunks and residency; earlier states cannot be used."""
        before, self._memory = self._memory, memory
        names = ("weights_resident", "streamed_layers")
        if any(getattr(memory, name) != getattr(before, name) for name in names):
            self._dit = guest_of(self._dit.module, memory, self._device)
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
            encoder=start_encoder(vae, self._memory, encode_from, self._device),
            encoded_ZhwC=torch.zeros((0, *self.latent_shape), device=self._device),
            decoder=start_decoder(vae, self._memory, decode_from, self._device),
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
        keep_from = grid.first_frame(first_kept or 0)
        vae = self._vae_of(state.dtype)
        max_frames = _bounds(self._memory.encoder_level_frames)
        slices = slices_between(grid.encoder_slices, state.encoder.next_latent, stop)
        state.encoder = self._parking.fetch(state.encoder)
        kept = [state.encoded_ZhwC]

        def finish(slice_: tuple[int, range, Landing]) -> None:
            done, latents, landing = slice_
            for extremes_N2 in landing.wait():
                check_finite(extremes_N2, ENCODE, state.dtype, grid, latents, frames=False)
            self._beat(beat_name, done, len(slices))

        begun = Begun(self._lanes.ahead, finish)
        for done, latents in enumerate(slices, start=1):
            taken = state.read(frames, grid.frames_of(latents).stop, keep_from=keep_from)
            num_frames = grid.num_frames(latents)
            video_BCTHW = self.pictures.as_video(taken, num_frames, state.dtype, padding)
            with torch.inference_mode():
                encoded_BZhwC, state.encoder = vae.encode_latents(
                    video_BCTHW, state.encoder, max_frames=max_frames
                )
            del video_BCTHW
            looked_at: list[Tensor] = []
            if latents.start >= (first_kept or 0):
                kept.append(encoded_BZhwC[0])
                looked_at += [extremes(encoded_BZhwC[0])] if check else []
            begun.put((done, latents, self._lanes.download(looked_at)))
        begun.rest()
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

        def finish(window: tuple[int, range, Landing]) -> None:
            done, latents, landing = window
            extremes_N2, final_ZhwC = landing.wait()
            dtype = self._memory.dit_dtype
            check_finite(extremes_N2, DIT, dtype, grid, latents, frames=False)
            finals.append(final_ZhwC)
            self._beat(f"{RESTORE} {DIT}", done, len(windows))

        begun = Begun(self._lanes.ahead, finish)
        with self._dit.on_device() as dit:
            for done, (window, end) in enumerate(zip(windows, ends, strict=True), start=1):
                noise_ZhwC = self._take_noise(grid, window, seed)
                if done < len(windows):
                    self.prepare_noise(grid, windows[done], seed=seed)
                offset = window.start - owned.start
                encoded_ZhwC = state.encoded_ZhwC[offset : offset + len(window)]
                final_ZhwC, state.tail_KhwC = join_windows(
                    state.tail_KhwC,
                    self._restore_window(dit, encoded_ZhwC, noise_ZhwC),
                    num_final=end - window.start,
                    mode=cast(StitchMode, self._engine.stitch_mode),
                )
                landing = self._lanes.download([extremes(final_ZhwC), final_ZhwC])
                begun.put((done, range(window.start, end), landing))
            begun.rest()
        state.encoded_ZhwC = state.encoded_ZhwC[len(owned) :].clone()
        return torch.cat(finals)

    def prepare_noise(self, grid: ShotGrid, window: range, *, seed: int | None = None) -> None:
        """Begin to make the noise of the window that the transformer will run on next."""
        self._noise.prepare(*self._noise_of(grid, window, seed))

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
        if needs_whole_shot(self.pictures.method):
            content_TCHW = torch.cat(list(self.draw(latents_ZhwC, state, grid)))
            sources = [state.frames.popleft() for _ in content_TCHW]
            landing = self._lanes.download(self.pictures.finished(content_TCHW, sources))
            yield from framed(landing.wait(), sources)
            return

        def finish(slice_: tuple[int, int, range, Landing, list[Frame]]) -> Iterator[Frame]:
            done, total, latents, landing, sources = slice_
            extremes_N2, *pictures = landing.wait()
            check_finite(extremes_N2, DECODE, state.dtype, grid, latents, frames=True)
            self._beat(f"{RESTORE} {DECODE}", done, total)
            return framed(pictures, sources)

        begun = Begun(self._lanes.ahead, finish)
        for done, total, latents, video_TCHW in self._drawn(latents_ZhwC, state, grid):
            content_TCHW = self._content(video_TCHW, grid, latents)
            sources = [state.frames.popleft() for _ in content_TCHW]
            results = [extremes(video_TCHW), *self.pictures.finished(content_TCHW, sources)]
            del video_TCHW, content_TCHW  # before the next slice is decoded
            item = (done, total, latents, self._lanes.download(results), sources)
            del results
            for frames in begun.put(item):
                yield from frames
        for frames in begun.rest():
            yield from frames

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
        for done, total, latents, video_TCHW in self._drawn(latents_ZhwC, state, grid):
            if check:
                x = extremes(video_TCHW).cpu()
                check_finite(x, DECODE, state.dtype, grid, latents, frames=True)
            self._beat(beat_name, done, total)
            yield self._content(video_TCHW, grid, latents)
            del video_TCHW

    def _drawn(
        self, latents_ZhwC: Tensor, state: LatentState, grid: ShotGrid
    ) -> Iterator[tuple[int, int, range, Tensor]]:
        """Number of the slice, number of slices, latents and frames of each, padding and all."""
        self.phase = DECODE
        vae = self._vae_of(state.dtype)
        first = state.decoder.next_latent
        slices = slices_between(grid.decoder_slices, first, first + len(latents_ZhwC))
        state.decoder = self._parking.fetch(state.decoder)
        for done, latents in enumerate(slices, start=1):
            part_ZhwC = latents_ZhwC[latents.start - first : latents.stop - first]
            (part_ZhwC,) = self._lanes.upload([part_ZhwC])
            with torch.inference_mode():
                video_BCTHW, state.decoder = vae.decode_latents(
                    part_ZhwC[None],
                    state.decoder,
                    max_frames=_bounds(self._memory.decoder_level_frames),
                )
            yield done, len(slices), latents, video_BCTHW[0].transpose(0, 1)
            del video_BCTHW
        state.decoder = self._parking.park(state.decoder)

    def _content(self, video_TCHW: Tensor, grid: ShotGrid, latents: range) -> Tensor:
        """Without padding, and without the frames that were repeated at the shot's end."""
        return crop(video_TCHW, self.pictures.size)[: len(grid.frames_of(latents))]

    def _vae_of(self, dtype: torch.dtype) -> VideoVAE:
        """The VAE in that dtype; one at a time is on the device."""
        if self._vae is None or self._vae.dtype != dtype:
            self._vae = None
            self._vae = self._build_vae(dtype)
            self.attention = self._vae.choose_attention(math.prod(self.latent_shape[:2]))
        return self._vae

    def _restore_window(self, dit: FoldedDiT, encoded_ZhwC: Tensor, noise_ZhwC: Tensor) -> Tensor:
        """One window's own output, (Z, h, w, 16) float32."""
        chunk = self._memory.chunk_tokens or None
        tables = self._tables.of(len(encoded_ZhwC), chunk_tokens=chunk, sdpa=self._sdpa)
        velocity = functools.partial(dit, tables=tables)
        with torch.inference_mode():
            return restore_latents(velocity, encoded_ZhwC, noise_ZhwC)

    def _take_noise(self, grid: ShotGrid, window: range, seed: int | None) -> Tensor:
        """On the device."""
        noise_ZhwC = self._noise.take(*self._noise_of(grid, window, seed))
        return self._lanes.upload([noise_ZhwC])[0]

    def _noise_of(
        self, grid: ShotGrid, window: range, seed: int | None
    ) -> tuple[int, list[int], tuple[int, int], int]:
        seed = self._engine.seed if seed is None else seed
        # Counted in the whole film, so that a part of it has the film's noise.
        first_frames = [self._film_offset + grid.noise_frame(latent) for latent in window]
        return seed, first_frames, self.latent_shape[:2], self.latent_shape[2]

    def close(self) -> None:
        """End the thread that makes noise."""
        self._noise.close()


def _bounds(level_frames: Sequence[int]) -> list[int | None]:
    return [frames or None for frames in level_frames]
