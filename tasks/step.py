"""The decorator of every task, and the rule that says which failures are tried again."""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from seedvr2_core.errors import SeedVR2Error

P = ParamSpec("P")
R = TypeVar("R")

# ValueError covers pydantic's ValidationError: the same input is refused again.
_SAME_AGAIN = (ValueError, TypeError)


def step(
    *,
    name: str,
    task_run_name: str | None = None,
    retries: int = 0,
    retry_delay_seconds: float | list[float] | None = None,
    retry_jitter_factor: float | None = None,
    timeout_seconds: float | None = None,
) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Make a function a Prefect task whose result is neither cached nor persisted.

    A job's directory is the record of what is done, so Prefect must not answer for it. Retries,
    delays and timeouts stand at each task; whether an error is retried at all is `retryable`.

    Args:
        name: of the task, as Prefect shows it.
        task_run_name: template of the name of its runs; `{parameter}` is filled in.
        retries: attempts after the first.
        retry_delay_seconds: one number for all retries, or one for each.
        retry_jitter_factor: share by which delays are varied, so that jobs do not retry together.
        timeout_seconds: of one attempt; None: no limit but those inside the task.
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
    """Tell Prefect whether to try again: anything but errors that cannot heal."""
    del task, run
    error = _error_of(state)
    if isinstance(error, SeedVR2Error):
        return not error.permanent
    return not isinstance(error, _SAME_AGAIN)


def _error_of(state: State[Any]) -> object:
    """The exception that a failed attempt left, or None.

    Prefect puts it into `state.data`, wrapped in a result record if the task returned a failed
    state. `state.result()` would raise the same object, but inside a running event loop it answers
    with a coroutine that nobody awaits, and then every error would look retryable.
    """
    data: object = state.data
    return data if isinstance(data, BaseException) else getattr(data, "result", None)
