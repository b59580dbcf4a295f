"""What parent and child say to each other."""

import json
import threading
import time
from collections.abc import Mapping
from typing import Any, TextIO

BEAT_SECONDS = 0.2
Request = Mapping[str, Any]


class Emitter:
    """Writes events to the parent; shared by the working threads."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._last_beat: dict[str, float] = {}

    def emit(self, event: str, **values: object) -> None:
        """Send one event."""
        line = json.dumps({"event": event, **values})
        with self._lock:
            self._stream.write(line + "\n")
            self._stream.flush()

    def beat(self, phase: str, done: int, total: int) -> None:
        """A sign of life; at most five a second and phase are sent."""
        now = time.monotonic()
        if now - self._last_beat.get(phase, 0.0) >= BEAT_SECONDS:
            self._last_beat[phase] = now
            self.emit("heartbeat", phase=phase, done=done, total=total)
