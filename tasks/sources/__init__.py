"""Brings a source to this machine: an address, a path or sent bytes become a hashed file."""

from tasks.sources.obtain import check_source, discard, obtain_source, source_here

__all__ = [
    "check_source",
    "discard",
    "obtain_source",
    "source_here",
]
