"""What every flow does first: its process is ready for work now, and knows its run."""

from collections.abc import Mapping
from typing import Any

from seedvr2_core.lazy import collector_works
from tasks.json_logs import begin_logs


def begin_run(run_id: str | None, parameters: Mapping[str, Any]) -> None:
    """Begin the run of a flow.

    What it needs is imported when it begins. The garbage collector, which has waited for that in a
    process of the run's own (`deployments/host/attached.py`), works from now on.

    Args:
        run_id: the flow run; None outside of one.
        parameters: of the run; those of helpers, `recover` and `fetch-source` name the job.
    """
    collector_works()
    begin_logs(run_id, parameters)
