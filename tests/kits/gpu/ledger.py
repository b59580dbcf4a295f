"""Who has to wait for whom on a GPU, kept account of while the work is done in program order.

Streams and the host have a clock each: how far each of the others is known to have come. Every
access to memory that the device shares is written down with the clock of who makes it. Two accesses
to the same bytes, one of which writes, are a fault if neither is known to come after the other: on
a GPU they may meet. So is memory that is given back to the stream it came from while another may be
at it. Threads of the host are taken for one: what they owe each other is not seen.
"""

import functools
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

HOST = "the host"
WATCHED = ("seedvr2_core", "benchmarks")
"""Packages whose lines are named."""
Clock = dict[Hashable, int]


@dataclass(frozen=True, slots=True)
class Access:
    """What somebody does to some bytes of a storage."""

    who: Hashable
    count: int
    """On the clock of who makes it."""
    first: int
    stop: int
    writes: bool
    where: str

    @property
    def does(self) -> str:
        """In words."""
        return "writes" if self.writes else "reads"


@dataclass(slots=True)
class Block:
    """A storage that the device works with."""

    home: Hashable
    """The stream it came from; the host, if it is page-locked memory."""
    accesses: list[Access] = field(default_factory=list)
    recorded: set[Hashable] = field(default_factory=set)
    """Streams that it is not taken from before they are done."""


class Ledger:
    """The account of one pretended GPU."""

    def __init__(self, *, without: str = "") -> None:
        """Nothing has happened yet.

        Args:
            without: leave out this way of waiting, as `waits` names it.
        """
        self._without = without
        self.faults: list[str] = []
        self.waits: set[str] = set()
        """Every way of waiting that was asked for: file, function and what it called."""
        self.stops: Counter[str] = Counter()
        """File and function where the host stood still until a stream was done."""
        self.lock = threading.RLock()
        self._clocks: dict[Hashable, Clock] = {HOST: {HOST: 1}}
        self._blocks: dict[int, Block] = {}

    def tick(self, who: Hashable) -> None:
        """Who does the next thing; a stream does it after all that the host did before."""
        clock = self._clocks.setdefault(who, {})
        if who != HOST:
            _join(clock, self._clocks[HOST])
        clock[who] = clock.get(who, 0) + 1

    def moment(self, who: Hashable) -> Clock:
        """What is done by now, for those who wait for it."""
        self.tick(who)
        return dict(self._clocks[who])

    def everything(self) -> Clock:
        """All that was asked of anybody."""
        moment: Clock = {}
        for who in list(self._clocks):
            _join(moment, self.moment(who))
        return moment

    def wait(self, who: Hashable, moment: Clock, how: str) -> None:
        """Who does nothing more before that moment."""
        if self._asks(how):
            self._come_after(who, moment)

    def stop(self, who: Hashable) -> None:
        """The host stands still until a stream is done, because an operation wants it."""
        self.stops[caller()] += 1
        self._come_after(HOST, self.moment(who))

    def record(self, tensor: Tensor, stream: Hashable) -> None:
        """The tensor's memory is not given to others before the stream is done with it."""
        if self._asks("record_stream"):
            block = self.block(tensor)
            if block is not None:
                block.recorded.add(stream)

    def add(self, tensor: Tensor, home: Hashable) -> None:
        """From now on the tensor's storage is watched."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._blocks and storage.nbytes():
            self._blocks[key] = Block(home)
            weakref.finalize(storage, self._given_back, key)

    def block(self, tensor: Tensor) -> Block | None:
        """The tensor's storage, if it is watched."""
        return self._blocks.get(tensor.untyped_storage()._cdata)

    def touch(self, who: Hashable, tensor: Tensor, *, writes: bool) -> None:
        """Who reads or writes the bytes from the tensor's first to its last, now."""
        block = self.block(tensor)
        if block is None or not tensor.numel():
            return
        clock, size = self._clocks[who], tensor.element_size()
        first = tensor.storage_offset() * size
        steps = zip(tensor.shape, tensor.stride(), strict=True)
        stop = first + (sum((n - 1) * step for n, step in steps) + 1) * size
        new = Access(who, clock[who], first, stop, writes, place())
        kept: list[Access] = []
        for old in block.accesses:
            meets = old.first < stop and first < old.stop
            after = clock.get(old.who, 0) >= old.count
            if meets and not after and (writes or old.writes):
                self._fault(
                    f"{who} {new.does} at {new.where} what {old.who} {old.does} at {old.where}"
                )
            inside = first <= old.first and old.stop <= stop
            if not (after and inside and (writes or not old.writes)):
                kept.append(old)
        block.accesses = [*kept, new]

    def _given_back(self, key: int) -> None:
        with self.lock:
            block = self._blocks.pop(key)
            home = block.home
            # Torch keeps page-locked memory until the copies that it knows of are done.
            if home == HOST:
                return
            done = dict(self._clocks[home])
            _join(done, self._clocks[HOST])
            others = [old for old in block.accesses if old.who not in (HOST, *block.recorded)]
            for old in others:
                if done.get(old.who, 0) < old.count:
                    self._fault(f"{home} gets memory back that {old.who} uses at {old.where}")

    def _come_after(self, who: Hashable, moment: Clock) -> None:
        _join(self._clocks[who], moment)
        self.tick(who)

    def _asks(self, how: str) -> bool:
        """Note a way of waiting that our code asks for; whether it has its effect."""
        name = f"{caller()} {how}"
        self.waits.add(name)
        return name != self._without

    def _fault(self, text: str) -> None:
        if text not in self.faults:
            self.faults.append(text)


def caller() -> str:
    """File and function of the innermost call of our code."""
    return next((f"{file} {name}" for file, name, _ in _lines() if not name.startswith("<")), "?")


def place() -> str:
    """The innermost lines of our code."""
    names = [f"{file}:{line}" for file, _, line in _lines()]
    return " < ".join(names[:3]) or "?"


def _lines() -> Iterator[tuple[str, str, int]]:
    """(file, function, line) of our own calls under way, the innermost first."""
    frame = sys._getframe(1)
    while frame is not None:
        file = _own_file(frame.f_code.co_filename)
        if file:
            yield file, frame.f_code.co_name, frame.f_lineno
        frame = frame.f_back


@functools.cache
def _own_file(path: str) -> str:
    """A file of ours inside its package; "" for any other."""
    parts = Path(path).parts
    package = next((name for name in WATCHED if name in parts and "tests" not in parts), None)
    return "/".join(parts[parts.index(package) + 1 :]) if package else ""


def _join(clock: Clock, other: Clock) -> None:
    for who, count in other.items():
        clock[who] = max(clock.get(who, 0), count)
