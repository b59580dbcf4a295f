"""Streams and events of a pretended GPU, and what else of torch.cuda our code asks for."""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

from tests.kits.gpu.ledger import HOST, Clock, Ledger

NAME = "NVIDIA H100 80GB HBM3"
FREE = 78_000_000_000
USED = 1_000_000_000


class Stream:
    """Stands in for `torch.cuda.Stream`."""

    def __init__(self, streams: "Streams", device: object = None) -> None:
        self._ledger, self.number = streams.ledger, next(streams.numbers)
        self._ledger.tick(self)

    def __repr__(self) -> str:
        return f"stream {self.number}"

    def wait_stream(self, other: "Stream") -> None:
        """What is asked of this stream comes after all that was asked of the other."""
        self._ledger.wait(self, self._ledger.moment(other), "wait_stream")

    def wait_event(self, event: "Event") -> None:
        """The same, for what came before the event."""
        if event.moment is not None:
            self._ledger.wait(self, event.moment, "wait_event")

    def synchronize(self) -> None:
        """The host waits."""
        self._ledger.wait(HOST, self._ledger.moment(self), "synchronize")


class Event:
    """Stands in for `torch.cuda.Event`."""

    def __init__(
        self, streams: "Streams", *, enable_timing: bool = False, blocking: bool = False
    ) -> None:
        self._streams = streams
        self.moment: Clock | None = None

    def record(self, stream: Stream | None = None) -> None:
        """It comes after all that was asked of the stream."""
        self.moment = self._streams.ledger.moment(stream or self._streams.current)

    def synchronize(self) -> None:
        """The host waits."""
        if self.moment is not None:
            self._streams.ledger.wait(HOST, self.moment, "synchronize")

    def elapsed_time(self, other: "Event") -> float:
        """Milliseconds; nobody knows."""
        assert self.moment is not None
        assert other.moment is not None
        return 1.0


class Streams:
    """All of a GPU; each thread has a current one."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.numbers = itertools.count()
        self.default = Stream(self)
        self._local = threading.local()

    @property
    def current(self) -> Stream:
        """Of the thread."""
        return getattr(self._local, "stream", self.default)

    @contextmanager
    def on(self, stream: Stream | None) -> Iterator[None]:
        """Stands in for `torch.cuda.stream`."""
        before = self.current
        self._local.stream = stream or before
        try:
            yield
        finally:
            self._local.stream = before

    def synchronize(self, device: object = None) -> None:
        """Stands in for `torch.cuda.synchronize`."""
        with self.ledger.lock:
            self.ledger.wait(HOST, self.ledger.everything(), "synchronize")


def stand_ins(streams: Streams, *, free: int) -> dict[str, Any]:
    """For parts of torch.cuda."""
    properties = SimpleNamespace(uuid="0", multi_processor_count=132)
    properties.shared_memory_per_block_optin, properties.L2_cache_size = 232_448, 52_428_800
    constants = {
        "is_available": True,
        "is_initialized": True,
        "device_count": 1,
        "current_device": 0,
        "get_device_name": NAME,
        "get_device_capability": (9, 0),
        "get_device_properties": properties,
        "mem_get_info": (free, free + USED),
    }
    for name in ("memory_allocated", "memory_reserved"):
        constants |= {name: USED, f"max_{name}": USED}
    nothing = ("_sleep", "empty_cache", "reset_peak_memory_stats")
    nothing += ("set_per_process_memory_fraction",)
    return {
        "Stream": lambda *args, **kwargs: Stream(streams, *args, **kwargs),
        "Event": lambda **kwargs: Event(streams, **kwargs),
        "stream": streams.on,
        "current_stream": lambda _=None: streams.current,
        "default_stream": lambda _=None: streams.default,
        "synchronize": streams.synchronize,
        "device": lambda _: nullcontext(),
        **{name: _constant(value) for name, value in constants.items()},
        **{name: _constant(None) for name in nothing},
    }


def _constant(value: Any) -> Callable[..., Any]:
    return lambda *_, **__: value
