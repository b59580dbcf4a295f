"""What a request refuses at the door, whichever door it came by."""

import json
import math

import pytest

from seedvr2_core.errors import InvalidRequestError
from tasks.schemas import UpscaleRequest, check_request

URL = "https://example.org/a.mp4"
NUMBERS = [name for name, field in UpscaleRequest.model_fields.items() if "float" in repr(field)]


def test_the_numbers_of_a_request_are_found() -> None:
    assert {"max_seconds", "max_price", "strength", "grain", "expires_in"} <= {*NUMBERS}


@pytest.mark.parametrize("value", [math.inf, "inf", math.nan, "nan"])
@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_that_json_does_not_know_is_none(name: str, value: float | str) -> None:
    """An address's query and a command can name it, and no run could be created with it."""
    with pytest.raises(ValueError, match="Out of range float"):
        json.dumps(float(value), allow_nan=False)
    with pytest.raises(InvalidRequestError, match=name):
        check_request(video_url=URL, **{name: value})
