"""The file of `seedvr2 init` goes where every file of a command goes, by one rule."""

import os
import stat
from pathlib import Path

import pytest

from deployments.cli.init.settings_file import settings_file, write_settings
from seedvr2_core.errors import InvalidRequestError

VALUES = {"SEEDVR2_STORAGE": "local"}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("taken.env", "exists already; choose another name, or let it be replaced"),
        ("folder", "is a folder"),
        ("pipe", "is a device or a pipe"),
        ("none/site.env", "in a folder that exists"),
        ("taken.env/site.env", "Not a directory"),
    ],
)
def test_a_name_that_cannot_be_is_refused_before_anybody_is_asked(
    tmp_path: Path, name: str, told: str
) -> None:
    (tmp_path / "taken.env").write_text("mine")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(InvalidRequestError, match=told):
        settings_file(tmp_path / name, overwrite=False)
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("name", ["site.env", "site.ENV", "site"])
def test_any_ending_is_taken(tmp_path: Path, name: str) -> None:
    assert settings_file(tmp_path / name, overwrite=False) == tmp_path / name


@pytest.mark.parametrize("is_there", [False, True], ids=["leads nowhere yet", "leads to a file"])
def test_a_link_stays_and_its_file_is_written(tmp_path: Path, is_there: bool) -> None:
    """Who keeps settings elsewhere and links to them finds them there."""
    (tmp_path / "kept").mkdir()
    kept, link = tmp_path / "kept" / "site.env", tmp_path / "site.env"
    if is_there:
        kept.write_text("old")
    link.symlink_to(kept)
    file = settings_file(link, overwrite=is_there)
    write_settings(file, VALUES, overwrite=is_there)
    assert link.is_symlink()
    assert kept.read_text().endswith("SEEDVR2_STORAGE=local\n")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert sorted(os.listdir(kept.parent)) == ["site.env"]
