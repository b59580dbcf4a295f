"""The places at which fault tests stop processes exist; most of those tests run in the soak alone."""

import functools
import importlib
import re
from pathlib import Path

import pytest

PLACE = re.compile(r'"((?:seedvr2_core|tasks)[\w.]*):([\w.]+)"')
PLACES = sorted(
    {
        found
        for file in Path(__file__).parent.glob("*.py")
        for found in PLACE.findall(file.read_text())
    }
)


def test_there_are_some() -> None:
    assert len(PLACES) > 20


@pytest.mark.parametrize(("module", "path"), PLACES, ids=":".join)
def test_it_exists(module: str, path: str) -> None:
    functools.reduce(getattr, path.split("."), importlib.import_module(module))
