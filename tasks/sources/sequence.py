"""Sequences of pictures as sources: a folder, a pattern or a zip becomes one file in sources/.

From then on the job has a source like any other: one file with one digest, which the store keeps
and other workers find, and which nobody changes while the job runs. A zip is unpacked here and not
in a child: Python's own module reads it, bytes pass through, and no picture is decoded.
"""

import os
from collections.abc import Callable
from pathlib import Path

from seedvr2_core.errors import InvalidRequestError
from seedvr2_core.files.reading import FileReader, OnBytes, no_bytes
from seedvr2_core.video.sequence.archive import ZIP_START, PictureArchive
from seedvr2_core.video.sequence.names import (
    is_picture_name,
    pattern_of,
    pictures_at,
    title_of,
)
from seedvr2_core.video.sequence.pack import PackedPictures, pack_files, pack_zip, refuse_excess
from seedvr2_core.video.sequence.rate import parse_rate
from tasks.schemas import FetchedSource, UpscaleRequest
from tasks.settings import Settings
from tasks.sources.download import check_disk, disk_errors
from tasks.sources.names import printable


def check_allowed(settings: Settings) -> None:
    """Refuse files of this machine where they are off.

    Raises:
        InvalidRequestError: they are.
    """
    if not settings.allow_local_files:
        raise InvalidRequestError(
            "video_path is not taken here: local files are off (SEEDVR2_ALLOW_LOCAL_FILES); "
            "pass video_url or upload the file"
        )


def refuse_without_rate(given: str) -> None:
    """Refuse what may be meant as a sequence, where nobody has said how fast the pictures follow.

    Raises:
        InvalidRequestError: a folder, or a pattern that is no file's name.
    """
    path = Path(given)
    if os.path.isfile(path):
        return
    if os.path.isdir(path):
        raise InvalidRequestError(
            f"{printable(given)} is a folder; with fps (--fps 24) its pictures are one video; else "
            "name a file"
        )
    if pattern_of(path) is not None and is_picture_name(path.name.replace("%", "")):
        raise InvalidRequestError(
            f"{printable(given)} is a pattern of pictures; say how many are shown in a second: fps "
            "(--fps 24, --fps 24000/1001)"
        )


def local_pictures(request: UpscaleRequest, settings: Settings) -> list[Path]:
    """The pictures of a sequence on this machine, in order; only their names are looked at.

    Raises:
        InvalidRequestError: local files are not allowed here.
        SourceRefusedError: there are none, one is missing, or one is no file.
        UnsupportedFormatError: there are too many.
    """
    check_allowed(settings)
    path = Path(request.video_path or "").absolute()
    found = pictures_at(path)
    refuse_excess(len(found), 0, title_of(path), frames=settings.max_frames, most_bytes=0)
    return found


def take_pictures(
    request: UpscaleRequest,
    settings: Settings,
    *,
    note: Callable[[str], None],
    on_bytes: OnBytes = no_bytes,
) -> FetchedSource:
    """Pack the pictures of a folder or a pattern.

    Args:
        request: names them.
        settings: where the archive goes, and the limits.
        note: takes lines for the log.
        on_bytes: called with the bytes done and in all.

    Raises: as `local_pictures`; SourceUnavailableError: they change while they are read;
        ResourceError: the disk is full.
    """
    paths = local_pictures(request, settings)
    name = printable(title_of(Path(request.video_path or "").absolute()))
    note(f"packing {len(paths)} pictures, {paths[0].name} to {paths[-1].name}")
    with disk_errors(settings):
        settings.sources_dir.mkdir(parents=True, exist_ok=True)
        _check_room(sum(path.stat().st_size for path in paths), settings)
        rate = parse_rate(request.fps)
        return _fetched(pack_files(paths, rate, settings.sources_dir, on_bytes=on_bytes), name)


def as_sequence(
    source: FetchedSource,
    request: UpscaleRequest,
    settings: Settings,
    *,
    note: Callable[[str], None],
    on_bytes: OnBytes = no_bytes,
) -> FetchedSource:
    """The same source, or a zip of pictures with the times that the request asks for.

    Args:
        source: as it was fetched.
        request: may have a rate; without one the source stays as it is.
        settings: where the archive goes, and the limits.
        note: takes lines for the log.
        on_bytes: called with the bytes done and in all.

    Raises:
        InvalidRequestError: there is a rate, but the source is no zip.
        InvalidVideoError, UnsupportedFormatError: it is no zip of pictures that is taken.
        ResourceError: the disk is full.
    """
    if not request.fps:
        return source
    count = check_zip(source.path, source.name, settings)
    settings.sources_dir.mkdir(parents=True, exist_ok=True)
    with disk_errors(settings):
        packed = pack_zip(
            source.path,
            source.name,
            parse_rate(request.fps),
            settings.sources_dir,
            on_bytes=on_bytes,
        )
    if packed is None:
        return source
    note(f"took {count} pictures from {source.name}")
    return _fetched(packed, source.name)


def check_zip(path: Path, name: str, settings: Settings) -> int:
    """How many pictures a zip has, from which a sequence is to be made.

    Raises:
        InvalidRequestError: it is no zip.
        InvalidVideoError, UnsupportedFormatError: it holds no pictures, or too many or too large
            ones.
    """
    with FileReader(path) as file:
        if file.read(len(ZIP_START)) != ZIP_START:
            raise InvalidRequestError(
                f"{name} is one file and no zip, so fps says nothing about it: it is for a folder "
                "of pictures, a pattern (frames/%05d.png) or a zip; leave it out"
            )
        file.seek(0)
        archive = PictureArchive(file, name)
    count, num_bytes = len(archive.entries), archive.num_bytes
    most = settings.fetch_max_bytes
    refuse_excess(count, num_bytes, name, frames=settings.max_frames, most_bytes=most)
    if settings.sources_dir.is_dir():
        _check_room(num_bytes, settings)
    return count


def _check_room(num_bytes: int, settings: Settings) -> None:
    doing = "the pictures are copied into the work directory, which"
    check_disk(num_bytes, settings, doing=doing)


def _fetched(packed: PackedPictures, name: str) -> FetchedSource:
    return FetchedSource(
        path=packed.path, sha256=packed.sha256, num_bytes=packed.num_bytes, name=name
    )
