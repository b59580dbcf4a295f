"""Cards that need not be there: what a job would take on them, and what fits.

A card is named by its memory. What is free of it is assumed: the driver, the display and others
take 1 GB of a small card and 2 GB of one with 48 GB or more (as seen on an H100: 78 of 80).
"""

import math
import re
from dataclasses import dataclass

from seedvr2_core.config import ENGINES
from seedvr2_core.errors import InvalidRequestError, ResourceError
from seedvr2_core.kernels.devices import gpu_name
from seedvr2_core.planning.build import build_plan
from seedvr2_core.planning.plan import EngineSettings, Options, Plan, Quantized
from seedvr2_core.planning.sizes import BUDGETS_PX
from seedvr2_core.planning.windows import plan_latent_windows
from seedvr2_core.video.info import video_of_frames

NAMED_GB = {"h100": ("NVIDIA H100 80GB", 80), "h200": ("NVIDIA H200", 141)}
"""Cards that are known by name, with their GB of memory."""
CARDS_GB = (8, 12, 16, 24, 32, 48, 80, 141)
"""Sizes that people have."""
LARGE_GB, TAKEN_GB, TAKEN_OF_LARGE_GB = 48, 1, 2
EXAMPLE_FRAMES, EXAMPLE_RATE = 250, 25
"""The clip that answers for a resolution: 10 s in one shot."""
_FORM = re.compile(r"(\d{1,4})\s*(?:gb)?|(h100|h200)")
_HOST = re.compile(r"host\s*=\s*(\d{1,5})\s*(?:gb)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedCard:
    """A GPU and the memory of the machine that it is in."""

    kind: str
    """What it is called."""
    free_bytes: int
    """Of its own memory."""
    host_bytes: int | None = None
    """Free memory of the machine; None: not said, taken as enough."""


def parse_card(text: str) -> NamedCard:
    """The card that a text describes: h100, 24, 24GB, "24GB,host=64GB".

    Raises:
        InvalidRequestError: it describes none.
    """
    name, *more = (part.strip() for part in text.lower().split(","))
    card, host = _FORM.fullmatch(name), [_HOST.fullmatch(part) for part in more]
    kind, gigabytes = "", 0
    if card is not None:
        kind, gigabytes = NAMED_GB.get(name) or (f"a GPU with {card[1]} GB", int(card[1]))
    if not TAKEN_OF_LARGE_GB < gigabytes <= 1000 or len(host) > 1 or None in host:
        raise InvalidRequestError(
            f"--gpu is {', '.join(NAMED_GB)} or the GB of a card's memory, such as 48, with the "
            f"machine's free memory behind it if that matters: 24GB,host=64GB; got {text}"
        )
    return NamedCard(
        kind=kind,
        free_bytes=free_bytes(gigabytes),
        host_bytes=next((int(found[1]) * 10**9 for found in host if found), None),
    )


def free_bytes(gigabytes: int) -> int:
    """What is free of a card's memory, in bytes; GB are decimal."""
    taken = TAKEN_OF_LARGE_GB if gigabytes >= LARGE_GB else TAKEN_GB
    return (gigabytes - taken) * 10**9


def example_plan(
    engine: str, resolution: str, card: NamedCard, quantized: Quantized | None = None
) -> Plan:
    """The plan of the example clip, of half the output's width and height.

    Raises:
        ResourceError: it does not fit the card or the machine.
    """
    height = math.isqrt(BUDGETS_PX[resolution] * 9 // 16)
    window, overlap, _ = plan_latent_windows(100, None)
    settings = EngineSettings(
        name=engine,
        weights_digest="",
        seed=0,
        window=window,
        overlap=overlap,
        stitch_mode="crossfade",
        color_correction="auto",
    )
    options = Options(
        resolution=resolution,
        engine=settings,
        device=gpu_name(0),
        device_kind=card.kind,
        device_bytes=card.free_bytes,
        host_bytes=card.host_bytes,
        cpu_count=16,
        crf=18,
        preset="medium",
        segment_seconds=10,
        quantized=quantized,
    )
    video = video_of_frames(height * 8 // 9, height // 2, EXAMPLE_FRAMES, rate=EXAMPLE_RATE)
    return build_plan(video, "", options)


def largest_fit(engine: str, card: NamedCard, quantized: Quantized | None = None) -> str:
    """The largest resolution that fits, in batches of 100 frames; "" if none does."""
    for resolution in reversed(tuple(BUDGETS_PX)):
        try:
            example_plan(engine, resolution, card, quantized)
        except ResourceError:
            continue
        return resolution
    return ""


def engines_for_cards() -> tuple[str, ...]:
    """The engines whose memory depends on the card."""
    return tuple(n for n, spec in ENGINES.items() if spec.has_latents and not spec.test_only)
