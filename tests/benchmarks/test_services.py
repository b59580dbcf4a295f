"""Services of tests and benchmarks end with the process that has started them, even by kill -9."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from tests.kits.faults import wait_until
from tests.kits.processes import MARK, ROOT, command_of, marked

STARTS = {
    "serve": "from tests.kits.server import Serve; Serve(folder, **marked).wait_until_ready()",
    "server": "from tests.kits.server import Server; Server(dict(os.environ)).start()",
    "store": "from tests.kits.http.s3 import s3_server; there = s3_server(); there.__enter__()",
}
BEGINS = (
    "import os, sys, time; from pathlib import Path; folder = Path(sys.argv[1]); "
    f"marked = {{'{MARK}': os.environ['{MARK}']}}"
)
ENDS = "print('started', flush=True); time.sleep(600)"


@pytest.mark.long
@pytest.mark.parametrize("service", STARTS)
def test_a_service_ends_with_a_parent_that_is_killed(service: str, tmp_path: Path) -> None:
    mark = uuid4().hex
    environment = {**os.environ, MARK: mark, "PREFECT_HOME": str(tmp_path / "prefect")}
    environment.pop("PREFECT_API_URL", None)
    with subprocess.Popen(
        [sys.executable, "-c", f"{BEGINS}; {STARTS[service]}; {ENDS}", str(tmp_path)],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "started\n"
        begun = [command_of(pid) for pid in marked(mark) if pid != parent.pid]
        assert begun, "it has processes of its own"
        parent.send_signal(signal.SIGKILL)
    wait_until(lambda: not marked(mark), f"the end of {begun}", seconds=30)
