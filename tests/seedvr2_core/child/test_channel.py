"""Queues between stages: order, bounds, and how failures travel."""

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
