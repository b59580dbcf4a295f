"""The advice of a refusal: whoever follows it is not refused again."""

import re
from dataclasses import replace

import pytest

from seedvr2_core.errors import ResourceError
from seedvr2_core.planning import Options, Plan, build_plan, plan_latent_windows
from tests.kits.factories import make_info, make_options

GB = 10**9


def options_for(
    memory: float,
    resolution: str,
    *,
    batch_size: int = 100,
    overlap: int | None = None,
    color: str = "wavelet",
) -> Options:
    """A request for SeedVR2 7B on a card with so many GB free."""
    window, shared, _ = plan_latent_windows(batch_size, overlap)
    engine = replace(
        make_options().engine,
        name="seedvr2-7b",
        window=window,
        overlap=shared,
        color_correction=color,
    )
    return make_options(
        engine=engine,
        resolution=resolution,
        device="cuda:0",
        device_kind="a card",
        device_bytes=int(memory * GB),
        batch_size=batch_size,
    )


def planned(options: Options) -> Plan:
    """A clip of 1200 frames in one shot."""
    return build_plan(make_info(pts=tuple(range(1200))), "a", options)


def refusal_of(options: Options) -> str:
    """The message that refuses the request."""
    with pytest.raises(ResourceError) as refused:
        planned(options)
    return str(refused.value)


@pytest.mark.parametrize("resolution", ["720p", "1080p", "short:1440", "4k"])
@pytest.mark.parametrize("memory", [22, 30, 46, 78, 100])
@pytest.mark.parametrize(("batch_size", "overlap"), [(100, None), (400, 128), (2000, None)])
def test_who_follows_the_advice_is_not_refused_again(
    resolution: str, memory: int, batch_size: int, overlap: int | None
) -> None:
    options = options_for(memory, resolution, batch_size=batch_size, overlap=overlap)
    try:
        planned(options)
    except ResourceError as error:
        told = str(error)
    else:
        return
    (needed,) = re.findall(r"a GPU with (\d+) GB free", told)
    planned(replace(options, device_bytes=int(needed) * GB))
    advice = told.partition("GB free, or ")[2]
    assert advice or "no shorter batch and no lower resolution fits either" in told
    for change in filter(None, advice.split(", or ")):
        asked = dict(re.findall(r"--([a-z-]+) (\S+)", change))
        shared = int(asked["temporal-overlap"]) if "temporal-overlap" in asked else overlap
        planned(
            options_for(
                memory,
                asked.get("resolution", resolution),
                batch_size=int(asked.get("batch-size", batch_size)),
                overlap=shared,
            )
        )


def test_the_longest_batch_is_advised() -> None:
    told = refusal_of(options_for(34, "1080p", batch_size=2000))
    found = re.search(r"--batch-size (\d+)", told)
    assert found is not None
    batch = int(found[1])
    planned(options_for(34, "1080p", batch_size=batch))
    with pytest.raises(ResourceError):
        planned(options_for(34, "1080p", batch_size=batch + 4))


def test_an_overlap_that_the_shorter_batch_cannot_have_is_lowered_too() -> None:
    told = refusal_of(options_for(34, "1080p", batch_size=2000, overlap=400))
    assert re.search(r"--batch-size \d+ --temporal-overlap \d+", told)


def test_lab_is_advised_away() -> None:
    told = refusal_of(options_for(139, "1080p", batch_size=1300, color="lab"))
    assert "or --color-correction wavelet" in told


def test_a_card_that_nothing_fits_is_told_so() -> None:
    assert refusal_of(options_for(4, "4k")).endswith(
        "no shorter batch and no lower resolution fits either"
    )
