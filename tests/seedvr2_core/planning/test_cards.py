"""Cards that need not be there."""

import pytest

from seedvr2_core.errors import InvalidRequestError, ResourceError
from seedvr2_core.planning.cards import (
    NamedCard,
    engines_for_cards,
    example_plan,
    free_bytes,
    largest_fit,
    parse_card,
)
from seedvr2_core.planning.plan import Quantized
from seedvr2_core.planning.sizes import BUDGETS_PX


def test_what_is_free_of_a_card() -> None:
    free = {size: free_bytes(size) / 1e9 for size in (16, 24, 32, 48, 80, 141)}
    assert free == {16: 15, 24: 23, 32: 31, 48: 46, 80: 78, 141: 139}


@pytest.mark.parametrize(
    ("text", "host"), [("24", None), ("24GB,host=64GB", 64), ("24 gb , HOST = 64", 64)]
)
def test_a_card_with_its_machine(text: str, host: int | None) -> None:
    card = parse_card(text)
    assert card.free_bytes == 23 * 10**9
    assert card.host_bytes == (host and host * 10**9)


@pytest.mark.parametrize("text", ["", "24,", "24,host", "24,64", "24,host=64,host=64", "24,h200"])
def test_what_describes_no_card(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="24GB,host=64GB; got"):
        parse_card(text)


def test_a_machine_without_memory_refuses_with_numbers() -> None:
    card = parse_card("24,host=8")
    with pytest.raises(ResourceError, match=r"needs \d+\.\d GB of host memory .* 8\.0 GB are free"):
        example_plan("seedvr2-7b", "720p", card)


def test_more_memory_never_fits_less() -> None:
    sizes = ["", *BUDGETS_PX]
    for engine in engines_for_cards():
        fits = [largest_fit(engine, parse_card(str(size))) for size in (12, 24, 48, 80, 141)]
        ranks = [sizes.index(name) for name in fits]
        assert ranks == sorted(ranks)
        assert ranks[0] < ranks[-1]


def test_quantised_weights_make_room() -> None:
    """Half the bytes of the 7B's weights, and their largest weight expanded for a moment."""
    numbers = 8_000_000_000
    quantized = Quantized(values=numbers, num_bytes=numbers, largest=12_288 * 3072)
    card = NamedCard(kind="card", free_bytes=free_bytes(32))
    plain, small = (
        memory
        for memory in (
            example_plan("seedvr2-7b", "720p", card).memory,
            example_plan("seedvr2-7b", "720p", card, quantized).memory,
        )
        if memory is not None
    )
    assert dict(small.peaks)["dit"] != dict(plain.peaks)["dit"]
    assert (plain.weights_resident, small.weights_resident) == (False, True)
    assert dict(small.peaks)["host"] < dict(plain.peaks)["host"] - numbers
