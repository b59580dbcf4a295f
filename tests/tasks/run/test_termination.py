"""A SIGTERM ends a run also when Prefect's engine fails to handle it."""

import signal

import pytest
from prefect.exceptions import TerminationSignal

from tasks.run.termination import termination_heard


def _lose(signal_: BaseException) -> None:
    """Fail as the task engine does when a signal comes before it has a task run."""
    try:
        raise signal_
    except BaseException as error:
        raise ValueError("Task run is not set") from error


def test_a_termination_whose_handling_fails_is_a_termination() -> None:
    with pytest.raises(TerminationSignal), termination_heard():
        _lose(TerminationSignal(signal.SIGTERM))


@pytest.mark.parametrize("cause", [None, OSError("no space")])
def test_other_errors_stay_what_they_are(cause: Exception | None) -> None:
    with pytest.raises(ValueError, match="wrong") as raised, termination_heard():
        raise ValueError("wrong") from cause
    assert raised.value.__cause__ is cause
