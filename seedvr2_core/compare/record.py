"""What a comparison of two videos is asked for, and what it has found."""

from dataclasses import dataclass
from pathlib import Path

SIDES = ("a", "b")


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedFile:
    """One of the two videos."""

    path: Path
    label: str
    """What is written into its picture."""
    start: str = ""
    """Where its part of the comparison begins, as `place_of` reads it; "": at its first frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two videos, and what is to be made of them."""

    a: ComparedFile
    b: ComparedFile
    folder: Path
    """Empty; the files of `names` are written here."""
    title: str
    """Of the page."""
    video_name: str
    """Under which the video will lie beside the page, for its link."""
    audio: str = "a"
    """Whose sound is kept: "a", "b" or "none"."""
    at: str = ""
    """The moment of the picture, counted from where the comparison begins; "": the one at which the
    two differ most."""
    height: int = 1080
    """Most rows of either picture."""

    @property
    def video(self) -> Path:
        """Both side by side."""
        return self.folder / "compare.mp4"

    @property
    def picture(self) -> Path:
        """One moment of it."""
        return self.folder / "compare.png"

    @property
    def page(self) -> Path:
        """The page with the slider."""
        return self.folder / "compare.html"


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedFacts:
    """One of the two, as it was found."""

    name: str
    label: str
    width: int
    """As displayed."""
    height: int
    codec: str
    num_frames: int
    """Of its part of the comparison."""
    duration_seconds: float
    frames_per_second: float
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonResult:
    """What was found."""

    a: ComparedFacts
    b: ComparedFacts
    num_frames: int
    """Of the video that was made."""
    duration_seconds: float
    width: int
    """Of the video that was made."""
    height: int
    picture_seconds: float
    """Moment of the picture."""
    mean_difference: float
    """Mean over the frames of the mean absolute difference of the luma, in levels of 255."""
    largest_difference: float
    """The same of the frame where it is largest."""
    largest_seconds: float
    """When that is."""
    notes: tuple[str, ...]
