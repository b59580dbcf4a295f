"""The recover flow: the fail-safe. It looks at a run that may be lost, and brings it back.

An appointment at the job's ETA starts it, an automation when a run of `upscale` crashed, or people
by hand. Looking at a run that is well changes nothing. Without a run it looks for those that nobody
looks at: a schedule does that, because an event can get lost.
"""

from uuid import UUID

from prefect import flow, get_run_logger
from prefect.artifacts import create_table_artifact
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from tasks.recovery import (
    another_looks,
    appoint_unseen,
    end_run,
    find_output,
    finish_cancel,
    look,
    make_sure,
    say_alive,
    settle,
)
from tasks.recovery.report import RunReport
from tasks.recovery.settle import has_attempts, make_appointment

REPORT_KEY = "recover-report"
LOOKS = 3


def run_name() -> str:
    """Name of a run: which run is looked at."""
    return f"look at {flow_run.parameters.get('run_id') or 'all'}"


@flow(name="recover", flow_run_name=run_name, persist_result=False)
def recover(run_id: UUID | None = None) -> State[RunReport | None]:
    """Look at a run: leave it alone if it is well, else complete, re-queue or fail it.

    Args:
        run_id: id of an upscale run, or of the route run that created it; empty: every run that is
            lost and that nobody looks at.

    Example: recover(run_id="5b0c...") -> "crashed: Crashed; re-queued, 1"
    """
    if run_id is None:
        return Completed(message=appoint_unseen(), data=None)
    report = look(run_id)
    done = ""
    if report.lost and another_looks(report):
        done = "another recover is at work on it"
        make_appointment(report)
    elif report.lost:
        report = make_sure(report)
        done = bring_back(report)
    elif report.verdict == "alive":
        keep(report)
    return _told(report, done)


def keep(report: RunReport) -> None:
    """A job that is at work is looked at again at its new ETA, if anybody watches it."""
    if report.deployed:
        make_appointment(report)


def bring_back(report: RunReport) -> str:
    """Do what has to be done about a run that was watched; what it was, in words."""
    if report.verdict == "alive":
        if report.state == "Crashed":
            say_alive(report)
        keep(report)
        return "it beats"
    if not report.lost:
        return "it went on by itself"
    if report.verdict == "abandoned":
        return finish_cancel(report)
    if not report.deployed:
        return "nothing is done: no deployment started it, so none can start it again"
    make_appointment(report)
    output = find_output(report, looks=1 if has_attempts(report) else LOOKS)
    if not end_run(report):
        return "it went on by itself"
    # Once more: what was on its way when it was ended, may have arrived.
    return settle(report, output or find_output(report, looks=1))


def _told(report: RunReport, done: str) -> State[RunReport | None]:
    """Say what was found and done: log, artifact, state."""
    get_run_logger().info("%s", report.model_dump_json())
    create_table_artifact(
        key=REPORT_KEY,
        table=[report.model_dump(mode="json")],
        description=f"{report.verdict}: {report.state} in attempt {report.attempts}; {done}",
    )
    words = f"{report.verdict}: {report.state}" + (f"; {done}" if done else "")
    return Completed(message=words, data=report)
