"""Coalesces requests: keys that are asked for during a call are put together into the next call.

A single caller notices nothing of it. Many callers together cost the server behind a few calls,
however many they are. No answer is kept after its call.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Coalescer(Generic[Key, Value]):
    """Answers callers who ask for one key each with calls for many keys, one call at a time.

    Args:
        ask: makes a call; takes keys and returns what was found, by key.
        max_keys: the most keys in one call.
    """

    def __init__(
        self, ask: Callable[[list[Key]], Awaitable[Mapping[Key, Value]]], *, max_keys: int
    ) -> None:
        self._ask, self._max_keys = ask, max_keys
        self._waiting: dict[Key, asyncio.Future[Value | None]] = {}
        self._worker: asyncio.Task[None] | None = None

    async def get(self, key: Key) -> Value | None:
        """Return what a call finds that starts after this moment; None if it finds nothing.

        Raises:
            Exception: what the call raised; everybody who waits for that call gets it.
        """
        if key not in self._waiting:
            self._waiting[key] = asyncio.get_running_loop().create_future()
        answer = self._waiting[key]
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await asyncio.shield(answer)  # others may wait too: one who leaves cancels nothing

    async def _work(self) -> None:
        """Make calls until nobody is waiting."""
        while self._waiting:
            keys = list(self._waiting)[: self._max_keys]
            answers = {key: self._waiting.pop(key) for key in keys}
            try:
                found = await self._ask(keys)
            except Exception as error:  # noqa: BLE001 - given to those who asked
                for answer in answers.values():
                    answer.set_exception(error)
                    answer.exception()  # asyncio warns of errors that nobody has looked at
                continue
            for key, answer in answers.items():
                answer.set_result(found.get(key))
