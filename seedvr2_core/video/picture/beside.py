"""What a decoder tells beside a picture: its turn, 360 degrees, several views."""

import ctypes
import gc
import struct
from collections.abc import Iterable
from typing import cast

from av.dictionary import Dictionary
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
    entries = list(cast("Iterable[SideData]", frame.side_data))
    for entry in entries:
        _leave_to_the_frame(entry)
    return {entry.type.name: bytes(entry) for entry in entries}


def _leave_to_the_frame(entry: SideData) -> None:
    """Keep PyAV from freeing the names in side data, which the frame frees.

    PyAV 18.1 takes what belongs to the frame for its own: pictures with a named ICC profile crash
    the process when both are freed. A Python object of a few bytes is never freed instead.
    """
    for owned in gc.get_referents(entry):
        if isinstance(owned, Dictionary) and len(owned):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(owned))


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
