"""Do not lose a SIGTERM in Prefect's engine."""

import contextlib
from collections.abc import Iterator

from prefect.exceptions import TerminationSignal


@contextlib.contextmanager
def termination_heard() -> Iterator[None]:
    """Raise Prefect's SIGTERM again where Prefect's own handling of it fails.

    If the signal comes while a task run is being created, the task engine raises ValueError
    instead. The flow would then be Failed, which is final, instead of Crashed, which `recover`
    brings back.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error.__context__, TerminationSignal):
            raise error.__context__ from error
        raise
