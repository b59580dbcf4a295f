"""One shot as the model sees it: its grid of windows and slices, and the state between pieces.

The grid depends on the shot and the plan's settings, never on the segments, so work that is
resumed anywhere gives the same bits. Latents count from the shot's first latent, frames are file
indices, and ranges are half-open.

Shape legend: Z latents, K latents shared by two windows, h w latent grid, C 16 channels.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from seedvr2_core.engines.protocol import ShotState
from seedvr2_core.errors import PlanError, SegmentError
from seedvr2_core.frames import FRAMES_PER_LATENT, Frame
from seedvr2_core.planning import Piece, Plan, Shot, windows
from seedvr2_core.planning.plan import EngineSettings, MemoryPlan
from seedvr2_core.vae.decoder import DecoderState
from seedvr2_core.vae.encoder import EncoderState


def memory_of(plan: Plan) -> MemoryPlan:
    """The memory plan of a job's plan.

    Raises:
        PlanError: the plan has none.
    """
    if plan.memory is None:
        raise PlanError(f"{plan.engine.name} needs a memory plan; plan the job again")
    return plan.memory


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceSpan:
    """What a piece covers of its shot's grid."""

    windows: range
    """Indices of its windows."""
    owned: range
    """Latents that it makes final and whose frames it yields."""
    seen_before: int
    """One past the last latent that the pieces before have encoded."""
    seen_stop: int
    """One past the last latent that it encodes."""
    is_last: bool
    """Whether the shot ends with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShotGrid:
    """Windows and slices of a shot."""

    shot: Shot
    windows: tuple[range, ...]
    encoder_slices: tuple[range, ...]
    decoder_slices: tuple[range, ...]

    @classmethod
    def build(cls, shot: Shot, engine: EngineSettings, memory: MemoryPlan) -> "ShotGrid":
        """The grid of a shot under a plan's settings.

        Raises:
            PlanError: windows, overlap or slices make no sense.
        """
        num_latents = windows.num_latents(shot.stop - shot.start)
        spans = windows.plan_windows(num_latents, window=engine.window, overlap=engine.overlap)
        return cls(
            shot=shot,
            windows=spans,
            encoder_slices=windows.encoder_slices(spans, memory.encoder_slice),
            decoder_slices=windows.decoder_slices(spans, memory.decoder_slice),
        )

    def span(self, piece: Piece) -> PieceSpan:
        """Where a piece lies on the grid.

        Raises:
            PlanError: the piece belongs to another shot, or does not begin and end at windows.
        """
        shot = self.shot
        if piece.shot != shot.index or piece.stop > shot.stop:
            raise PlanError(f"{piece} is no part of {shot}")
        indices = windows.windows_of_piece(
            self.windows, piece.start - shot.start, piece.stop - shot.start
        )
        is_last = indices.stop == len(self.windows)
        if is_last and piece.stop != shot.stop:
            raise PlanError(f"{piece} ends inside the last window of {shot}")
        owned_stop = windows.owned_latents(self.windows, indices[-1]).stop
        return PieceSpan(
            windows=indices,
            owned=range(self.windows[indices[0]].start, owned_stop),
            seen_before=self.windows[indices[0] - 1].stop if indices[0] else 0,
            seen_stop=self.windows[indices[-1]].stop,
            is_last=is_last,
        )

    def first_frame(self, latent: int) -> int:
        """File index of a latent's first frame."""
        return self.shot.start + windows.first_frame(latent)

    def noise_frame(self, latent: int) -> int:
        """File index by which a latent's noise is drawn: of its first frame, in the film.

        A part that begins inside a shot begins with the last of a latent's frames.
        """
        before = FRAMES_PER_LATENT - 1 if latent == 0 and self.shot.goes_on else 0
        return self.first_frame(latent) - before

    @staticmethod
    def num_frames(latents: range) -> int:
        """Frames that the VAE takes for a range of latents, with those repeated at the end."""
        return windows.first_frame(latents.stop) - windows.first_frame(latents.start)

    def frames_of(self, latents: range) -> range:
        """File indices of the frames in a range of latents, without those past the shot's end."""
        stop = min(self.shot.stop, self.first_frame(latents.stop))
        return range(self.first_frame(latents.start), stop)


def slices_between(slices: Sequence[range], start: int, stop: int) -> list[range]:
    """The slices that make up latents [start, stop), where both are slice boundaries."""
    between = [part for part in slices if start <= part.start and part.stop <= stop]
    covered = range(between[0].start, between[-1].stop) if between else range(start, start)
    assert covered == range(start, stop), f"{start} or {stop} is no slice boundary"
    return between


@dataclass(slots=True, kw_only=True)
class LatentState(ShotState):
    """What goes from piece to piece of a shot; complete at a window's first latent, called s_j."""

    dtype: torch.dtype
    """Of the VAE. When it changes, the state is useless and is made again."""
    encoder: EncoderState
    """Caches after the last encoded latent."""
    encoded_ZhwC: Tensor
    """Encoded latents from s_j on, float32, on the device."""
    tail_KhwC: Tensor | None = None
    """The last window's own output from s_j on, float32; None at a shot's start and end."""
    decoder: DecoderState
    """Caches before s_j."""
    next_frame: int
    """File index of the source frame to read next."""
    frames: deque[Frame] = field(default_factory=deque)
    """Source frames as decoded, read and not yet emitted."""

    @property
    def next_latent(self) -> int:
        """s_j, counted back from what the encoder has done."""
        return self.encoder.next_latent - len(self.encoded_ZhwC)

    def read(self, frames: Iterator[Frame], stop: int, *, keep_from: int) -> list[Frame]:
        """Read source frames up to file index `stop`; those from `keep_from` on are kept.

        They are kept in `frames`, until the restored frames take their colour.

        Raises:
            SegmentError: a frame is missing, or another one came.
        """
        taken: list[Frame] = []
        for expected in range(self.next_frame, stop):
            frame = next(frames, None)
            if frame is None or frame.index != expected:
                got = "the frames ended" if frame is None else f"got {frame}"
                raise SegmentError(f"expected source frame {expected}: {got}; decode from there")
            taken.append(frame)
            if expected >= keep_from:
                self.frames.append(frame)
        self.next_frame = stop
        return taken

    def forget_frames(self, *, before: int) -> None:
        """Let go of kept frames whose restored frames nobody wants: those before a file index."""
        while self.frames and self.frames[0].index < before:
            self.frames.popleft()
