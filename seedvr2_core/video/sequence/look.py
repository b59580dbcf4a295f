"""What the pictures of an archive are, and when they are shown: for the probe.

All headers are compared, and that every file ends as a picture ends. Pixels are decoded only where
that is in doubt: thousands of pictures would take minutes before the job begins.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

from seedvr2_core.errors import FileReadError, SeedVR2Error
from seedvr2_core.files.reading import OnBytes
from seedvr2_core.video.picture.exr import LINEAR_TOLD
from seedvr2_core.video.picture.pixels import look_at_still, upright_pixels
from seedvr2_core.video.sequence.archive import PictureArchive, SequenceTimes
from seedvr2_core.video.sequence.heads import (
    PictureHead,
    looks_whole,
    read_head,
    refuse_difference,
)
from seedvr2_core.video.sequence.names import gap_told
from seedvr2_core.video.sequence.virtual import PictureBytes, names_told


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceFacts:
    """What is known of a sequence before its pictures are decoded."""

    kind: str
    """Of all pictures."""
    pts: tuple[int, ...]
    """In seconds / `scale`."""
    last_duration: int
    scale: int
    rate: Fraction | None
    """Frames a second; None: they vary."""
    num_bytes: int
    notes: tuple[str, ...]


def look_at_sequence(
    archive: PictureArchive, times: SequenceTimes, name: str, on_bytes: OnBytes
) -> SequenceFacts:
    """Compare the headers of all pictures.

    Args:
        archive: open.
        times: of its pictures.
        name: of the archive, for messages.
        on_bytes: called with each picture's number and their count.

    Raises:
        InvalidVideoError: one differs, is cut off or no picture; the message names it.
        UnsupportedFormatError: they have samples that are not taken.
        FileReadError: the machine failed to read it.
    """
    names = archive.names
    first, told = None, [f"{name}: {one}" for one in names]
    for index, shown in enumerate(told):
        on_bytes(index, len(names))
        with io.BytesIO(archive.read(index)) as file:
            head = read_head(file, shown)
            first = first or head
            refuse_difference(first, names[0], head, shown)
            refuse_cut_off(file, head.kind, shown)
    assert first is not None
    still = look_at_still(PictureBytes(archive.read(0)), told[0], first.kind)
    notes = [
        note if note == LINEAR_TOLD else f"of the first picture: {note}" for note in still.notes
    ]
    ticks, scale = times.time_base
    ends = [*times.pts[1:], times.pts[-1] + times.last_duration]
    steps = {end - start for start, end in zip(times.pts, ends, strict=True)}
    gap = gap_told(names)
    return SequenceFacts(
        kind=first.kind,
        pts=tuple(ticks * time for time in times.pts),
        last_duration=ticks * times.last_duration,
        scale=scale,
        rate=Fraction(scale, ticks * steps.pop()) if len(steps) == 1 else None,
        num_bytes=archive.num_bytes,
        notes=(*notes, *([gap] if gap else []), *names_told(archive)),
    )


def refuse_cut_off(file: BinaryIO, kind: str, name: str) -> None:
    """Refuse a picture that does not end as one does, and cannot be decoded.

    Args:
        file: its file.
        kind: from `still_kind`.
        name: for messages.

    Raises:
        InvalidVideoError: it is cut off.
    """
    if not looks_whole(file, kind):
        file.seek(0)
        upright_pixels(PictureBytes(file.read()), name, kind)


def check_pictures(paths: Sequence[Path]) -> None:
    """Compare the headers of pictures, look at how they end, and decode the first one.

    Args:
        paths: of a sequence, in order.

    Raises:
        InvalidVideoError: one differs, is cut off or no picture; the message names it.
        UnsupportedFormatError: the first one has samples that are not taken.
        FileReadError: the machine failed to read it.
    """
    first: PictureHead | None = None
    for path in paths:
        try:
            with path.open("rb") as file:
                head = read_head(file, str(path))
                refuse_difference(first or head, str(paths[0]), head, str(path))
                refuse_cut_off(file, head.kind, str(path))
                if first is None:
                    file.seek(0)
                    upright_pixels(PictureBytes(file.read()), str(path), head.kind)
                    first = head
        except OSError as error:
            if isinstance(error, SeedVR2Error):
                raise
            raise FileReadError(f"{path} cannot be read: {error.strerror}") from error
