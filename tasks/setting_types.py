"""Types of settings that are written as text in one line, lists for instance, and old names."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field
from pydantic_settings import NoDecode

RESOLUTIONS = ("720p", "1080p", "2k", "4k")
_H100, _H200 = "upscale/h100", "upscale/h200"
DEPLOYMENTS = {"720p": _H100, "1080p": _H100, "2k": _H200, "4k": _H200}


def also(old_name: str) -> AliasChoices:
    """Two names of a variable: with our prefix, and as the service that we replace called it."""
    return AliasChoices(f"SEEDVR2_{old_name}", old_name)


def _split(value: object) -> object:
    """Read a comma-separated list."""
    if isinstance(value, str):
        return tuple(item.strip().lower() for item in value.split(",") if item.strip())
    return value


def _read_table(value: object) -> object:
    """Read 720p=upscale/h100,*=upscale/h200."""
    if not isinstance(value, str):
        return value
    pairs = [item.partition("=") for item in value.split(",") if item.strip()]
    table = {key.strip().lower(): name.strip() for key, _, name in pairs}
    rest = table.pop("*", None)
    return dict.fromkeys(RESOLUTIONS, rest) | table if rest else table


def _whole_table(value: dict[str, str]) -> dict[str, str]:
    """Refuse unknown resolutions and names that are not of the form flow/deployment."""
    if not value or set(value) - set(RESOLUTIONS):
        raise ValueError(f"got resolutions {sorted(value)}; known: {RESOLUTIONS} and *")
    if wrong := [n for n in value.values() if len([p for p in n.split("/") if p]) != 2]:
        raise ValueError(f"got {wrong}; a deployment is named flow/deployment: upscale/h100")
    return value


def _digests(value: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse entries that are no digests, without showing them: one may be the token itself."""
    if wrong := [i for i, one in enumerate(value, 1) if not re.fullmatch("[0-9a-f]{64}", one)]:
        raise ValueError(
            f"entries {wrong} are no SHA-256 digests (64 hex digits); make a token and its "
            "digest with python -P -m deployments.gateway --new-token"
        )
    return value


def _hosts(value: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse what is no host name, such as an address with a scheme or a port."""
    if wrong := [one for one in value if not re.fullmatch(r"\*|[a-z0-9._-]+|[0-9a-f:]+", one)]:
        raise ValueError(
            f"got {wrong}; expected host names without scheme and port: gpu.example.org"
        )
    return value


def _known(value: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse unknown resolutions."""
    if unknown := set(value) - set(RESOLUTIONS):
        raise ValueError(f"unknown resolutions {sorted(unknown)}; known: {RESOLUTIONS}")
    return value


AbsolutePath = Annotated[Path, AfterValidator(Path.absolute)]
"""Counted from the folder in which the program was started, wherever it works later."""
Seconds = Annotated[float, Field(gt=0)]
WebAddress = Annotated[str, Field(pattern=r"^https?://")]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
"""A comma-separated list, in lower case."""
Digests = Annotated[tuple[str, ...], NoDecode, AfterValidator(_digests), BeforeValidator(_split)]
HostNames = Annotated[tuple[str, ...], NoDecode, AfterValidator(_hosts), BeforeValidator(_split)]
Resolutions = Annotated[tuple[str, ...], NoDecode, AfterValidator(_known), BeforeValidator(_split)]
Table = Annotated[
    dict[str, str], NoDecode, AfterValidator(_whole_table), BeforeValidator(_read_table)
]
"""Which deployment makes which resolution; `*` stands for all that are not named."""
