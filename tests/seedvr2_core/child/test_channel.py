"""Queues between stages: order, bounds, and how failures travel."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from seedvr2_core.child.channel import Channel, InFlight, Stopped


def test_items_come_in_order_and_the_putter_waits_for_room() -> None:
    channel: Channel[int] = Channel(2)
    taken: list[int] = []

    def put() -> None:
        for i in range(50):
            channel.put(i)

    with ThreadPoolExecutor() as pool:
        done = pool.submit(put)
        while len(taken) < 50:
            taken.append(channel.get())
        done.result(timeout=30)
    assert taken == list(range(50))


def test_what_was_put_before_a_failure_is_still_taken() -> None:
    channel: Channel[int] = Channel(2)
    channel.put(1)
    channel.fail(KeyError("lost"))
    assert channel.get() == 1
    for _ in range(2):
        with pytest.raises(KeyError, match="lost"):
            channel.get()


def test_a_waiting_putter_hears_that_nobody_takes_any_more() -> None:
    channel: Channel[int] = Channel(1)
    channel.put(1)
    with ThreadPoolExecutor() as pool:
        second = pool.submit(channel.put, 2)
        channel.close()
        with pytest.raises(Stopped):
            second.result(timeout=30)


def test_no_more_than_the_limit_is_in_flight() -> None:
    flight, third = InFlight(2), threading.Event()
    flight.begin()
    flight.begin()

    def begin() -> None:
        flight.begin()
        third.set()

    with ThreadPoolExecutor() as pool:
        done = pool.submit(begin)
        assert not third.wait(0.05)
        flight.committed()
        done.result(timeout=30)


def test_whoever_waits_for_the_disk_hears_that_it_failed() -> None:
    flight = InFlight(2)
    flight.begin()
    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(flight.wait_for_disk) for _ in range(2)]
        flight.close()
        for done in waiting:
            with pytest.raises(Stopped):
                done.result(timeout=30)


@pytest.mark.parametrize("seed", range(15))
def test_whatever_is_taken_is_a_beginning_of_what_was_put(seed: int) -> None:
    """Any size, any length, and an end from either side at any item."""
    rng = random.Random(seed)
    size, length = rng.randrange(1, 6), rng.randrange(1, 80)
    putter_ends, getter_ends = rng.randrange(length + 1), rng.randrange(length + 1)
    channel: Channel[int] = Channel(size)
    most_waiting = 0

    def put() -> str:
        nonlocal most_waiting
        try:
            for item in range(putter_ends):
                channel.put(item)
                most_waiting = max(most_waiting, len(channel._items))
        except Stopped:
            return "stopped"
        channel.fail(KeyError("the end"))
        return "ended"

    taken: list[int] = []
    with ThreadPoolExecutor() as pool:
        putter = pool.submit(put)
        try:
            while len(taken) < getter_ends:
                taken.append(channel.get())
            heard = "enough"
        except KeyError:
            heard = "the end"
        channel.close()
        ended = putter.result(timeout=30)
    assert taken == list(range(min(putter_ends, getter_ends)))
    assert most_waiting <= size
    assert heard == ("the end" if putter_ends < getter_ends else "enough")
    if ended == "stopped":
        assert putter_ends > getter_ends
    if putter_ends > getter_ends + size:
        assert ended == "stopped"


def test_a_queue_of_bytes_takes_one_item_of_any_size() -> None:
    channel: Channel[bytes] = Channel(10, size_of=len)
    channel.put(b"x" * 25)
    with ThreadPoolExecutor() as pool:
        second = pool.submit(channel.put, b"y")
        assert not second.done()
        assert channel.get() == b"x" * 25
        second.result(timeout=30)
    for _ in range(9):
        channel.put(b"z")
    assert channel._held == 10
