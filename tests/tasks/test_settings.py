"""What the environment becomes: folders, and what children are given of it."""

from pathlib import Path

import pytest

from tasks.settings import Settings, child_environment


def test_every_folder_of_the_work_directory_is_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for work_dir in (Path("work"), tmp_path / "work"):
        settings = Settings(work_dir=work_dir)
        assert {
            folder.relative_to(tmp_path / "work").as_posix()
            for folder in (
                *(settings.intake_dir, settings.sources_dir, settings.probes_dir),
                *(settings.jobs_dir, settings.locks_dir, settings.job_dir("ab")),
            )
        } == {"intake", "sources", "probes", "jobs", "locks", "jobs/ab"}


def test_every_setting_is_described() -> None:
    """docs/settings.md is made from these."""
    assert [n for n, field in Settings.model_fields.items() if not field.description] == []


def test_children_that_read_strangers_videos_get_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = (
        *("BUNNY_STORAGE_KEY", "SEEDVR2_BUNNY_STORAGE_KEY", "SEEDVR2_BUNNY_TOKEN_KEY"),
        *("SEEDVR2_EDGE_KEY", "SEEDVR2_GATEWAY_TOKEN", "SEEDVR2_CALLBACK_SECRET"),
        *("PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_KEY"),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL",
    )
    for name in secret:
        monkeypatch.setenv(name, "zone-password-0123456789")
    monkeypatch.setenv("SEEDVR2_BUNNY_REGION", "ny")
    given = child_environment()
    assert not set(secret) & set(given)
    assert given["SEEDVR2_BUNNY_REGION"] == "ny"
    assert given["PATH"]
