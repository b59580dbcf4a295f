"""The page docs/cards.md: what fits which card, by the planner."""

from collections.abc import Iterator

from page_parts import prose, table

from seedvr2_core.config import DIT_CONFIGS, ENGINES
from seedvr2_core.errors import ResourceError
from seedvr2_core.planning.cards import (
    CARDS_GB,
    EXAMPLE_FRAMES,
    NamedCard,
    engines_for_cards,
    example_plan,
    free_bytes,
)
from seedvr2_core.planning.peaks import CONSTANTS
from seedvr2_core.planning.sizes import BUDGETS_PX


def cards_page(notice: str) -> str:
    """The page; `notice` says that it is generated."""
    parts = [
        "# Cards",
        notice,
        prose(
            "What `seedvr2 plan --gpu` would say of a 16:9 clip of 10 s (250 frames, half the "
            "output's width and height) in batches of 100 frames. Every plan gives the same "
            "picture: what differs is where weights and the VAE's caches wait. Sizes are in "
            "decimal GB; of a card's memory 1 GB is taken by others, 2 GB from 48 GB on."
        ),
        prose(
            "A cell says what stays on the card all the time, how much memory the machine needs "
            "beside the card (most of it page-locked), and the seconds of the whole clip. They "
            "are the same for every card: those of the replaced service on an H100 and an H200, "
            "because no GPU has run this code yet ([performance](performance.md)). "
            "Behind the plus stands what moving caches and layers "
            f"to and from the card takes at {CONSTANTS.host_bandwidth / 1e9:.0f} GB/s, where it "
            "is not hidden behind the work: so much at the most. "
            "Quantised weights take less than these tables say: `seedvr2 weights list` tells what "
            "fits this machine."
        ),
    ]
    models: dict[str, list[str]] = {}
    for engine in engines_for_cards():
        models.setdefault(repr(DIT_CONFIGS[ENGINES[engine].dit]), []).append(engine)
    for same in models.values():
        heading = " and ".join(ENGINES[engine].label for engine in same)
        parts += [f"## {heading}", table(("card", *BUDGETS_PX), card_rows(same[0]))]
    parts += [
        "## What is refused",
        prose(
            "In the planner's words, for the largest card that a resolution does not fit. A row "
            "says what a card must have free at the least; where the VAE stands in the way, also "
            "how much of it the largest layer takes for one frame, which is worked in bands of "
            "rows but never cut into tiles. Where the transformer does, a smaller batch needs less."
        ),
        table(("resolution", "cards", "models", "what stands in the way"), refused_rows()),
    ]
    return "\n\n".join(parts) + "\n"


def refused_rows() -> Iterator[tuple[str, ...]]:
    """A row for each resolution that some card is too small for, and for the models of which the
    same is said."""
    for resolution in BUDGETS_PX:
        rows: dict[tuple[str, str], list[str]] = {}
        for engine in engines_for_cards():
            told = {gigabytes: refusal(engine, resolution, gigabytes) for gigabytes in CARDS_GB}
            cards = [gigabytes for gigabytes, why in told.items() if why]
            if cards:
                key = f"{', '.join(str(gigabytes) for gigabytes in cards)} GB", told[cards[-1]]
                rows.setdefault(key, []).append(ENGINES[engine].label.removeprefix("SeedVR2 "))
        for (cards, why), models in rows.items():
            yield resolution, cards, ", ".join(models), why


def refusal(engine: str, resolution: str, gigabytes: int) -> str:
    """Why a model does not fit that card; "" if it does."""
    try:
        example_plan(engine, resolution, NamedCard(kind="it", free_bytes=free_bytes(gigabytes)))
    except ResourceError as error:
        return str(error).partition("does not fit: ")[2].partition(" and it has")[0]
    return ""


def card_rows(engine: str) -> Iterator[tuple[str, ...]]:
    """One row for each card, with what each resolution takes on it."""
    for gigabytes in CARDS_GB:
        card = NamedCard(kind="card", free_bytes=free_bytes(gigabytes))
        cells = (card_cell(engine, resolution, card) for resolution in BUDGETS_PX)
        yield f"{gigabytes} GB", *cells


def card_cell(engine: str, resolution: str, card: NamedCard) -> str:
    """What stays on the card, host memory and seconds."""
    try:
        plan = example_plan(engine, resolution, card)
    except ResourceError:
        return "does not fit"
    memory = plan.memory
    assert memory is not None
    caches = not (memory.park_caches or memory.stream_caches)
    weights = memory.weights_resident and not memory.streamed_layers
    kept = ("weights", weights), ("caches", caches)
    stays = " and ".join(name for name, stay in kept if stay) or "nothing"
    host = dict(memory.peaks)["host"] / 1e9
    moving = memory.moving_seconds * EXAMPLE_FRAMES / 100
    comes = f" + {moving:.0f} s" if moving >= 0.5 else ""
    return f"keeps {stays}; host {host:.1f} GB; {plan.eta_seconds:.0f} s{comes}"
