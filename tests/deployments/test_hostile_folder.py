"""What we start imports nothing from the folder that it is started in.

Each test works in a folder with files that are named like modules that we, Prefect or the standard
library import. Each of them notes that it was executed, then fails. The environment names a proxy
for everything: our own servers must be reached without it.
"""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deployments.host.attached import attached
from seedvr2_core.child.protocol import Probe, Probed
from tasks.child import Child
from tests.kits.prefect_home import prepare_home
from tests.kits.processes import ROOT
from tests.kits.server import Serve

COMMAND = str(Path(sys.executable).parent / "seedvr2")
MODULES = ("grp", "av", "prefect", "json", "typer", "runpy", "numpy", "uvicorn", "uuid", "urllib")
PACKAGES = ("tasks", "flows", "seedvr2_core", "deployments", "torch")
HOSTILE = """
from pathlib import Path
note = Path({folder!r}) / "executed.txt"
with note.open("a") as out:
    out.write("{name}\\n")
raise SystemExit("the hostile {name} was executed")
"""


LOGGING = """
version: 1
formatters: {hostile: {"()": os.system, command: "echo the logging.yml >> FOLDER/executed.txt"}}
handlers: {}
loggers: {}
"""
"""Says how to log; the function that it names is called with these arguments."""
SETTINGS = {
    ".env": "PREFECT_LOGGING_CONFIG_PATH=logging.yml\nPREFECT_API_URL=http://127.0.0.1:9/api\n",
    "prefect.toml": '[logging]\nconfig_path = "logging.yml"\n',
    "pyproject.toml": '[tool.prefect.logging]\nconfig_path = "logging.yml"\n',
    "logging.yml": LOGGING,
}
"""What Prefect would take settings from."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder, as the working directory; afterwards nothing in it may have been executed."""
    folder = tmp_path / "videos"
    files = [folder / f"{name}.py" for name in MODULES]
    files += [folder / name / "__init__.py" for name in PACKAGES]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        name = file.parent.name if file.stem == "__init__" else file.stem
        file.write_text(HOSTILE.format(folder=str(folder), name=name))
    for name, content in SETTINGS.items():
        (folder / name).write_text(content.replace("FOLDER", str(folder)))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # which must go on working
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # which cannot reach our own servers
        monkeypatch.setenv(name.lower(), "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    yield folder
    note = folder / "executed.txt"
    assert not note.exists(), note.read_text()


def test_the_child_is_ours(folder: Path, demo_clip: Path) -> None:
    child = Child()
    try:
        child.send(Probe(path=demo_clip, out=folder.parent / "probe.json"))
        while not isinstance(next_event(child), Probed):
            pass
    finally:
        child.close()


def next_event(child: Child) -> object:
    return child.next_event(
        stall_seconds=60, deadline=time.monotonic() + 120, doing="probing the clip"
    )


def test_attached_modules_and_what_they_start_are_the_installed_ones(folder: Path) -> None:
    (folder.parent / "told.py").write_text(
        "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import grp; print(grp)'])"
    )
    path = f"{ROOT}{os.pathsep}{folder.parent}"
    done = subprocess.run(
        attached("told"),
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "built-in" in done.stdout or "lib-dynload" in done.stdout, done.stderr


def test_no_program_of_ours_is_started_without_it() -> None:
    """Wherever our code names the interpreter and a module, -P stands between them."""
    for package in ("deployments", "flows", "tasks", "seedvr2_core", "seedvr2"):
        for file in (ROOT / package).rglob("*.py"):
            starts = re.findall(r"sys\.executable\W[^\n]*-m\b", file.read_text())
            assert all("-P" in start for start in starts), (file, starts)


@pytest.mark.long
@pytest.mark.slow
def test_the_command_does_a_whole_job(folder: Path, demo_clip: Path) -> None:
    prepare_home(folder.parent / "prefect")
    (folder / "clip.mp4").write_bytes(demo_clip.read_bytes())
    options = ("--model", "lanczos", "--resolution", "720p", "--preset", "ultrafast", "--json")
    done = subprocess.run(
        [COMMAND, "upscale", "clip.mp4", *options, "--work-dir", "../work"],
        env={**os.environ, "PREFECT_HOME": str(folder.parent / "prefect")},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert Path(json.loads(done.stdout)["output_path"]).is_file()
    assert (folder.parent / "prefect" / "prefect.db").stat().st_mode & 0o077 == 0


@pytest.mark.long
@pytest.mark.parametrize("words", [["doctor"], ["plan", "clip.mp4", "--model", "lanczos"]])
def test_commands_that_only_look(folder: Path, demo_clip: Path, words: list[str]) -> None:
    (folder / "clip.mp4").write_bytes(demo_clip.read_bytes())
    done = subprocess.run(
        [COMMAND, *words, "--work-dir", "../work"], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr


def test_deploy_checks_the_settings_of_a_site_file_there(folder: Path) -> None:
    (folder / "my.env").write_text("SEEDVR2_KEEP_DAYS=3\n")
    (folder / "my.env").chmod(0o600)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "deployments.deploy", "check"],
        env=os.environ | {"SEEDVR2_SITE_FILE": "my.env"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, "SEEDVR2_KEEP_DAYS is set" in done.stderr) == (0, True), done.stderr


def test_the_gateway_started_by_hand(folder: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "deployments.gateway", "--port", "0"],
        env=os.environ | {"PREFECT_API_URL": "http://127.0.0.1:9/api"},
        stdout=subprocess.PIPE,
        text=True,
    ) as gateway:
        assert gateway.stdout is not None
        line = gateway.stdout.readline()
        gateway.kill()
    assert line.startswith("gateway: http://127.0.0.1:")


PROGRAMS = (
    *("cli.app", "gateway.__main__", "deploy.__main__", "edge", "docker.guarded_prefect"),
    *("host.attached", "host.prefect_server"),
)


@pytest.mark.parametrize("module", PROGRAMS)
def test_no_program_imports_prefect_before_it_has_left_the_folder(module: str) -> None:
    """It reads its settings at once."""
    look = f"import sys, deployments.{module}; sys.exit('prefect' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", look], cwd=ROOT).returncode == 0


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_serve_and_its_flow_runs_do_a_whole_job(folder: Path, demo_clip: Path) -> None:
    serve = Serve(folder.parent, command=(COMMAND,), cwd=folder)
    try:
        serve.wait_until_ready()
        job = serve.submit(demo_clip, "--model", "lanczos", "--resolution", "720p")
        assert serve.wait_for(job, "completed", "failed")["status"] == "completed"
        assert serve.stop() == 0
    finally:
        serve.close()


class _Refusing(BaseHTTPRequestHandler):
    """A gateway that refuses everything with a reason."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(422)
        self.end_headers()
        self.wfile.write(b'{"detail": "refused here"}')

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


def test_the_script_for_scripts(folder: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        done = subprocess.run(
            ["bash", str(ROOT / "upscale.sh"), "https://example.org/clip.mp4"],
            env={
                **os.environ,
                "SEEDVR2_GATEWAY_URL": f"http://127.0.0.1:{server.server_address[1]}",
            },
            capture_output=True,
            text=True,
            timeout=60,
        )
    finally:
        server.shutdown()
        server.server_close()
    assert "refused here" in done.stderr, done.stderr
