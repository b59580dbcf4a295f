"""What the environment becomes: folders, and that all of it is described."""

from pathlib import Path

import pytest
from pydantic import AliasChoices

from tasks.settings import Settings


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
                settings.rates_dir,
            )
        } == {"intake", "sources", "probes", "jobs", "locks", "jobs/ab", "rates"}


def test_every_setting_is_described() -> None:
    """docs/settings.md is made from these."""
    assert [n for n, field in Settings.model_fields.items() if not field.description] == []


def test_an_empty_variable_counts_as_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as `SEEDVR2_WORK_DIR=$FOLDER` gives where FOLDER is not set: not the current folder."""
    for name, field in Settings.model_fields.items():
        monkeypatch.setenv(f"SEEDVR2_{name.upper()}", "")
        if isinstance(field.validation_alias, AliasChoices):
            monkeypatch.setenv(str(field.validation_alias.choices[-1]), "")
    empty = Settings()
    usual = {
        name: field.get_default(call_default_factory=True)
        for name, field in Settings.model_fields.items()
    }
    assert {name: getattr(empty, name) for name in usual} == usual
