"""Which storage the settings name, and the check of it before a job."""

import logging
from pathlib import Path

import pytest
from pydantic import SecretStr

from seedvr2_core.errors import StorageRefusedError
from tasks.settings import Settings
from tasks.storage.bunny import BunnyStorage
from tasks.storage.open import check_storage, open_storage
from tests.kits.http.edge import faulty_edge


def _file(folder: Path, content: bytes, name: str = "made.mp4") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def test_settings_name_the_folder(settings_with, tmp_path: Path) -> None:
    for settings, folder in (
        (settings_with(), tmp_path / "work" / "output"),
        (settings_with(output_dir=tmp_path / "elsewhere"), tmp_path / "elsewhere"),
    ):
        stored = open_storage(settings).put(_file(tmp_path, b"video"), "a.mp4")
        assert stored.path == folder / "a.mp4"


def test_files_have_links_where_somebody_serves_the_folder(tmp_path: Path) -> None:
    settings = Settings(output_dir=tmp_path / "out", public_url="https://cdn.example/v/")
    storage = open_storage(settings)
    stored = storage.put(_file(tmp_path, b"video"), "my clip #1.mp4")
    assert stored.url == "https://cdn.example/v/my%20clip%20%231.mp4"
    assert storage.stat("my clip #1.mp4") == stored
    with pytest.raises(ValueError, match="public_url"):
        Settings(public_url="cdn.example")


def test_the_door_looks_at_what_the_end_needs(
    tmp_path: Path, settings_with, caplog: pytest.LogCaptureFixture
) -> None:
    check_storage(settings_with())
    with faulty_edge(tmp_path / "edge") as edge:
        assert isinstance(open_storage(edge.settings(tmp_path)), BunnyStorage)
        check_storage(edge.settings(tmp_path))
        with pytest.raises(StorageRefusedError, match="needs BUNNY_STORAGE_ZONE"):
            check_storage(edge.settings(tmp_path, bunny_storage_zone=None))
        with pytest.raises(StorageRefusedError, match="must be the password"):
            check_storage(edge.settings(tmp_path, bunny_storage_key=SecretStr("another")))
        edge.switch(refusals=[500])
        with caplog.at_level(logging.WARNING):
            check_storage(edge.settings(tmp_path))
        assert "the job begins all the same" in caplog.text
        assert edge.app.received() == 0
