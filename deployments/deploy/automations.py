"""What the Prefect server does by itself: lost heartbeats, crashed runs, alerts.

`make deploy` applies these by name. Events that start jobs are triggers of the deployments and
stand in prefect.yaml.
"""

from typing import Any
from uuid import UUID

from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient
from prefect.events.schemas.automations import AutomationCore
from pydantic import SecretStr

ALERT_BLOCK = "seedvr2-alert"
FLOWS = ["upscale", "route", "recover"]

_RUN = {"prefect.resource.id": "prefect.flow-run.*"}
_BEAT = "prefect.flow-run.heartbeat"
_RIGHTLY_QUIET = [
    f"prefect.flow-run.{state}"
    for state in (
        *("Completed", "Failed", "TimedOut", "Cancelled", "Crashed"),
        *("Paused", "Suspended", "Scheduled", "AwaitingRetry"),
    )
]

Action = dict[str, Any]


def heartbeat_lost(seconds: float) -> AutomationCore:
    """A run whose machine died says nothing: it counts as crashed after that silence.

    Runs of recover too: a second one waits for a first one only as long as that one lives.
    """
    return _automation(
        "seedvr2: heartbeat lost -> Crashed",
        "A run of upscale or recover without a heartbeat is marked as crashed.",
        {
            "posture": "Proactive",
            "match": _RUN,
            "match_related": _of_flows("upscale", "recover"),
            "after": [_BEAT],
            "expect": [_BEAT, *_RIGHTLY_QUIET],
            "within": seconds,
        },
        {
            "type": "change-flow-run-state",
            "state": "CRASHED",
            "message": f"no heartbeat for {seconds:g} s: its process or machine is gone",
        },
    )


def crashed_to_recover(recover_id: UUID) -> AutomationCore:
    """A crashed job is looked at."""
    return _automation(
        "seedvr2: Crashed -> recover",
        "A crashed run of upscale starts recover/auto, which brings it back.",
        _at_once("prefect.flow-run.Crashed", _RUN, match_related=_of_flows("upscale")),
        {
            "type": "run-deployment",
            "source": "selected",
            "deployment_id": recover_id,
            # The filter is needed: Prefect renders parameters as JSON and fails at a bare UUID.
            "parameters": {"run_id": "{{ flow_run.id | string }}"},
        },
    )


def late_alert(alert: Action | None) -> AutomationCore:
    """No worker took a run in time."""
    said = "'run ' ~ event.resource['prefect.resource.name'] ~ ' is late: no worker took it'"
    return _automation(
        "seedvr2: late run -> alert",
        "Tells SEEDVR2_ALERT_URL when no worker takes a run.",
        _at_once("prefect.flow-run.Late", _RUN, match_related=_of_flows(*FLOWS)),
        _saying(alert, said),
    )


def pool_alert(alert: Action | None, pools: list[str]) -> AutomationCore:
    """The last worker of a pool is gone."""
    match = {"prefect.resource.id": "prefect.work-pool.*", "prefect.resource.name": pools}
    said = "'work pool ' ~ event.resource['prefect.resource.name'] ~ ' has no worker'"
    return _automation(
        "seedvr2: pool not ready -> alert",
        "Tells SEEDVR2_ALERT_URL when the last worker of a pool is gone.",
        _at_once("prefect.work-pool.not-ready", match),
        _saying(alert, said),
    )


def _automation(
    name: str, description: str, trigger: dict[str, Any], action: Action
) -> AutomationCore:
    """One trigger, counted for each resource by itself, and one action."""
    counted = {"type": "event", "for_each": ["prefect.resource.id"], "threshold": 1} | trigger
    return AutomationCore.model_validate(
        {"name": name, "description": description, "trigger": counted, "actions": [action]}
    )


def _at_once(event: str, match: dict[str, Any], **more: object) -> dict[str, Any]:
    """Trigger of every such event."""
    return {"posture": "Reactive", "match": match, "expect": [event], "within": 0, **more}


def _of_flows(*names: str) -> dict[str, Any]:
    """Runs of these flows alone."""
    return {"prefect.resource.role": "flow", "prefect.resource.name": list(names)}


def _saying(alert: Action | None, expression: str) -> Action:
    """The alert with a text; its JSON body is what chat services take, whatever names hold."""
    if alert is None:
        return {"type": "do-nothing"}
    text = "{{ ('seedvr2: ' ~ " + expression + ") | tojson }}"
    return alert | {"payload": '{"text": ' + text + "}"}


def alert_action(url: str | None) -> Action | None:
    """The call that tells somebody; its address is kept in a block, encrypted.

    Side effects: writes the block seedvr2-alert.
    """
    if url is None:
        return None
    block_id = Webhook(url=SecretStr(url)).save(ALERT_BLOCK, overwrite=True)
    assert isinstance(block_id, UUID)
    return {"type": "call-webhook", "block_document_id": block_id}


def apply_automation(client: SyncPrefectClient, wanted: AutomationCore) -> None:
    """Create or change the automation of that name; one that an operator paused stays paused."""
    existing = client.read_automations_by_name(wanted.name)
    if not existing:
        client.create_automation(wanted)
        return
    kept = wanted.model_copy(update={"enabled": existing[0].enabled})
    client.update_automation(existing[0].id, kept)
    for double in existing[1:]:
        client.delete_automation(double.id)
