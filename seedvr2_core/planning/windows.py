"""Windows and slices of a shot, and the join of neighbouring windows.

A shot of T latents is restored in windows [s_i, e_i) that share `overlap` latents with their
neighbours, and encoded and decoded in slices. Both are functions of the shot alone, so that work
resumed anywhere gives the same bits. Arithmetic; tensors only in `join_windows`, torch nowhere.

Latent 0 of a shot holds frame 0, latent m >= 1 frames 4m-3 .. 4m. Ranges are half-open.
Shape legend: K latents shared by two windows, N latents of a window, H W C as in the latent.
"""

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from seedvr2_core.errors import PlanError

if TYPE_CHECKING:
    pass


_FRAMES_PER_LATENT = 4
_FIRST_SLICE = 2


def num_latents(num_frames: int) -> int:
    """Latents of a shot (its frames are padded to 4n + 1)."""
    return math.ceil((num_frames - 1) / _FRAMES_PER_LATENT) + 1


def first_frame(latent: int) -> int:
    """First frame of a latent, counted from the shot's first."""
    return max(0, _FRAMES_PER_LATENT * latent - 3)


def plan_windows(
    num_latents: int, *, window: int, overlap: int, start: int = 0
) -> tuple[range, ...]:
    """Windows of near-equal length over latents [start, start + num_latents).

    A short last window would change the attention windows inside the model, so the lengths differ
    by one at most; the longer ones come first.

    Args:
        num_latents: to cover.
        window: largest length of a window.
        overlap: latents that neighbours share.
        start: first latent; not 0 when a part of a shot is cut again into smaller windows.

    Raises:
        PlanError: a latent would lie in three windows, or a number makes no sense.
    """
    if num_latents < 1 or window < 1 or overlap < 0:
        raise PlanError(
            f"need latents >= 1, window >= 1, overlap >= 0; got {num_latents}, {window}, {overlap}"
        )
    if overlap > (window + 1) // 3:
        raise PlanError(
            f"overlap {overlap} is too large for windows of {window} latents: at most "
            f"{(window + 1) // 3}, so that no latent lies in three windows"
        )
    if num_latents <= window:
        return (range(start, start + num_latents),)
    count = math.ceil((num_latents - overlap) / (window - overlap))
    base, longer = divmod(num_latents + (count - 1) * overlap, count)
    spans: list[range] = []
    for i in range(count):
        stop = start + base + (i < longer)
        spans.append(range(start, stop))
        start = stop - overlap
    return tuple(spans)


def soft_boundaries(windows: Sequence[range]) -> tuple[int, ...]:
    """Frames of the shot at which a segment may end: the first frame of each later window."""
    return tuple(first_frame(window.start) for window in windows[1:])


def windows_of_piece(windows: Sequence[range], start: int, stop: int) -> range:
    """Indices of the windows whose own latents are the shot's frames [start, stop).

    Raises:
        PlanError: `start` or `stop` is no window's first frame (nor the shot's end).
    """
    firsts = [first_frame(window.start) for window in windows]
    shot_end = first_frame(windows[-1].stop)
    if start not in firsts or (stop not in firsts and not firsts[-1] < stop <= shot_end):
        raise PlanError(f"frames [{start}, {stop}) do not begin and end at windows: {firsts}")
    return range(firsts.index(start), firsts.index(stop) if stop in firsts else len(windows))


def owned_latents(windows: Sequence[range], index: int) -> range:
    """The latents that are final once window `index` has been joined."""
    is_last = index == len(windows) - 1
    return range(windows[index].start, windows[index].stop if is_last else windows[index + 1].start)


def encoder_slices(windows: Sequence[range], slice_latents: int) -> tuple[range, ...]:
    """Slices the encoder works in: none crosses the start or the end of a window."""
    edges = {edge for window in windows for edge in (window.start, window.stop)}
    return _slices(edges, slice_latents)


def decoder_slices(windows: Sequence[range], slice_latents: int) -> tuple[range, ...]:
    """Slices the decoder works in: none crosses the start of a window."""
    edges = {window.start for window in windows} | {windows[-1].stop}
    return _slices(edges, slice_latents)


def _slices(edges: set[int], slice_latents: int) -> tuple[range, ...]:
    """Groups of `slice_latents` between edges; a shot's first group is latents 0 and 1."""
    if slice_latents < 1:
        raise PlanError(f"a slice needs at least 1 latent, got {slice_latents}")
    first, *others = itertools.pairwise(sorted(edges))
    head = range(first[0], min(first[0] + _FIRST_SLICE, first[1]))
    spans = [head]
    for start, stop in [(head.stop, first[1]), *others]:
        spans += [range(a, min(a + slice_latents, stop)) for a in range(start, stop, slice_latents)]
    return tuple(spans)


def warm_up_start(slices: Sequence[range], *, first_needed: int, lead_latents: int) -> int:
    """First latent to run when the state at `first_needed` is rebuilt; 0 = as a fresh shot.

    Only a slice start gives the same bits, so it is the last one that leaves at least
    `lead_latents` before the first latent whose result counts.
    """
    latest = first_needed - lead_latents
    return max((s.start for s in slices if s.start <= latest), default=0)


def encoder_warm_up_start(slices: Sequence[range], *, first_needed: int, lead_frames: int) -> int:
    """As `warm_up_start`, with the lead in source frames (the encoder's reach back in time)."""
    lead_latents = math.ceil(lead_frames / _FRAMES_PER_LATENT)
    return warm_up_start(slices, first_needed=first_needed, lead_latents=lead_latents)
