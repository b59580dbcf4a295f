"""Runs a coroutine so that a signal, a timeout or Ctrl-C in its caller ends it at once."""

import asyncio
import contextlib
import contextvars
from collections.abc import Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


def run_stoppable(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a thread of its own and return its result.

    In the main thread, asyncio would swallow an exception that a signal handler raises (Prefect's
    for SIGTERM) while the event loop is in a callback. Here the exception interrupts the waiting:
    the coroutine is cancelled, we wait until it has ended, and the exception goes on.
    """
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any] | None]] = Future()

    async def run() -> T:
        started.set_result((asyncio.get_running_loop(), asyncio.current_task()))
        return await work

    context = contextvars.copy_context()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="coroutine") as pool:
        ended = pool.submit(context.run, asyncio.run, run())
        try:
            return ended.result()
        except BaseException:
            if not ended.done():
                loop, task = started.result()
                with contextlib.suppress(RuntimeError):  # the loop has ended in the meantime
                    loop.call_soon_threadsafe(task.cancel if task else loop.stop)
            raise
