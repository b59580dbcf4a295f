"""The type of a request's field `preview`."""

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from seedvr2_core.preview.wanted import wanted_excerpt


def _checked(text: str) -> str:
    if text:
        wanted_excerpt(text)
    return text.strip()


PreviewField = Annotated[
    str,
    BeforeValidator(lambda value: "" if value is None else str(value)),
    AfterValidator(_checked),
    Field(
        max_length=80,
        description="Make only a short piece, to see it before the whole video is made: a length "
        "in seconds or frames and where it begins in the result, such as `3s@0:42` or `90f@1200`, "
        "written as `start` is. Without a place (`3s`) one is chosen. What is made for it is kept "
        "for the whole job: the same request without `preview`. Empty: the whole video.",
    ),
]
