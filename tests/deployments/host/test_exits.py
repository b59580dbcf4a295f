"""Errors become one sentence on stderr and an exit code."""

import pytest
import typer

from deployments.host.exits import exit_codes
from seedvr2_core.errors import ChildFailedError, InvalidRequestError


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InvalidRequestError("[bold] is no model"), 2, "error: [bold] is no model"),
        (ChildFailedError("it ended with 1"), 1, "error: it ended with 1"),
        (KeyboardInterrupt(), 130, "interrupted; all is kept: run it again to go on"),
    ],
    ids=["wrong input", "failure", "interrupted"],
)
def test_each_kind_of_end_has_its_code(
    error: BaseException, code: int, line: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as caught, exit_codes("all is kept"):
        raise error
    assert caught.value.exit_code == code
    out, err = capfd.readouterr()
    assert (out, err) == ("", f"{line}\n")


def test_a_mistake_of_ours_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), exit_codes("all is kept"):
        raise ZeroDivisionError
