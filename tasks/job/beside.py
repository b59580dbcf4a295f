"""Puts files that belong to a finished video beside it: its picture, its report."""

from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from prefect import get_run_logger

from seedvr2_core.errors import ResourceError, StorageError
from seedvr2_core.files import file_sha256
from seedvr2_core.files.place import place
from seedvr2_core.job import JobDir
from tasks.schemas import PreviewPart, StoredVideo
from tasks.settings import get_settings
from tasks.storage import Stored, open_storage
from tasks.storage.base import candidates
from tasks.storage.open import takes_video_alone

PREVIEW_ENDING = ".preview.jpg"
"""What the name of the before/after picture adds to the video's, beside which it lies."""
REPORT_ENDING, REPORT_JSON_ENDING = ".report.html", ".report.json"
"""The same of the report."""
BEFORE_ENDING = ".before"
"""The same of the source's clip of a preview, whose own ending follows."""


class Beside(NamedTuple):
    """Where the files of a video are: paths on this machine and public addresses, or None."""

    preview_path: str | None
    preview_url: str | None
    report_path: str | None
    report_url: str | None


def keep_all_beside(
    job_dir: JobDir, stored: StoredVideo | Stored, *, preview: Path | None, page: Path | None
) -> Beside:
    """Put a video's picture and report beside it.

    Args:
        job_dir: of the job, where the report's figures lie.
        stored: the video.
        preview: its before/after picture, if there is one.
        page: its report's page, if there is one.
    """
    placed = Beside(
        *_kept_beside(preview, PREVIEW_ENDING, stored), *_kept_beside(page, REPORT_ENDING, stored)
    )
    _kept_beside(page and job_dir.report_json_path, REPORT_JSON_ENDING, stored)
    return placed


def keep_before(shown: PreviewPart, before: Path | None, stored: StoredVideo) -> PreviewPart:
    """Put the source's clip beside a preview; returns the preview with where that is."""
    path, url = _kept_beside(before, BEFORE_ENDING + Path(stored.name).suffix, stored)
    return shown.model_copy(update={"before_path": path, "before_url": url})


def _kept_beside(
    file: Path | None, ending: str, stored: StoredVideo | Stored
) -> tuple[str | None, str | None]:
    """Put a file beside the video, wherever that is stored.

    Args:
        file: a file of the job; None, or one that is not there: nothing is done.
        ending: what its name adds to the video's.
        stored: the video.

    Returns:
        Its path on this machine and its public address, each None where there is none. A place
        that does not take the file does not fail the job.
    """
    if file is None or not file.is_file():
        return None, None
    if stored.path is not None:
        placed = _placed(file, stored.path, ending)
        beside = placed.parent == stored.path.parent
        return str(placed), _neighbour(stored, placed.name) if beside else None
    if takes_video_alone():
        return str(file), None
    try:
        name = Path(stored.name).stem + ending
        return str(file), open_storage(get_settings()).put(file, name).url
    except (StorageError, ResourceError) as error:
        get_run_logger().warning("%s is not stored: %s", file.name, error)
        return str(file), None


def _neighbour(stored: StoredVideo | Stored, name: str) -> str | None:
    """The public address of a file beside a stored video; None if the video has none."""
    return f"{stored.url.rpartition('/')[0]}/{quote(name)}" if stored.url else None


def _placed(file: Path, output: Path, ending: str) -> Path:
    """Put a file beside the output; returns where it is.

    If it cannot be put there, that is where it was.
    """
    try:
        sha256 = file_sha256(file)
        for name in candidates(output.stem + ending):
            target = output.with_name(name)
            if place(file, target, part_name=f".{sha256}.part"):
                return target
            if target.is_file() and file_sha256(target) == sha256:
                return target
    except OSError as error:
        get_run_logger().warning("%s stays in %s: %s", file.name, file.parent, error)
    return file
