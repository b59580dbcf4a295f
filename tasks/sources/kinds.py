"""Which of the six kinds of source a request names: said once, for all who treat them differently.

The order of the questions is part of the answer: a request names exactly one source, but a path may
be a file or pictures, and a `video_url` may be an address, an object in a bucket or an upload.
"""

import os
from enum import Enum, auto

from tasks.schemas import UpscaleRequest
from tasks.setting_groups.store import NAMES_OF_SCHEMES

_IN_BUCKET = tuple(f"{scheme}://" for scheme in NAMES_OF_SCHEMES)


class SourceKind(Enum):
    """What a request's source is."""

    FILE = auto()
    """A file on this machine, in `video_path`."""
    PICTURES = auto()
    """Pictures on this machine that are one video: a folder or a pattern, in `video_path`."""
    BYTES = auto()
    """The file itself, in `video_base64`."""
    UPLOAD = auto()
    """A reference to what was sent to the gateway, in `video_url`."""
    OBJECT = auto()
    """An object in a bucket, in `video_url`."""
    ADDRESS = auto()
    """An http or https address, in `video_url`."""


def kind_of(request: UpscaleRequest) -> SourceKind:
    """The kind of a request's source; whether a path is a file is looked up on this machine."""
    if request.video_path:
        is_video = not request.fps or os.path.isfile(request.video_path)
        return SourceKind.FILE if is_video else SourceKind.PICTURES
    if request.video_base64:
        return SourceKind.BYTES
    return kind_of_url(request.video_url or "")


def kind_of_url(video_url: str) -> SourceKind:
    """The kind of what stands in `video_url`; whether that is well formed is not looked at."""
    if video_url.startswith("upload:"):
        return SourceKind.UPLOAD
    return SourceKind.OBJECT if video_url.startswith(_IN_BUCKET) else SourceKind.ADDRESS
