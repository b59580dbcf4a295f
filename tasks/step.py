"""Which failed task is worth another attempt: the `retry_condition_fn` of every task."""

from typing import TYPE_CHECKING, Any

from seedvr2_core.errors import SeedVR2Error

if TYPE_CHECKING:
    from prefect import Task
    from prefect.client.schemas.objects import State, TaskRun

# ValueError covers pydantic's ValidationError: the same input is refused again.
_SAME_AGAIN = (ValueError, TypeError)


def retryable(task: "Task[..., Any]", run: "TaskRun", state: "State[Any]") -> bool:
    """Tell Prefect whether to try again: anything but errors that cannot heal."""
    del task, run
    error = _error_of(state)
    if isinstance(error, SeedVR2Error):
        return not error.permanent
    return not isinstance(error, _SAME_AGAIN)


def _error_of(state: "State[Any]") -> object:
    """The exception a failed attempt left, or None.

    Read from `state.data`, where Prefect puts it, wrapped in a result record if the task returned
    a failed state. `state.result()` would raise the same object, but inside a running event loop
    it answers with a coroutine that nobody awaits, and then every error looks retryable.
    """
    data: object = state.data
    return data if isinstance(data, BaseException) else getattr(data, "result", None)
