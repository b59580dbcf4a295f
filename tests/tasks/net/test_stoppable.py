"""Coroutines that whatever interrupts their caller ends."""

import asyncio
import signal
import time
from collections.abc import Iterator

import pytest

from tasks.net.stoppable import run_stoppable


class Told(BaseException):
    """What the signal handler raises, as Prefect's does."""


@pytest.fixture
def alarm() -> Iterator[None]:
    """SIGALRM raises in the main thread, a moment from now."""

    def tell(*_: object) -> None:
        raise Told

    before = signal.signal(signal.SIGALRM, tell)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_the_result_and_errors_come_through() -> None:
    async def give() -> int:
        await asyncio.sleep(0)
        return 7

    async def fail() -> None:
        raise ValueError("told")

    assert run_stoppable(give()) == 7
    with pytest.raises(ValueError, match="told"):
        run_stoppable(fail())


@pytest.mark.usefixtures("alarm")
def test_a_signal_in_the_middle_of_a_callback_ends_it() -> None:
    ended: list[str] = []

    async def work() -> None:
        loop = asyncio.get_running_loop()

        def spin() -> None:  # the loop is in a callback nearly all the time
            time.sleep(0.01)
            loop.call_soon(spin)

        spin()
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("cleaned up")

    with pytest.raises(Told):
        run_stoppable(work())
    assert ended == ["cleaned up"]
