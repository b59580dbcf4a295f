"""The fields of a request about the job and not about the picture: callbacks, address, labels."""

import json
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from tasks.net.presigned import check_signed
from tasks.net.untrusted import check_url
from tasks.settings import get_settings

CALLBACK_EVENTS = ("started", "progress", "ended")
MAX_TAGS, MAX_METADATA_ITEMS, MAX_METADATA_BYTES = 10, 20, 4096
_TAG = re.compile(r"[^\W_][\w .+/@#-]{0,49}")
"""A colon is not among them: tags of ours have one (`caller:...`), which nobody may give."""


def _signable(url: str) -> str:
    """Refuse an address that may not be connected to, and any if we have no secret to sign with."""
    settings = get_settings()
    if settings.callback_secret is None:
        raise ValueError(
            "callbacks are signed and no secret is set here (SEEDVR2_CALLBACK_SECRET); "
            "set one or leave callback_url out"
        )
    check_url(url, settings)
    return url


def _takes_a_video(url: str) -> str:
    """Refuse an address that may not be connected to, or that cannot take a PUT of ours."""
    check_url(url, get_settings())
    check_signed(url)
    return url


OutputUrl = Annotated[str, AfterValidator(_takes_a_video)]
NoneIfEmpty = BeforeValidator(lambda value: value or None)
CallbackUrlField = Annotated[
    Annotated[str, AfterValidator(_signable)] | None,
    NoneIfEmpty,
    Field(
        repr=False,
        description="http(s) address that is told by signed POSTs what becomes of the run. "
        "Refused where SEEDVR2_CALLBACK_SECRET is not set.",
    ),
]


def _listed(value: object) -> object:
    """Several names as one text, whether they came as a list or as text with commas."""
    if value is None:
        return ""
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
        raise ValueError("expected a list of texts, or one text with commas")
    return ",".join(dict.fromkeys(one.strip() for one in value if one.strip()))


def _tags(text: str) -> str:
    tags = split_list(text)
    if len(tags) > MAX_TAGS:
        raise ValueError(f"got {len(tags)} tags, at most {MAX_TAGS} are taken")
    for tag in tags:
        if _TAG.fullmatch(tag) is None:
            raise ValueError(
                f"{tag[:60]!r} is no tag; expected at most 50 letters, digits, spaces and "
                "_ . + / @ # -, with a letter or digit first"
            )
    return text


def _events(text: str) -> str:
    if wrong := set(split_list(text)) - set(CALLBACK_EVENTS):
        raise ValueError(f"got {sorted(wrong)}; known are {', '.join(CALLBACK_EVENTS)}")
    return text or "ended"


def _metadata(value: object) -> object:
    """A small flat object as JSON text, whether it came as an object or as its text."""
    if value in (None, "", {}):
        return ""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(f"no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError('expected an object of names and values: {"order": "17"}')
    _check_items(value)
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        num_bytes = len(text.encode())
    except ValueError as error:  # not a number, or a lone surrogate
        raise ValueError(f"cannot be written as JSON: {error}") from error
    if num_bytes > MAX_METADATA_BYTES:
        raise ValueError(f"has {num_bytes} bytes as JSON, at most {MAX_METADATA_BYTES} are taken")
    return text


def _check_items(value: dict[Any, Any]) -> None:
    """Refuse metadata with too many items, or with values that are no scalars."""
    if len(value) > MAX_METADATA_ITEMS:
        raise ValueError(f"got {len(value)} items, at most {MAX_METADATA_ITEMS} are taken")
    for name, one in value.items():
        if not isinstance(name, str) or not 0 < len(name) <= 64 or not name.isprintable():
            raise ValueError(f"{str(name)[:80]!r} is no name; expected 1 to 64 characters")
        if not isinstance(one, str | int | float | bool):
            raise ValueError(f"{name}: expected a text, a number or a truth value")


def split_list(text: str) -> tuple[str, ...]:
    """The names in a text with commas, as the fields below keep them."""
    return tuple(one for one in text.split(",") if one)


def metadata_of(text: str) -> dict[str, Any]:
    """What a caller has noted on a job, of the text that the field keeps."""
    return json.loads(text) if text else {}


_TEXT_OR_LIST = {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "string"}]}
TagsField = Annotated[
    str,
    AfterValidator(_tags),
    BeforeValidator(_listed),
    WithJsonSchema(_TEXT_OR_LIST),
    Field(
        description="Words of the caller's own, a list or one text with commas, by which jobs can "
        "be found: at most 10 of 50 characters. They come back in status, list, result and "
        "callbacks, and are tags of the run in Prefect.",
    ),
]
MetadataField = Annotated[
    str,
    BeforeValidator(_metadata),
    WithJsonSchema({"anyOf": [{"type": "object"}, {"type": "string"}]}),
    Field(
        repr=False,
        description="What the caller notes on the job, an object or its JSON text: at most 20 "
        "names with texts, numbers or truth values, 4096 bytes in all. It comes back in status, "
        "list, result and callbacks. It is stored in clear, so it is no place for a secret.",
    ),
]
ExpiresInField = Annotated[
    float | None,
    Field(
        ge=0,
        le=3_155_760_000,
        allow_inf_nan=False,
        description="How many seconds after its end the job's output is removed from storage. 0: "
        "never. Not set: as SEEDVR2_EXPIRES_IN says.",
    ),
]
KeepMasterField = Annotated[
    bool,
    Field(
        description="Keep a lossless master of the restored frames in the work directory. The same "
        "video asked for with another codec, container or quality is then coded again from it, "
        "without the engine. It is large (`seedvr2 plan` says how large), and goes when nobody has "
        "used it for SEEDVR2_KEEP_DAYS.",
    ),
]
CallbackEventsField = Annotated[
    str,
    AfterValidator(_events),
    BeforeValidator(_listed),
    WithJsonSchema(_TEXT_OR_LIST),
    Field(
        description="What `callback_url` is told of: `started`, `progress`, `ended`, a list or one "
        "text with commas.",
    ),
]
OutputUrlField = Annotated[
    OutputUrl | None,
    NoneIfEmpty,
    Field(
        repr=False,
        description="http(s) address that takes the finished video by one PUT, such as a presigned "
        "one, in the place of the installation's storage. It must work until the video is done. "
        "The query of the address is shown nowhere but among the run's parameters.",
    ),
]
