"""The form of Prefect's UI: sections in the order of use, and fields that take a value at once."""

import inspect
from typing import Any

import pytest
from prefect import Flow
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import ValidationError, validate

from flows.route import route
from flows.upscale import upscale
from tasks.request.sections import SECTIONS

SWITCHES = ("anyOf", "oneOf", "allOf")
"""What makes both UIs show a switch between types in front of a field."""


def form(flow: Flow[..., Any]) -> dict[str, Any]:
    """What a deployment of this flow sends to the server."""
    return parameter_schema(flow).model_dump()


def test_every_parameter_stands_in_one_section_and_both_flows_have_one_form() -> None:
    shown = [name for names in SECTIONS.values() for name in names]
    assert sorted(shown) == sorted(inspect.signature(upscale.fn).parameters)
    assert list(form(upscale)["properties"]) == shown
    assert form(route) == form(upscale)


def test_fields_stand_in_order_under_their_section_and_name() -> None:
    fields = form(upscale)["properties"]
    assert [field["position"] for field in fields.values()] == list(range(len(fields)))
    titles = [f"{heading}: {name}" for heading, names in SECTIONS.items() for name in names]
    assert [field["title"] for field in fields.values()] == titles
    assert all(field["description"] for field in fields.values())
    assert titles[0] == "Source: video_url"


def test_every_field_takes_a_value_at_once() -> None:
    for name, field in form(upscale)["properties"].items():
        assert not [word for word in SWITCHES if word in field], name
        assert field["type"] in ("string", "integer", "number", "boolean"), name
        assert field.get("default", "") is not None, f"{name}: the form would send None"
    assert form(upscale)["required"] == []


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"video_url": "https://example.org/a.mp4", "quality": 75, "temporal_overlap": 0},
        {"max_seconds": 1.5, "max_price": 2, "seed": 2**64 - 1},
        {"quality": None, "temporal_overlap": None, "max_seconds": None, "max_price": None},
    ],
    ids=["nothing", "numbers", "limits", "none-of-older-clients"],
)
def test_the_server_takes_what_the_flow_takes(given: dict[str, Any]) -> None:
    validate(given, form(upscale), raise_on_error=True)
    assert given.items() <= upscale.validate_parameters(given).items()


@pytest.mark.parametrize(
    ("name", "value"),
    [("quality", 0), ("quality", 101), ("crf", 52), ("max_price", 0), ("resolution", "1081p")],
)
def test_the_server_refuses_what_the_flow_would_refuse(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        validate({name: value}, form(upscale), raise_on_error=True)
