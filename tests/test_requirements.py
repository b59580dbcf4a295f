"""The lock files that `make` installs from fit pyproject.toml and name a digest for every file."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.kits.http.intake import HostileServer, answer

ROOT = Path(__file__).parents[1]
LOCKS = {path.name: path.read_text() for path in (ROOT / "requirements").glob("*.lock")}
ENTRY = re.compile(r"^([a-z0-9-]+)==([^\s;]+)", re.MULTILINE)


def project() -> dict:
    """pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def locked_versions(*names: str) -> dict[str, set[Version]]:
    """The versions of each package in the named lock files; several where markers choose."""
    versions: dict[str, set[Version]] = {}
    for name in names:
        for package, version in ENTRY.findall(LOCKS[name]):
            versions.setdefault(package, set()).add(Version(version))
    return versions


@pytest.mark.parametrize(
    ("group", "locks"),
    [
        ("runtime", ("base.lock", "cuda.lock")),
        ("gpu", ("cuda.lock",)),
        ("dev", ("base.lock", "dev.lock")),
        ("build", ("base.lock",)),
    ],
)
def test_each_requirement_is_locked_at_a_version_that_it_allows(
    group: str, locks: tuple[str, ...]
) -> None:
    told = project()["project"]
    requirements = {
        "runtime": told["dependencies"],
        "gpu": told["optional-dependencies"]["gpu"],
        "dev": told["optional-dependencies"]["dev"],
        "build": project()["build-system"]["requires"],
    }[group]
    locked = locked_versions(*locks)
    for requirement in map(Requirement, requirements):
        found = locked.get(canonicalize_name(requirement.name), set())
        assert found, f"{requirement} is in none of {locks}: run `make lock`"
        assert all(version in requirement.specifier for version in found), (requirement, found)


def test_every_entry_has_a_digest() -> None:
    names = {"base", "dev", "cpu", "cuda", "sbom", "docs"}
    assert set(LOCKS) == {f"{name}.lock" for name in names}
    for name, text in LOCKS.items():
        entries = re.split(r"^(?=[a-z])", text, flags=re.MULTILINE)[1:]
        assert entries, name
        bare = [
            entry for entry in entries if not re.search(r"--hash=sha256:[0-9a-f]{64}$", entry, re.M)
        ]
        assert not bare, (name, bare)


def test_both_builds_of_torch_are_of_the_pinned_version() -> None:
    [pinned] = [
        requirement
        for requirement in map(Requirement, project()["project"]["dependencies"])
        if requirement.name == "torch"
    ]
    [cuda], [cpu] = (locked_versions(name)["torch"] for name in ("cuda.lock", "cpu.lock"))
    assert str(pinned.specifier) == f"=={cuda}"
    assert cpu.local == "cpu"
    assert cpu.public == str(cuda)


def test_the_versions_of_prefect_that_are_tested_are_the_bounds_and_the_lock() -> None:
    tested = project()["tool"]["seedvr2"]["prefect-tested"]
    lowest, newest = map(Version, tested)
    [prefect] = [
        requirement
        for requirement in map(Requirement, project()["project"]["dependencies"])
        if requirement.name == "prefect"
    ]
    assert f">={lowest}" in str(prefect.specifier), "the lower bound is a version that was tested"
    assert locked_versions("base.lock")["prefect"] == {newest}
    untested = Version(f"{newest.major}.{newest.minor + 1}.0")
    assert untested not in prefect.specifier, "a minor release that nobody has tested is let in"


def test_what_builds_the_package_is_locked_as_pyproject_names_it() -> None:
    named = {Requirement(line).name for line in project()["build-system"]["requires"]}
    lines = (ROOT / "requirements/build.in").read_text().splitlines()
    built_with = {Requirement(line).name for line in lines if not line.startswith("#")}
    assert named <= built_with


@pytest.mark.parametrize(
    ("body", "words"),
    [
        pytest.param(None, "(ConnectError)", id="nobody"),
        pytest.param(answer(body=b'{"info": {}}'), "no list of vulnerabilities", id="a mirror"),
        pytest.param(answer("404 Not Found"), "(HTTP 404, and", id="an index"),
        pytest.param(answer(body=b'{"vulnerabilities": []}'), "", id="PyPI"),
    ],
)
def test_an_audit_that_can_ask_nobody_says_so_in_one_sentence(
    body: bytes | None, words: str
) -> None:
    server = HostileServer()
    try:
        address = server.play("/pypi/pip/json", body) if body else "http://127.0.0.1:9/pypi"
        done = subprocess.run(
            [sys.executable, ROOT / "requirements/reachable.py", address],
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        server.close()
    assert done.returncode == (1 if words else 0), done.stderr
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == (1 if words else 0)


def test_the_audit_looks_first_whether_it_can_ask() -> None:
    recipe = (ROOT / "Makefile").read_text().partition("\naudit:")[2].partition("\n\n")[0]
    assert recipe.index("requirements/reachable.py") < recipe.index("pip-audit")
