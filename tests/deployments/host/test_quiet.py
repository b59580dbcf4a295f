"""Prefect is quiet unless the user wants otherwise, and is used outside of the caller's folder."""

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.host.quiet import keep_prefect_quiet, outside_the_folder
from tests.kits.processes import ROOT

CLIENT, SERVER = "DO_NOT_TRACK", "PREFECT_SERVER_ANALYTICS_ENABLED"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (CLIENT, SERVER, "PREFECT_PROFILE", "PREFECT_PROFILES_PATH"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(name, "to be put back")
        monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))


def chosen() -> tuple[str | None, str | None]:
    keep_prefect_quiet()
    return os.environ.get(CLIENT), os.environ.get(SERVER)


def test_it_is_off_by_default() -> None:
    assert chosen() == ("1", "false")


@pytest.mark.parametrize(
    ("given", "result"),
    [
        ({SERVER: "true"}, (None, "true")),
        ({SERVER: "0"}, ("1", "0")),
        ({CLIENT: "0"}, ("0", "false")),
    ],
    ids=["on", "off", "client on"],
)
def test_what_is_set_stays(
    given: dict[str, str], result: tuple[str | None, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert chosen() == result


@pytest.mark.parametrize(
    ("profiles", "result"),
    [
        (f'active = "mine"\n[profiles.mine]\n{SERVER} = "true"\n', (None, None)),
        (f'active = "other"\n[profiles.mine]\n{SERVER} = "true"\n', ("1", "false")),
        ("active = [this is no TOML", ("1", "false")),
    ],
    ids=["on in the profile", "on in another", "unreadable"],
)
def test_the_active_profile_counts(
    profiles: str, result: tuple[str | None, str | None], tmp_path: Path
) -> None:
    (tmp_path / "profiles.toml").write_text(profiles)
    assert chosen() == result


def lines_on_a_terminal(code: str, tmp_path: Path) -> list[str]:
    """What a new user's Python prints on a terminal."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in (CLIENT, SERVER) and not name.startswith("CI")
    }
    environment["PREFECT_HOME"] = str(tmp_path / "new")
    main, other = pty.openpty()
    subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=ROOT,
        stdin=other,
        stdout=other,
        stderr=other,
        timeout=120,
        check=True,
    )
    os.close(other)
    return [line for line in _read(main).decode().splitlines() if line.strip()]


def _read(terminal: int) -> bytes:
    return b"".join(_blocks(terminal))


def _blocks(terminal: int) -> Iterator[bytes]:
    try:
        while block := os.read(terminal, 65536):
            yield block
    except OSError:  # the other end is closed
        pass
    os.close(terminal)


@pytest.mark.slow
def test_the_first_line_on_the_screen_is_ours(tmp_path: Path) -> None:
    """Prefect prints a notice when it is imported on a terminal for the first time."""
    code = "import deployments; print('ours'); import prefect"
    assert lines_on_a_terminal(code, tmp_path) == ["ours"]


def test_the_folder_is_left_and_come_back_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with outside_the_folder():
        assert Path.cwd() == Path("/")
    assert Path.cwd() == tmp_path


@pytest.mark.parametrize(
    ("given", "meant"),
    [("home", "{}/home"), ("../home", "{}/../home"), ("/home", "/home"), ("~/home", "{home}/home")],
)
def test_paths_of_the_environment_mean_what_they_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, meant: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_HOME", given)
    monkeypatch.delenv("PREFECT_PROFILES_PATH", raising=False)
    with outside_the_folder():
        assert os.environ["PREFECT_HOME"] == meant.format(tmp_path, home=Path.home())
        assert "PREFECT_PROFILES_PATH" not in os.environ


def test_a_folder_that_was_removed_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "gone"
    folder.mkdir()
    os.chdir(folder)
    folder.rmdir()
    with outside_the_folder():
        assert Path.cwd() == Path("/")
    assert Path.cwd() == Path("/")
