"""The types of a request's fields that name the source."""

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from seedvr2_core.video.sequence.rate import parse_rate


def _rate(text: str) -> str:
    if text:
        parse_rate(text)
    return text.strip()


VideoUrlField = Annotated[
    str | None,
    Field(
        repr=False,
        description="The video's http(s) address, or s3://, gs:// or az:// where settings allow "
        "it. One source is required: this, `video_path` or `video_base64`.",
    ),
]
VideoPathField = Annotated[
    str | None,
    Field(
        description="Path of the video on the machine that runs the job, where "
        "SEEDVR2_ALLOW_LOCAL_FILES allows that. With `fps` a folder of pictures, or a pattern "
        "such as `frames/%05d.png`.",
    ),
]
VideoBase64Field = Annotated[
    str | None,
    Field(
        repr=False,
        description="The bytes of a small video in base64, at most 350,000 characters; the gateway "
        "takes larger ones too and stores them as an upload.",
    ),
]
Rate = Annotated[str, BeforeValidator(lambda value: "" if value is None else str(value))]
"""Frames a second: a text, or a number as events and JSON may have it; "" is not given."""
FpsField = Annotated[
    Rate,
    AfterValidator(_rate),
    Field(
        max_length=40,
        description="Makes one video of pictures (PNG, JPEG, TIFF, WebP, EXR, all of one kind, "
        "size and depth): how many are shown in a second, as a number (`24`, `29.97`) or a "
        "fraction (`24000/1001`). 23.976, 29.97 and 59.94 mean 24000/1001, 30000/1001 and "
        "60000/1001. The source is then a folder of pictures, a pattern or a zip. Empty: the "
        "source is a video, a picture, or a zip that an earlier job has made.",
    ),
]
