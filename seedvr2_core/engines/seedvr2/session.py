"""The session of the SeedVR2 engines: it restores the frames of a shot, piece after piece.

A piece is worked through in phases (phases.py). What the next piece needs is in `LatentState`;
`begin` can rebuild it from committed latents and source frames. Two ladders lead down
(`step_down`): a shot in which float16 leads to values that are not finite goes on with a bfloat16
VAE; where the device runs out of memory, smaller slices and chunks are taken from then on, and at
last shorter windows for the piece at hand.

Shape legend: Z latents, K latents shared by two windows, h w latent grid, C 16 channels.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from seedvr2_core.beat import Beat
from seedvr2_core.engines.protocol import Commit, Reads, ShotState
from seedvr2_core.engines.seedvr2.color import check_method, needs_whole_shot
from seedvr2_core.engines.seedvr2.ladder import describe, lower_rung, shorter_windows
from seedvr2_core.engines.seedvr2.phases import DIT, Models, Phases
from seedvr2_core.engines.seedvr2.shot import LatentState, PieceSpan, ShotGrid, memory_of
from seedvr2_core.errors import DeviceMemoryError, NumericalError, PlanError, SegmentError
from seedvr2_core.frames import Frame
from seedvr2_core.planning import Piece, Plan, Shot
from seedvr2_core.planning.windows import encoder_warm_up_start, warm_up_start
from seedvr2_core.vae.attention import ONE_CALL
from seedvr2_core.vae.budget import decoder_warm_up_latents, encoder_warm_up_frames

_LOWER_RUNG = {"float16": "bfloat16"}
_OUT_OF_MEMORY = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
"""What libraries say that do not raise torch's own error."""


class _Failure(NamedTuple):
    """Where the last error came from."""

    shot: int
    piece: int
    """Its first frame."""
    windows: tuple[range, ...]
    """The windows that the piece was cut into."""
    phase: str
    """The phase in which memory ran out; "" for values that are not finite."""


class SeedVR2Session:
    """`protocol.Session` of the engines with latents; works in the caller's thread.

    `reads` changes nothing, so other threads may call it meanwhile.
    """

    def __init__(self, models: Models, plan: Plan, *, device: str, beat: Beat) -> None:
        """Take the models over.

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
        self._engine, self._planned = plan.engine, memory_of(plan)
        self._memory = self._planned
        """The rung at hand; it only ever goes down."""
        _check_color(plan)
        config = self._phases.vae_config
        self._lead_frames = encoder_warm_up_frames(config)
        self._lead_latents = decoder_warm_up_latents(config)
        self._failure: _Failure | None = None
        self._shorter: dict[int, tuple[range, ...]] = {}
        """First frame of a piece -> windows that it is cut into instead of the plan's."""
        self._lowered_shots: set[int] = set()
        self._commit: Commit | None = None

    def reads(self, shot: Shot, pieces: Sequence[Piece], *, unaided: bool = False) -> Reads:
        """What a run needs (see `protocol.Session`): whole windows, and a warm-up before them.

        Raises:
            PlanError: a piece does not begin and end at windows of the shot.
        """
        grid = self._grid(shot)
        first, last = grid.span(pieces[0]), grid.span(pieces[-1])
        encode_from, decode_from = self._warm_up_starts(grid, first)
        if unaided:
            encode_from, decode_from = self._unaided_start(grid, first)[0], first.owned.start
        return Reads(
            frames=grid.frames_of(range(encode_from, last.seen_stop)),
            latents=range(decode_from, first.owned.start),
        )

    def begin(
        self,
        frames: Iterator[Frame],
        *,
        shot: Shot,
        piece: Piece,
        before: Commit | None = None,
        unaided: bool = False,
    ) -> LatentState:
        """The state at the piece's start (see `protocol.Session`).

        A shot goes on in the precision of the piece before, which another process may have made.

        Raises:
            PlanError: the piece does not begin and end at windows of the shot.
            SegmentError: latents or tail are not those that `reads` asks for, or a frame is
                missing.
            NumericalError: as `restore`, for latents that belong to the piece.
            DeviceMemoryError: as `restore`.
        """
        grid, phases = self._grid(shot), self._opened()
        span = grid.span(piece)
        if before is not None:
            self._adopt(shot, before.precision)
        dtype = self._torch_dtype(shot)
        if span.windows.start == 0:
            return phases.fresh_state(grid, dtype)
        if unaided:
            with self._noting(piece, grid):
                return self._begin_unaided(frames, grid, span, dtype)
        encode_from, decode_from = self._warm_up_starts(grid, span)
        latents_ZhwC, tail_KhwC = self._check_committed(before or Commit(), span, decode_from)
        state = phases.fresh_state(grid, dtype, encode_from=encode_from, decode_from=decode_from)
        state.tail_KhwC = phases.on_device(tail_KhwC)
        with self._noting(piece, grid):
            phases.encode(frames, state, grid, span.seen_before, first_kept=span.owned.start)
            phases.warm_up_decoder(latents_ZhwC, state, grid)
        return state

    def restore(
        self, frames: Iterator[Frame], *, shot: Shot, piece: Piece, state: ShotState
    ) -> Iterator[Frame]:
        """Restore exactly the piece's frames (see `protocol.Session`).

        The first frame waits for all windows of the piece; the rest come by decoder slices.

        Raises:
            PlanError: the piece does not begin and end at windows.
            SegmentError: the state is not that of the piece's start, or a frame is missing.
            NumericalError: a value is not finite. The state is lost; see `step_down`.
            DeviceMemoryError: the device ran out of memory. The state is lost; see `step_down`.
        """
        grid = self._grid(shot)
        span = grid.span(piece)
        assert isinstance(state, LatentState), f"not a state of this engine: {state}"
        if (state.next_latent, state.decoder.next_latent) != (span.owned.start, span.owned.start):
            raise SegmentError(
                f"{piece} starts at latent {span.owned.start} of its shot, the state is at "
                f"{state.next_latent} and {state.decoder.next_latent}; make it with begin"
            )
        if state.dtype != self._torch_dtype(shot):
            raise SegmentError(f"a state of {state.dtype} cannot go on; make it with begin")
        self._commit = None
        return self._restore(frames, grid, piece, state)

    def take_commit(self) -> Commit:
        """Latents and tail of the piece that was exhausted last; can be taken once."""
        commit, self._commit = self._commit, None
        assert commit is not None, "no piece was restored to its end since the last commit"
        return commit

    def step_down(self) -> str:
        """After an error: the next step of its ladder (see `protocol.Session`).

        Not finite: the VAE of the shot goes on in bfloat16. Out of memory: levers that are exact
        up to the order of sums, for all that follows; then shorter windows for the piece alone.
        """
        failure, self._failure = self._failure, None
        if failure is None:
            return ""
        stepped = self._need_less_memory(failure) if failure.phase else self._lower(failure.shot)
        if not stepped:
            return ""
        now = (self._precision(failure.shot), self._rung(failure.piece))
        return ", ".join(words for words in now if words)

    def close(self) -> None:
        """Let go of the models."""
        if self._phases is not None:
            self._phases.close()
        self._phases = None

    def _adopt(self, shot: Shot, precision: str) -> None:
        """Go on with a shot in the precision of its piece before."""
        if precision.startswith(f"{_LOWER_RUNG.get(self._memory.vae_dtype)} vae"):
            self._lowered_shots.add(shot.index)

    def _lower(self, shot: int) -> bool:
        """From float16 to bfloat16, if the plan asks for float16 and the shot still has it."""
        if shot in self._lowered_shots or self._memory.vae_dtype not in _LOWER_RUNG:
            return False
        self._lowered_shots.add(shot)
        return True

    def _need_less_memory(self, failure: _Failure) -> bool:
        phases = self._opened()
        tokens = self._engine.window * phases.latent_shape[0] * phases.latent_shape[1]
        lower = lower_rung(self._memory, failure.phase, phases.vae_config, window_tokens=tokens)
        if lower is not None:
            self._memory = lower
            phases.use_memory(lower)
            return True
        if failure.phase != DIT:
            return False
        windows = shorter_windows(failure.windows, self._engine.overlap)
        if windows is not None:
            self._shorter[failure.piece] = windows
        return windows is not None

    def _restore(
        self, frames: Iterator[Frame], grid: ShotGrid, piece: Piece, state: LatentState
    ) -> Iterator[Frame]:
        phases, span = self._opened(), grid.span(piece)
        with self._noting(piece, grid):
            windows = self._windows_of(grid, piece)
            phases.prepare_noise(grid, windows[0])
            phases.encode(frames, state, grid, span.seen_stop)
            latents_ZhwC = phases.restore_windows(state, grid, span.owned, windows)
            if span.is_last:
                state.tail_KhwC = None
            yield from phases.decode(latents_ZhwC, state, grid)
        self._commit = Commit(
            latents=latents_ZhwC,
            tail=None if state.tail_KhwC is None else state.tail_KhwC.cpu(),
            precision=self._precision(grid.shot.index),
            rung=self._rung(piece.start),
        )

    @contextmanager
    def _noting(self, piece: Piece, grid: ShotGrid) -> Iterator[None]:
        """Note where an error came from, for `step_down`.

        Raises:
            DeviceMemoryError: in the place of torch's own error.
        """
        try:
            yield
        except NumericalError:
            self._failure = self._failure_at(grid, piece, "")
            raise
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            phase = self._opened().phase
            self._failure = self._failure_at(grid, piece, phase)
            raise DeviceMemoryError(
                f"the device ran out of memory in phase {phase} of shot {grid.shot.index}, piece "
                f"from frame {piece.start} ({str(error).splitlines()[0][:200]}); if no smaller "
                "rung is left: free the device, or use a smaller batch_size or resolution"
            ) from error

    def _failure_at(self, grid: ShotGrid, piece: Piece, phase: str) -> _Failure:
        return _Failure(grid.shot.index, piece.start, self._windows_of(grid, piece), phase)

    def _windows_of(self, grid: ShotGrid, piece: Piece) -> tuple[range, ...]:
        """The piece's windows: the plan's, or shorter ones."""
        span = grid.span(piece)
        planned = tuple(grid.windows[index] for index in span.windows)
        return self._shorter.get(piece.start, planned)

    def _opened(self) -> Phases:
        assert self._phases is not None, "session is closed"
        return self._phases

    def _vae_dtype(self, shot_index: int) -> str:
        planned = self._memory.vae_dtype
        return _LOWER_RUNG[planned] if shot_index in self._lowered_shots else planned

    def _torch_dtype(self, shot: Shot) -> torch.dtype:
        return getattr(torch, self._vae_dtype(shot.index))

    def _precision(self, shot_index: int) -> str:
        """Of VAE and transformer, for the shot."""
        words = f"{self._vae_dtype(shot_index)} vae, {self._memory.dit_dtype} dit"
        way = self._opened().attention
        return words if way == ONE_CALL else f"{words}, attention: {way}"

    def _rung(self, piece_start: int) -> str:
        """How the piece is fitted into less memory than planned."""
        return describe(self._planned, self._memory, self._shorter.get(piece_start))

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

    def _unaided_start(self, grid: ShotGrid, span: PieceSpan) -> tuple[int, range]:
        """The first latent to encode, and the windows to make again, for a state without commits.

        A latent is final when its window has been joined to the one before it. The decoder's
        warm-up begins at a slice, but final must be only those latents that it looks back to.
        """
        needed = max(0, span.owned.start - self._lead_latents)
        first = span.windows.start - 1
        while grid.windows[first].start > needed:
            first -= 1
        joined_from = grid.windows[first - 1].stop if first else 0
        if needed < joined_from:
            first -= 1
        encode_from = encoder_warm_up_start(
            grid.encoder_slices,
            first_needed=grid.windows[first].start,
            lead_frames=self._lead_frames,
        )
        return encode_from, range(first, span.windows.start)

    def _begin_unaided(
        self, frames: Iterator[Frame], grid: ShotGrid, span: PieceSpan, dtype: torch.dtype
    ) -> LatentState:
        """The state at the start of a span inside a shot, from source frames alone."""
        phases, first = self._opened(), span.owned.start
        encode_from, indices = self._unaided_start(grid, span)
        _, decode_from = self._warm_up_starts(grid, span)
        windows = [grid.windows[k] for k in indices]
        again = range(windows[0].start, first)
        state = phases.fresh_state(grid, dtype, encode_from=encode_from, decode_from=decode_from)
        phases.prepare_noise(grid, windows[0])
        phases.encode(frames, state, grid, span.seen_before, first_kept=again.start)
        state.forget_frames(before=grid.first_frame(first))
        latents_ZhwC = phases.restore_windows(state, grid, again, windows)
        # The first slice may begin before them: its frames there leave nothing in the state.
        others = latents_ZhwC[:1].expand(max(0, again.start - decode_from), *latents_ZhwC.shape[1:])
        known_ZhwC = latents_ZhwC[max(0, decode_from - again.start) :]
        phases.warm_up_decoder(torch.cat([others, known_ZhwC]), state, grid)
        return state

    def _check_committed(
        self, before: Commit, span: PieceSpan, decode_from: int
    ) -> tuple[Tensor, Tensor]:
        """Latents and tail, if they have the shapes that the span needs."""
        shape, first = self._opened().latent_shape, span.owned.start
        latents, tail = before.latents, before.tail
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


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether it says that memory of the device (or page-locked memory) could not be had."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(words in str(error) for words in _OUT_OF_MEMORY)
