"""The services whose objects we use: S3 and what speaks its protocol, Google's, Azure's.

Only S3 is asked to compare a checksum of each piece with what arrived. The others give a client of
theirs no such means through obstore, so what was written there is read back (`Bucket.digest`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from seedvr2_core.errors import StorageRefusedError
from tasks.settings import Settings

if TYPE_CHECKING:
    from obstore.store import ObjectStore

PIECE_SECONDS = 120.0
"""Longest time of a request that carries a piece of a file: a line of 70 kB/s is fast enough."""
SMALL_SECONDS = 20.0
"""The same where nothing large is carried. A connection that is cut gives no sign of it, and TCP
tries ever more seldom: cut for a minute, it may be silent for two, longer than a lease lasts."""
CONNECT_SECONDS = 10.0
_RETRIES = 3
_RETRY_SECONDS = 20.0
"""Busy servers (5xx) and broken connections are asked again within one call; all other waiting is
the caller's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What differs between the services."""

    settings: str
    """How the names of its settings begin."""
    compares: bool
    """Whether it compares the checksum of each piece with what arrived."""
    versions: bool
    """Whether a conditional write names a version of the object, and not its entity tag."""
    config: Callable[[Settings], dict[str, Any]]
    """What obstore is told; it looks for what is missing in the service's own variables."""


def _s3(settings: Settings) -> dict[str, Any]:
    if (settings.s3_access_key_id is None) != (settings.s3_secret_access_key is None):
        raise StorageRefusedError(
            "SEEDVR2_S3_ACCESS_KEY_ID and SEEDVR2_S3_SECRET_ACCESS_KEY belong together; set both "
            "or none"
        )
    config: dict[str, Any] = {"region": settings.s3_region, "checksum_algorithm": "SHA256"}
    if settings.s3_access_key_id and settings.s3_secret_access_key:
        config["access_key_id"] = settings.s3_access_key_id
        config["secret_access_key"] = settings.s3_secret_access_key.get_secret_value()
    if settings.s3_endpoint:
        endpoint = settings.s3_endpoint.rstrip("/")
        config |= {"endpoint": endpoint, "virtual_hosted_style_request": False}
    return config


def _gcs(settings: Settings) -> dict[str, Any]:
    key = settings.gcs_key
    return {"service_account_key": key.get_secret_value()} if key else {}


def _azure(settings: Settings) -> dict[str, Any]:
    if settings.azure_account is None:
        raise StorageRefusedError(
            "SEEDVR2_AZURE_ACCOUNT is not set; az:// needs the name of the storage account"
        )
    config: dict[str, Any] = {"account_name": settings.azure_account}
    if settings.azure_key:
        config["account_key"] = settings.azure_key.get_secret_value()
    if settings.azure_endpoint:
        config["endpoint"] = settings.azure_endpoint.rstrip("/")
    return config


_SERVICES = {
    "s3": Service(settings="SEEDVR2_S3_", compares=True, versions=False, config=_s3),
    "gs": Service(settings="SEEDVR2_GCS_", compares=False, versions=True, config=_gcs),
    "az": Service(settings="SEEDVR2_AZURE_", compares=False, versions=False, config=_azure),
}


def service_of(address: str) -> Service:
    """The service that an address of the settings leads to, by its scheme."""
    return _SERVICES[address.partition("://")[0]]


def open_store(address: str, settings: Settings, *, request_seconds: float) -> "ObjectStore":
    """obstore's object for an address; it opens no connection.

    Args:
        address: s3://BUCKET/FOLDER, gs://BUCKET/FOLDER or az://CONTAINER/FOLDER.
        settings: how the service is reached.
        request_seconds: longest time of one request.

    Raises:
        StorageRefusedError: a setting is missing or wrong.
    """
    from obstore.exceptions import BaseError
    from obstore.store import from_url

    service = service_of(address)
    try:
        return from_url(
            address,
            config=service.config(settings),  # type: ignore[arg-type]
            client_options={
                "timeout": timedelta(seconds=request_seconds),
                "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
                "allow_http": _is_plain(settings, address),
            },
            retry_config={
                "max_retries": _RETRIES,
                "retry_timeout": timedelta(seconds=_RETRY_SECONDS),
            },
        )
    except (BaseError, ValueError) as error:
        raise StorageRefusedError(
            f"{address} cannot be opened: {first_line(error)}; check the {service.settings} "
            "settings"
        ) from None


def _is_plain(settings: Settings, address: str) -> bool:
    """Whether the operator has named an address without TLS for the service."""
    if address.startswith("gs://"):
        key = settings.gcs_key  # an emulator's address stands in its key file
        return key is not None and '"http://' in key.get_secret_value()
    endpoint = settings.s3_endpoint if address.startswith("s3://") else settings.azure_endpoint
    return bool(endpoint and endpoint.startswith("http://"))


def first_line(error: BaseException) -> str:
    """What an error says, without the server's whole answer."""
    return str(error).partition("\n")[0][:300]
