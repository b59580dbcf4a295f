"""What headers say about a track, whatever the container."""

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class Edges:
    """Pixels at each edge of the decoded picture that the container hides."""

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0

    def within(self, width: int, height: int) -> "Edges":
        """Itself if something of a picture of this size is left, else no edges."""
        sides = (self.left, self.top, self.right, self.bottom)
        if min(sides) < 0 or self.left + self.right >= width or self.top + self.bottom >= height:
            return Edges()
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class DolbyVision:
    """Dolby Vision's configuration record (dvcC, dvvC, dvwC)."""

    profile: int
    compatibility: int
    """What a decoder without Dolby Vision sees; 0: nothing it could show."""

    @classmethod
    def read(cls, content: bytes) -> "DolbyVision":
        """From a record of at least 5 bytes."""
        return cls(profile=content[2] >> 1, compatibility=content[4] >> 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackHeader:
    """A track as the headers describe it."""

    id: int = 0
    """The container's own number of the track; 0 where only the order is known."""
    entry: str = ""
    """The kind of its samples in mp4: "avc1", "tmcd"."""
    edges: Edges = Edges()
    dolby_vision: DolbyVision | None = None
    layers: bytes = b""
    """HEVC's record of layers beside the pictures (`lhvC` of mp4); b"" where there is none."""
    chapters: tuple[int, ...] = ()
    """Tracks whose text names the chapters of this one."""
    end: Fraction | None = None
    """Seconds after which it is no longer shown, as the index of an mp4 has it."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences about what the output cannot have of it."""
        if self.dolby_vision is None:
            return ()
        return (
            f"the video has Dolby Vision metadata (profile {self.dolby_vision.profile}), which is "
            "lost; the picture that other players show is restored",
        )
