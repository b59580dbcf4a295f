"""A SIGTERM that is not lost in Prefect's engine."""

import contextlib
from collections.abc import Iterator

from prefect.exceptions import TerminationSignal


@contextlib.contextmanager
def termination_heard() -> Iterator[None]:
    """Pass Prefect's SIGTERM on where the handling of it fails.

    One that comes while a task run is being created ends in a ValueError of the task engine. The
    flow would be Failed, which is for good, and not Crashed, which is brought back.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error.__context__, TerminationSignal):
            raise error.__context__ from error
        raise
