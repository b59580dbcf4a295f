"""An error has one sentence, one code and one remedy, whichever door tells it."""

import json
from uuid import uuid4

import pytest
import typer
from prefect.client.schemas.objects import FlowRun

from deployments.gateway.answers import describe
from deployments.gateway.problems import problem
from deployments.host.exits import exit_codes
from seedvr2_core.errors import InvalidRequestError, SeedVR2Error, all_errors, with_code
from tasks.run.callbacks.hook import event_of
from tasks.run.failures import failed

SENTENCE = "what is wrong"


@pytest.mark.parametrize("kind", list(all_errors()), ids=lambda kind: kind.code)
def test_every_door_tells_the_same(
    kind: type[SeedVR2Error], capfd: pytest.CaptureFixture[str]
) -> None:
    error = kind(SENTENCE)
    state = failed(error)
    run = FlowRun(id=uuid4(), flow_id=uuid4(), name="clip", state=state, parameters={}, tags=[])
    job, event = describe(run, [], position=None), event_of(run, state, {})
    for told in (job, event):
        assert (told.error, told.error_code, told.error_remedy) == (
            SENTENCE,
            kind.code,
            kind.remedy,
        )
    refusal = json.loads(bytes(problem(422, str(error), kind=kind).body))
    assert refusal == {"detail": SENTENCE, "code": kind.code, "remedy": kind.remedy}
    with pytest.raises(typer.Exit), exit_codes("all is kept"):
        raise error
    shown = capfd.readouterr().err.splitlines()
    assert shown[0] == f"error: {with_code(error)}" == f"error: {SENTENCE} [{kind.code}]"
    said = "" if kind is InvalidRequestError else kind.remedy
    assert shown[1:] == ([f"what helps: {said}"] if said else [])
    assert state.message == f"{SENTENCE} [{kind.code}] {said}".rstrip(), "what Prefect's UI shows"


def test_the_message_of_a_version_before_is_read_as_well() -> None:
    state = failed(SeedVR2Error(SENTENCE)).model_copy(update={"message": f"{SENTENCE} [stalled]"})
    run = FlowRun(id=uuid4(), flow_id=uuid4(), name="clip", state=state, parameters={}, tags=[])
    job = describe(run, [], position=None)
    assert (job.error, job.error_code) == (SENTENCE, "stalled")
