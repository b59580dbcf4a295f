"""Do not lose a SIGTERM in Prefect's engine, and miss no end of a run that comes without one."""

import contextlib
from collections.abc import Iterator

from prefect.exceptions import TerminationSignal

from tasks.run.unheard import NotOursError, looked_after


@contextlib.contextmanager
def termination_heard() -> Iterator[None]:
    """Raise Prefect's SIGTERM again where Prefect's own handling of it fails.

    If the signal comes while a task run is being created, the task engine raises ValueError
    instead. The flow would then be Failed, which is final, instead of Crashed, which `recover`
    brings back.

    Raises:
        NotOursError: this process has sent the signal to itself, because its run was cancelled, or
            goes on elsewhere, and nobody has told it.
    """
    lookout = None
    try:
        with looked_after() as lookout:
            yield
    except BaseException as error:
        told = termination_in(error)
        if told is not None and lookout is not None and lookout.why:
            raise NotOursError(lookout.why) from None
        if told is None or told is error:
            raise
        raise told from error


def termination_in(error: BaseException) -> TerminationSignal | None:
    """The signal that has ended something, itself or behind what Prefect's engine made of it."""
    if isinstance(error, TerminationSignal):
        return error
    behind = error.__context__
    return (
        behind if isinstance(error, Exception) and isinstance(behind, TerminationSignal) else None
    )
