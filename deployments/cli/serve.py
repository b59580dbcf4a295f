"""`seedvr2 serve`: all of it on one machine, with one command.

A Prefect server on PREFECT_HOME's database, the pools local and cpu with a worker each, deployments
and automations, an edge over the storage folder, the gateway. It always brings its own server; an
API URL of the environment or profile is not used, and serve says so. Prefect's API has no password
unless you set one, so it listens on loopback whatever --host says.
"""

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deployments.host.attached import PID_VARIABLE
from deployments.host.exits import exit_codes, say
from deployments.host.prefect_server import is_healthy
from deployments.host.supervisor import AskedToStop, Part, Supervisor
from seedvr2_core.errors import InvalidRequestError
from tasks.settings import RESOLUTIONS, Settings, use_settings

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

POOLS = {"local": 1, "cpu": 8}
"""Work pools of one machine, and how many runs each takes at a time."""
DEPLOYMENT = "upscale/local"
"""Takes every resolution."""
GATEWAY_PORT, API_PORT, EDGE_PORT = 8000, 4200, 8001
WORKER_POLL_SECONDS = "2"
WORKER_GRACE_SECONDS = 40.0
"""A flow run that is told to end first ends its child."""
KEPT = "jobs that were at work go on at the next start"

_Port = Annotated[int, typer.Option(min=0, max=65_535, help="0 takes a free one.")]


def serve(
    gateway_port: _Port = GATEWAY_PORT,
    api_port: _Port = API_PORT,
    edge_port: _Port = EDGE_PORT,
    host: Annotated[
        str, typer.Option(help="Where gateway and edge listen; Prefect's API stays on loopback.")
    ] = "127.0.0.1",
    work_dir: Annotated[
        Path | None,
        typer.Option(help="Jobs, outputs, logs; default SEEDVR2_WORK_DIR or ~/.seedvr2."),
    ] = None,
) -> None:
    """Run server, workers, gateway and edge on this machine until Ctrl-C."""
    with exit_codes(KEPT):
        settings = _settings(work_dir)
        _check_host(host, settings)
        ports = {"server": api_port, "gateway": gateway_port, "edge": edge_port}
        with _alone():
            _run(settings, host, ports)


def _settings(work_dir: Path | None) -> Settings:
    """One's own machine: its files may be read, and it may run without a GPU."""
    settings = Settings(allow_local_files=True, allow_cpu_engine=True)
    chosen = (work_dir or settings.work_dir).expanduser().absolute()
    table = dict.fromkeys(RESOLUTIONS, DEPLOYMENT)
    settings = settings.model_copy(update={"work_dir": chosen, "deployments": table})
    use_settings(settings)
    return settings


def _check_host(host: str, settings: Settings) -> None:
    """Refuse what the gateway would refuse, before anything is started."""
    from deployments.gateway.auth import check_exposure

    check_exposure(host, settings)


@contextmanager
def _alone() -> Iterator[None]:
    """Two of them over one database would take each other's runs for lost."""
    from seedvr2_core.files import hold_lock

    home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()

    def refuse() -> None:
        raise InvalidRequestError(
            f"seedvr2 serve is running already on the Prefect database in {home}; stop it first, "
            "or set PREFECT_HOME to another folder"
        )

    with hold_lock(home / "seedvr2-serve.lock", timeout=0, on_wait=refuse):
        yield


def _run(settings: Settings, host: str, ports: dict[str, int]) -> None:
    """Bring everything up, keep it up, bring it down."""
    supervisor = Supervisor(say)
    with supervisor.signals():
        try:
            with supervisor:
                _Stack(supervisor, settings, host, ports).run()
        except AskedToStop:
            say(f"stopped; {KEPT}")


class _Stack:
    """The parts of one machine."""

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
        """Start in order, tell, watch; on the way out work ends before what it needs."""
        from deployments.host.interrupted import runs_at_work, take_up

        server = self._part(
            "server", "deployments.host.prefect_server", "--full", f"--parent={os.getpid()}"
        )
        server.is_ready = lambda: is_healthy(f"{server.url}/api/health")
        root = str(self._settings.storage_dir)
        edge = self._part("edge", "deployments.edge", "--root", root, "--host", self._host)
        say("starting; logs are in " + str(self._logs))
        self._supervisor.start(server, edge)
        assert server.url
        assert edge.url
        self._environment["PREFECT_API_URL"] = f"{server.url}/api"
        self._environment["SEEDVR2_PUBLIC_URL"] = self._settings.public_url or reachable(edge.url)
        with _client(f"{server.url}/api") as client:
            _apply(client, self._settings)
            for run in take_up(client, runs_at_work(client, tuple(POOLS))):
                say(f"job {run.id} ({run.name}) goes on")
            gateway = self._part("gateway", "deployments.gateway", "--host", self._host)
            gateway.is_ready = lambda: is_healthy(f"{reachable(gateway.url or '')}/healthz")
            workers = [self._worker(client, pool) for pool in POOLS]
            try:
                self._supervisor.start(gateway, *workers)
                self._tell(server, gateway, edge)
                self._supervisor.watch()
            finally:
                # The small flows first: none should look after a job that is being ended.
                self._end_work(client, server, [gateway, *reversed(workers)])

    def _part(self, name: str, module: str, *arguments: str) -> Part:
        """A part with a log of its own; the log of the time before is kept as .1."""
        log = self._logs / f"{name}.log"
        if log.exists():
            log.replace(log.with_name(f"{log.name}.1"))
        return Part(
            name=name,
            module=module,
            arguments=arguments,
            environment=self._environment.copy(),
            log=log,
            port=self._ports.get(name),
        )

    def _worker(self, client: "SyncPrefectClient", pool: str) -> Part:
        """A process worker; it is up when the server has heard of it."""
        words = ("worker", "start", "--type", "process", "--pool", pool, "--name", f"serve-{pool}")
        part = self._part(f"worker-{pool}", "prefect", *words, "--limit", str(POOLS[pool]))

        def heard_of() -> bool:
            beats = [w.last_heartbeat_time for w in client.read_workers_for_work_pool(pool)]
            return any(beat and beat.timestamp() >= part.started for beat in beats)

        part.is_ready = heard_of
        part.grace = WORKER_GRACE_SECONDS
        return part

    def _tell(self, server: Part, gateway: Part, edge: Part) -> None:
        """The addresses, on stdout, and how to use them."""
        table = {"gateway": gateway.url, "prefect": server.url, "edge": edge.url}
        for name, url in table.items():
            typer.echo(f"{name}: {url}")
        moved = "" if gateway.port == GATEWAY_PORT else f" --gateway {gateway.url}"
        typer.echo(f"submit: seedvr2 submit VIDEO --resolution 1080p --watch{moved}")
        typer.echo(f"prefect CLI: export PREFECT_API_URL={server.url}/api")
        say("ready; Ctrl-C stops all of it")

    def _end_work(self, client: "SyncPrefectClient", server: Part, parts: list[Part]) -> None:
        """End gateway and workers; what was at work is scheduled again, for the next start."""
        from deployments.host.interrupted import runs_at_work, take_up

        runs = runs_at_work(client, tuple(POOLS)) if server.alive else []
        self._supervisor.end(*parts)
        if server.alive:
            take_up(client, runs)


def _environment(settings: Settings) -> dict[str, str]:
    """Of all parts; folders are absolute, for flow runs work in folders of their own."""
    folders = {
        "SEEDVR2_WORK_DIR": settings.work_dir,
        "SEEDVR2_OUTPUT_DIR": settings.output_dir,
        "SEEDVR2_WEIGHTS_DIR": settings.weights_dir,
    }
    return {
        "PREFECT_WORKER_QUERY_SECONDS": WORKER_POLL_SECONDS,
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(settings.work_dir / "prefect-ui"),
        **os.environ,
        **{name: str(path.absolute()) for name, path in folders.items() if path},
        "SEEDVR2_ALLOW_LOCAL_FILES": "true",
        "SEEDVR2_ALLOW_CPU_ENGINE": "true",
        "SEEDVR2_DEPLOYMENTS": f"*={DEPLOYMENT}",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        "PYTHONUNBUFFERED": "1",
    }


def reachable(url: str) -> str:
    """An address that a link can name: loopback stands for "every address of this machine"."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


@contextmanager
def _client(api_url: str) -> "Iterator[SyncPrefectClient]":
    """A client of serve's own server, whatever the environment or profile name."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    if (other := PREFECT_API_URL.value()) and other != api_url:
        say(f"note: PREFECT_API_URL is {other}; serve does not use it, it runs a server of its own")
    with (
        temporary_settings({PREFECT_API_URL: api_url}),
        get_client(sync_client=True) as client,
    ):
        yield client


def _apply(client: "SyncPrefectClient", settings: Settings) -> None:
    """What `make deploy` applies, as far as one machine needs it."""
    from deployments.deploy.apply import (
        apply_automations,
        apply_deployments,
        apply_pools,
        pool_template,
    )

    apply_pools(client, {pool: tied(pool_template(pool)) for pool in POOLS})
    apply_deployments(settings, POOLS)
    apply_automations(client, settings, POOLS)


def tied(template: dict[str, Any]) -> dict[str, Any]:
    """A process pool's template whose flow runs end with their worker, kill -9 included."""
    parent = f"${PID_VARIABLE}"
    template["job_configuration"]["command"] = (
        f"{shlex.quote(sys.executable)} -m deployments.host.attached --parent={{{{ {parent} }}}} "
        "prefect.engine"
    )
    template["variables"]["properties"][parent] = {
        "type": "string",
        "title": "Worker",
        "description": "Process id of the worker, of its own environment; not of a run.",
    }
    return template
