"""What the probe finds out about alpha; plain data, which flow processes load too."""

from dataclasses import dataclass

KEEP = "keep"
"""`Reading.alpha` of a video whose alpha goes into the output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlphaFacts:
    """Whether a video lets something show through."""

    transparent: bool = False
    """Whether a picture that was looked at does, anywhere."""
    unread: bool = False
    """Whether it has alpha that nobody here can read: a layer of HEVC beside the pictures."""
    looked_at: int = 0
    """How many pictures were looked at; 0 where the pixel format has no alpha."""
