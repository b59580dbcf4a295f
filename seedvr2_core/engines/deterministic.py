"""Makes torch compute the same bytes for the same plan, and leaves its settings as they were."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def deterministic(threads: int) -> Iterator[None]:
    """Compute the same bytes on every run, for the length of a `with` block.

    These settings are the process's: other threads that use torch meanwhile have them as well.

    Args:
        threads: CPU threads of an operator. The number decides in which order sums are added, so it
            comes from the plan.
    """
    # Torch would fill every new buffer with NaN. Ours are all written before they are read, so that
    # would only cost time.
    filling: Any = torch.utils.deterministic
    before = (
        torch.get_num_threads(),
        torch.get_deterministic_debug_mode(),
        filling.fill_uninitialized_memory,
        torch.backends.cudnn.benchmark,
    )
    # torch.use_deterministic_algorithms does the same as the debug mode, but it also imports
    # torch's compiler, which takes two seconds in every child. cuDNN may not choose its algorithms
    # by timing them.
    _set(filling, threads, "error", False, False)
    try:
        yield
    finally:
        _set(filling, *before)


def _set(filling: Any, threads: int, mode: int | str, fill: bool, benchmark: bool) -> None:
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode(mode)
    filling.fill_uninitialized_memory = fill
    torch.backends.cudnn.benchmark = benchmark
