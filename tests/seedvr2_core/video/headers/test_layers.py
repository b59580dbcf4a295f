"""Layers of HEVC are told by either of the two ways in which the standard lets encoders tell them.

Units are built bit by bit from the standard; those of x265 are a second witness.
"""

import random

import pytest

from seedvr2_core.video.headers.layers import has_alpha_layer
from tests.kits.videos.layers import (
    ALPHA_PICTURE,
    AUXILIARY,
    DEPTH,
    DEPTH_PICTURE,
    SCALE,
    VIEW,
    layers_record,
    lists,
    message,
    parameters,
    timing_with_buffers,
    unit,
)

RECORD_HEAD = bytes([1, 1, 0x60, *bytes(18), 0xFF])
"""Of `hvcC`, up to the byte with the number of its lists; units are behind four bytes of length."""
ALPHA_LAYER = {AUXILIARY: ALPHA_PICTURE}
X265 = bytes.fromhex(
    "40010c11ffff01600000030090000003000003001e959415bf1e1800010704383808000004fc400000030000f46803"
    "00020500f3514acb48"
)
"""The parameters that x265 4.3 writes with alpha=1."""
TOLD = {
    "a message": ([message()], True),
    "a message in the layer's own unit": ([message(layer=1)], True),
    "a message behind another": (
        [unit(39, "".join(f"{b:08b}" for b in (137, 1, 0, 165, 1, 0x10)))],
        True,
    ),
    "parameters": ([parameters([ALPHA_LAYER])], True),
    "both": ([parameters([ALPHA_LAYER]), message()], True),
    "x265's": ([X265], True),
    "a second layer": ([parameters([{SCALE: 1}, ALPHA_LAYER])], True),
    "numbered layers": ([parameters([{SCALE: 1}, ALPHA_LAYER], numbers=[3, 9])], True),
    "numbers made of ids": (
        [parameters([{}, {}], numbers=[0b000001, 0b000100], split=[(VIEW, 2), (AUXILIARY, 4)])],
        True,
    ),
    "three sublayers": ([parameters([ALPHA_LAYER], sublayers=3)], True),
    "clock and buffers": ([parameters([ALPHA_LAYER], timing=timing_with_buffers())], True),
    "an H.264 base": ([parameters([ALPHA_LAYER], base="01")], True),
    "another eye": ([parameters([{VIEW: 1}])], False),
    "an eye and alpha": (
        [parameters([{VIEW: 1}, {VIEW: 1, **ALPHA_LAYER}])],
        True,
    ),
    "depth beside": ([parameters([{AUXILIARY: DEPTH_PICTURE}])], False),
    "depth of a view": ([parameters([{DEPTH: 1}])], False),
    "a finer layer": ([parameters([{SCALE: 1}])], False),
    "one layer": ([parameters()], False),
    "taken back": ([message(content=b"\x90\x20")], False),
    "kind 420": ([unit(39, "".join(f"{b:08b}" for b in (255, 165, 1, 0x10)))], False),
    "a message behind the picture": ([unit(40, f"{165:08b}{1:08b}{0x10:08b}")], False),
}


@pytest.mark.parametrize("place", ["hvcC", "lhvC", "header", "packet", "packet of mp4"])
@pytest.mark.parametrize("name", TOLD)
def test_what_is_told_is_found_wherever_it_stands(name: str, place: str) -> None:
    units, is_told = TOLD[name]
    plain = RECORD_HEAD + lists([parameters()])
    coded = b"".join(b"\0\0\0\1" + one for one in units)
    behind = b"".join(len(one).to_bytes(4) + one for one in units)
    given = {
        "hvcC": (RECORD_HEAD + lists(units), b"", b""),
        "lhvC": (plain, b"", layers_record(units)),
        "header": (coded, b"", b""),
        "packet": (b"", coded, b""),
        "packet of mp4": (plain, behind, b""),
    }
    assert has_alpha_layer(*given[place]) == is_told


def test_strange_ones_end() -> None:
    draw = random.Random(3)
    units = [unit for units, _ in TOLD.values() for unit in units]
    for _ in range(3000):
        spoilt = bytearray(draw.choice(units))
        spoilt[draw.randrange(len(spoilt))] = draw.randrange(256)
        del spoilt[draw.randrange(len(spoilt)) :]
        has_alpha_layer(RECORD_HEAD + lists([bytes(spoilt) or b"\0"]), bytes(spoilt), b"\1" * 9)
    whole = RECORD_HEAD + lists([parameters([ALPHA_LAYER])])
    for stop in range(len(whole)):
        has_alpha_layer(whole[:stop], b"", b"")
