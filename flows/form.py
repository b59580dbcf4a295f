"""The form that Prefect's UI shows for a request: its sections, and what each field takes.

Prefect makes the form from the signature of a flow. Both of its UIs show the fields by `position`,
under their titles, and put a field that may be None behind a switch between "int" and "None". So a
form gets a signature of its own: the fields stand in the order of use with their section in front,
and a number that may be left out is a number without a default. Prefect's server takes None for
such a field too, so older clients may go on sending it. Names and values are those of the flow.
"""

import inspect
from collections.abc import Iterator
from typing import Annotated, Any

from prefect import Flow
from pydantic import Field, WithJsonSchema

from tasks.request.sections import SECTIONS
from tasks.schemas import UpscaleRequest

_KEPT = ("type", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
"""What the request's schema says of a number, so that a form refuses what the flow would refuse."""


def arrange(flow: Flow[..., Any]) -> None:
    """Give a flow that takes a request the form with these sections."""
    signature = inspect.signature(flow.fn)
    asked = UpscaleRequest.model_json_schema()["properties"]
    fields = [_field(signature.parameters[n], title, asked[n]) for n, title in _titles()]
    flow.__signature__ = signature.replace(parameters=fields)  # type: ignore[attr-defined]


def _titles() -> Iterator[tuple[str, str]]:
    """(name, title) of each field, in order."""
    for heading, names in SECTIONS.items():
        for name in names:
            yield name, f"{heading}: {name}"


def _field(parameter: inspect.Parameter, title: str, asked: dict[str, Any]) -> inspect.Parameter:
    """The parameter as the form shows it.

    Args:
        parameter: of the flow.
        title: what stands over the field.
        asked: what the request's schema says of it.
    """
    known = next(iter(asked.get("anyOf", ())), asked)
    is_number = known.get("type") in ("integer", "number")
    number = {key: known[key] for key in _KEPT if is_number and key in known}
    extra: dict[str, Any] = {"title": title, **number}
    kind = Annotated[parameter.annotation, Field(json_schema_extra=extra)]
    if parameter.default is not None:
        return parameter.replace(annotation=kind)
    # A factory makes the field optional, and leaves no default in the schema.
    kind = Annotated[kind, WithJsonSchema(number), Field(default_factory=lambda: None)]
    return parameter.replace(annotation=kind, default=Field())
