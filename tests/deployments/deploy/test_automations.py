"""Which automations a site has: alerts only where there is an address for them."""

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.schemas.automations import AutomationCore

from deployments.deploy.apply import apply_automations
from deployments.deploy.automations import (
    LATE_ALERT,
    OF_EARLIER_VERSIONS,
    POOL_ALERT,
    remove_automations,
)
from flows.recover import recover
from tasks.settings import Settings
from tests.kits.deployed import deploy

CRASHED = "seedvr2: Crashed -> recover"


def names(client: SyncPrefectClient) -> set[str]:
    """The automations of ours that the server has."""
    ours = (CRASHED, LATE_ALERT, POOL_ALERT, *OF_EARLIER_VERSIONS)
    return {name for name in ours if client.read_automations_by_name(name)}


def of_an_earlier_version(client: SyncPrefectClient) -> AutomationCore:
    """The automation that called a run lost whose heartbeats came late."""
    kept = client.read_automations_by_name(CRASHED)[0]
    (name,) = OF_EARLIER_VERSIONS
    return AutomationCore.model_validate(kept.model_dump(exclude={"id"}) | {"name": name})


def test_a_site_without_an_address_has_no_alerts_and_loses_those_that_it_had(
    in_api: None,
) -> None:
    with get_client(sync_client=True) as client:
        deployed = deploy(client, recover, "lost-runs")
        apply_automations(client, Settings())
        assert names(client) == {CRASHED}
        client.create_automation(of_an_earlier_version(client))
        apply_automations(client, Settings.model_validate({"alert_url": "http://127.0.0.1:9/hook"}))
        assert names(client) == {CRASHED, LATE_ALERT, POOL_ALERT}
        apply_automations(client, Settings())
        assert names(client) == {CRASHED}
        remove_automations(client, [CRASHED])  # other tests use this server
        client.delete_deployment(deployed)
