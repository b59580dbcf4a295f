"""Where a warm child waits: a Unix socket in a folder of this machine that only we may enter.

    WORK_DIR/warm/<machine>/<seat>.sock    the child listens here
    WORK_DIR/warm/<machine>/<seat>.lock    held while it does: one child for each device

A machine is a host between two starts, or a container on it, so a work directory that several hosts
share has a folder for each. A seat is named by the device and by the variables that say which GPU
that is. One line of JSON is asked and one is answered:

    {"ask": "tell"}                        who it is, what it holds, how long it waits
    {"ask": "yield", "lock": "gpu-.."}     end, if you hold this lock ("" means in any case)
    {"ask": "attach", "terms": "..."}      work for me; my pipes come with this line

Imports no torch. Both sides use it: the child that waits, and whoever looks for one.
"""

import contextlib
import hashlib
import json
import os
import signal
import socket
import stat
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from seedvr2_core.errors import ResourceError
from seedvr2_core.files.durable import canonical_json

ANSWER_SECONDS = 3.0
"""A child that does nothing but wait answers at once; one that does not is broken."""
MAX_LINE = 65_536
_GPU_VARIABLES = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "NVIDIA_VISIBLE_DEVICES")


def seat_for(warm_dir: Path, device: str, environment: Mapping[str, str]) -> Path:
    """The seat of a device's warm child on this machine, a path without an ending.

    Args:
        warm_dir: WORK_DIR/warm.
        device: torch device string.
        environment: of the child.
    """
    shown = {name: environment.get(name, "") for name in _GPU_VARIABLES}
    return warm_dir / machine_id() / _short([device, shown])


def machine_id() -> str:
    """Names this machine since its start; a container by itself, as it has process ids of its own.

    Raises:
        OSError: there is no /proc.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return _short([socket.gethostname(), boot, os.readlink("/proc/self/ns/pid")])


def _short(value: object) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


def make_private(folder: Path) -> None:
    """Make a folder that only we may enter.

    Raises:
        ResourceError: it is there and belongs to somebody else, or others may enter it.
        OSError: it cannot be made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise ResourceError(
            f"{folder} must be a folder of this user that nobody else may enter; remove it"
        )


@contextlib.contextmanager
def short_path(path: Path) -> Iterator[str]:
    """A name of at most 107 bytes for a socket, as the kernel wants it, however long the path."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def peer_of(connection: socket.socket) -> int:
    """Id of the process at the other end; 0 if it is in no process namespace of ours.

    Raises:
        PermissionError: it belongs to another user.
    """
    told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, user, _ = struct.unpack("3i", told)
    if user != os.geteuid():
        raise PermissionError(f"process {pid} of user {user} is at the other end of our socket")
    return pid


def sockets_in(warm_dir: Path) -> list[Path]:
    """The sockets of all warm children that may be there, those of other machines included."""
    return sorted(warm_dir.glob("*/*.sock"))


class SeatCall:
    """A connection to a warm child."""

    def __init__(self, path: Path) -> None:
        """Connect.

        Raises:
            OSError: nobody listens there.
        """
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(ANSWER_SECONDS)
        try:
            with short_path(path) as name:
                self._socket.connect(name)
            self.pid = peer_of(self._socket)
            """Of the child."""
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> "SeatCall":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, question: Mapping[str, object], pipes: Sequence[int] = ()) -> dict[str, Any]:
        """Ask one thing.

        Args:
            question: as above.
            pipes: file descriptors that go with it.

        Returns:
            The answer; {} from one that ends without a word.

        Raises:
            TimeoutError: no answer in `ANSWER_SECONDS`.
            OSError: it ended.
        """
        line = json.dumps(question).encode() + b"\n"
        if pipes:
            socket.send_fds(self._socket, [line], list(pipes))
        else:
            self._socket.sendall(line)
        heard = b""
        while not heard.endswith(b"\n") and len(heard) < MAX_LINE:
            if not (more := self._socket.recv(MAX_LINE)):
                break
            heard += more
        try:
            answer = json.loads(heard)
        except ValueError:
            return {}
        return answer if isinstance(answer, dict) else {}

    def kill(self) -> None:
        """kill -9 the child and what it has started; it leads a group of its own."""
        if self.pid > 0:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)


def remove_stale(path: Path) -> None:
    """Remove the socket of a child that was killed, if it is one of this machine."""
    if path.parent.name == machine_id():
        path.unlink(missing_ok=True)
