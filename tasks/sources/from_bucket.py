"""Videos that lie in a bucket, read with the installation's own key: s3://, gs://, az://.

The key may be able to read more than a caller should see, also the work of others. So only what
lies below the addresses of SEEDVR2_S3_SOURCES, SEEDVR2_GCS_SOURCES and SEEDVR2_AZURE_SOURCES is
read.
"""

import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

from seedvr2_core.errors import (
    InvalidVideoError,
    SourceRefusedError,
    SourceUnavailableError,
    StorageError,
    StorageRefusedError,
)
from seedvr2_core.files.reading import OnBytes, no_bytes
from tasks.net.bucket import Bucket, Described
from tasks.net.bucket_services import service_of
from tasks.net.untrusted import shown_url
from tasks.schemas import FetchedSource
from tasks.setting_groups.store import one_scheme
from tasks.settings import Settings
from tasks.sources.download import disk_errors
from tasks.sources.names import printable


def allowed_place(url: str, settings: Settings) -> tuple[str, str]:
    """The allowed address below which an object lies, and its name from there. Asks nobody.

    Raises:
        SourceRefusedError: it lies elsewhere.
    """
    address = one_scheme(url)
    scheme, _, rest = address.partition("://")
    plain = all(part not in ("", ".", "..") for part in rest.split("/"))
    for place in settings.bucket_sources if plain and url.isprintable() else ():
        if address.startswith(f"{place}/"):
            return place, address.removeprefix(f"{place}/")
    places = [place for place in settings.bucket_sources if place.startswith(f"{scheme}://")]
    raise SourceRefusedError(
        f"{shown_url(url)} is not read here; videos may lie below "
        f"{' or '.join(places) or 'no bucket'} ({service_of(address).settings}SOURCES)"
    )


def check_object(url: str, settings: Settings) -> None:
    """Ask the store whether a video may be had; raises as `take_object` does."""
    place, name = allowed_place(url, settings)
    _describe(Bucket(place, settings), name, settings)


def take_object(
    url: str,
    settings: Settings,
    *,
    note: Callable[[str], None],
    on_bytes: OnBytes = no_bytes,
) -> FetchedSource:
    """Bring an object in, whole.

    Args:
        url: s3://BUCKET/KEY, gs://BUCKET/KEY, az://CONTAINER/KEY or azure://CONTAINER/KEY.
        settings: what may be read, and the limits.
        note: takes lines for the log.
        on_bytes: called with the bytes read and the bytes in all.

    Raises:
        SourceRefusedError: there is no such object, it may not be read, or it is too large.
        SourceUnavailableError: the store does not answer, or takes longer than the limit.
        InvalidVideoError: it is empty.
        ResourceError: the disk is full.
    """
    place, name = allowed_place(url, settings)
    bucket = Bucket(place, settings)
    total = _describe(bucket, name, settings).num_bytes
    note(f"reading {shown_url(url)}, {total} bytes")
    until = time.monotonic() + settings.fetch_seconds

    def in_time(num_bytes: int, total: int) -> None:
        on_bytes(num_bytes, total)
        if time.monotonic() > until:
            raise SourceUnavailableError(
                f"{shown_url(url)} came with {num_bytes} of {total} bytes in "
                f"{settings.fetch_seconds:g} s"
            )

    part = settings.intake_dir / f".bucket-{uuid4().hex}.part"
    try:
        with disk_errors(settings):
            part.parent.mkdir(parents=True, exist_ok=True)
            sha256 = bucket.download(name, part, on_bytes=in_time)
            path = settings.sources_dir / sha256
            path.parent.mkdir(parents=True, exist_ok=True)
            part.replace(path)
    except StorageError as error:
        raise _unavailable(error) from error
    finally:
        part.unlink(missing_ok=True)
    return FetchedSource(path=path, sha256=sha256, num_bytes=total, name=printable(Path(name).name))


def _describe(bucket: Bucket, name: str, settings: Settings) -> Described:
    try:
        found = bucket.stat(name)
    except StorageError as error:
        raise _unavailable(error) from error
    shown = f"{bucket.address}/{name}"
    if found is None:
        raise SourceRefusedError(f"{shown} does not exist; check its name")
    if found.num_bytes > settings.fetch_max_bytes:
        raise SourceRefusedError(
            f"{shown} has {found.num_bytes} bytes, more than {settings.fetch_max_bytes} "
            "(SEEDVR2_FETCH_MAX_BYTES)"
        )
    if found.num_bytes == 0:
        raise InvalidVideoError(f"{shown} is empty (0 bytes), not a video")
    return found


def _unavailable(error: StorageError) -> SourceRefusedError | SourceUnavailableError:
    refused = isinstance(error, StorageRefusedError)
    return (SourceRefusedError if refused else SourceUnavailableError)(str(error))
