"""One long job on several workers: runs of the flow `upscale-part` help the run at work.

`crew` shares a job out and keeps the helpers' number, `helper` is what a helper does, and `way`
lets it make way for a job that waits for a worker. Who makes which segment is decided between the
children themselves (`seedvr2_core/job/claims.py`), so nothing here has to be right for the bytes.
"""

from tasks.parts.crew import end_parts, share_out
from tasks.parts.helper import look_up_job, make_shares
from tasks.parts.way import MadeWayError

__all__ = [
    "MadeWayError",
    "end_parts",
    "look_up_job",
    "make_shares",
    "share_out",
]
