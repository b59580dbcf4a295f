"""How long weights take to load, predicted from their bytes. Importing this loads no torch.

Reading, hashing and copying to the device go on at once, so the slowest of them counts. None of the
rates was measured on a machine with a GPU; `make gpu-bench` measures that of the link.
"""

from collections.abc import Sequence
from pathlib import Path

from seedvr2_core.weights.findings import read_weights_record

DISK = 2.0e9
"""Bytes per second from a disk that weights lie on; these give 2 to 7 GB/s."""
PAGE_CACHE = 8.0e9
"""Bytes per second from the host's memory, by the threads of the ring."""
LINK = 12.0e9
"""Bytes per second from page-locked memory to a GPU (PCIe 4 with 16 lanes carries twice that)."""
HASH = 1.5e9
"""Bytes per second of SHA-256 that a thread calculates: 1.5 to 2."""
HASH_THREADS = 4
"""Of `stream.StreamedFile`, where every tensor has its own digest."""
FOLDED = "folded"
"""Folder of folded weights, beside their checkpoints."""


def first_seconds(num_bytes: float) -> float:
    """A file of which nothing is known: hashed by one thread, which leaves it in the page cache."""
    return max(num_bytes / DISK, num_bytes / HASH) + read_seconds(num_bytes, warm=True)


def read_seconds(num_bytes: float, *, warm: bool) -> float:
    """A checkpoint through the ring, from the page cache or from the disk."""
    return max(num_bytes / (PAGE_CACHE if warm else DISK), num_bytes / LINK)


def folded_seconds(num_bytes: float, *, warm: bool) -> float:
    """Folded weights that were kept: their digests are compared while they are read."""
    return max(read_seconds(num_bytes, warm=warm), num_bytes / (HASH_THREADS * HASH))


def load_seconds(files: Sequence[Path]) -> float:
    """A model's files as they lie there, read from the disk.

    Args:
        files: the transformer's file and the others. If it was folded before, its folded weights
            are what is read (of the kinds that were kept, the largest).
    """
    transformer, *others = files
    seconds = sum(read_seconds(path.stat().st_size, warm=False) for path in others)
    kept = _kept_bytes(transformer)
    if kept:
        return seconds + folded_seconds(kept, warm=False)
    return seconds + read_seconds(transformer.stat().st_size, warm=False)


def _kept_bytes(transformer: Path) -> int:
    record = read_weights_record(transformer)
    if record is None or record.sha256 is None:
        return 0
    kept = (transformer.parent / FOLDED).glob(f"{record.sha256[:16]}-v*.safetensors")
    return max((path.stat().st_size for path in kept), default=0)
