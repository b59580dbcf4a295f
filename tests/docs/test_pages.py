"""What the pages name exists: files, modules, links, headings, targets, variables."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ROOMS = (
    *("flows", "tasks", "seedvr2_core", "deployments", "seedvr2"),
    *("benchmarks", "tests", "docs"),
)
README_LINES = 120
COLUMNS = 100

every_page = pytest.mark.parametrize("page", PAGES, ids=[p.name for p in PAGES])
MADE_BY_THE_READER = ("deployments/.env", "deployments/site.env")


def code_of(text: str) -> str:
    """Fenced blocks and what stands between backticks, one a line."""
    fenced = re.findall(r"^```.*?\n(.*?)^```", text, re.S | re.M)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M))
    return "\n".join([*fenced, *inline])


def prose_lines(text: str) -> Iterator[str]:
    """Lines that are wrapped: no table, no code block, no link that cannot be broken."""
    fenced = False
    for line in text.splitlines():
        fenced ^= line.startswith("```")
        if not (fenced or line.startswith(("```", "|", "<!--", "!["))):
            yield re.sub(r"\]\([^)]*\)", "]", line)


def slug(heading: str) -> str:
    """The anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def is_module(dotted: str) -> bool:
    """Whether a module, a package, or a name in a module is called so."""
    *parents, last = dotted.split(".")
    path = ROOT.joinpath(*parents, last)
    if path.is_dir() or path.with_suffix(".py").is_file():
        return True
    files = [ROOT.joinpath(*parents).with_suffix(".py"), ROOT.joinpath(*parents, "__init__.py")]
    named = re.compile(rf"\b{re.escape(last)}\b")
    return any(file.is_file() and named.search(file.read_text()) for file in files)


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_LINES


def test_readme_names_the_commands_that_ci_runs() -> None:
    commands = re.findall(r"^make \S+", (ROOT / ".ci" / "run").read_text(), re.M)
    assert commands
    readme = (ROOT / "README.md").read_text()
    assert not [command for command in [*commands, "make demo"] if command not in readme]


@every_page
def test_prose_is_wrapped(page: Path) -> None:
    assert not [line for line in prose_lines(page.read_text()) if len(line) > COLUMNS]


@every_page
def test_paths_exist(page: Path) -> None:
    named = re.findall(r"(?<![\w./<-])((?:[\w.-]+/)+[\w.-]*)(::\w+)?", page.read_text())
    missing = []
    for path, test in named:
        path = path.rstrip(".")
        if path.split("/")[0] not in ROOMS and not path.endswith(".py"):
            continue
        target = ROOT / path
        if path in MADE_BY_THE_READER:
            continue
        if not target.exists() or (test and f"def {test[2:]}(" not in target.read_text()):
            missing.append(path + test)
    assert not missing


@every_page
def test_file_names_exist(page: Path) -> None:
    """A file that is named without its folder is somewhere in the project."""
    names = {path.name for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    named = set(re.findall(r"(?<![\w/.*])(\w+\.py)\b", page.read_text()))
    assert not named - names


@every_page
def test_modules_exist(page: Path) -> None:
    text = page.read_text()
    run = re.findall(r"python3? -m ([\w.]+)", text)
    foreign = [name for name in run if name.split(".")[0] not in ROOMS]
    assert not [name for name in foreign if importlib.util.find_spec(name) is None]
    for name in set(run) - set(foreign):
        folder = ROOT.joinpath(*name.split("."))
        assert folder.with_suffix(".py").is_file() or (folder / "__main__.py").is_file(), name
    dotted = re.findall(rf"(?<![\w./-])((?:{'|'.join(ROOMS)})(?:\.[a-zA-Z_]\w*)+)", text)
    ours = [name for name in dotted if not name.endswith((".py", ".md"))]
    assert not [name for name in ours if not is_module(name)]


@every_page
def test_relative_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        headings = re.findall(r"^#+ (.+)$", target.read_text(), re.M) if anchor else []
        if not target.exists() or (anchor and anchor not in map(slug, headings)):
            broken.append(link)
    assert not broken


@every_page
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"^(?:.*&& )?make ([a-z][a-z-]*)", code_of(page.read_text()), re.M))
    assert not named - targets


@every_page
def test_variables_exist(page: Path) -> None:
    known = (ROOT / "docs" / "settings.md").read_text()
    named = set(re.findall(r"\bSEEDVR2_[A-Z0-9_]*[A-Z0-9]\b", page.read_text()))
    assert not [name for name in named if f"`{name}`" not in known]
