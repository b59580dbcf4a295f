"""The recover flow: looks at a run whose machine may be lost, and reports.

An automation starts it when a run of `upscale` crashed; people start it by hand. It changes
nothing.
"""

from uuid import UUID

from prefect import flow, get_run_logger
from prefect.artifacts import create_table_artifact
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from tasks.recovery import RunReport, look

REPORT_KEY = "recover-report"


def run_name() -> str:
    """Name of a run: which run is looked at."""
    return f"look at {flow_run.parameters.get('run_id')}"


@flow(name="recover", flow_run_name=run_name, persist_result=False)
def recover(run_id: UUID) -> State[RunReport]:
    """Look at a run and report: its state, its last sign of life, and what that means.

    Args:
        run_id: id of an upscale run, or of the route run that created it.

    Example: recover(run_id="5b0c...") -> "crashed: attempt 1 ended in restore at 41 %"
    """
    report = look(run_id)
    get_run_logger().info("%s", report.model_dump_json())
    create_table_artifact(
        key=REPORT_KEY,
        table=[report.model_dump(mode="json")],
        description=f"{report.verdict}: {report.state} in attempt {report.attempts}",
    )
    return Completed(message=f"{report.verdict}: {report.state}", data=report)
