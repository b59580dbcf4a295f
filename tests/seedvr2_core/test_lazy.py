"""Names that a package loads on first use."""

import ast
import gc
import importlib
from pathlib import Path

import pytest

from seedvr2_core.lazy import collector_waits, collector_works, loaded_on_use

ROOT = Path(__file__).parents[2]
LAZY = [
    ".".join(path.parent.relative_to(ROOT).parts)
    for path in (ROOT / "seedvr2_core").rglob("__init__.py")
    if "loaded_on_use" in path.read_text()
]


def test_a_name_comes_from_its_home_and_others_do_not_exist() -> None:
    get = loaded_on_use("room", {"Fraction": "fractions"})
    assert get("Fraction") is importlib.import_module("fractions").Fraction
    with pytest.raises(AttributeError, match=r"module 'room' has no attribute 'Decimal'"):
        get("Decimal")


@pytest.mark.parametrize("package", LAZY)
def test_what_type_checkers_see_is_what_is_shown_and_loaded(package: str) -> None:
    """The names stand three times: for type checkers, in `__all__`, and as a table of homes."""
    tree = ast.parse((ROOT / package.replace(".", "/") / "__init__.py").read_text())
    (checked,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.name: node.module
        for node in checked.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    (table,) = [node for node in ast.walk(tree) if isinstance(node, ast.Dict)]
    assert set(seen) == set(ast.literal_eval(table))
    module = importlib.import_module(package)
    assert set(module.__all__) == set(seen)
    for name in module.__all__:
        assert getattr(module, name) is not None


def test_the_collector_waits_for_imports_and_works_again() -> None:
    """Also where the imports fail; and a block within another does not end the wait."""
    frozen = gc.get_freeze_count()
    try:
        with collector_waits():
            with collector_waits():
                pass
            assert not gc.isenabled()
        assert gc.isenabled()
        assert gc.get_freeze_count() > frozen
        with pytest.raises(ImportError), collector_waits():
            raise ImportError
        assert gc.isenabled()
        gc.disable()
        collector_works()
        assert gc.isenabled()
    finally:
        gc.unfreeze()
        gc.enable()
