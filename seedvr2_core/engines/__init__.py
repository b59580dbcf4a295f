"""What restores frames: one protocol, and the engines behind it, loaded by name."""

from seedvr2_core.engines.table import load_engine, weight_files, weights_digest

__all__ = [
    "load_engine",
    "weight_files",
    "weights_digest",
]
