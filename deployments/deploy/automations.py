"""Automations of the Prefect server: what it does about crashed runs, and alerts.

`make deploy` creates or updates them by name. The events that start jobs are triggers of the
deployments in prefect.yaml.
"""

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient
from prefect.events.schemas.automations import AutomationCore
from pydantic import SecretStr

ALERT_BLOCK = "seedvr2-alert"
LATE_ALERT = "seedvr2: late run -> alert"
POOL_ALERT = "seedvr2: pool not ready -> alert"
OF_EARLIER_VERSIONS = ["seedvr2: heartbeat lost -> Crashed"]
"""Automations that `make deploy` removes. Events come late after the server was started again, so
that a run which had ended long ago counted as silent; `recover` now asks for signs of life."""
WAITED_FOR = ["upscale", "route", "fetch-source"]
"""Flows whose late runs somebody waits for. A run of `recover` comes every ten minutes: without a
worker on its pool there would be as many alerts, and one about the pool says it."""
WATCHED = ["upscale", "upscale-part"]
"""Flows whose crashed runs `recover` brings back."""

_RUN = {"prefect.resource.id": "prefect.flow-run.*"}
Action = dict[str, Any]


def crashed_to_recover(recover_id: UUID) -> AutomationCore:
    """Start `recover` for every run of `upscale` or of a helper that has crashed."""
    return _automation(
        "seedvr2: Crashed -> recover",
        "A crashed run of upscale starts recover/lost-runs, which brings it back.",
        _at_once("prefect.flow-run.Crashed", _RUN, match_related=_of_flows(*WATCHED)),
        {
            "type": "run-deployment",
            "source": "selected",
            "deployment_id": recover_id,
            # `string` is needed: Prefect renders parameters as JSON and fails on a UUID object.
            "parameters": {"run_id": "{{ flow_run.id | string }}"},
        },
    )


def late_alert(alert: Action) -> AutomationCore:
    """Send an alert when no worker has taken a run in time."""
    text = "'run ' ~ event.resource['prefect.resource.name'] ~ ' is late: no worker took it'"
    return _automation(
        LATE_ALERT,
        "Tells SEEDVR2_ALERT_URL when no worker takes a run.",
        _at_once("prefect.flow-run.Late", _RUN, match_related=_of_flows(*WAITED_FOR)),
        _with_text(alert, text),
    )


def pool_alert(alert: Action, pools: list[str]) -> AutomationCore:
    """Send an alert when the last worker of one of these pools is gone."""
    match = {"prefect.resource.id": "prefect.work-pool.*", "prefect.resource.name": pools}
    text = "'work pool ' ~ event.resource['prefect.resource.name'] ~ ' has no worker'"
    return _automation(
        POOL_ALERT,
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


def _with_text(alert: Action, expression: str) -> Action:
    """Add a text to the alert.

    Args:
        alert: the call of the webhook.
        expression: Jinja expression of the text. It is rendered as JSON, as {"text": ...}, which
            chat services take; quotes in names are escaped.
    """
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


def remove_automations(client: SyncPrefectClient, names: Iterable[str]) -> list[str]:
    """Remove automations that are not wanted any more; returns the names of those that existed."""
    there = [(name, found.id) for name in names for found in client.read_automations_by_name(name)]
    for _, automation_id in there:
        client.delete_automation(automation_id)
    return [name for name, _ in there]
