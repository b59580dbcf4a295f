"""The decorator of every task, and the rule that says which failures are tried again."""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from seedvr2_core.errors import SeedVR2Error

P = ParamSpec("P")
R = TypeVar("R")

# The same input fails again. ValueError covers pydantic's ValidationError.
_SAME_AGAIN = (ValueError, TypeError)


def step(
    *,
    name: str,
    task_run_name: str | Callable[[dict[str, Any]], str] | None = None,
    retries: int = 0,
    retry_delay_seconds: float | list[float] | None = None,
    retry_jitter_factor: float | None = None,
    timeout_seconds: float | None = None,
) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Make a function a Prefect task whose result is neither cached nor persisted.

    What is done is recorded in the job's directory, so Prefect must not keep results of its own.
    Retries, delays and timeouts stand at each task. `retryable` decides whether an error is retried
    at all.

    Args:
        name: name of the task in Prefect.
        task_run_name: name of its runs, where `{parameter}` stands for the value of a parameter;
            or what makes the name of the run's `parameters`.
        retries: number of attempts after the first.
        retry_delay_seconds: wait before a retry: one number for all, or one for each.
        retry_jitter_factor: share by which the waits vary, so that many jobs do not retry at once.
        timeout_seconds: limit of one attempt; None: only the limits inside the task hold.
    """
    return task(
        name=name,
        task_run_name=task_run_name,
        retries=retries,
        retry_delay_seconds=retry_delay_seconds,
        retry_jitter_factor=retry_jitter_factor,
        retry_condition_fn=retryable,
        timeout_seconds=timeout_seconds,
        persist_result=False,
        cache_policy=NO_CACHE,
    )


def retryable(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Tell Prefect whether to try again: yes, unless the same error would come again."""
    del task, run
    error = _error_of(state)
    if isinstance(error, SeedVR2Error):
        return not error.permanent
    return not isinstance(error, _SAME_AGAIN)


def _error_of(state: State[Any]) -> object:
    """The exception that ended an attempt, or None.

    Prefect puts the exception into `state.data`, wrapped in a result record if the task returned a
    failed state. We do not call `state.result()`: inside a running event loop it returns a
    coroutine that nobody awaits, and then every error would look retryable.
    """
    data: object = state.data
    return data if isinstance(data, BaseException) else getattr(data, "result", None)
