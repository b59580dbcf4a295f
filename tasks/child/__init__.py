"""Runs the child process, which probes, restores and joins, under limits."""

from tasks.child.guard import Child
from tasks.child.operation import one_child, run_operation

__all__ = [
    "Child",
    "one_child",
    "run_operation",
]
