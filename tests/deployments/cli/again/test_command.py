"""`seedvr2 retry`: a job that has ended is asked for again, with other limits where it needs them.

Jobs are brought to their ends through Prefect's API; no worker serves them.
"""

import shlex

import httpx
import pytest
from click.testing import Result
from prefect.client.schemas.objects import StateType
from typer.testing import CliRunner

from deployments.cli.app import app
from seedvr2_core.errors import BudgetError, in_full
from tasks.run.failures import OVER_BUDGET
from tests.kits.http.gateway import URL, job_run, set_state

pytestmark = pytest.mark.usefixtures("on_the_server")
STOPPED = in_full(BudgetError("the job has spent 4 s, and max_seconds allows 5 s"))


@pytest.fixture
def where(client: httpx.Client) -> list[str]:
    """The options that name the gateway."""
    return ["--gateway", str(client.base_url)]


def run(*words: str) -> Result:
    return CliRunner().invoke(app, words)


def submitted(where: list[str], *options: str) -> str:
    done = run("submit", URL, *options, *where)
    assert done.exit_code == 0, done.stderr
    return done.stdout.strip()


def shown_command(screen: str) -> list[str]:
    """The command that a screen shows in its last line."""
    return shlex.split(screen.strip().splitlines()[-1].partition(": ")[2])


def test_the_shown_command_goes_on_past_the_limit(where: list[str]) -> None:
    """It works as it stands, wherever it is shown."""
    job = submitted(where, "--max-seconds", "5", "--seed", "7")
    assert "retry" not in run("status", job, *where).stdout
    set_state(job, StateType.FAILED, name=OVER_BUDGET, message=STOPPED)
    shown = run("status", job, *where).stdout
    watched = run("status", job, "--watch", *where)
    assert watched.exit_code == 1
    assert shown_command(shown) == shown_command(watched.stderr)
    assert shown_command(shown) == ["seedvr2", "retry", job, "--no-limit", *where]
    assert "--max-seconds" in shown
    refused = run("retry", job, *where)
    assert refused.exit_code == 2
    assert "was stopped at its limit" in refused.stderr
    done = run(*shown_command(shown)[1:])
    assert done.exit_code == 0, done.stderr
    assert f"note: tries job {job} again with no limit" in done.stderr
    again = job_run(done.stdout.strip()).parameters
    assert (again["seed"], "max_seconds" in again) == (7, False)
    larger = run("retry", job, "--max-seconds", "90", *where)
    assert job_run(larger.stdout.strip()).parameters["max_seconds"] == 90


@pytest.mark.parametrize("state", [StateType.FAILED, StateType.CANCELLED], ids=["failed", "cancel"])
def test_a_job_that_has_ended_otherwise_keeps_its_limit(where: list[str], state: StateType) -> None:
    job = submitted(where, "--max-seconds", "5")
    assert "is pending" in run("retry", job, *where).stderr
    set_state(job, state, message="it was broken")
    words = shown_command(run("status", job, *where).stdout)
    assert words == ["seedvr2", "retry", job, *where]
    done = run(*words[1:])
    assert done.exit_code == 0, done.stderr
    assert job_run(done.stdout.strip()).parameters["max_seconds"] == 5
    assert run(*words[1:]).stdout == done.stdout, "asked twice, it is the same job"
