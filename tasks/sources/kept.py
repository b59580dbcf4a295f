"""Sources, and what was found out about them, in the installation's object store, by digest: the
next machine of a job finds them there.
"""

from pathlib import Path

from seedvr2_core.files.durable import write_bytes
from seedvr2_core.files.reading import OnBytes, no_bytes
from tasks.net.bucket import Bucket
from tasks.schemas import FetchedSource, UpscaleRequest
from tasks.settings import Settings
from tasks.sources.download import disk_errors
from tasks.sources.uploads import digest_in


def keep_source(source: FetchedSource, settings: Settings, *, on_bytes: OnBytes = no_bytes) -> bool:
    """Copy a source to the store, unless it is there; False where there is no store.

    Raises:
        StorageError: the store does not take it now.
    """
    if settings.store is None:
        return False
    bucket, name = Bucket(settings.store, settings), _name(source.sha256)
    there = bucket.stat(name)
    if there is None or there.num_bytes != source.num_bytes:
        bucket.put_file(source.path, name, sha256=source.sha256, on_bytes=on_bytes)
    return True


def keep_upload(request: UpscaleRequest, settings: Settings) -> None:
    """Copy a video that was sent to the store, so that workers elsewhere find it.

    Raises:
        StorageError: the store does not take it now.
    """
    sha256 = digest_in(request.video_url or "")
    path = settings.intake_dir / sha256
    if sha256 and settings.store and path.is_file():
        keep_source(_taken(path, sha256, path.name), settings)


def recall_source(
    sha256: str, name: str, settings: Settings, *, on_bytes: OnBytes = no_bytes
) -> FetchedSource | None:
    """The source with this digest: a download of this machine, or a copy from the store.

    Args:
        sha256: its digest.
        name: what people call it.
        settings: where the store and this machine's files are.
        on_bytes: called with the bytes read and the bytes in all.

    Returns:
        None if neither has it.

    Raises:
        StorageError: the store does not answer.
        ResourceError: the disk is full.
    """
    path = settings.sources_dir / sha256
    if path.is_file():
        return _taken(path, sha256, name)
    if settings.store is None:
        return None
    with disk_errors(settings):
        bucket = Bucket(settings.store, settings)
        found = bucket.get_file(_name(sha256), path, sha256=sha256, on_bytes=on_bytes)
    return _taken(path, sha256, name) if found else None


def keep_found(path: Path, settings: Settings) -> None:
    """Copy a probe's record or a file of cuts to the store if there is one.

    Both are named by their source's digest.

    Raises:
        StorageError: the store does not take it now.
    """
    if settings.store is not None:
        Bucket(settings.store, settings).write(f"cuts/{path.name}", path.read_bytes())


def recall_found(path: Path, settings: Settings) -> bool:
    """Bring such a file from the store; False if there is no store, or it has none.

    Raises:
        StorageError: the store does not answer.
    """
    if settings.store is None:
        return False
    found = Bucket(settings.store, settings).read(f"cuts/{path.name}")
    if found is not None:
        write_bytes(path, found.content)
    return found is not None


def _taken(path: Path, sha256: str, name: str) -> FetchedSource:
    return FetchedSource(path=path, sha256=sha256, num_bytes=path.stat().st_size, name=name)


def _name(sha256: str) -> str:
    return f"sources/{sha256}"
