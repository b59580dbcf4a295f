"""Which errors are tried again, asked with the states that Prefect's engine makes."""

import asyncio
import inspect

import pytest
from prefect import Task
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import Failed
from prefect.task_engine import AsyncTaskRunEngine, SyncTaskRunEngine
from pydantic import TypeAdapter, ValidationError

from seedvr2_core import errors
from tasks.fetch import fetch
from tasks.step import retryable
from tasks.upload import upload
from tasks.verify import verify


def _validation_error() -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(int).validate_python("no number")
    return caught.value


def _tree() -> list[type[errors.SeedVR2Error]]:
    kinds, todo = [], [errors.SeedVR2Error]
    while todo:
        kinds.append(todo.pop())
        todo += kinds[-1].__subclasses__()
    return kinds


@pytest.mark.parametrize("kind", _tree(), ids=lambda kind: kind.__name__)
def test_errors_of_the_tree_follow_their_own_word(kind: type[errors.SeedVR2Error]) -> None:
    assert retryable(None, None, Failed(data=kind("x"))) is not kind.permanent


@pytest.mark.parametrize(
    ("error", "again"),
    [
        pytest.param(ValueError("x"), False, id="value"),
        pytest.param(TypeError("x"), False, id="type"),
        pytest.param(_validation_error(), False, id="pydantic"),
        pytest.param(OSError("x"), True, id="os"),
        pytest.param(TimeoutError("x"), True, id="timeout"),
        pytest.param(RuntimeError("x"), True, id="runtime"),
        pytest.param(None, True, id="no-exception"),
    ],
)
def test_foreign_errors(error: Exception | None, again: bool) -> None:
    assert retryable(None, None, Failed(data=error)) is again


def test_inside_a_running_event_loop() -> None:
    async def ask() -> bool:
        return retryable(None, None, Failed(data=errors.InvalidRequestError("x")))

    assert asyncio.run(ask()) is False


@pytest.mark.parametrize("engine", [SyncTaskRunEngine, AsyncTaskRunEngine], ids=["sync", "async"])
@pytest.mark.parametrize(
    ("error", "again"),
    [
        pytest.param(errors.SourceUnavailableError("x"), True, id="heals"),
        pytest.param(errors.SourceRefusedError("x"), False, id="permanent"),
        pytest.param(Failed(data=errors.PlanError("x")), False, id="permanent-failed-state"),
    ],
)
@pytest.mark.parametrize("policy", [fetch, upload, verify], ids=lambda policy: policy.name)
def test_prefects_own_engines_obey(
    policy: Task, engine: type, error: Exception | State, again: bool
) -> None:
    """The step in which Prefect asks, without a server."""
    running = engine(task=policy)
    running.task_run = TaskRun(task_key="x", dynamic_key="0")
    answer = running.can_retry(error)
    assert (asyncio.run(answer) if inspect.iscoroutine(answer) else answer) is again
