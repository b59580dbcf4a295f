"""A real server, and the deployments of a job and of its helpers, on which no other job waits."""

from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client

from flows.upscale import upscale
from flows.upscale_part import upscale_part
from tests.kits.deployed import deploy
from tests.kits.hosts.crews import end_all_that_wait


@pytest.fixture
def client(in_api: None) -> Iterator[SyncPrefectClient]:
    """A client of the test server."""
    with get_client(sync_client=True) as client:
        yield client


@pytest.fixture
def deployments(client: SyncPrefectClient) -> tuple[UUID, UUID]:
    """A job's deployment and its helpers', on a pool without workers where no other job waits."""
    end_all_that_wait(client)
    name = f"shared-{uuid4()}"
    return deploy(client, upscale, name), deploy(client, upscale_part, name)
