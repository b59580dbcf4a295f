"""The zone that settings describe, and signed addresses."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from seedvr2_core.errors import StorageRefusedError
from tasks.settings import Settings
from tasks.storage.bunny_zone import read_zone, signed
from tests.kits.http.edge import KEY


def bunny_settings(**fields: Any) -> Settings:
    defaults = {
        "storage": "bunny",
        "bunny_storage_zone": "films",
        "bunny_storage_key": SecretStr(KEY),
        "bunny_base_url": "https://films.b-cdn.net",
    }
    return Settings(**{**defaults, **fields})


@pytest.mark.parametrize(
    ("fields", "storage_url"),
    [
        ({}, "https://storage.bunnycdn.com"),
        ({"bunny_region": "ny"}, "https://ny.storage.bunnycdn.com"),
        ({"bunny_region": "syd"}, "https://syd.storage.bunnycdn.com"),
        ({"bunny_host": "la.storage.bunnycdn.com"}, "https://la.storage.bunnycdn.com"),
        ({"bunny_host": "https://la.storage.bunnycdn.com/"}, "https://la.storage.bunnycdn.com"),
        ({"bunny_host": "http://edge:9000", "bunny_region": "ny"}, "http://edge:9000"),
    ],
)
def test_where_the_storage_is(fields: dict[str, Any], storage_url: str) -> None:
    assert read_zone(bunny_settings(**fields)).storage_url == storage_url


@pytest.mark.parametrize(
    ("base", "folder", "link"),
    [
        ("https://films.b-cdn.net", "", "https://films.b-cdn.net/a.mp4"),
        ("films.b-cdn.net/", "/restored/hd/", "https://films.b-cdn.net/restored/hd/a.mp4"),
        ("https://cdn.example/x", "mein Film", "https://cdn.example/x/mein%20Film/a.mp4"),
    ],
)
def test_links(base: str, folder: str, link: str) -> None:
    zone = read_zone(bunny_settings(bunny_base_url=base, bunny_root_dir=folder))
    assert zone.link("a.mp4") == link


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"bunny_storage_zone": None}, "needs BUNNY_STORAGE_ZONE"),
        ({"bunny_storage_key": None}, "needs BUNNY_STORAGE_KEY"),
        ({"bunny_storage_key": SecretStr("")}, "needs BUNNY_STORAGE_KEY"),
        ({"bunny_base_url": ""}, "needs BUNNY_BASE_URL"),
        ({"bunny_storage_key": SecretStr("s3cret key")}, "BUNNY_STORAGE_KEY holds spaces"),
        ({"bunny_storage_key": SecretStr("s3cret\r\nx")}, "BUNNY_STORAGE_KEY holds spaces"),
        ({"bunny_token_key": SecretStr("s3crét")}, "SEEDVR2_BUNNY_TOKEN_KEY holds"),
        ({"bunny_host": "ftp://host"}, "BUNNY_HOST is no address"),
        ({"bunny_host": "https://s3cret@host"}, "BUNNY_HOST is no address"),
        ({"bunny_base_url": "https://host/?s3cret=1"}, "BUNNY_BASE_URL is no address"),
        ({"bunny_base_url": "ny.storage.bunnycdn.com/z"}, "a storage host"),
        ({"bunny_root_dir": "a/../b"}, "BUNNY_ROOT_DIR is 'a/../b'"),
        ({"bunny_root_dir": "a//b"}, "BUNNY_ROOT_DIR"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_settings_that_cannot_be(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(StorageRefusedError, match=told) as caught:
        read_zone(bunny_settings(**fields))
    assert "s3cret" not in str(caught.value)
    assert caught.value.permanent


OLD_NAMES = {
    "BUNNY_STORAGE_ZONE": "films",
    "BUNNY_STORAGE_KEY": KEY,
    "BUNNY_BASE_URL": "https://films.b-cdn.net",
    "BUNNY_ROOT_DIR": "restored",
    "BUNNY_HOST": "la.storage.bunnycdn.com",
}


@pytest.mark.parametrize("prefix", ["", "SEEDVR2_"], ids=["old-names", "own-names"])
def test_settings_from_the_environment(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in OLD_NAMES.items():
        monkeypatch.setenv(prefix + name, value)
    monkeypatch.setenv("SEEDVR2_STORAGE", "bunny")
    zone = read_zone(Settings())
    assert zone.link("a.mp4") == "https://films.b-cdn.net/restored/a.mp4"
    assert zone.storage_url == "https://la.storage.bunnycdn.com"
    assert (zone.name, zone.key) == ("films", SecretStr(KEY))
    assert KEY not in repr(Settings())


def test_secrets_from_mounted_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounted = tmp_path / "secrets"
    mounted.mkdir()
    (mounted / "bunny_storage_key").write_text(f"{KEY}\n")
    (mounted / "SEEDVR2_BUNNY_TOKEN_KEY").write_text("token-key")
    monkeypatch.setenv("SEEDVR2_SECRETS_DIR", str(mounted))
    zone = read_zone(
        Settings(storage="bunny", bunny_storage_zone="z", bunny_base_url="cdn.example")
    )
    assert (zone.key, zone.token_key) == (SecretStr(KEY), SecretStr("token-key"))
    monkeypatch.setenv("BUNNY_STORAGE_KEY", "from-the-environment")
    assert Settings().bunny_storage_key == SecretStr("from-the-environment")
    monkeypatch.setenv("SEEDVR2_SECRETS_DIR", str(tmp_path / "missing"))
    with pytest.raises(ValidationError, match="secrets_dir"):
        Settings()


# --- signed addresses -----------------------------------------------------------------------------


def test_tokens_are_bunnys() -> None:
    """The vector "plain" of Bunny's own token repository (e2e/vectors.json)."""
    assert (
        signed(
            "https://token-tester.b-cdn.net/300kb.jpg", SecretStr("SecurityKey"), expires=1598024587
        )
        == "https://token-tester.b-cdn.net/300kb.jpg"
        "?token=HS256-o10JRWlsAItyAsdKS6jJKjabHN4FrFsplDHPV1idcX4&expires=1598024587"
    )
