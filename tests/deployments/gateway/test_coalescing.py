"""Many callers cost few calls, and nobody gets an answer that is older than the question."""

import asyncio
from collections.abc import Mapping

import pytest

from deployments.gateway.coalescing import Coalescer


class Source:
    """A slow source: it knows the squares of even numbers, each with the source's version."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.version = 0
        self.go_on = asyncio.Event()
        self.error: Exception | None = None

    async def ask(self, keys: list[int]) -> Mapping[int, tuple[int, int]]:
        self.calls.append(keys)
        version = self.version
        await self.go_on.wait()
        if self.error is not None:
            raise self.error
        return {key: (key * key, version) for key in keys if key % 2 == 0}


async def begun(*asked: "asyncio.Future[object]") -> None:
    """Let tasks run until they wait."""
    for _ in range(10):
        await asyncio.sleep(0)
    assert not any(one.done() for one in asked)


def test_what_is_asked_during_a_call_goes_out_together_in_the_next() -> None:
    async def scene() -> None:
        source = Source()
        coalescer = Coalescer(source.ask, max_keys=3)
        first = asyncio.ensure_future(coalescer.get(2))
        await begun(first)
        later = [asyncio.ensure_future(coalescer.get(key)) for key in (4, 5, 4, 6, 8)]
        await begun(first, *later)
        assert source.calls == [[2]]
        source.go_on.set()
        assert await first == (4, 0)
        assert await asyncio.gather(*later) == [(16, 0), None, (16, 0), (36, 0), (64, 0)]
        assert source.calls == [[2], [4, 5, 6], [8]]

    asyncio.run(scene())


def test_an_answer_is_never_older_than_the_question() -> None:
    async def scene() -> None:
        source = Source()
        coalescer = Coalescer(source.ask, max_keys=3)
        first = asyncio.ensure_future(coalescer.get(2))
        await begun(first)
        source.version = 1
        second = asyncio.ensure_future(coalescer.get(2))
        await begun(first, second)
        source.go_on.set()
        assert (await first, await second) == ((4, 0), (4, 1))

    asyncio.run(scene())


def test_an_error_reaches_all_who_wait_for_that_call_and_no_later_one() -> None:
    async def scene() -> None:
        source = Source()
        coalescer = Coalescer(source.ask, max_keys=3)
        source.error = OSError("away")
        asked = [asyncio.ensure_future(coalescer.get(2)) for _ in range(2)]
        await begun(*asked)
        source.go_on.set()
        assert [str(one) for one in await asyncio.gather(*asked, return_exceptions=True)] == [
            "away",
            "away",
        ]
        source.error = None
        assert await coalescer.get(2) == (4, 0)

    asyncio.run(scene())


def test_one_who_leaves_takes_nobody_along() -> None:
    async def scene() -> None:
        source = Source()
        coalescer = Coalescer(source.ask, max_keys=3)
        leaves, stays = (asyncio.ensure_future(coalescer.get(2)) for _ in range(2))
        await begun(leaves, stays)
        leaves.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaves
        source.go_on.set()
        assert await stays == (4, 0)
        assert source.calls == [[2]]

    asyncio.run(scene())
