"""A job's directory: held by one run, searched for an earlier output, closed at the end."""

from tasks.job.finish import find_finished, finish, make_room
from tasks.job.hold import hold_job

__all__ = [
    "find_finished",
    "finish",
    "hold_job",
    "make_room",
]
