"""The recover flow: it looks at a run that may be lost, and brings the run back if it is.

It looks at a job when the job crashes (an automation starts it), when it should be finished (an
appointment at its ETA), and when somebody starts it by hand. A live job is left alone. At a later
appointment it removes an output that has expired. Every ten minutes a schedule starts it without a
job: then it looks, four times a minute until the next such run is at work, for lost runs that
nothing else is checking, because events can get lost or come late, and sends callbacks that their
receivers have not taken.
"""

from uuid import UUID

from prefect import flow, get_run_logger
from prefect.artifacts import create_table_artifact
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from tasks.recovery import (
    another_looks,
    end_run,
    find_output,
    finish_cancel,
    look,
    make_sure,
    say_alive,
    settle,
    sweep,
)
from tasks.recovery.expiry import remove_expired
from tasks.recovery.report import RunReport
from tasks.recovery.sweep import QUIET_SWEEP
from tasks.recovery.watch import make_appointment
from tasks.run.begin import begin_run

REPORT_KEY = "recover-report"
LOOKS = 3
"""How often to look for the output of a run that is about to be given up."""


def run_name() -> str:
    """Name of a run: which run is looked at."""
    run_id = flow_run.parameters.get("run_id")
    return f"look at {run_id}" if run_id else QUIET_SWEEP


@flow(name="recover", flow_run_name=run_name, persist_result=False)
def recover(run_id: UUID | None = None) -> State[RunReport | None]:
    """Look at an upscale run: leave it alone if it is alive, else complete, re-queue or fail it.

    Args:
        run_id: id of an upscale run, or of the route run that created it. Leave it empty to look
            for lost runs that nothing else is checking.

    Example: recover(run_id="5b0c...") -> "crashed: Crashed; re-queued, 1"
    """
    begin_run(flow_run.id, flow_run.parameters)
    if run_id is None:
        return Completed(message=sweep(), data=None)
    report = look(run_id)
    if not report.lost:
        done = leave_alone(report) or remove_if_expired(report)
    elif another_looks(report):
        make_appointment(report)
        done = "another recover is at work on it"
    else:
        report = make_sure(report)
        done = bring_back(report) if report.lost else leave_after_watching(report)
    return _told(report, done)


def leave_alone(report: RunReport) -> str:
    """Do nothing about a run that is not lost, but look at a live one again at its new ETA."""
    if report.verdict == "alive" and report.deployed:
        make_appointment(report)
    return ""


def remove_if_expired(report: RunReport) -> str:
    """Remove the output of a job that has ended, if its caller wanted it no longer than this."""
    return remove_expired(report) if report.state == "Completed" else ""


def leave_after_watching(report: RunReport) -> str:
    """Leave a run alone that only seemed lost; if Prefect has it as crashed, correct that."""
    if report.verdict == "alive" and report.state == "Crashed":
        say_alive(report)
    leave_alone(report)
    return "it beats" if report.verdict == "alive" else "it went on by itself"


def bring_back(report: RunReport) -> str:
    """End a run that is lost, then complete, re-queue or fail it; returns what was done."""
    if report.verdict == "abandoned":
        return finish_cancel(report)
    if not report.deployed:
        return "nothing is done: no deployment started it, so none can start it again"
    make_appointment(report)
    output = find_output(report, looks=1 if report.may_requeue else LOOKS)
    if not end_run(report):
        return "it went on by itself"
    # Look once more: what the run was storing when it was ended may have arrived.
    return settle(report, output or find_output(report, looks=1))


def _told(report: RunReport, done: str) -> State[RunReport | None]:
    """Tell what was found and done, in the log, in an artifact and in the flow's final state."""
    get_run_logger().info("%s", report.model_dump_json())
    create_table_artifact(
        key=REPORT_KEY,
        table=[report.model_dump(mode="json")],
        description=f"{report.verdict}: {report.state} in attempt {report.attempts}; {done}",
    )
    words = f"{report.verdict}: {report.state}" + (f"; {done}" if done else "")
    return Completed(message=words, data=report)
