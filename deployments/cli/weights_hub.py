"""Bring public weights into the plain weights directory, and check what lies there.

huggingface_hub finds the file and moves the bytes. Its own `hf_hub_download` throws away what it
has when it fails (seen in 2.4), so the bytes go into a part file of ours that outlives the process:
`<weights>/.download/<file>.<version>.part`. A file gets its name only after its digest (ours of the
table, or the hub's) and its tensors have been checked. No token is ever sent and no telemetry.
"""

import errno
import hashlib
import logging
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from seedvr2_core.beat import Beat
from seedvr2_core.errors import (
    CheckpointError,
    InvalidRequestError,
    ResourceError,
    SourceUnavailableError,
)
from seedvr2_core.files import hold_lock
from seedvr2_core.files.durable import sync_directory, sync_file
from seedvr2_core.weights import examine, scan_weights
from seedvr2_core.weights.checkpoint import base_part, identify
from seedvr2_core.weights.folder import (
    PUBLIC,
    REFUSED_SUFFIX,
    Catalog,
    Inventory,
    WeightsFile,
    WeightsRecord,
    hash_file,
    save_weights_record,
    verify_file,
)
from seedvr2_core.weights.table import Precision, PublicFile
from tasks.settings import Settings

logger = logging.getLogger(__name__)

ATTEMPTS = 4
"""Tries in a row that bring nothing new, on top of huggingface_hub's own."""
PAUSE_SECONDS = 1.0
"""Before the second try; doubled each time."""
KEEP_FREE_BYTES = 10**9
LOCK_SECONDS = 6 * 3600.0
"""How long another process may take to download the same file."""

_REFUSED_STATUS = (401, 403, 404, 410, 451)
_LOCAL_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
_SHA256 = re.compile("[0-9a-f]{64}")


class DownloadProgress(Protocol):
    """Hears what is going on."""

    def __call__(self, file: str, phase: str, done: int, total: int | None, /) -> None:
        """`phase` is "download" or "check"; `done` of `total` bytes."""
        ...


def silent(file: str, phase: str, done: int, total: int | None) -> None:
    """A progress that nobody looks at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Offer:
    """What the hub says of a file."""

    url: str
    etag: str | None
    size: int | None
    commit: str | None


def rows_for(
    models: Sequence[str], precision: Precision = "fp16", *, catalog: Catalog = PUBLIC
) -> tuple[PublicFile, ...]:
    """The files that models need, each once.

    Raises:
        InvalidRequestError: no such model, or none named.
    """
    unknown = [name for name in models if name not in catalog.models]
    if unknown or not models:
        raise InvalidRequestError(
            f"weights of {', '.join(map(repr, unknown)) or 'which model'}? There are: "
            f"{', '.join(catalog.models)}"
        )
    parts = dict.fromkeys(part for model in models for part in catalog.models[model])
    return tuple(_row(part, precision, catalog) for part in parts)


def _row(part: str, precision: Precision, catalog: Catalog) -> PublicFile:
    """The file of a part: as precise as asked, else fp16, else what there is."""
    rows = {row.precision: row for row in reversed(catalog.files) if row.part == part}
    return next(rows[wanted] for wanted in (precision, "fp16", "original") if wanted in rows)


def download_weights(
    models: Sequence[str],
    settings: Settings,
    *,
    precision: Precision = "fp16",
    progress: DownloadProgress = silent,
    catalog: Catalog = PUBLIC,
) -> tuple[WeightsFile, ...]:
    """Have everything that these models need in the weights directory; what is there stays.

    Args:
        models: seedvr2-3b, seedvr2-7b, seedvr2-7b-sharp.
        settings: weights directory and hub.
        precision: of the transformer; "original" takes ByteDance's own files.
        progress: hears of every file.
        catalog: the known weights.

    Raises:
        InvalidRequestError: no such model.
        CheckpointError: the hub has no such file, or what came or is there is not it.
        SourceUnavailableError: the hub cannot be reached; what came is kept, run it again.
        ResourceError: no space, or the directory cannot be written.
    """
    rows = rows_for(models, precision, catalog=catalog)
    return tuple(_have(row, settings, progress, catalog) for row in rows)


def verify_weights(
    settings: Settings, *, progress: DownloadProgress = silent, catalog: Catalog = PUBLIC
) -> Inventory:
    """Check every file of the weights directory anew, digests and, where needed, values."""
    seen = scan_weights(settings.weights_folder, catalog=catalog)
    files: list[WeightsFile] = []
    refused = dict(seen.refused)
    for file in seen.files:
        try:
            beat = _beat(progress, file.path.name)
            files.append(verify_file(file.path, catalog=catalog, beat=beat))
        except CheckpointError as error:
            refused[file.path] = str(error)
    return Inventory(files=tuple(files), refused=refused)


def _have(
    row: PublicFile, settings: Settings, progress: DownloadProgress, catalog: Catalog
) -> WeightsFile:
    """The file, from the directory or from the hub."""
    target = settings.weights_folder / row.file
    if target.exists():
        return _here(target, row, progress, catalog)
    folder = settings.weights_folder / ".download"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _local_error(folder, error) from error
    with hold_lock(
        folder / f"{row.file}.lock",
        timeout=LOCK_SECONDS,
        on_wait=lambda: logger.warning("another process is downloading %s: waiting", row.file),
    ):
        if target.exists():
            return _here(target, row, progress, catalog)
        part, offer = _fetch(row, folder, settings.hf_endpoint, progress)
        return _admit(part, target, row, offer, progress, catalog)


def _here(
    target: Path, row: PublicFile, progress: DownloadProgress, catalog: Catalog
) -> WeightsFile:
    """A file that is there already; refused rather than replaced if it is not the right one."""
    found = examine(target, catalog=catalog, beat=_beat(progress, row.file))
    if found.status == "wrong":
        raise CheckpointError(f"{target}: {'; '.join(found.notes)}")
    if found.part != row.part:
        raise CheckpointError(
            f"{target} holds {found.part}, not {row.part}; rename or delete it, then download again"
        )
    return found


def _fetch(
    row: PublicFile, folder: Path, endpoint: str | None, progress: DownloadProgress
) -> tuple[Path, _Offer]:
    """All bytes of the file; goes on where an earlier try, or process, stopped."""
    import httpx2  # huggingface_hub's transport
    from huggingface_hub.errors import HfHubHTTPError

    tries, had = 0, -1
    while True:
        try:
            offer = _ask(row, endpoint)
            part = _part_path(folder, row, offer)
            _pull(part, row, offer, progress)
            return part, offer
        except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
            _raise_if_final(row, folder, error)
            have = sum(path.stat().st_size for path in folder.glob(f"{row.file}.*.part"))
            tries, had = (1 if have > had else tries + 1), have
            if tries >= ATTEMPTS:
                raise SourceUnavailableError(
                    f"{row.repo}/{row.file} could not be downloaded: {_first_line(error)}; "
                    f"{have} bytes are kept, run it again to go on"
                ) from error
            logger.warning("download of %s: %s; trying again", row.file, _first_line(error))
            time.sleep(PAUSE_SECONDS * 2 ** (tries - 1))


def _ask(row: PublicFile, endpoint: str | None) -> _Offer:
    """What the hub has under that name now."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.utils.logging import set_verbosity_error

    set_verbosity_error()  # it reports each of its own retries; we report when they do not help
    # Otherwise a list of coding agents is fetched from huggingface.co to describe ourselves.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    place = {"repo_id": row.repo, "filename": row.file, "endpoint": _base(endpoint)}
    found = get_hf_file_metadata(hf_hub_url(**place), token=False, library_name="seedvr2")
    # The exact version, and by the hub's own address: signed ones behind it run out in an hour.
    url = hf_hub_url(**place, revision=found.commit_hash)
    return _Offer(url=url, etag=found.etag, size=found.size, commit=found.commit_hash)


def _base(endpoint: str | None) -> str | None:
    return endpoint.rstrip("/") if endpoint else None


def _part_path(folder: Path, row: PublicFile, offer: _Offer) -> Path:
    """Where this version's bytes go; parts of other versions, or of unknown ones, are dropped."""
    version = hashlib.sha256((offer.etag or "").encode()).hexdigest()[:16]
    path = folder / f"{row.file}.{version}.part"
    for other in folder.glob(f"{row.file}.*.part"):
        if other != path or offer.etag is None:
            other.unlink()
    if path.exists() and offer.size is not None and path.stat().st_size > offer.size:
        path.unlink()
    return path


def _pull(part: Path, row: PublicFile, offer: _Offer, progress: DownloadProgress) -> None:
    """The bytes that are missing."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    with part.open("ab") as stream:
        have = stream.tell()
        _check_space(part.parent, row, (offer.size or 0) - have)
        http_get(
            offer.url,
            stream,
            resume_size=have,
            headers={
                **build_hf_headers(token=False, library_name="seedvr2"),
                "Accept-Encoding": "identity",  # offsets must count the file's own bytes
            },
            expected_size=offer.size,
            displayed_filename=row.file,
            tqdm_class=_bar_class(progress, row.file),
        )


def _bar_class(progress: DownloadProgress, file: str) -> Any:
    """What huggingface_hub takes for a progress bar."""

    class Bar:
        def __init__(self, *, total: int | None, initial: int, **_: object) -> None:
            self._done, self._total = initial, total
            progress(file, "download", initial, total)

        def __enter__(self) -> "Bar":
            return self

        def __exit__(self, *_: object) -> None:
            """Nothing to close."""

        def update(self, count: float = 1) -> None:
            self._done += int(count)
            progress(file, "download", self._done, self._total)

    return Bar


def _check_space(folder: Path, row: PublicFile, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed + KEEP_FREE_BYTES > free:
        raise ResourceError(
            f"{row.file} needs {needed / 1e9:.1f} GB more in {folder.parent}, which has "
            f"{free / 1e9:.1f} GB free; make room or set SEEDVR2_WEIGHTS_DIR"
        )


def _raise_if_final(row: PublicFile, folder: Path, error: Exception) -> None:
    """Turn errors that trying again cannot help into ours."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        raise SourceUnavailableError(
            f"{row.file} cannot be downloaded: HF_HUB_OFFLINE forbids it; unset it, or put the "
            f"file into {folder.parent} yourself"
        ) from error
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status in _REFUSED_STATUS:
            raise CheckpointError(
                f"the hub answers {status} for {row.repo}/{row.file}; check SEEDVR2_HF_ENDPOINT, "
                f"or put the file into {folder.parent} yourself"
            ) from error
    elif isinstance(error, OSError) and error.errno in _LOCAL_ERRORS:
        raise _local_error(folder, error) from error


def _local_error(folder: Path, error: OSError) -> ResourceError:
    return ResourceError(
        f"{folder} cannot be written: {error.strerror}; make room or set SEEDVR2_WEIGHTS_DIR"
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _admit(
    part: Path,
    target: Path,
    row: PublicFile,
    offer: _Offer,
    progress: DownloadProgress,
    catalog: Catalog,
) -> WeightsFile:
    """Check what came and give it its name."""
    digest = hash_file(part, beat=_beat(progress, row.file))
    try:
        _check_digest(row, offer, digest)
        identity = identify(part, layouts=catalog.layouts)
        if identity.part != base_part(row.part):
            raise CheckpointError(f"it holds {identity.part}, not {row.part}")
    except CheckpointError as error:
        kept = target.with_name(target.name + REFUSED_SUFFIX)
        part.replace(kept)
        raise CheckpointError(
            f"{row.repo}/{row.file} came, but was refused: {error}. It is kept as {kept} and not "
            "used; download again, and if that gives the same, the publisher has changed the file"
        ) from error
    sync_file(part)
    part.replace(target)
    sync_directory(target.parent)
    stat = target.stat()
    record = WeightsRecord(
        size=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        part=identity.part,
        dtypes=identity.dtypes,
        sha256=digest,
        source=f"{row.repo}@{offer.commit or 'main'}",
    )
    save_weights_record(target, record)
    return examine(target, catalog=catalog)


def _check_digest(row: PublicFile, offer: _Offer, digest: str) -> None:
    """Against the table, and against the hub's word (the ETag of a large file is its SHA-256)."""
    if row.sha256 and digest != row.sha256:
        raise CheckpointError(f"its sha256 is {digest}, the publisher's is {row.sha256}")
    promised = offer.etag if offer.etag and _SHA256.fullmatch(offer.etag) else None
    if promised and digest != promised:
        raise CheckpointError(f"its sha256 is {digest}, the hub announced {promised}")


def _beat(progress: DownloadProgress, file: str) -> Beat:
    return lambda phase, done, total: progress(file, "check", done, total)
