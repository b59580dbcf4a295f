"""How a failure is logged: one of ours by its sentence, a bug by one traceback."""

import logging
from collections.abc import Iterator

import pytest
from prefect import flow
from prefect.client.schemas.objects import State
from prefect.logging.configuration import setup_logging

from seedvr2_core.errors import (
    BudgetError,
    DeadlineError,
    SeedVR2Error,
    StalledError,
    StorageError,
)
from tasks.run.failures import EXPECTED, failed, tell_in_sentences
from tasks.step import step

pytestmark = pytest.mark.usefixtures("in_api")

SENTENCE = "the storage is away; try again"


@step(name="store", retries=1, retry_delay_seconds=0)
def store(error: Exception) -> None:
    """A task that fails, and once more when it is tried again."""
    raise error


@flow(name="storing", persist_result=False)
def storing(ours: bool) -> State[None]:
    """A flow as ours are."""
    tell_in_sentences()
    try:
        store(StorageError(SENTENCE) if ours else RuntimeError("a bug"))
    except EXPECTED as error:
        return failed(error)
    raise AssertionError("it has failed")


class Kept(logging.Handler):
    """Keeps what is logged, as Prefect's own handlers get it."""

    def __init__(self) -> None:
        super().__init__(level=logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def errors() -> Iterator[list[logging.LogRecord]]:
    """The errors that runs of flows and tasks log."""
    setup_logging()  # it sets handlers, and would remove ours later
    kept = Kept()
    loggers = [logging.getLogger(name) for name in ("prefect.flow_runs", "prefect.task_runs")]
    for logger in loggers:
        logger.addHandler(kept)
    yield kept.records
    for logger in loggers:
        logger.removeHandler(kept)


def test_an_error_of_ours_is_a_sentence_without_a_traceback(
    errors: list[logging.LogRecord],
) -> None:
    state = storing(ours=True, return_state=True)
    assert state.is_failed()
    assert str(state.message).startswith(SENTENCE)
    told = [record for record in errors if SENTENCE in record.getMessage()]
    assert told
    assert not [record for record in told if record.exc_info]
    assert told[0].getMessage().startswith(SENTENCE), "no repr of an exception around it"


def test_a_bug_keeps_one_traceback(errors: list[logging.LogRecord]) -> None:
    state = storing(ours=False, return_state=True)
    assert state.is_failed()
    assert len([record for record in errors if record.exc_info]) == 1


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (StalledError("no sign of life"), "TimedOut"),
        (DeadlineError("the limit was passed"), "TimedOut"),
        (BudgetError("it would cost more"), "OverBudget"),
        (StorageError("away"), "Failed"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_name_of_the_state_says_what_kind_of_end_it_is(error: SeedVR2Error, name: str) -> None:
    """Automations tell a run that the watchdog has ended by it."""
    state = failed(error)
    assert (state.name, state.is_failed()) == (name, True)
