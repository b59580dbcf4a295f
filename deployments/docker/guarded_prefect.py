"""The Prefect server of the Docker stack: Prefect's own, which answers only to its own names.

    python -P -m deployments.docker.guarded_prefect --host 0.0.0.0 --port 4200

`prefect server start` answers whatever host a request asks for, so a web page that gives its own
name this machine's address could read the API (see `host/hosts.py`). This one answers to loopback,
to its name among the services of compose, to the host of the address at which people reach its UI,
and to SEEDVR2_ALLOWED_HOSTS.
"""

import argparse
import os
from urllib.parse import urlsplit

from deployments.host.hosts import allowed_hosts, guard_prefect
from deployments.host.listen import log_config
from deployments.host.loopback import LOOPBACK
from deployments.host.prefect_server import HEARD_AGAIN
from tasks.settings import get_settings

SERVICE = "server"
"""The name of the server in compose.yaml: workers, gateway and jobs ask for it."""
DRAIN_SECONDS = 10


def main() -> None:
    """Serve until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=4200)
    arguments = parser.parse_args()
    os.environ.update(HEARD_AGAIN)
    # Prefect reads its settings when it is imported.
    import uvicorn
    from prefect.server.api.server import create_app
    from prefect.settings import PREFECT_UI_API_URL

    names = {SERVICE, *LOOPBACK, *allowed_hosts(get_settings(), guarded=False)}
    if host := urlsplit(PREFECT_UI_API_URL.value() or "").hostname:
        names.add(host)
    uvicorn.run(
        guard_prefect(create_app(final=True), names),
        host=arguments.host,
        port=arguments.port,
        log_level="warning",
        log_config=log_config(),
        lifespan="on",
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )


if __name__ == "__main__":
    main()
