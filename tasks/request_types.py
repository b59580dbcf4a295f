"""The types of a request's fields: what each may be, and what older callers may write instead.

Nothing here imports Prefect or torch.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from seedvr2_core.config import ENGINES
from tasks.net.untrusted import check_url
from tasks.settings import get_settings


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _plain_model(value: object) -> object:
    """Accept the old service's checkpoint file names as model names."""
    if not isinstance(value, str):
        return value
    name = value.lower()
    if not name.startswith("seedvr2_ema_"):
        return name
    size = "3b" if "_3b" in name else "7b"
    return f"seedvr2-{size}-sharp" if "sharp" in name else f"seedvr2-{size}"


def offered_models() -> list[str]:
    """The models that a request may name: auto and the engines; test engines if they are on."""
    test_engines = get_settings().test_engines
    return ["auto", *(n for n, spec in ENGINES.items() if test_engines or not spec.test_only)]


def _offered_model(name: str) -> str:
    if name not in offered_models():
        raise ValueError(f"choose one of {', '.join(offered_models())}")
    return name


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


class _OfferedModels:
    """Makes the JSON schema list the models, so that forms offer them."""

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {"type": "string", "enum": offered_models()}


Resolution = Annotated[
    Literal["720p", "1080p", "2k", "4k", "short:720", "short:1080", "short:1440", "short:2160"],
    BeforeValidator(_lower),
]
Model = Annotated[
    str, BeforeValidator(_plain_model), AfterValidator(_offered_model), _OfferedModels()
]
CallbackUrl = Annotated[str, AfterValidator(_signable)]
NoneIfEmpty = BeforeValidator(lambda value: value or None)
Text = Annotated[str, BeforeValidator(lambda value: "" if value is None else value)]
"""A text field of a form. Empty means not given; so does None, which older clients send."""
StitchMode = Literal["crossfade", "later"]
ColorCorrection = Literal["auto", "wavelet", "wavelet_rgb", "lab", "adain", "none"]
Preset = Literal[
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"
]
