"""Cards that need not be there."""

import pytest

from seedvr2_core.config import DIT_7B
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


AIMS = [
    (12, "720p", "seedvr2-7b"),
    (12, "1080p", "seedvr2-7b"),
    (16, "1080p", "seedvr2-3b"),
    (24, "1080p", "seedvr2-7b"),
    (16, "2k", "seedvr2-7b"),
    (24, "2k", "seedvr2-7b"),
    (32, "2k", "seedvr2-7b"),
    (32, "4k", "seedvr2-7b"),
    (48, "4k", "seedvr2-7b"),
    (80, "4k", "seedvr2-7b"),
]


@pytest.mark.parametrize(("gigabytes", "resolution", "engine"), AIMS, ids=str)
def test_what_cards_are_meant_to_do(gigabytes: int, resolution: str, engine: str) -> None:
    """And more: the aims are 720p on 12, 1080p with the 3B on 16, with the 7B on 24, 2k on 32 and
    4k on 80 GB."""
    card = NamedCard(kind="card", free_bytes=free_bytes(gigabytes))
    memory = example_plan(engine, resolution, card).memory
    assert memory is not None
    peaks = dict(memory.peaks)
    assert max(peaks[phase] for phase in ("encode", "dit", "decode")) <= card.free_bytes


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
    layers = DIT_7B.num_layers
    quantized = Quantized(
        layers=((numbers // layers, numbers // layers),) * layers, largest=12_288 * 3072
    )
    card = NamedCard(kind="card", free_bytes=free_bytes(32))
    plain, small = (
        memory
        for memory in (
            example_plan("seedvr2-7b", "720p", card).memory,
            example_plan("seedvr2-7b", "720p", card, quantized).memory,
        )
        if memory is not None
    )
    saved = dict(plain.peaks)["dit"] - dict(small.peaks)["dit"]
    # What was expanded takes room for a moment, and what stays on the card beside it.
    assert numbers - 200_000_000 < saved < numbers
    assert (plain.weights_resident, small.weights_resident) == (False, True)
    assert dict(small.peaks)["host"] < dict(plain.peaks)["host"] - numbers


def test_quantised_layers_make_room_where_they_are_streamed() -> None:
    """On a card that streams layers of the plain file, fewer or none are."""
    layers = DIT_7B.num_layers
    share = 8_000_000_000 // layers
    quantized = Quantized(layers=((share, share),) * layers, largest=12_288 * 3072)
    card = NamedCard(kind="card", free_bytes=free_bytes(16))
    plain = example_plan("seedvr2-7b", "1080p", card).memory
    small = example_plan("seedvr2-7b", "1080p", card, quantized).memory
    assert plain is not None
    assert small is not None
    assert 0 < small.streamed_layers < plain.streamed_layers
    assert dict(small.peaks)["host"] < dict(plain.peaks)["host"] - 7e9
