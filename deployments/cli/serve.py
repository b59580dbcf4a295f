"""`seedvr2 serve`: runs the whole service on one machine with one command.

It starts a Prefect server on the database in PREFECT_HOME, a worker for each of the pools local and
cpu, the edge on the storage folder, and the gateway, and applies deployments and automations. It
always runs its own server: if the environment or the Prefect profile names another API, it says
that it does not use it. Prefect's API listens on loopback, whatever --host says, and asks for the
installation's password (host/installation.py).
"""

import os
import shlex
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deployments.host.attached import PID_VARIABLE
from deployments.host.exits import exit_codes, say
from deployments.host.installation import (
    ApiAddress,
    announce,
    api_auth,
    auth_file,
    is_healthy,
    only_server,
    prefect_home,
)
from deployments.host.loopback import keep_loopback_direct
from deployments.host.quiet import outside_the_folder
from deployments.host.supervisor import AskedToStop, ManagedProcess, Supervisor
from tasks.settings import RESOLUTIONS, Settings, use_settings

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

POOLS = {"local": 1, "cpu": 8}
"""The work pools, and how many runs each works on at a time."""
DEPLOYMENT = "upscale/local"
"""The deployment for every resolution."""
GATEWAY_PORT, API_PORT, EDGE_PORT = 8000, 4200, 8001
WORKER_POLL_SECONDS = "2"
WORKER_GRACE_SECONDS = 40.0
"""Long, because a flow run that is asked to end first ends its child."""
_AUTH = "PREFECT_API_AUTH_STRING"
_SERVER_AUTH = "PREFECT_SERVER_API_AUTH_STRING"
_NOT_FOR = {"edge": (_AUTH, _SERVER_AUTH), "gateway": (_SERVER_AUTH,)}
"""Part -> passwords that it has no use for: the edge is open to the outside and asks nobody."""
KEPT = "jobs that were at work go on at the next start"


def serve(
    gateway_port: Annotated[
        int, typer.Option(min=0, max=65_535, help="Port of the gateway; 0 takes a free one.")
    ] = GATEWAY_PORT,
    api_port: Annotated[
        int, typer.Option(min=0, max=65_535, help="Port of Prefect's server; 0 takes a free one.")
    ] = API_PORT,
    edge_port: Annotated[
        int, typer.Option(min=0, max=65_535, help="Port of the edge; 0 takes a free one.")
    ] = EDGE_PORT,
    host: Annotated[
        str, typer.Option(help="Address of gateway and edge; Prefect's API stays on loopback.")
    ] = "127.0.0.1",
    work_dir: Annotated[
        Path | None,
        typer.Option(
            help="Folder of jobs, outputs and logs; default SEEDVR2_WORK_DIR or ~/.seedvr2."
        ),
    ] = None,
) -> None:
    """Run the whole service on this machine until Ctrl-C.

    It consists of a Prefect server, workers, the gateway, which takes jobs, and the edge, which
    serves the finished videos. Jobs that are at work when it ends go on at its next start.
    """
    with exit_codes(KEPT):
        settings = _settings(work_dir)
        _check_host(host, settings)
        ports = {"server": api_port, "gateway": gateway_port, "edge": edge_port}
        with outside_the_folder(), only_server(prefect_home()):
            _run(settings, host, ports)


def _settings(work_dir: Path | None) -> Settings:
    """Settings that fit one's own machine: they allow local files and running without a GPU."""
    settings = Settings(allow_local_files=True, allow_cpu_engine=True)
    chosen = (work_dir or settings.work_dir).expanduser().absolute()
    table = dict.fromkeys(RESOLUTIONS, DEPLOYMENT)
    settings = settings.model_copy(update={"work_dir": chosen, "deployments": table})
    use_settings(settings)
    return settings


def _check_host(host: str, settings: Settings) -> None:
    """Refuse the host that the gateway would refuse, before anything is started."""
    from deployments.gateway.auth import check_exposure
    from deployments.host.listen import exposure_note

    check_exposure(host, settings)
    if note := exposure_note("the service", host):
        say(note)


def _run(settings: Settings, host: str, ports: dict[str, int]) -> None:
    """Start everything, keep it running and, on Ctrl-C or SIGTERM, end it."""
    supervisor = Supervisor(say)
    with supervisor.signals():
        try:
            with supervisor:
                _Stack(supervisor, settings, host, ports).run()
        except AskedToStop:
            say(f"stopped; {KEPT}")


class _Stack:
    """All processes of the service on one machine."""

    def __init__(
        self, supervisor: Supervisor, settings: Settings, host: str, ports: dict[str, int]
    ) -> None:
        self._supervisor = supervisor
        self._settings = settings
        self._host = host
        self._ports = ports
        self._logs = settings.work_dir / "logs"
        self._logs.mkdir(parents=True, exist_ok=True)
        self._environment = _environment(settings)

    def run(self) -> None:
        """Start everything, then keep it running until somebody asks for the end."""
        from deployments.host.interrupted import runs_at_work, schedule_again

        say(f"starting; logs are in {self._logs}")
        server, edge = self._server(), self._edge()
        self._supervisor.start(server, edge)
        assert server.url
        assert edge.url
        self._environment["PREFECT_API_URL"] = f"{server.url}/api"
        self._environment["SEEDVR2_PUBLIC_URL"] = self._settings.public_url or reachable(edge.url)
        address = ApiAddress(url=f"{server.url}/api", auth=self._environment[_AUTH])
        announce(prefect_home(), address)
        with _client(address) as client:
            _apply(client, self._settings)
            for run in schedule_again(client, runs_at_work(client, tuple(POOLS))):
                say(f"job {run.id} ({run.name}) goes on")
            self._work(client, server, edge)

    def _work(
        self, client: "SyncPrefectClient", server: ManagedProcess, edge: ManagedProcess
    ) -> None:
        """Start what takes and does jobs; end it before the server and edge that it needs."""
        gateway = self._gateway()
        workers = [self._worker(client, pool) for pool in POOLS]
        try:
            self._supervisor.start(gateway, *workers)
            self._print_addresses(server, gateway, edge)
            self._supervisor.watch()
        except AskedToStop:
            say("stopping, which takes some seconds; Ctrl-C once more does not wait")
            raise
        finally:
            # The pool cpu ends first: `recover` must not look after a job that we are ending.
            self._end_work(client, server, [gateway, *reversed(workers)])

    def _server(self) -> ManagedProcess:
        """Prefect's server with its UI and all services."""
        parent = f"--parent={os.getpid()}"
        server = self._process("server", "deployments.host.prefect_server", "--full", parent)
        server.is_ready = lambda: is_healthy(f"{server.url}/api/health")
        return server

    def _edge(self) -> ManagedProcess:
        """The server of the finished videos."""
        root = str(self._settings.storage_dir)
        return self._process("edge", "deployments.edge", "--root", root, "--host", self._host)

    def _gateway(self) -> ManagedProcess:
        """The HTTP API that takes jobs."""
        gateway = self._process("gateway", "deployments.gateway", "--host", self._host)
        gateway.is_ready = lambda: is_healthy(f"{reachable(gateway.url or '')}/healthz")
        return gateway

    def _worker(self, client: "SyncPrefectClient", pool: str) -> ManagedProcess:
        """A process worker of a pool; it has come up when the server has its first heartbeat."""
        words = ("worker", "start", "--type", "process", "--pool", pool, "--name", f"serve-{pool}")
        worker = self._process(f"worker-{pool}", "prefect", *words, "--limit", str(POOLS[pool]))

        def has_heartbeat() -> bool:
            beats = [w.last_heartbeat_time for w in client.read_workers_for_work_pool(pool)]
            return any(beat and beat.timestamp() >= worker.started_at for beat in beats)

        worker.is_ready = has_heartbeat
        worker.grace_seconds = WORKER_GRACE_SECONDS
        return worker

    def _process(self, name: str, module: str, *arguments: str) -> ManagedProcess:
        """A process with a log of its own; the log of the last `seedvr2 serve` is kept as .1."""
        log = self._logs / f"{name}.log"
        if log.exists():
            log.replace(log.with_name(f"{log.name}.1"))
        return ManagedProcess(
            name=name,
            module=module,
            arguments=arguments,
            environment=_without(self._environment, _NOT_FOR.get(name, ())),
            log=log,
            port=self._ports.get(name),
        )

    def _print_addresses(
        self, server: ManagedProcess, gateway: ManagedProcess, edge: ManagedProcess
    ) -> None:
        """Print the addresses to stdout, and how to use them."""
        table = {"gateway": gateway.url, "prefect": server.url, "edge": edge.url}
        for name, url in table.items():
            typer.echo(f"{name}: {url}")
        moved = "" if gateway.port == GATEWAY_PORT else f" --gateway {gateway.url}"
        typer.echo(f"submit: seedvr2 submit VIDEO --resolution 1080p --watch{moved}")
        if _SERVER_AUTH not in os.environ:
            file = auth_file(prefect_home())
            typer.echo(f"prefect password: the UI asks for what is in {file}")
            shown = f'"$(cat {shlex.quote(str(file))})"'
        else:
            shown = f'"${_SERVER_AUTH}"'
        typer.echo(f"prefect CLI: export PREFECT_API_URL={server.url}/api {_AUTH}={shown}")
        say("ready; Ctrl-C stops all of it")

    def _end_work(
        self, client: "SyncPrefectClient", server: ManagedProcess, processes: list[ManagedProcess]
    ) -> None:
        """End gateway and workers, and schedule the runs that were at work for the next start."""
        from deployments.host.interrupted import runs_at_work, schedule_again

        runs = runs_at_work(client, tuple(POOLS)) if server.alive else []
        self._supervisor.end(*processes)
        if server.alive:
            schedule_again(client, runs)


def _environment(settings: Settings) -> dict[str, str]:
    """The environment of all processes; its folders are absolute, as flow runs work elsewhere."""
    folders = {
        "SEEDVR2_WORK_DIR": settings.work_dir,
        "SEEDVR2_OUTPUT_DIR": settings.output_dir,
        "SEEDVR2_WEIGHTS_DIR": settings.weights_dir,
    }
    auth = os.environ.get(_SERVER_AUTH) or api_auth(prefect_home())
    environment = {
        "PREFECT_WORKER_QUERY_SECONDS": WORKER_POLL_SECONDS,
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(settings.work_dir / "prefect-ui"),
        **os.environ,
        **{name: str(path.absolute()) for name, path in folders.items() if path},
        "SEEDVR2_ALLOW_LOCAL_FILES": "true",
        "SEEDVR2_ALLOW_CPU_ENGINE": "true",
        "SEEDVR2_DEPLOYMENTS": f"*={DEPLOYMENT}",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        _SERVER_AUTH: auth,
        _AUTH: auth,
        "PYTHONUNBUFFERED": "1",
    }
    keep_loopback_direct(environment)
    return environment


def _without(environment: Mapping[str, str], names: Collection[str]) -> dict[str, str]:
    """A copy of an environment without some of its variables."""
    return {name: value for name, value in environment.items() if name not in names}


def reachable(url: str) -> str:
    """Make an address that a client can use: loopback in place of "all addresses of this host"."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


@contextmanager
def _client(address: ApiAddress) -> "Iterator[SyncPrefectClient]":
    """Open a client of our own server, whichever the environment or the Prefect profile names."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    if (other := PREFECT_API_URL.value()) and other != address.url:
        say(f"note: PREFECT_API_URL is {other}; serve does not use it, it runs a server of its own")
    with (
        temporary_settings({PREFECT_API_URL: address.url, PREFECT_API_AUTH_STRING: address.auth}),
        get_client(sync_client=True) as client,
    ):
        yield client


def _apply(client: "SyncPrefectClient", settings: Settings) -> None:
    """Apply what `make deploy` applies, as far as one machine needs it."""
    from deployments.deploy.apply import (
        apply_automations,
        apply_deployments,
        apply_pools,
        pool_template,
    )
    from deployments.deploy.site import Site

    # Workers and flow runs have serve's environment, so that pools are given nothing more.
    templates = {pool: attach_to_worker(pool_template(pool)) for pool in POOLS}
    apply_pools(client, templates, Site(whole=True))
    apply_deployments(client, settings, POOLS)
    apply_automations(client, settings, POOLS)


def attach_to_worker(template: dict[str, Any]) -> dict[str, Any]:
    """Change a process pool's template so that flow runs end with their worker, even by kill -9."""
    parent = f"${PID_VARIABLE}"
    template["job_configuration"]["command"] = (
        f"{shlex.quote(sys.executable)} -P -m deployments.host.attached "
        f"--parent={{{{ {parent} }}}} prefect.engine"
    )
    template["variables"]["properties"][parent] = {
        "type": "string",
        "title": "Worker",
        "description": "Process id of the worker; comes from the worker's environment.",
    }
    return template
