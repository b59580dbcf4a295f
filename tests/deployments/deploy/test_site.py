"""The site's file: what is read, what is refused, and what of it reaches a job."""

from pathlib import Path

import pytest

from deployments.deploy.site import (
    NOT_FOR_JOBS,
    OF_ONE_MACHINE,
    VARIABLES,
    Site,
    read_site,
    site_of_environment,
)
from seedvr2_core.errors import InvalidRequestError
from tasks.setting_groups.gateway import GatewaySettings
from tasks.settings import Settings

KEY = "0123456789abcdef-a-key"
REFERENCE = "{{ prefect.blocks.secret.our-own }}"
BUNNY = f"""
# where outputs go
SEEDVR2_STORAGE=bunny
BUNNY_STORAGE_ZONE=zone
BUNNY_BASE_URL=https://zone.b-cdn.net
BUNNY_STORAGE_KEY={REFERENCE}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "site.env"
    path.touch(mode=0o600)
    return path


def read(file: Path, text: str) -> Site:
    file.write_text(text)
    return read_site(file)


def test_the_whole_site_reaches_jobs_and_keys_only_as_references(file: Path) -> None:
    site = read(
        file,
        BUNNY
        + f"SEEDVR2_CALLBACK_SECRET='{KEY}$'\nSEEDVR2_FETCH_ALLOW=10.0.0.7, nas.example:8080\n"
        "SEEDVR2_KEEP_DAYS=30\nSEEDVR2_ALERT_URL=https://chat.example/hook\n",
    )
    assert site.for_jobs() == {
        "SEEDVR2_STORAGE": "bunny",
        "BUNNY_STORAGE_ZONE": "zone",
        "BUNNY_BASE_URL": "https://zone.b-cdn.net",
        "BUNNY_STORAGE_KEY": REFERENCE,
        "SEEDVR2_CALLBACK_SECRET": "{{ prefect.blocks.secret.seedvr2-callback-secret }}",
        "SEEDVR2_FETCH_ALLOW": "10.0.0.7, nas.example:8080",
        "SEEDVR2_KEEP_DAYS": "30",
    }
    assert site.whole
    settings = site.settings(Settings(keep_days=3, work_dir=Path("/srv")))
    assert (settings.keep_days, settings.work_dir) == (30, Path("/srv"))
    assert settings.fetch_allow == ("10.0.0.7", "nas.example:8080")
    assert settings.alert_url == "https://chat.example/hook"
    assert KEY not in repr(site)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "SEEDVR2_CRF=1\u2028SEEDVR2_ALLOWED_HOSTS=*",
            "line 1 has a character that cannot be seen",
        ),
        ("A=1\x0bSEEDVR2_ALLOWED_HOSTS=*", "line 1 has a character that cannot be seen"),
        ("\x85SEEDVR2_ALLOWED_HOSTS=*", "line 1 has a character that cannot be seen"),
        ("SEEDVR2_PUBLIC_URL=http://a.test/\u202e", "line 1 has a character that cannot be seen"),
        ("# C:\\\\\nSEEDVR2_STORAGE=local", "line 1 is a comment that ends with"),
        ("SEEDVR2_STORGE=bunny", "line 1: SEEDVR2_STORGE is no setting; is SEEDVR2_STORAGE meant"),
        ("\nTZ=UTC", "line 2: TZ is no setting"),
        ("SEEDVR2_STORAGE bunny", "line 1 is not of the form NAME=value"),
        ("SEEDVR2_WORK_DIR=/srv", "belongs to one machine"),
        ("SEEDVR2_DEVICE=cpu", "belongs to one machine"),
        ("SEEDVR2_KEEP_DAYS=soon", "SEEDVR2_KEEP_DAYS: Input should be a valid number"),
        ("SEEDVR2_CALLBACK_SECRET=short-key", "SEEDVR2_CALLBACK_SECRET: .*at least 16"),
        ("SEEDVR2_STORAGE=bunny", "BUNNY_STORAGE_ZONE"),
        ("SEEDVR2_DEPLOYMENTS=8k=upscale/h100", "known: "),
        ('BUNNY_ROOT_DIR="a b"', "single quotes"),
        ("BUNNY_ROOT_DIR=$HOME", "single quotes"),
        ("BUNNY_ROOT_DIR=a # b", "single quotes"),
        (f"BUNNY_ROOT_DIR={REFERENCE}", "only keys"),
        ("BUNNY_STORAGE_KEY={{ prefect.variables.key }}", "no reference to a key"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_shown(file: Path, text: str, told: str) -> None:
    with pytest.raises(InvalidRequestError, match=told) as refused:
        read(file, text)
    assert "short-key" not in str(refused.value)
    assert str(file) in str(refused.value)


def test_a_file_with_keys_is_for_its_owner_alone(file: Path) -> None:
    file.chmod(0o644)
    assert read(file, BUNNY).values
    with pytest.raises(InvalidRequestError, match=f"chmod 600 {file}"):
        read(file, f"SEEDVR2_CALLBACK_SECRET={KEY}")
    file.chmod(0o600)
    assert read(file, f"SEEDVR2_CALLBACK_SECRET={KEY}").values


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match=f"{tmp_path}/no.env cannot be read"):
        read_site(tmp_path / "no.env")


def test_the_environment_can_be_the_site(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEEDVR2_WORK_DIR", "/var/lib/seedvr2/work")  # the image's own
    monkeypatch.setenv("SEEDVR2_GATEWAY_TOKENS", "0" * 64)
    monkeypatch.setenv("SEEDVR2_PUBLIC_URL", "")
    monkeypatch.setenv("SEEDVR2_KEEP_DAYS", "9")
    monkeypatch.delenv("SEEDVR2_REPORT")  # which the tests have set
    site = site_of_environment(whole=True)
    assert site.for_jobs() == {"SEEDVR2_KEEP_DAYS": "9"}


def test_jobs_that_log_as_json_do_so_from_their_first_line() -> None:
    site = Site(values={"SEEDVR2_LOG_FORMAT": "json"})
    assert site.for_jobs() == {
        "SEEDVR2_LOG_FORMAT": "json",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_CLASS": "tasks.json_logs.JsonConsole",
    }
    assert Site(values={"SEEDVR2_LOG_FORMAT": "text"}).for_jobs() == {"SEEDVR2_LOG_FORMAT": "text"}


def test_no_job_gets_what_belongs_to_the_gateway() -> None:
    """Whatever is added to the gateway's settings stays away from jobs by itself."""
    values = {
        name: "1" for name, setting in VARIABLES.items() if setting in GatewaySettings.model_fields
    }
    assert {"SEEDVR2_GATEWAY_OPERATOR_TOKENS", "SEEDVR2_ALLOWED_HOSTS"} < set(values)
    assert "SEEDVR2_GATEWAY_QUOTA_BYTES" in values
    assert Site(values=values).for_jobs() == {}


def test_every_setting_has_its_place() -> None:
    assert set(VARIABLES.values()) == set(Settings.model_fields)
    assert set(Settings.model_fields) > OF_ONE_MACHINE | NOT_FOR_JOBS
    assert VARIABLES["BUNNY_STORAGE_KEY"] == VARIABLES["SEEDVR2_BUNNY_STORAGE_KEY"]
