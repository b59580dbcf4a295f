"""How many bytes of sent videos the gateway keeps for each token.

Videos are named by their digest, so the same video of two callers is one file, and it counts for
both. For each caller a folder holds one small file a video, WORK_DIR/intake/callers/NAME/<sha256>
with the video's size in it; one whose video is gone does not count and is removed.
"""

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from deployments.gateway.auth import Caller
from deployments.gateway.sent import SentVideos
from seedvr2_core.errors import ResourceError
from tasks.net.answers import whole_number
from tasks.settings import Settings
from tasks.sources.download import check_disk

_FOLDER = "callers"


class Quota:
    """Counts what callers have sent, and the room on the disk. One object serves all requests."""

    def __init__(self, settings: Settings, *, promised: Callable[[str], int] = lambda _: 0) -> None:
        """Count from now on.

        Args:
            settings: the quota, and where videos are kept.
            promised: how many bytes the unfinished uploads of a caller have or will have.
        """
        self._settings = settings
        self._promised = promised
        self._arriving = _Arriving()
        self._videos = SentVideos()

    @contextmanager
    def count(self, caller: Caller) -> "Iterator[Arrival]":
        """Count the bytes of one request while they arrive."""
        arrival = Arrival(self._settings, self._arriving, self._videos, caller, self._promised)
        try:
            yield arrival
        finally:
            self._arriving.change(caller.name, -arrival.num_bytes)


class _Arriving:
    """Bytes of the requests under way, by caller; bodies are written in several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_bytes: Counter[str] = Counter()
        self._num_kept: Counter[str] = Counter()

    def note_kept(self, name: str) -> None:
        """A video of the caller has become one of those that are kept."""
        with self._lock:
            self._num_kept[name] += 1

    def num_kept(self, name: str) -> int:
        """How many videos of the caller this process has kept."""
        with self._lock:
            return self._num_kept[name]

    def change(self, name: str, num_bytes: int) -> int:
        """Add bytes of a caller, or take some away; returns what the caller has then."""
        with self._lock:
            self._num_bytes[name] += num_bytes
            return self._num_bytes[name] or self._num_bytes.pop(name)


class Arrival:
    """The bytes of one request."""

    def __init__(
        self,
        settings: Settings,
        arriving: _Arriving,
        videos: SentVideos,
        caller: Caller,
        promised: Callable[[str], int],
    ) -> None:
        self._settings = settings
        self._arriving = arriving
        self._caller = caller
        self._quota = settings.limits_of(caller.name).quota_bytes
        self._promised = promised
        self._folder = settings.intake_dir / _FOLDER / caller.name
        self.videos = videos
        self._kept: tuple[int, int] | None = None
        """Bytes of the caller's videos, and how many this process had kept when they were added up:
        other requests end while this one arrives."""
        self.num_bytes = 0
        """Bytes counted so far."""

    def add(self, num_bytes: int) -> None:
        """Count bytes before they are written.

        Raises:
            ResourceError: they do not fit into the caller's quota, or the disk's reserve would be
                used.
        """
        self.num_bytes += num_bytes
        self._check(0, self._arriving.change(self._caller.name, num_bytes))

    def check(self, num_bytes: int) -> None:
        """Check that there is room for that many more bytes; raises as `add` does."""
        self._check(num_bytes, self._arriving.change(self._caller.name, 0))

    def _check(self, num_bytes: int, arriving: int) -> None:
        """Check the room for more bytes beside those that are arriving for this caller."""
        self.check_disk(num_bytes)
        quota = self._quota
        if quota is None:
            return
        num_kept = self._arriving.num_kept(self._caller.name)
        if self._kept is None or self._kept[1] != num_kept:
            self._kept = self._kept_bytes(), num_kept
        held = self._kept[0] + arriving + self._promised(self._caller.name)
        if held + num_bytes > quota:
            raise ResourceError(
                f"this token may have {quota} bytes of sent videos here, and with this one it "
                f"would have {held + num_bytes} or more; send an address (video_url), or wait "
                f"until older ones are removed, {self._settings.keep_days:g} days after their use"
            )

    def keep(self, sha256: str, *, num_bytes: int | None = None) -> None:
        """Note that the caller has sent this video, which is kept.

        Args:
            sha256: the video's digest.
            num_bytes: its size; None: as many as have arrived.
        """
        if self._quota is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._folder.joinpath(sha256).write_text(str(num_bytes or self.num_bytes))
            self._arriving.note_kept(self._caller.name)

    def _kept_bytes(self) -> int:
        """Bytes of the caller's videos that are kept from earlier requests."""
        total = 0
        for note in self._folder.glob("*"):
            if self._settings.intake_dir.joinpath(note.name).is_file():
                with contextlib.suppress(FileNotFoundError):  # another request has removed it
                    total += whole_number(note.read_text()) or 0
            else:
                note.unlink(missing_ok=True)
        return total

    def check_disk(self, num_bytes: int) -> None:
        """Leave the reserve of the disk to the jobs that are at work; raises ResourceError."""
        helps = "make room on the gateway's disk, or send an address (video_url)"
        check_disk(num_bytes, self._settings, doing="the sent video", helps=helps)
