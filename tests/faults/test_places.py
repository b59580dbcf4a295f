"""The places at which fault tests stop processes exist; most of those tests run in the soak."""

import functools
import importlib
import re
from pathlib import Path

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


def test_they_exist() -> None:
    missing = []
    for module, path in PLACES:
        try:
            functools.reduce(getattr, path.split("."), importlib.import_module(module))
        except AttributeError:
            missing.append(f"{module}:{path}")
    assert missing == []
