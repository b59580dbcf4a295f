"""What the probe finds out about fields; plain data, which flow processes load too."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """How the lines of a video's pictures were taken: all at once, or every other line later.

    Either half of the lines is a field.
    """

    interlaced: bool = False
    top_first: bool | None = None
    """Whether the field with the topmost line is the earlier one; None: as each picture says."""
    marked: bool = False
    """Whether the file says that it is interlaced."""
    moving: int = 0
    """Pictures, of those that were looked at, that moved enough to tell."""
    combed: int = 0
    """Of these, pictures whose fields were taken at different times."""
    film: bool = False
    """Whether it is film of 24 pictures a second, spread over 60 fields (3:2 pulldown)."""
    mixed: bool = False
    """Whether some of the places that were looked at are interlaced, and others are not."""
