"""Requests coalesced: what is asked for while a call is under way goes out together in the next.

A caller alone is served as if this were not here. Many callers cost the server behind no more than
a few calls at a time, whatever their number; nothing is remembered between calls.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Coalescer(Generic[Key, Value]):
    """Answers one key at a time from calls that ask for many; one call is under way at a time.

    Args:
        ask: the call: keys -> what was found, by key.
        most: keys of one call.
    """

    def __init__(
        self, ask: Callable[[list[Key]], Awaitable[Mapping[Key, Value]]], *, most: int
    ) -> None:
        self._ask, self._most = ask, most
        self._waiting: dict[Key, asyncio.Future[Value | None]] = {}
        self._worker: asyncio.Task[None] | None = None

    async def get(self, key: Key) -> Value | None:
        """What a call that starts after this moment finds; None if that is nothing.

        Raises:
            Exception: of the call, to everybody who waits for it.
        """
        if key not in self._waiting:
            self._waiting[key] = asyncio.get_running_loop().create_future()
        answer = self._waiting[key]
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await asyncio.shield(answer)  # a caller who leaves takes nobody along

    async def _work(self) -> None:
        """Call until nobody waits."""
        while self._waiting:
            keys = list(self._waiting)[: self._most]
            answers = {key: self._waiting.pop(key) for key in keys}
            try:
                found = await self._ask(keys)
            except Exception as error:  # noqa: BLE001 - raised to those who asked
                for answer in answers.values():
                    answer.set_exception(error)
                    answer.exception()  # one that nobody waits for any more is no warning
                continue
            for key, answer in answers.items():
                answer.set_result(found.get(key))
