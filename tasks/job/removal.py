"""Removes what a job has made: its output from storage, what lies beside it, and its work files.

Somebody asks for it (`DELETE /jobs/{job_id}`), or the output has expired (`recover`). Whether other
jobs have the same output is for the caller to know, as this module knows nothing of Prefect.
"""

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from seedvr2_core.errors import DeadlineError
from seedvr2_core.files import hold_lock
from seedvr2_core.job import JobDir
from tasks.job.beside import BEFORE_ENDING, PREVIEW_ENDING, REPORT_ENDING, REPORT_JSON_ENDING
from tasks.job.masters import release_masters
from tasks.schemas import PreviewPart, Record, own_folder
from tasks.settings import Settings
from tasks.storage import Storage, open_storage
from tasks.store import Lease, copy_of


class Removal(Record):
    """What was removed and what was not."""

    removed: tuple[str, ...] = ()
    """Names in storage, then `work files`, then `master`, if no other job has used that."""
    kept: tuple[str, ...] = ()
    """Sentences: what stays, and why."""
    num_bytes: int = 0
    """Bytes of the videos and of the work files here that are gone."""


def remove_output(
    settings: Settings, *, job_key: str, result: Mapping[str, Any], shared: bool
) -> Removal:
    """Remove a job's output and its work files; what is gone already is no error.

    The work files go last: whoever asks again after a failure finds the rest.

    Args:
        settings: of the installation, whose storage has the output.
        job_key: key of the job.
        result: what the run has published; empty if it has no output.
        shared: another job has the same output, which then stays.

    Raises:
        DeadlineError: a run works on the same job.
        StorageError: the storage does not answer, or refuses.
    """
    if shared:
        told = f"{result.get('filename')}: another job has the same output"
        return Removal(kept=(told,))
    with _held(settings, job_key):
        removed, kept, num_bytes = _remove_stored(settings, result)
        shown = _preview_in(result)
        if shown is None:
            here = _remove_work_files(settings, job_key)
            of_masters, in_store = release_masters(settings, job_key)
        else:  # its segments are the whole job's
            here = _remove_folder(own_folder(settings.job_dir(job_key), shown))
            of_masters, in_store = 0, False
    if here is not None:
        removed.append("work files")
    if of_masters or in_store:
        removed.append("master")
    num_bytes += (here or 0) + of_masters
    return Removal(removed=tuple(removed), kept=tuple(kept), num_bytes=num_bytes)


@contextlib.contextmanager
def _held(settings: Settings, job_key: str) -> Iterator[None]:
    """Keep runs away from the job, on this machine and in the store."""
    with contextlib.ExitStack() as stack:
        job_dir = JobDir(settings.job_dir(job_key))
        if job_dir.path.is_dir():
            lock = hold_lock(job_dir.lock_path, timeout=0, on_wait=lambda: None)
            stack.enter_context(lock)
        if (copy := copy_of(job_key, settings)) is not None:
            lease = Lease(
                copy.bucket,
                job_key,
                run_id="removal",
                label="a removal",
                holder=uuid4().hex,
                seconds=settings.store_lease_seconds,
            )
            if at_work := lease.take():
                raise DeadlineError(f"{at_work} works on the same job")
            stack.callback(lease.give_back)
        yield


def _remove_stored(
    settings: Settings, result: Mapping[str, Any]
) -> tuple[list[str], list[str], int]:
    """Remove the video and what lies beside it from storage; returns names, rest and bytes."""
    name = result.get("filename")
    if not isinstance(name, str) or not name:
        return [], [], 0
    storage = open_storage(settings)
    stored = storage.stat(name)
    if stored is not None and stored.sha256 not in (result.get("sha256"), ""):
        return [], [f"{name}: it is another file than the job has made"], 0
    removed = [other for other in _beside(name, result) if _remove_one(storage, other)]
    if stored is not None:
        storage.delete(name)
        removed.insert(0, name)
    return removed, [], stored.num_bytes if stored else 0


def _remove_one(storage: Storage, name: str) -> bool:
    """Remove a small file; False if there was none."""
    if storage.stat(name) is None:
        return False
    storage.delete(name)
    return True


def _beside(video: str, result: Mapping[str, Any]) -> list[str]:
    """Names of what lies beside a video: as the result tells them, else as they are made."""
    stem = Path(video).stem
    preview = _name_in(result, "preview") or stem + PREVIEW_ENDING
    page = _name_in(result, "report") or stem + REPORT_ENDING
    figures = page.removesuffix(".html") + ".json"
    own = {stem + REPORT_JSON_ENDING, figures}
    if shown := result.get("preview"):
        own.add(_name_in(shown, "before") or stem + BEFORE_ENDING + Path(video).suffix)
    return [name for name in (preview, page, *sorted(own)) if name.startswith(stem)]


def _name_in(result: Mapping[str, Any], what: str) -> str | None:
    """The name in a result's address or path of this file; None if it has neither."""
    if url := result.get(f"{what}_url"):
        return unquote(urlsplit(str(url)).path.rpartition("/")[2]) or None
    path = result.get(f"{what}_path")
    return Path(str(path)).name if path else None


def _remove_work_files(settings: Settings, job_key: str) -> int | None:
    """Remove the job's folder and its objects; the bytes here, None if there was nothing."""
    found = None
    if (copy := copy_of(job_key, settings)) is not None:
        names = [*copy.bucket.names(copy.folder), f"results/{job_key}.json"]
        own = [name for name in names if not name.endswith(("/lease.json", "/waiting/removal"))]
        if copy.bucket.stat(own[-1]) is not None or len(own) > 1:
            found = 0
        copy.bucket.delete(*own)
    here = _remove_folder(settings.job_dir(job_key))
    return found if here is None else here


def _remove_folder(folder: Path) -> int | None:
    """Remove a folder; its bytes, None if there was none."""
    if not folder.is_dir():
        return None
    num_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    shutil.rmtree(folder)  # the lock's file last would gain nothing: who waits makes it anew
    return num_bytes


def _preview_in(result: Mapping[str, Any]) -> PreviewPart | None:
    """What a preview has shown, of its result; None if the result is a whole film."""
    told = result.get("preview")
    return PreviewPart.model_validate(told) if told else None
