"""The pages as a site: every page has its place, and every link on what is built leads somewhere.

The tool that builds it is not among the packages of the tests. It is installed from its lock, as
`make site` does; where pip can reach no index, that part is skipped.
"""

import re
import shutil
import subprocess
import tomllib
import venv
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import pytest

from tests.kits.pages.scripts import docs_script

ROOT = Path(__file__).parents[2]
UNREACHABLE = ("No matching distribution", "Could not find a version", "connection")
"""What pip says where there is no index, or one without these packages."""


@pytest.fixture(scope="module")
def check_links() -> ModuleType:
    """docs/check_links.py as a module."""
    return docs_script("check_links")


def pages_of(nav: Iterable[object]) -> list[str]:
    """The pages that a navigation names, in order."""
    found: list[str] = []
    for entry in nav:
        assert isinstance(entry, dict)
        for below in entry.values():
            found += [below] if isinstance(below, str) else pages_of(below)
    return found


def test_every_page_has_one_place_in_the_navigation() -> None:
    project = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert sorted(pages_of(project["nav"])) == sorted(pages)


def test_the_home_leads_to_every_page() -> None:
    """On a code host there is no navigation."""
    linked = set(re.findall(r"\]\((\w+\.md)", (ROOT / "docs" / "index.md").read_text()))
    assert linked == {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"}


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ('<a href="b/">b</a> <a href="b/#part">part</a> <a href="#own">own</a>', ""),
        ('<a href="https://example.org/">out</a> <img src="a%20b.png">', ""),
        ('<a href="/b/">from the root</a>', ""),
        ('<a href="c/">c</a>', "index.html leads to c/, which is not there"),
        ('<a href="b/#gone">b</a>', "the page has no such part"),
        ('<img src="none.png">', "which is not there"),
        ('<script src="https://example.org/a.js"></script>', "loads https://example.org/a.js"),
    ],
)
def test_links_are_followed(check_links: ModuleType, tmp_path: Path, body: str, fault: str) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "index.html").write_text('<h1 id="part">b</h1>')
    (tmp_path / "a b.png").write_bytes(b"")
    (tmp_path / "index.html").write_text(f'<h1 id="own">a</h1>{body}')
    found = list(check_links.faults(tmp_path))
    assert len(found) == bool(fault)
    assert fault in "".join(found)


@pytest.fixture(scope="module")
def zensical(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tool, in an environment that was made from its lock."""
    folder = tmp_path_factory.mktemp("zensical")
    venv.create(folder, with_pip=True, symlinks=True)
    lock = ROOT / "requirements" / "docs.lock"
    install = ["install", "--quiet", "--no-deps", "--require-hashes", "-r", str(lock)]
    done = subprocess.run(
        [folder / "bin" / "python", "-m", "pip", "--disable-pip-version-check", *install],
        capture_output=True,
        text=True,
        timeout=240,
    )
    if done.returncode and any(words in done.stderr for words in UNREACHABLE):
        pytest.skip(f"pip cannot have the packages of {lock.name} here")
    assert done.returncode == 0, done.stderr
    return folder / "bin" / "zensical"


def build(zensical: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Build the site as `make site` does."""
    command = [zensical, "build", "--clean", "--strict"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.mark.long
@pytest.mark.slow
def test_the_site_is_built_and_its_links_lead_somewhere(
    check_links: ModuleType, zensical: Path, tmp_path: Path
) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "zensical.toml", tmp_path)
    done = build(zensical, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(check_links.faults(tmp_path / "site")) == []
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    built = {path.parent.name for path in (tmp_path / "site").glob("*/index.html")}
    assert built == pages
    assert not list((tmp_path / "site").glob("*.py"))
    assert 'href="../site.css"' in (tmp_path / "site/options/index.html").read_text()
    (tmp_path / "docs" / "faq.md").write_text("# Q\n\n[gone](nowhere.md) [part](tutorial.md#no)\n")
    broken = build(zensical, tmp_path)
    assert broken.returncode != 0, "a link that leads nowhere has to stop the build"


def test_makefile_builds_with_the_lock_and_this_check() -> None:
    recipe = (ROOT / "Makefile").read_text().partition("\nsite:")[2].partition("\n\n")[0]
    assert "requirements/docs.lock" in recipe
    assert "zensical build --clean --strict" in recipe
    assert "docs/check_links.py site" in recipe
