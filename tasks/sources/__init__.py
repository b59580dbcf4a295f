"""A source, from an address, a path or sent bytes, as a hashed file on this machine."""

from tasks.sources.obtain import check_source, discard, obtain_source

__all__ = [
    "check_source",
    "discard",
    "obtain_source",
]
