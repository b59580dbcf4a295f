"""Windows and slices of a shot: which latents the model takes at once.

The transformer restores a shot in windows that share `overlap` latents with their neighbours; the
VAE encodes and decodes it in slices, which share none. Both depend on the shot alone, so work that
is resumed anywhere gives the same bits. Arithmetic on integers; loads neither numpy nor torch.

Latent 0 of a shot holds frame 0, latent m >= 1 holds frames 4m-3 .. 4m. Ranges are half-open.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Protocol

from seedvr2_core.config import EngineSpec
from seedvr2_core.errors import PlanError
from seedvr2_core.frames import FRAMES_PER_LATENT
from seedvr2_core.planning.plan import EngineSettings

DEFAULT_OVERLAP_FRAMES = 12
"""Frames that neighbouring windows share where the request does not say."""
_FIRST_SLICE = 2
"""Latents of a shot's first slice: latent 0 holds a single frame, too little for a slice alone."""


def num_latents(num_frames: int) -> int:
    """Latents of a shot, whose frames are padded to 4n + 1."""
    return math.ceil((num_frames - 1) / FRAMES_PER_LATENT) + 1


def first_frame(latent: int) -> int:
    """First frame of a latent, counted from the shot's first frame."""
    return max(0, FRAMES_PER_LATENT * latent - 3)


def largest_overlap(window: int) -> int:
    """Most latents that neighbours of this length can share without a latent in three windows."""
    return (window + 1) // 3


class WindowOptions(Protocol):
    """What a request says about a model with windows, in frames."""

    @property
    def batch_size(self) -> int: ...

    @property
    def temporal_overlap(self) -> int | None: ...

    @property
    def seed(self) -> int: ...

    @property
    def stitch_mode(self) -> str: ...

    @property
    def color_correction(self) -> str: ...

    @property
    def strength(self) -> float: ...


def engine_settings(
    asked: WindowOptions, spec: EngineSpec, weights_digest: str
) -> tuple[EngineSettings, str]:
    """What the engine is told, and a note for the user ("" if none).

    Options that the engine does not use are left out, so that they do not change the job's key.

    Raises:
        PlanError: as `plan_latent_windows`.
    """
    if not spec.has_latents:
        ignored = f"strength is about SeedVR2 models; {spec.name} has no use for it"
        settings = EngineSettings.without_latents(spec.name, weights_digest)
        return settings, ignored if asked.strength < 1 else ""
    window, overlap, note = plan_latent_windows(asked.batch_size, asked.temporal_overlap)
    settings = EngineSettings(
        name=spec.name,
        weights_digest=weights_digest,
        seed=asked.seed,
        window=window,
        overlap=overlap,
        stitch_mode=asked.stitch_mode,
        color_correction=asked.color_correction,
        strength=float(asked.strength),
    )
    return settings, note


def plan_latent_windows(batch_size: int, temporal_overlap: int | None) -> tuple[int, int, str]:
    """Window and overlap in latents, from what the request says in frames.

    Args:
        batch_size: frames per window, >= 1.
        temporal_overlap: frames shared by neighbouring windows; None: `DEFAULT_OVERLAP_FRAMES`,
            or fewer where the window is too short for that.

    Returns:
        The window's length, the overlap, and a note for the user ("" if there is nothing to say).

    Raises:
        PlanError: the overlap would put a latent into three windows.
    """
    wanted = DEFAULT_OVERLAP_FRAMES if temporal_overlap is None else temporal_overlap
    window = (batch_size - 1) // FRAMES_PER_LATENT + 1
    overlap, largest = math.ceil(wanted / FRAMES_PER_LATENT), largest_overlap(window)
    if overlap <= largest:
        return window, overlap, ""
    most = FRAMES_PER_LATENT * largest
    if temporal_overlap is None:
        note = f"temporal overlap lowered to {most} frames to fit batch_size {batch_size}"
        return window, largest, note
    raise PlanError(
        f"temporal_overlap {temporal_overlap} is too large for batch_size {batch_size}: "
        f"at most {most} frames fit; lower it or raise batch_size"
    )


def plan_windows(
    num_latents: int, *, window: int, overlap: int, start: int = 0
) -> tuple[range, ...]:
    """Windows of near-equal length over latents [start, start + num_latents).

    A short last window would change the attention windows inside the model, so the lengths differ
    by one at most; the longer ones come first.

    Args:
        num_latents: how many latents to cover.
        window: largest length of a window.
        overlap: latents that neighbours share.
        start: first latent; not 0 when a part of a shot is cut again into smaller windows.

    Raises:
        PlanError: a latent would lie in three windows, or a number is too small.
    """
    if num_latents < 1 or window < 1 or overlap < 0:
        raise PlanError(
            f"need latents >= 1, window >= 1, overlap >= 0; got {num_latents}, {window}, {overlap}"
        )
    if overlap > largest_overlap(window):
        raise PlanError(
            f"overlap {overlap} is too large for windows of {window} latents: at most "
            f"{largest_overlap(window)}, so that no latent lies in three windows"
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
    """Indices of the windows that own the shot's frames [start, stop) (see `owned_latents`).

    Raises:
        PlanError: `start` is not the first frame of a window, or `stop` is neither that nor the
            end of the shot.
    """
    firsts = [first_frame(window.start) for window in windows]
    shot_end = first_frame(windows[-1].stop)
    if start not in firsts or (stop not in firsts and not firsts[-1] < stop <= shot_end):
        raise PlanError(f"frames [{start}, {stop}) do not begin and end at windows: {firsts}")
    return range(firsts.index(start), firsts.index(stop) if stop in firsts else len(windows))


def owned_latents(windows: Sequence[range], index: int) -> range:
    """The latents that are final once window `index` has been joined to the one before it.

    The overlap with the next window is not: that window blends into it.
    """
    is_last = index == len(windows) - 1
    return range(windows[index].start, windows[index].stop if is_last else windows[index + 1].start)


def encoder_slices(windows: Sequence[range], slice_latents: int) -> tuple[range, ...]:
    """Slices of the encoder: none crosses the start or the end of a window."""
    edges = {edge for window in windows for edge in (window.start, window.stop)}
    return _slices(edges, slice_latents)


def decoder_slices(windows: Sequence[range], slice_latents: int) -> tuple[range, ...]:
    """Slices of the decoder: none crosses the start of a window."""
    edges = {window.start for window in windows} | {windows[-1].stop}
    return _slices(edges, slice_latents)


def _slices(edges: set[int], slice_latents: int) -> tuple[range, ...]:
    """Cut at the edges, and between them after every `slice_latents`."""
    if slice_latents < 1:
        raise PlanError(f"a slice needs at least 1 latent, got {slice_latents}")
    first, *others = itertools.pairwise(sorted(edges))
    head = range(first[0], min(first[0] + _FIRST_SLICE, first[1]))
    spans = [head]
    for start, stop in [(head.stop, first[1]), *others]:
        spans += [range(a, min(a + slice_latents, stop)) for a in range(start, stop, slice_latents)]
    return tuple(spans)


def warm_up_start(slices: Sequence[range], *, first_needed: int, lead_latents: int) -> int:
    """First latent to run again so that the VAE's state at `first_needed` is as it was.

    Work that starts in the middle of a slice gives other bits. So this is the start of the last
    slice that leaves at least `lead_latents` in front of `first_needed`, or 0, the shot's start.
    """
    latest = first_needed - lead_latents
    return max((s.start for s in slices if s.start <= latest), default=0)


def encoder_warm_up_start(slices: Sequence[range], *, first_needed: int, lead_frames: int) -> int:
    """As `warm_up_start`, with the lead in source frames: how far back the encoder looks."""
    lead_latents = math.ceil(lead_frames / FRAMES_PER_LATENT)
    return warm_up_start(slices, first_needed=first_needed, lead_latents=lead_latents)
