"""Automations of the Prefect server: what it does about lost heartbeats and crashed runs, alerts.

`make deploy` creates or updates them by name. The events that start jobs are triggers of the
deployments in prefect.yaml.
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
_SILENT_STATES = [
    f"prefect.flow-run.{state}"
    for state in (
        *("Completed", "Failed", "TimedOut", "Cancelled", "Crashed"),
        *("Paused", "Suspended", "Scheduled", "AwaitingRetry"),
    )
]
"""Events after which a run sends no more heartbeats, and should not."""

Action = dict[str, Any]


def heartbeat_lost(seconds: float) -> AutomationCore:
    """Mark a run as crashed if its heartbeat stops: its process or machine is gone.

    This holds for runs of `recover` too, because a second `recover` waits for the first one as long
    as that one counts as running.

    Args:
        seconds: silence after which the run is marked.
    """
    return _automation(
        "seedvr2: heartbeat lost -> Crashed",
        "A run of upscale or recover without a heartbeat is marked as crashed.",
        {
            "posture": "Proactive",
            "match": _RUN,
            "match_related": _of_flows("upscale", "recover"),
            "after": [_BEAT],
            "expect": [_BEAT, *_SILENT_STATES],
            "within": seconds,
        },
        {
            "type": "change-flow-run-state",
            "state": "CRASHED",
            "message": f"no heartbeat for {seconds:g} s: its process or machine is gone",
        },
    )


def crashed_to_recover(recover_id: UUID) -> AutomationCore:
    """Start `recover` for every run of `upscale` that has crashed."""
    return _automation(
        "seedvr2: Crashed -> recover",
        "A crashed run of upscale starts recover/auto, which brings it back.",
        _at_once("prefect.flow-run.Crashed", _RUN, match_related=_of_flows("upscale")),
        {
            "type": "run-deployment",
            "source": "selected",
            "deployment_id": recover_id,
            # `string` is needed: Prefect renders parameters as JSON and fails on a UUID object.
            "parameters": {"run_id": "{{ flow_run.id | string }}"},
        },
    )


def late_alert(alert: Action | None) -> AutomationCore:
    """Send an alert when no worker has taken a run in time."""
    text = "'run ' ~ event.resource['prefect.resource.name'] ~ ' is late: no worker took it'"
    return _automation(
        "seedvr2: late run -> alert",
        "Tells SEEDVR2_ALERT_URL when no worker takes a run.",
        _at_once("prefect.flow-run.Late", _RUN, match_related=_of_flows(*FLOWS)),
        _with_text(alert, text),
    )


def pool_alert(alert: Action | None, pools: list[str]) -> AutomationCore:
    """Send an alert when the last worker of one of these pools is gone."""
    match = {"prefect.resource.id": "prefect.work-pool.*", "prefect.resource.name": pools}
    text = "'work pool ' ~ event.resource['prefect.resource.name'] ~ ' has no worker'"
    return _automation(
        "seedvr2: pool not ready -> alert",
        "Tells SEEDVR2_ALERT_URL when the last worker of a pool is gone.",
        _at_once("prefect.work-pool.not-ready", match),
        _with_text(alert, text),
    )


def _automation(
    name: str, description: str, trigger: dict[str, Any], action: Action
) -> AutomationCore:
    """Make an automation of one trigger, which counts each resource by itself, and one action."""
    counted = {"type": "event", "for_each": ["prefect.resource.id"], "threshold": 1} | trigger
    return AutomationCore.model_validate(
        {"name": name, "description": description, "trigger": counted, "actions": [action]}
    )


def _at_once(event: str, match: dict[str, Any], **more: object) -> dict[str, Any]:
    """Make a trigger that fires on every such event."""
    return {"posture": "Reactive", "match": match, "expect": [event], "within": 0, **more}


def _of_flows(*names: str) -> dict[str, Any]:
    """Match only runs of these flows."""
    return {"prefect.resource.role": "flow", "prefect.resource.name": list(names)}


def _with_text(alert: Action | None, expression: str) -> Action:
    """Add a text to the alert.

    Args:
        alert: the call of the webhook; None does nothing instead.
        expression: Jinja expression of the text. It is rendered as JSON, as {"text": ...}, which
            chat services take; quotes in names are escaped.
    """
    if alert is None:
        return {"type": "do-nothing"}
    text = "{{ ('seedvr2: ' ~ " + expression + ") | tojson }}"
    return alert | {"payload": '{"text": ' + text + "}"}


def alert_action(url: str | None) -> Action | None:
    """Make the action that sends alerts to an address; None if there is no address.

    Side effects: stores the address, which may hold a secret, in the encrypted block seedvr2-alert.
    """
    if url is None:
        return None
    block_id = Webhook(url=SecretStr(url)).save(ALERT_BLOCK, overwrite=True)
    assert isinstance(block_id, UUID)
    return {"type": "call-webhook", "block_document_id": block_id}


def apply_automation(client: SyncPrefectClient, wanted: AutomationCore) -> None:
    """Create or update the automation of that name; if an operator has paused it, it stays so."""
    existing = client.read_automations_by_name(wanted.name)
    if not existing:
        client.create_automation(wanted)
        return
    kept = wanted.model_copy(update={"enabled": existing[0].enabled})
    client.update_automation(existing[0].id, kept)
    for double in existing[1:]:
        client.delete_automation(double.id)
