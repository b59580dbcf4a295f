"""The SeedVR2 engine: source frames of a shot in, restored frames out, piece after piece.

A piece is worked through in phases (phases.py). What the next piece needs is in `LatentState`; it
can be rebuilt from committed latents and source frames (`warm_up`). A shot in which float16 leads
to values that are not finite goes on with a bfloat16 VAE (`fall_back`).

Shape legend: Z latents, K latents shared by two windows, h w latent grid, C 16 channels.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from seedvr2_core.color import check_method, needs_whole_shot
from seedvr2_core.engine import Commit, Heartbeat, ShotState, WarmUp
from seedvr2_core.errors import NumericalError, PlanError, SegmentError
from seedvr2_core.frames import Frame
from seedvr2_core.phases import Models, Phases, memory_of
from seedvr2_core.plan import Piece, Plan, Shot
from seedvr2_core.shot import LatentState, PieceSpan, ShotGrid
from seedvr2_core.vae.budget import decoder_warm_up_latents, encoder_warm_up_frames
from seedvr2_core.windows import encoder_warm_up_start, warm_up_start

_LOWER_RUNG = {"float16": "bfloat16"}


class SeedVR2Session:
    """`engine.Session` of the engines with latents; works in the caller's thread.

    `plan_warm_up` and `read_stop` are pure: other threads may ask.
    """

    def __init__(self, models: Models, plan: Plan, *, device: str, beat: Heartbeat) -> None:
        """Takes the models over.

        Args:
            models: on the device.
            plan: size, seed, windows, slices, dtypes and colour are obeyed.
            device: where everything runs.
            beat: called once a slice and once a window.

        Raises:
            PlanError: the plan has no memory plan, or its colour method does not fit its shots.
            InvalidRequestError: unknown colour method.
        """
        self._phases: Phases | None = Phases(models, plan, device=device, beat=beat)
        self._engine, self._memory = plan.engine, memory_of(plan)
        _check_color(plan)
        config = self._phases.vae_config
        self._lead_frames = encoder_warm_up_frames(config)
        self._lead_latents = decoder_warm_up_latents(config)
        self._shot_index = -1
        self._failed_shot: int | None = None
        self._lowered_shots: set[int] = set()
        self._commit: Commit | None = None

    @property
    def precision(self) -> str:
        """Of VAE and transformer, for the shot at hand."""
        return f"{self._vae_dtype(self._shot_index)} vae, {self._memory.dit_dtype} dit"

    def adopt_precision(self, shot: Shot, precision: str) -> None:
        """Go on with a shot as its earlier pieces were made, maybe by another process.

        Args:
            shot: before its first piece here.
            precision: what `precision` said after the piece before.
        """
        if precision.startswith(f"{_LOWER_RUNG.get(self._memory.vae_dtype)} vae"):
            self._lowered_shots.add(shot.index)

    def fall_back(self) -> bool:
        """After a NumericalError: the VAE of the shot that failed goes on in bfloat16.

        Returns:
            False if it already was, or if the plan asks for no float16.
        """
        failed, self._failed_shot = self._failed_shot, None
        if failed is None or failed in self._lowered_shots:
            return False
        if self._memory.vae_dtype not in _LOWER_RUNG:
            return False
        self._lowered_shots.add(failed)
        return True

    def start(self, shot: Shot) -> LatentState:
        """A fresh shot."""
        self._shot_index = shot.index
        return self._opened().fresh_state(self._grid(shot), self._torch_dtype(shot))

    def plan_warm_up(self, shot: Shot, piece: Piece) -> WarmUp:
        """What comes before the piece and has to be there again."""
        grid = self._grid(shot)
        encode_from, decode_from = self._warm_up_starts(grid, grid.span(piece))
        return WarmUp(first_frame=grid.first_frame(encode_from), first_latent=decode_from)

    def read_stop(self, shot: Shot, piece: Piece) -> int:
        """One past the last frame of the piece's last window."""
        grid = self._grid(shot)
        return grid.frames_of(range(grid.span(piece).seen_stop)).stop

    def warm_up(
        self,
        frames: Iterator[Frame],
        latents: Tensor | None,
        tail: Tensor | None,
        *,
        shot: Shot,
        piece: Piece,
    ) -> LatentState:
        """Rebuild the state at the piece's start (see `engine.Session`).

        Raises:
            SegmentError: latents or tail are not those that `plan_warm_up` asks for, or a frame
                is missing.
            NumericalError: as `restore`, for latents that belong to the piece.
        """
        grid, phases = self._grid(shot), self._opened()
        span = grid.span(piece)
        if span.windows.start == 0:
            return self.start(shot)
        encode_from, decode_from = self._warm_up_starts(grid, span)
        latents, tail = self._check_committed(latents, tail, span, decode_from)
        self._shot_index = shot.index
        state = phases.fresh_state(
            grid, self._torch_dtype(shot), encode_from=encode_from, decode_from=decode_from
        )
        state.tail_KhwC = phases.on_device(tail)
        try:
            phases.encode(frames, state, grid, span.seen_before, first_kept=span.owned.start)
        except NumericalError:
            self._failed_shot = shot.index
            raise
        phases.warm_up_decoder(latents, state, grid)
        return state

    def restore(
        self, frames: Iterator[Frame], *, shot: Shot, piece: Piece, state: ShotState
    ) -> Iterator[Frame]:
        """Restore exactly the piece's frames (see `engine.Session`).

        The first frame waits for all windows of the piece; the rest come by decoder slices.

        Raises:
            PlanError: the piece does not begin and end at windows.
            SegmentError: the state is not that of the piece's start, or a frame is missing.
            NumericalError: a value is not finite; the state is lost, see `fall_back`.
        """
        grid = self._grid(shot)
        span = grid.span(piece)
        assert isinstance(state, LatentState), f"not a state of this engine: {state}"
        if (state.next_latent, state.decoder.next_latent) != (span.owned.start, span.owned.start):
            raise SegmentError(
                f"{piece} starts at latent {span.owned.start} of its shot, the state is at "
                f"{state.next_latent} and {state.decoder.next_latent}; rebuild it with warm_up"
            )
        if state.dtype != self._torch_dtype(shot):
            raise SegmentError(f"a state of {state.dtype} cannot go on; rebuild it with warm_up")
        self._shot_index, self._commit = shot.index, None
        return self._restore(frames, grid, span, state)

    def take_commit(self) -> Commit:
        """Latents and tail of the piece that was exhausted last; can be taken once."""
        commit, self._commit = self._commit, None
        assert commit is not None, "no piece was restored to its end since the last commit"
        return commit

    def close(self) -> None:
        """Let go of the models."""
        self._phases = None

    def _restore(
        self, frames: Iterator[Frame], grid: ShotGrid, span: PieceSpan, state: LatentState
    ) -> Iterator[Frame]:
        phases = self._opened()
        try:
            phases.encode(frames, state, grid, span.seen_stop)
            latents_ZhwC = phases.restore_windows(state, grid, span)
            if span.is_last:
                state.tail_KhwC = None
            yield from phases.decode(latents_ZhwC, state, grid)
        except NumericalError:
            self._failed_shot = grid.shot.index
            raise
        tail_KhwC = None if state.tail_KhwC is None else state.tail_KhwC.cpu()
        self._commit = Commit(latents=latents_ZhwC, tail=tail_KhwC)

    def _opened(self) -> Phases:
        assert self._phases is not None, "session is closed"
        return self._phases

    def _vae_dtype(self, shot_index: int) -> str:
        planned = self._memory.vae_dtype
        return _LOWER_RUNG[planned] if shot_index in self._lowered_shots else planned

    def _torch_dtype(self, shot: Shot) -> torch.dtype:
        return getattr(torch, self._vae_dtype(shot.index))

    def _grid(self, shot: Shot) -> ShotGrid:
        return ShotGrid.build(shot, self._engine, self._memory)

    def _warm_up_starts(self, grid: ShotGrid, span: PieceSpan) -> tuple[int, int]:
        """First latents to encode and to decode; 0: as a fresh shot."""
        first = span.owned.start
        encode_from = encoder_warm_up_start(
            grid.encoder_slices, first_needed=first, lead_frames=self._lead_frames
        )
        decode_from = warm_up_start(
            grid.decoder_slices, first_needed=first, lead_latents=self._lead_latents
        )
        return encode_from, decode_from

    def _check_committed(
        self, latents: Tensor | None, tail: Tensor | None, span: PieceSpan, decode_from: int
    ) -> tuple[Tensor, Tensor]:
        """Latents and tail, if they have the shapes that the span needs."""
        shape, first = self._opened().latent_shape, span.owned.start
        wanted = ((first - decode_from, *shape), (span.seen_before - first, *shape))
        if latents is None or tail is None or (latents.shape, tail.shape) != wanted:
            got = [None if x is None else tuple(x.shape) for x in (latents, tail)]
            raise SegmentError(
                f"work goes on from latents [{decode_from}, {first}) of the shot and a tail, "
                f"shapes {wanted[0]} and {wanted[1]}; got {got[0]} and {got[1]}"
            )
        return latents, tail


def _check_color(plan: Plan) -> None:
    """Refuse a colour method that is unknown, or that would have to see a long shot at once."""
    method = plan.engine.color_correction
    if method == "auto":
        return
    check_method(method)
    if not needs_whole_shot(method):
        return
    for shot in plan.shots:
        grid = ShotGrid.build(shot, plan.engine, memory_of(plan))
        if len(grid.windows) > 1:
            raise PlanError(
                f"color_correction {method} looks at a whole shot at once, but shot {shot.index} "
                f"has {shot.stop - shot.start} frames in {len(grid.windows)} windows; choose "
                "wavelet, or a batch_size that is not below the shot"
            )
