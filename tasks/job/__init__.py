"""What a run does with its job's directory: hold it, look for a finished output, clean it up."""

from tasks.job.finish import find_finished, finish, make_room, prepare_masters, store_masters
from tasks.job.hold import hold_job

__all__ = [
    "find_finished",
    "finish",
    "hold_job",
    "make_room",
    "prepare_masters",
    "store_masters",
]
