"""The generated pages are what the code says now."""

from pathlib import Path
from types import ModuleType

import pytest

from tasks.schemas import UpscaleRequest
from tasks.settings import Settings
from tests.kits.pages.scripts import docs_script

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """docs/generate.py as a module."""
    return docs_script("generate")


@pytest.mark.parametrize("name", ["options.md", "settings.md", "errors.md", "cards.md", "http.md"])
def test_committed_page_is_not_stale(generate: ModuleType, name: str) -> None:
    committed = (ROOT / "docs" / name).read_text()
    assert committed == generate.PAGES[name](), f"docs/{name} is stale; run `make docs`"


def test_every_generated_page_is_compared(generate: ModuleType) -> None:
    marked = {p.name for p in (ROOT / "docs").glob("*.md") if generate.NOTICE in p.read_text()}
    assert marked == generate.PAGES.keys()


@pytest.mark.long
def test_pages_do_not_depend_on_the_environment(
    generate: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [page() for page in generate.PAGES.values()]
    monkeypatch.setenv("SEEDVR2_TEST_ENGINES", "true")
    monkeypatch.setenv("SEEDVR2_WORK_DIR", "/elsewhere")
    assert [page() for page in generate.PAGES.values()] == before


@pytest.mark.parametrize("schema", [UpscaleRequest, Settings])
def test_every_field_is_described(schema: type[UpscaleRequest] | type[Settings]) -> None:
    assert not [name for name, field in schema.model_fields.items() if not field.description]
