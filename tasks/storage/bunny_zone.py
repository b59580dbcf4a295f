"""A Bunny storage zone and its pull zone as the settings describe them, and public addresses.

Settings that are missing or wrong are refused here, before anything is sent, by messages that show
no secret.
"""

import base64
import hashlib
import hmac
import time
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote, urlsplit

from pydantic import SecretStr

from seedvr2_core.errors import StorageRefusedError
from tasks.settings import Settings

_STORAGE_HOST = "storage.bunnycdn.com"
_REGION_HOSTS = {
    "de": _STORAGE_HOST,
    **{r: f"{r}.{_STORAGE_HOST}" for r in ("uk", "ny", "la", "sg", "se", "br", "jh", "syd")},
}

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class BunnyZone:
    """A storage zone, the pull zone that serves it to the public, and the keys of both."""

    name: str
    storage_url: str
    """Base address of the storage API, without the zone's name."""
    public_url: str
    """Base address of the pull zone."""
    folder: str
    """Folder in the zone, without slashes around it; "" is the top of the zone."""
    key: SecretStr
    """Password of the storage zone."""
    token_key: SecretStr | None = None
    """Key that public addresses are signed with; None if they are not signed."""
    token_seconds: float = 7 * 86400.0
    """How long a signed address works."""

    def path(self, name: str) -> str:
        """Path of a stored file in the zone, percent-encoded, with a slash in front."""
        return "/" + quote(f"{self.folder}/{name}" if self.folder else name)

    def link(self, name: str) -> str:
        """Public address of a stored file; signed from now on if there is a token key."""
        url = f"{self.public_url}{self.path(name)}"
        if self.token_key is None:
            return url
        return signed(url, self.token_key, expires=int(time.time() + self.token_seconds))


def read_zone(settings: Settings) -> BunnyZone:
    """The zone that the settings describe.

    Raises:
        StorageRefusedError: a setting is missing or wrong; secrets are not shown.
    """
    host = settings.bunny_host or _REGION_HOSTS[settings.bunny_region]
    token_key = settings.bunny_token_key or None
    return BunnyZone(
        name=_needed("BUNNY_STORAGE_ZONE", settings.bunny_storage_zone),
        storage_url=_base_url("BUNNY_HOST", host),
        public_url=_public_url(_needed("BUNNY_BASE_URL", settings.bunny_base_url)),
        folder=_folder(settings.bunny_root_dir),
        key=_secret("BUNNY_STORAGE_KEY", _needed("BUNNY_STORAGE_KEY", settings.bunny_storage_key)),
        token_key=token_key and _secret("SEEDVR2_BUNNY_TOKEN_KEY", token_key),
        token_seconds=settings.bunny_token_seconds,
    )


def signed(url: str, key: SecretStr, *, expires: int) -> str:
    """Sign an address with Bunny's HS256 token scheme.

    Args:
        url: without a query.
        key: token authentication key of the pull zone.
        expires: Unix time, in seconds, until which the address works.
    """
    message = f"{urlsplit(url).path}{expires}".encode()
    digest = hmac.digest(key.get_secret_value().encode(), message, hashlib.sha256)
    token = base64.urlsafe_b64encode(digest).decode().rstrip("=")
    return f"{url}?token=HS256-{token}&expires={expires}"


def _needed(variable: str, value: _T | None) -> _T:
    """The value of a setting that the storage cannot do without."""
    if not value:
        raise StorageRefusedError(
            f"SEEDVR2_STORAGE=bunny needs {variable}, which is not set; put it into the "
            "environment, or as a file of that name into SEEDVR2_SECRETS_DIR"
        )
    return value


def _secret(variable: str, value: SecretStr) -> SecretStr:
    """A key, refused if it cannot be sent in a header."""
    if not _is_plain(value.get_secret_value()):
        raise StorageRefusedError(
            f"{variable} holds spaces, control or non-ASCII characters (not shown); copy it again"
        )
    return value


def _public_url(value: str) -> str:
    """Address of the pull zone; a storage host in its place is refused."""
    url = _base_url("BUNNY_BASE_URL", value)
    if (urlsplit(url).hostname or "").endswith(_STORAGE_HOST):
        raise StorageRefusedError(
            f"BUNNY_BASE_URL is {url}, a storage host, which asks everybody for the key; "
            "expected the pull zone's address, https://NAME.b-cdn.net"
        )
    return url


def _base_url(variable: str, value: str) -> str:
    """Turn a host or a base address into a base address without a slash at its end."""
    url = value.strip().rstrip("/")
    url = url if "://" in url else f"https://{url}"
    try:
        parts = urlsplit(url)
        good = parts.port != 0 and parts.scheme in ("http", "https") and parts.hostname
    except ValueError:
        good = False
    if not good or "@" in url or "?" in url or "#" in url or not _is_plain(url):
        raise StorageRefusedError(
            f"{variable} is no address (not shown: it may hold a secret); expected a host or "
            "https://host, without user, query and spaces"
        )
    return url


def _folder(value: str) -> str:
    """The folder in the zone, without slashes around it."""
    folder = value.strip().strip("/")
    if folder and any(
        not part.isprintable() or part.strip() in ("", ".", "..") or "\\" in part
        for part in folder.split("/")
    ):
        raise StorageRefusedError(
            f"BUNNY_ROOT_DIR is {folder[:80]!r}; expected folder names with single slashes between"
        )
    return folder


def _is_plain(text: str) -> bool:
    """Whether the text can stand in a header or an address without encoding."""
    return text.isascii() and text.isprintable() and " " not in text
