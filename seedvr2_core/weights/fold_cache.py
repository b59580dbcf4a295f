"""Keeps the folded weights of a transformer beside its checkpoint, so that they load fast.

A checkpoint is read tensor by tensor and folded in float32 (dit/fold.py), which takes most of the
start of a child. What comes out depends on the files, the dtype, the version of the folding and the
kind of device that did it. It is kept in the folder `folded` of the weights, under a name made of
all that, and read back if every byte is as it was written. The file is ours alone: one that is
damaged or out of date is removed and made again. Where it cannot be written the weights are folded
each time.
"""

import contextlib
import hashlib
import logging
import shutil
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seedvr2_core.errors import CheckpointError
from seedvr2_core.files.durable import canonical_json
from seedvr2_core.kernels.devices import on_gpu
from seedvr2_core.weights.folder import recorded_sha256
from seedvr2_core.weights.staging.seconds import FOLDED as FOLDER
from seedvr2_core.weights.stream import StreamedFile, write_stream

logger = logging.getLogger(__name__)

SUFFIX = ".safetensors"
SPARE = 2
"""Times the file's size that have to be free on the disk: jobs need it more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldedKey:
    """Everything that decides the bytes of folded weights."""

    checkpoint: str
    """SHA-256 of the file; that of the text embedding, too."""
    text: str
    timestep: float
    dtype: str
    """Of the Linears."""
    version: int
    """Of the folding."""
    device_kind: str
    """What did the folding: sums may differ in their last bits."""

    @property
    def name(self) -> str:
        """Of the file."""
        digest = hashlib.sha256(canonical_json(asdict(self)).encode()).hexdigest()[:16]
        return f"{self.checkpoint[:16]}-v{self.version}-{self.dtype}-{digest}{SUFFIX}"


def digest_of(path: Path) -> str:
    """SHA-256 of a weights file, from its record."""
    return recorded_sha256(path)


def open_folded(weights_dir: Path, key: FoldedKey) -> StreamedFile | None:
    """The file of that key; None if there is none that can be used."""
    path = weights_dir / FOLDER / key.name
    if not path.is_file():
        return None
    try:
        file = StreamedFile(path)
        if file.about != asdict(key):
            raise CheckpointError(f"{path} holds weights of {file.about}")
    except CheckpointError as error:
        drop(path, error)
        return None
    return file


def drop(path: Path, reason: object) -> None:
    """Remove a file that cannot be used."""
    logger.warning("%s; it is removed, the weights are folded again", reason)
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def keep_folded(weights_dir: Path, key: FoldedKey, module: nn.Module) -> Path | None:
    """Write a module's weights, and remove files that an older version of the folding has left.

    Returns:
        The file; None where it was not written, which is logged.
    """
    folder = weights_dir / FOLDER
    state = _Live(module)
    try:
        folder.mkdir(exist_ok=True)
        free, need = shutil.disk_usage(folder).free, SPARE * state.num_bytes
        if free < need:
            logger.info("folded weights are not kept: %d bytes are free, %d wanted", free, need)
            return None
        for path in folder.glob(f"{key.checkpoint[:16]}-v*{SUFFIX}"):
            if f"-v{key.version}-" not in path.name:
                path.unlink(missing_ok=True)
        with _own_stream(module):
            write_stream(folder / key.name, state, asdict(key))
    except OSError as error:
        logger.warning("folded weights cannot be kept in %s: %s", folder, error.strerror)
        return None
    return folder / key.name


def keep_folded_later(weights_dir: Path, key: FoldedKey, module: nn.Module) -> threading.Thread:
    """`keep_folded` in a thread, which does not keep the process alive."""
    arguments = (weights_dir, key, module)
    thread = threading.Thread(target=keep_folded, args=arguments, name="keep-folded", daemon=True)
    thread.start()
    return thread


@contextlib.contextmanager
def _own_stream(module: nn.Module) -> Iterator[None]:
    """Copies from a GPU do not wait for the work of the engine, which goes on meanwhile."""
    device = next(module.parameters()).device
    if not on_gpu(device):
        yield
        return
    stream: Any = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.default_stream(device))
    with torch.cuda.stream(stream):
        yield


class _Live(Mapping[str, Tensor]):
    """A module's tensors as they are when they are asked for: they may be moved meanwhile."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._names = list(module.state_dict())

    @property
    def num_bytes(self) -> int:
        """Of all of them."""
        return sum(tensor.nbytes for tensor in self.values())

    def __getitem__(self, name: str) -> Tensor:
        place, _, attribute = name.rpartition(".")
        return getattr(self._module.get_submodule(place), attribute)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
