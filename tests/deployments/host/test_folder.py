"""Prefect is used outside of the caller's folder, and everything is where it was afterwards."""

import os
from pathlib import Path

import pytest

from deployments.host.folder import outside_the_folder


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
