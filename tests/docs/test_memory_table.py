"""The README's table of what fits a GPU is what the planner says."""

import re
from pathlib import Path

import pytest

from seedvr2_core.config import DIT_3B, DIT_7B, VAE_PRODUCTION, DiTConfig
from seedvr2_core.errors import ResourceError
from seedvr2_core.planning.cards import free_bytes
from seedvr2_core.planning.memory import plan_memory
from seedvr2_core.planning.peaks import MemoryRequest

ROOT = Path(__file__).parents[2]
SIZES = ((1280, 720), (1920, 1080), (2560, 1440), (3840, 2160))
LATENTS_OF_100_FRAMES, OVERLAP, SEGMENT_LATENTS = 25, 3, 91
"""As in docs/performance.md: a segment of about 10 s, its look ahead included."""


def table() -> list[tuple[int, list[str]]]:
    """GPU memory in GB and the four cells behind it, row by row."""
    rows = re.findall(r"^\| (\d+) GB \|(.*)\|$", (ROOT / "README.md").read_text(), re.M)
    return [(int(size), [cell.strip() for cell in cells.split("|")]) for size, cells in rows]


def fits(gigabytes: int, size: tuple[int, int], config: DiTConfig) -> str:
    """The cell for one model: "no", "yes", or with the host memory that it needs."""
    width, height = size
    request = MemoryRequest(
        dit_config=config,
        vae_config=VAE_PRODUCTION,
        width=width,
        height=height,
        num_latents_in_window=LATENTS_OF_100_FRAMES,
        overlap=OVERLAP,
        segment_latents=SEGMENT_LATENTS,
        source_frame_bytes=width * height * 3 // 4,
        device_bytes=free_bytes(gigabytes),
        device_kind="card",
    )
    try:
        host = dict(plan_memory(request).peaks)["host"]
    except ResourceError:
        return "no"
    return f"yes, host {host / 1e9:.0f} GB" if host > 3e9 else "yes"


def test_table_has_the_cards_that_people_ask_for() -> None:
    assert [size for size, _ in table()] == [12, 16, 24, 32, 48, 80, 141]


@pytest.mark.parametrize(("gigabytes", "cells"), table(), ids=lambda value: str(value)[:3])
def test_row_is_what_the_planner_says(gigabytes: int, cells: list[str]) -> None:
    assert cells == [fits(gigabytes, size, DIT_7B) for size in SIZES]
    answers = [fits(gigabytes, size, DIT_3B) for size in SIZES]
    assert [cell[:2] for cell in answers] == [cell[:2] for cell in cells]
