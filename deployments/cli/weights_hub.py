"""Downloads public weights into the folder of weights and verifies the files there.

huggingface_hub finds a file and transfers its bytes. Its `hf_hub_download` discards what it has
when it fails (seen in 2.4). We therefore write the bytes to a file that stays when the process
ends: `<weights>/.download/<file>.<version>.part`. A file gets its final name only after we have
checked its tensors and its digest (against our table, or against the hub's). We send no token and
no telemetry.
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
from seedvr2_core.weights.checkpoint import identify
from seedvr2_core.weights.findings import WeightsRecord, save_weights_record
from seedvr2_core.weights.folder import (
    PUBLIC,
    REFUSED_SUFFIX,
    Catalog,
    Inventory,
    WeightsFile,
    hash_file,
    verify_file,
)
from seedvr2_core.weights.layouts import base_part
from seedvr2_core.weights.table import Precision, PublicFile
from tasks.settings import Settings

logger = logging.getLogger(__name__)

ATTEMPTS = 4
"""Tries in a row without a new byte, after which we give up; huggingface_hub also retries."""
PAUSE_SECONDS = 1.0
"""Pause before the second try; it doubles with each further one."""
KEEP_FREE_BYTES = 10**9
"""Space that a download leaves free on the disk."""
LOCK_SECONDS = 6 * 3600.0
"""How long we wait for another process that downloads the same file."""

_REFUSED_STATUS = (401, 403, 404, 410, 451)
_LOCAL_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
_SHA256 = re.compile("[0-9a-f]{64}")


class DownloadProgress(Protocol):
    """Is called while a file is downloaded and while it is checked."""

    def __call__(self, file: str, phase: str, done: int, total: int | None, /) -> None:
        """Take the progress: `phase` is "download" or "check"; `done` of `total` bytes."""
        ...


def ignore_progress(file: str, phase: str, done: int, total: int | None) -> None:
    """Show nothing: the default progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _HubFile:
    """What the hub says about a file."""

    url: str
    etag: str | None
    """Names this version of the file; of a large file it is the SHA-256."""
    num_bytes: int | None
    commit: str | None


def public_files(
    models: Sequence[str], precision: Precision = "fp16", *, catalog: Catalog = PUBLIC
) -> tuple[PublicFile, ...]:
    """Choose the public files that models need, each once.

    Raises:
        InvalidRequestError: a model is unknown, or none is named.
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
    """Choose a part's file: the precision that was asked for, else fp16, else the original.

    Weights that their publisher has replaced are not downloaded.
    """
    of_part = [row for row in catalog.files if row.part == part]
    rows = {row.precision: row for row in reversed(of_part) if not row.superseded}
    if not rows:
        told = "; ".join(f"{row.file}: {row.superseded}" for row in of_part)
        raise InvalidRequestError(f"there are no weights of {part} to download: {told}")
    return next(rows[wanted] for wanted in (precision, "fp16", "original") if wanted in rows)


def download_weights(
    models: Sequence[str],
    settings: Settings,
    *,
    precision: Precision = "fp16",
    progress: DownloadProgress = ignore_progress,
    catalog: Catalog = PUBLIC,
) -> tuple[WeightsFile, ...]:
    """Download the files that models need, except those that are there already.

    Args:
        models: of seedvr2-3b, seedvr2-7b, seedvr2-7b-sharp and seedvr2-1.4b.
        settings: folder of weights and address of the hub.
        precision: of the transformer; "original" takes ByteDance's own files.
        progress: called for every file.
        catalog: the public weights.

    Raises:
        InvalidRequestError: there is no such model.
        CheckpointError: the hub does not have a file, or a file (downloaded or already there) is
            not the one that it should be.
        SourceUnavailableError: the hub cannot be reached. What was downloaded is kept, and the same
            call goes on from there.
        ResourceError: the disk is full, or the folder cannot be written.
    """
    rows = public_files(models, precision, catalog=catalog)
    return tuple(_ensure_file(row, settings, progress, catalog) for row in rows)


def verify_weights(
    settings: Settings, *, progress: DownloadProgress = ignore_progress, catalog: Catalog = PUBLIC
) -> Inventory:
    """Read every file in the folder of weights and check its digest and, where needed, values."""
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


def _ensure_file(
    row: PublicFile, settings: Settings, progress: DownloadProgress, catalog: Catalog
) -> WeightsFile:
    """Return the file that is there, or download it; one process at a time."""
    target = settings.weights_folder / row.file
    if target.exists():
        return _check_present(target, row, progress, catalog)
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
            return _check_present(target, row, progress, catalog)
        part, on_hub = _download(row, folder, settings.hf_endpoint, progress)
        return _accept_file(part, target, row, on_hub, progress, catalog)


def _check_present(
    target: Path, row: PublicFile, progress: DownloadProgress, catalog: Catalog
) -> WeightsFile:
    """Check a file that is there already. A wrong one is reported, never replaced."""
    found = examine(target, catalog=catalog, beat=_beat(progress, row.file))
    if found.status == "wrong":
        raise CheckpointError(f"{target}: {'; '.join(found.notes)}")
    if found.part != row.part:
        raise CheckpointError(
            f"{target} holds {found.part}, not {row.part}; rename or delete it, then download again"
        )
    return found


def _download(
    row: PublicFile, folder: Path, endpoint: str | None, progress: DownloadProgress
) -> tuple[Path, _HubFile]:
    """Download the file, from where an earlier try or process stopped; returns its .part file."""
    import httpx2  # huggingface_hub's transport
    from huggingface_hub.errors import HfHubHTTPError

    tries, had = 0, -1
    while True:
        try:
            on_hub = _look_up(row, endpoint)
            part = _part_path(folder, row, on_hub)
            _append_rest(part, row, on_hub, progress)
            return part, on_hub
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


def _look_up(row: PublicFile, endpoint: str | None) -> _HubFile:
    """Ask the hub what it has under the file's name now."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.utils.logging import set_verbosity_error

    set_verbosity_error()  # it logs each of its own retries; we log only when these do not help
    # Otherwise it fetches a list from huggingface.co to find out which program is running it.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    place = {"repo_id": row.repo, "filename": row.file, "endpoint": _base(endpoint)}
    found = get_hf_file_metadata(hf_hub_url(**place), token=False, library_name="seedvr2")
    # The address of this exact version at the hub itself, because the signed address that the hub
    # redirects to expires in an hour.
    url = hf_hub_url(**place, revision=found.commit_hash)
    return _HubFile(url=url, etag=found.etag, num_bytes=found.size, commit=found.commit_hash)


def _base(endpoint: str | None) -> str | None:
    return endpoint.rstrip("/") if endpoint else None


def _part_path(folder: Path, row: PublicFile, on_hub: _HubFile) -> Path:
    """The .part file for this version. Those of other versions, or of unknown ones, are deleted."""
    version = hashlib.sha256((on_hub.etag or "").encode()).hexdigest()[:16]
    path = folder / f"{row.file}.{version}.part"
    for other in folder.glob(f"{row.file}.*.part"):
        if other != path or on_hub.etag is None:
            other.unlink()
    if path.exists() and on_hub.num_bytes is not None and path.stat().st_size > on_hub.num_bytes:
        path.unlink()
    return path


def _append_rest(part: Path, row: PublicFile, on_hub: _HubFile, progress: DownloadProgress) -> None:
    """Append the missing bytes to the .part file."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    with part.open("ab") as stream:
        have = stream.tell()
        _check_space(part.parent, row, (on_hub.num_bytes or 0) - have)
        http_get(
            on_hub.url,
            stream,
            resume_size=have,
            headers={
                **build_hf_headers(token=False, library_name="seedvr2"),
                "Accept-Encoding": "identity",  # no compression: offsets are those of the file
            },
            expected_size=on_hub.num_bytes,
            displayed_filename=row.file,
            tqdm_class=_bar_class(progress, row.file),
        )


def _bar_class(progress: DownloadProgress, file: str) -> Any:
    """Make the class that huggingface_hub uses as its progress bar; it calls `progress`."""

    class HubBar:
        def __init__(self, *, total: int | None, initial: int, **_: object) -> None:
            self._done, self._total = initial, total
            progress(file, "download", initial, total)

        def __enter__(self) -> "HubBar":
            return self

        def __exit__(self, *_: object) -> None:
            """Nothing to close."""

        def update(self, count: float = 1) -> None:
            self._done += int(count)
            progress(file, "download", self._done, self._total)

    return HubBar


def _check_space(folder: Path, row: PublicFile, needed: int) -> None:
    """Raise ResourceError if `needed` bytes would fill the disk."""
    free = shutil.disk_usage(folder).free
    if needed + KEEP_FREE_BYTES > free:
        raise ResourceError(
            f"{row.file} needs {needed / 1e9:.1f} GB more in {folder.parent}, which has "
            f"{free / 1e9:.1f} GB free; make room or set SEEDVR2_WEIGHTS_DIR"
        )


def _raise_if_final(row: PublicFile, folder: Path, error: Exception) -> None:
    """Raise errors that another try cannot mend; return for those that it may."""
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
    """The first line of an error's message; the name of its class if it has none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _accept_file(
    part: Path,
    target: Path,
    row: PublicFile,
    on_hub: _HubFile,
    progress: DownloadProgress,
    catalog: Catalog,
) -> WeightsFile:
    """Check a downloaded file, give it its final name and write its record."""
    digest = hash_file(part, beat=_beat(progress, row.file))
    try:
        _check_digest(row, on_hub, digest)
        identity = identify(part, layouts=catalog.layouts)
        if identity.part != base_part(row.part):
            raise CheckpointError(f"it holds {identity.part}, not {row.part}")
    except CheckpointError as error:
        kept = target.with_name(target.name + REFUSED_SUFFIX)
        part.replace(kept)
        raise CheckpointError(
            f"{row.repo}/{row.file} was downloaded but is refused: {error}. It is kept as {kept} "
            "and not used. Download it again; if the result is the same, the publisher has changed "
            "the file"
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
        source=f"{row.repo}@{on_hub.commit or 'main'}",
    )
    save_weights_record(target, record)
    return examine(target, catalog=catalog)


def _check_digest(row: PublicFile, on_hub: _HubFile, digest: str) -> None:
    """Compare with our table and with the hub's ETag, which is a large file's SHA-256.

    Raises:
        CheckpointError: the digest differs from one of them.
    """
    if row.sha256 and digest != row.sha256:
        raise CheckpointError(f"its sha256 is {digest}, the publisher's is {row.sha256}")
    promised = on_hub.etag if on_hub.etag and _SHA256.fullmatch(on_hub.etag) else None
    if promised and digest != promised:
        raise CheckpointError(f"its sha256 is {digest}, the hub announced {promised}")


def _beat(progress: DownloadProgress, file: str) -> Beat:
    return lambda phase, done, total: progress(file, "check", done, total)
