"""What the trigger of an event takes of its payload, rendered by Prefect's own code, no server."""

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.exceptions import ParameterTypeError
from prefect.utilities.schema_tools.hydration import HydrationContext, hydrate

from flows.upscale import upscale

ROOT = Path(__file__).parents[3]
TEMPLATE = yaml.safe_load((ROOT / "prefect.yaml").read_text())["definitions"]["requested"]
KNOWN = sorted(set(upscale.parameters.properties) - {"resolution"})


class Resource(dict[str, str]):
    """As Prefect's: labels are items, and a template reaches them like attributes."""

    __slots__ = ()


class Event:
    """What the template sees."""

    def __init__(self, payload: dict[str, Any], resolution: str) -> None:
        self.payload, self.resource = payload, Resource(resolution=resolution)


def taken(payload: dict[str, Any], resolution: str = "2K") -> dict[str, Any]:
    """The parameters that a job would get."""
    payload = json.loads(json.dumps(payload))  # it comes as JSON
    context = HydrationContext(
        raise_on_error=True,
        render_jinja=True,
        render_workspace_variables=True,
        jinja_context={"event": Event(payload, resolution)},
    )
    return hydrate(TEMPLATE["parameters"], context)


URL = {"video_url": "https://example.org/a.mp4"}
NESTED: dict[str, Any] = {
    "a template": {"__prefect_kind": "jinja", "template": "{{ event.resource }}"},
    "a variable": {"__prefect_kind": "workspace_variable", "variable_name": "x"},
    "json in json": {"__prefect_kind": "json", "value": "{}"},
    "none": {"__prefect_kind": "none", "value": 1},
    "an unknown kind": {"__prefect_kind": "exec", "value": "1"},
    "a list": ["lanczos"],
    "a list of templates": [{"__prefect_kind": "jinja", "template": "{{ 7 * 7 }}"}],
    "nothing": None,
    "an empty object": {},
    "an empty list": [],
    "deep": json.loads("[" * 50 + "]" * 50),
}


@pytest.mark.parametrize("value", NESTED.values(), ids=NESTED.keys())
@pytest.mark.parametrize("name", KNOWN)
def test_what_is_no_scalar_is_left_out(name: str, value: Any) -> None:
    assert taken({name: value}) == {"resolution": "2k"}
    assert taken({**URL, name: value}).items() <= {**URL, "resolution": "2k"}.items()


TEXTS: dict[str, str] = {
    "jinja": "{{ 7 * 7 }}{% for x in [1] %}{{ x }}{% endfor %}{# #}",
    "out of the sandbox": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "json": '", "fresh": true, "x": "',
    "end of script": "</script><!-- \u2028\u2029",
    "controls": "\x00\x01\x1b[2J\x7f\x85",
    "half a pair": "\ud83d",
    "right to left": "a\u202egpj.exe",
    "quotes": "'\"`\\",
    "long": "x" * 200_000,
    "none": "None",
    "a kind": "__prefect_kind",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_a_text_stays_as_it_is(text: str) -> None:
    asked = dict.fromkeys(("video_url", "video_path", "model", "callback_url", "seed"), text)
    assert taken(asked) == asked | {"resolution": "2k"}


@pytest.mark.parametrize("number", [0, -1, 2**63, 10**400, 1.5, -0.0, 1e308, True, False])
def test_a_number_or_truth_value_stays_as_it_is(number: float) -> None:
    found = taken({"seed": number, "fresh": number})
    assert found == {"seed": number, "fresh": number, "resolution": "2k"}
    assert type(found["seed"]) is type(number)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_json_has_no_number_for_makes_no_job(number: float) -> None:
    """Python's JSON has it; the flow's parameters are whole numbers and refuse it."""
    with pytest.raises(ParameterTypeError, match="seed"):
        upscale.validate_parameters({**URL, **taken({"seed": number})})


STRANGE = (
    *("__class__", "__init__", "items", "keys", "__prefect_kind", "value", "template", "Seed"),
    *("seed ", " seed", "seed\u0000", "sEed", "resolution", "job_variables", "", "video_url\n"),
)


@pytest.mark.parametrize("name", STRANGE)
def test_other_names_are_left_out(name: str) -> None:
    assert taken({**URL, name: "x"}) == {**URL, "resolution": "2k"}


@pytest.mark.parametrize("label", ["{{ 7 * 7 }}", '", "fresh": true, "x": "', "4K\n", "", "\u212a"])
def test_the_label_is_no_template_either(label: str) -> None:
    assert taken(URL, label) == {**URL, "resolution": label.lower()}


@pytest.mark.parametrize("seed", range(20))
def test_any_payload(seed: int) -> None:
    rng = random.Random(seed)
    values: tuple[Any, ...] = (*NESTED.values(), *TEXTS.values(), 1, 1.5, True)
    names = (*KNOWN, *STRANGE)
    payload = {rng.choice(names): rng.choice(values) for _ in range(rng.randrange(20))}
    expected = {
        name: value
        for name, value in payload.items()
        if name in KNOWN and isinstance(value, str | int | float)
    }
    assert taken(payload) == expected | {"resolution": "2k"}
