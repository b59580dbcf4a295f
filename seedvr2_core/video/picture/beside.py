"""What a decoder tells beside a picture: its turn, 360 degrees, several views."""

import struct
from collections.abc import Iterable
from typing import cast

from av.sidedata.sidedata import SideData, Type
from av.video.frame import VideoFrame

VIEW_ID = "UNKNOWN_29"
"""libavutil's AV_FRAME_DATA_VIEW_ID: one of several views (MV-HEVC)."""
_FLAT = 0
"""libavutil's AV_STEREO3D_2D: marked as not stereoscopic."""


def _unnamed(cls: type[Type], value: object) -> Type:
    """A member for a kind that PyAV has no name for."""
    kind = object.__new__(cls)
    kind._name_, kind._value_ = f"UNKNOWN_{value}", value  # type: ignore[misc]
    return kind


# PyAV 18.1 names the kinds of FFmpeg 6 and raises ValueError for a newer one, whichever kind of the
# picture's data is asked for: spatial video and pictures with EXIF could not be looked at.
Type._missing_ = classmethod(_unnamed)  # type: ignore[assignment]


def side_data(frame: VideoFrame) -> dict[str, bytes]:
    """Kind ("DISPLAYMATRIX", "SPHERICAL", ...) -> content of everything beside a picture."""
    # A mapping, says the stub; iterating gives the entries.
    entries = cast("Iterable[SideData]", frame.side_data)
    return {entry.type.name: bytes(entry) for entry in entries}


def losses(beside: dict[str, bytes]) -> tuple[str, ...]:
    """Sentences about what the output has no place for."""
    told: list[str] = []
    if "SPHERICAL" in beside:
        told.append("the video is marked as a view of 180 or 360 degrees; that marking is lost")
    if VIEW_ID in beside:
        told.append("the video holds several views (3D); only the first one is restored")
    elif struct.unpack_from("=i", beside.get("STEREO3D", bytes(4)))[0] != _FLAT:
        told.append("the video is marked as 3D (two views in a picture); that marking is lost")
    if "DYNAMIC_HDR_PLUS" in beside:
        told.append("the video has HDR10+ metadata, which is lost; its HDR10 picture is restored")
    return tuple(told)
