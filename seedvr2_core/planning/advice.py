"""What to change in a request that does not fit a device: found by planning it, never guessed.

A shorter window also moves the borders of segments, and every phase has to fit. So each piece of
advice is the whole plan of the changed request, made as that request would be planned.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from seedvr2_core.errors import PlanError, ResourceError
from seedvr2_core.frames import FRAMES_PER_LATENT
from seedvr2_core.planning.plan import Options
from seedvr2_core.planning.sizes import BUDGETS_PX, SHORT_SIDES_PX, budget_for
from seedvr2_core.planning.windows import largest_overlap

Try = Callable[[Options], object]
"""Plans a job with these options; raises ResourceError or PlanError if that cannot be."""


def what_fits(options: Options, plan: Try) -> str:
    """What the user can change so that the job fits: "--batch-size 64, or --resolution 720p".

    Each change is for itself; only if no single one suffices, two are tried together.

    Returns:
        The end of a sentence; "" if nothing helps.
    """
    changes = [change for change in _changes(options, plan) if change]
    if not changes:
        changes = [change for change in _pairs(options, plan) if change][:1]
    return ", or ".join(changes)


def _changes(options: Options, plan: Try) -> Iterator[str]:
    """Single changes that make the job fit, the one that costs the least quality first."""
    if options.engine.color_correction == "lab" and _fits(_without_lab(options), plan):
        yield "--color-correction wavelet"
    yield _shorter_window(options, plan)
    for resolution in _lower(options.resolution):
        if _fits(replace(options, resolution=resolution), plan):
            yield f"--resolution {resolution}"
            return


def _pairs(options: Options, plan: Try) -> Iterator[str]:
    """A lower resolution, the largest first, with a shorter window."""
    for resolution in _lower(options.resolution):
        if change := _shorter_window(replace(options, resolution=resolution), plan):
            yield f"--resolution {resolution} with {change}"


def _fits(options: Options, plan: Try) -> bool:
    """Whether the changed job can be planned."""
    try:
        plan(options)
    except (ResourceError, PlanError):
        return False
    return True


def _without_lab(options: Options) -> Options:
    """The same with the default colour method, which needs no whole shot at once."""
    return replace(options, engine=replace(options.engine, color_correction="wavelet"))


def _shorter_window(options: Options, plan: Try) -> str:
    """The longest window that fits, found by bisection; "" if none does."""
    fits, too_long = 0, options.engine.window
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if _fits(_with_window(options, middle), plan):
            fits = middle
        else:
            too_long = middle
    if not fits:
        return ""
    advice = f"--batch-size {FRAMES_PER_LATENT * fits}"
    if options.engine.overlap > largest_overlap(fits):
        advice += f" --temporal-overlap {FRAMES_PER_LATENT * largest_overlap(fits)}"
    return advice


def _with_window(options: Options, window: int) -> Options:
    """The same with another window, and the overlap that fits it."""
    overlap = min(options.engine.overlap, largest_overlap(window))
    return replace(
        options,
        engine=replace(options.engine, window=window, overlap=overlap),
        batch_size=FRAMES_PER_LATENT * window,
    )


def _lower(resolution: str) -> list[str]:
    """Resolutions of the same kind with fewer pixels, the largest first.

    Of a factor or a box all areas are tried: what is larger does not fit either.
    """
    if resolution not in (*SHORT_SIDES_PX, *BUDGETS_PX):
        return [*reversed(tuple(BUDGETS_PX))]
    names = list(SHORT_SIDES_PX if resolution in SHORT_SIDES_PX else BUDGETS_PX)
    larger = BUDGETS_PX[budget_for(resolution)]
    return [name for name in reversed(names) if BUDGETS_PX[budget_for(name)] < larger]
