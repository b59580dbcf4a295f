"""A docker worker that is drained, or stopped, while the containers of its runs are at work."""

import pytest

from tests.kits.containers.docker_host import DockerHost

pytestmark = [pytest.mark.apt, pytest.mark.timeout(2400)]


def test_a_drained_worker_lets_its_job_end_and_waits_for_no_sweep(host: DockerHost) -> None:
    """The sweep would look for ten minutes; it ends, and leaves that to another worker's."""
    sweep = host.start_sweep()
    run = host.submit("/long.mp4")
    host.container_at_work(run)
    assert host.run(sweep)["state_type"] == "RUNNING"
    host.drain_worker()
    other = host.submit()
    assert host.end_of(sweep)["type"] == "COMPLETED"
    assert host.end_of(run)["type"] == "COMPLETED"
    assert (host.run(run)["run_count"], host.result(run)["segments_reused"]) == (1, 0)
    assert host.end_of_worker(60) == 0, host.told()
    host.all_gone()
    assert host.run(other)["state_name"] in ("Scheduled", "Late"), "it has taken no more"
    host.remove_waiting_sweeps()
    host.start_worker()
    assert host.end_of(other)["type"] == "COMPLETED"
    host.all_gone()


def test_a_worker_that_is_stopped_leaves_its_container_at_work(host: DockerHost) -> None:
    """SIGTERM, and KILL after ten seconds, as Compose does: containers belong to the engine."""
    run = host.submit("/long.mp4")
    container = host.container_at_work(run)
    host.stop_worker(10)
    container.reload()
    assert container.status == "running", host.told()
    host.start_worker()
    assert host.end_of(run)["type"] == "COMPLETED"
    assert (host.run(run)["run_count"], host.result(run)["segments_reused"]) == (1, 0)
    host.all_gone()


def test_a_job_that_is_cancelled_while_its_worker_is_away_ends_by_itself(host: DockerHost) -> None:
    run = host.submit("/long.mp4")
    host.container_at_work(run)
    host.stop_worker(0)
    host.cancel(run)
    host.all_gone()
    assert host.end_of(run)["type"] == "CANCELLED"
    host.start_worker()
