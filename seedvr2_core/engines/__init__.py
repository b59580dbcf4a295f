"""What restores frames: one protocol, and the engines behind it, loaded by name."""

from seedvr2_core.engines.small import small_engine
from seedvr2_core.engines.table import known_weights, load_engine, weight_files

__all__ = [
    "known_weights",
    "load_engine",
    "small_engine",
    "weight_files",
]
