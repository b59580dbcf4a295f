"""Every command of the pages, literally, in a fresh clone without an activated environment.

Whatever a page shows in a block marked `sh` is run, unless `NOT_RUN` names it with a reason; so a
command that is new on a page is run by itself. Run the file whole: later commands use what earlier
ones left, as they do for a reader.
"""

import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kits.http.video_server import VideoServer
from tests.kits.media import ffmpeg
from tests.kits.pages.commands import PAGES, Command, commands_of
from tests.kits.pages.newcomer import SERVE_PORTS, Newcomer, clone_head, lend_environment
from tests.kits.processes import ROOT

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no git checkout, nothing to clone"),
]

NOT_RUN = {
    "make demo": "takes a minute; run in the soak test below, and here with a smaller video",
    "make test": "this test is a part of it",
    "weights download": "17 GB from the internet; test_weights.py runs it with small files",
    "weights verify": "needs the 17 GB; test_weights.py runs it with small files",
    "seedvr2 selfcheck": "needs the 17 GB; test_selfcheck.py runs it with small files",
    "docker": "needs a Docker engine",
    "systemctl": "needs systemd and the worker's unit",
    "make image": "needs a Docker engine",
    "SEEDVR2_GATEWAY_TOKEN=TOKEN bash upscale.sh": "needs the stack that Docker runs",
}
"""Part of a command -> why it is not run here; test_options.py reads what can be read of it."""

SERVE = "make serve"
SERVICE = (SERVE, "submit", "status", "logs", "cancel", "jobs", "curl", "prefect ", "upscale.sh")
"""Words of commands that start the service or talk to it."""
RUNS_A_FLOW = ("seedvr2 upscale", "make demo")
"""These bring a Prefect server of their own unless PREFECT_API_URL names one. The first of them
does so here; the others run beside the service, as starting a server takes ten seconds."""
OWN_VIDEO = Command("README.md", -1, "make demo VIDEO=my.mp4 RESOLUTION=1080p")
"""It stands inside a sentence."""
DEPLOYED = "h100"
"""A command that names this pool comes after `make deploy`."""
TOO_LATE = "has completed and cannot be cancelled"
"""What `cancel` says after the end of a job, which one as small as ours has often reached."""


def all_commands() -> list[Command]:
    """The commands of all pages, in order, without those that are not run."""
    commands = [command for page in PAGES for command in commands_of(ROOT, page)]
    return [c for c in commands if not any(part in c.text for part in NOT_RUN)]


def commands_to_run() -> list[Command]:
    """All commands, each once, where it stands first.

    Those that differ in the resolution alone count as one, because each job takes seconds; the soak
    test runs both. What only sets variables is run in each block, for the commands below it.
    """
    found: dict[str, Command] = {}
    for command in all_commands():
        once = re.sub(r"\b(720p|1080p|2k|4k)\b", "SIZE", command.bare)
        where = "" if command.words else f"{command.page} {command.block} "
        found.setdefault(where + once, command)
    return [*found.values(), OWN_VIDEO]


def split(commands: list[Command]) -> tuple[list[Command], list[Command]]:
    """Commands that run alone, and those that run beside the service."""
    alone, served, has_run_a_flow = [], [], False
    for command in commands:
        runs_a_flow = any(word in command.text for word in RUNS_A_FLOW)
        beside = any(word in command.text for word in SERVICE) or (runs_a_flow and has_run_a_flow)
        (served if beside else alone).append(command)
        has_run_a_flow |= runs_a_flow
    return alone, served


ALONE, SERVED = split(commands_to_run())


def name_of(command: Command) -> str:
    return f"{Path(command.page).stem}: {command.bare[:70]}"


def new_reader(folder: Path, site: VideoServer) -> Newcomer:
    """A newcomer with two small videos in their clone, who finds one more on a web server."""
    clone = folder / "clone"
    clone_head(clone)
    picture = ["-f", "lavfi", "-i", "testsrc2=s=64x36:r=25:d=0.08"]
    ffmpeg(*picture, "-f", "lavfi", "-i", "sine=d=0.08", "-c:a", "aac", clone / "my.mp4")
    shutil.copyfile(clone / "my.mp4", clone / "clip.mp4")
    for name in ("clip.mp4", "a.mp4"):
        site.offer(f"/{name}", content=(clone / "my.mp4").read_bytes())
    filled = {"https://example.org/": site.url("/")}
    settings = {
        "SEEDVR2_FETCH_ALLOW": site.host,
        "SEEDVR2_POLL_SECONDS": "0.5",
        "SEEDVR2_CALLBACK_SECRET": "the-secret-of-this-reader",
    }
    return Newcomer(clone, folder / "home", filled, **settings)


@pytest.fixture(scope="module")
def site() -> Iterator[VideoServer]:
    """A web server on loopback in the place of example.org."""
    server = VideoServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory, site: VideoServer) -> Iterator[Newcomer]:
    """A newcomer whose environment is made quickly."""
    folder = tmp_path_factory.mktemp("newcomer")
    reader = new_reader(folder, site)
    lend_environment(reader.clone)
    yield reader
    reader.stop()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def reader_who_serves(reader: Newcomer) -> Newcomer:
    """The same newcomer, after `make serve` in another terminal."""
    for port in SERVE_PORTS:
        with socket.socket() as look:
            if look.connect_ex(("127.0.0.1", port)) == 0:
                pytest.skip(f"port {port}, which the pages name, is in use on this machine")
    reader.serve(SERVE)
    return reader


def check(reader: Newcomer, command: Command) -> None:
    """Run a command; it must do what the page says."""
    if "--output restored.mp4" in command.text:  # each page begins without it
        (reader.clone / "restored.mp4").unlink(missing_ok=True)
    done = reader.run(command)
    said = f"{done.stdout}\n{done.stderr}"
    if "cancel" in command.text:
        assert done.returncode == 0 or TOO_LATE in said, said
        return
    assert done.returncode == 0, said
    # curl ends with 0 whatever the gateway answers.
    refusal = r'\{"(detail|error|exception_message)"'
    assert not re.match(refusal, done.stdout) or TOO_LATE in said, said
    if "--output restored.mp4" in command.text:
        assert (reader.clone / "restored.mp4").stat().st_size


@pytest.mark.parametrize("command", ALONE, ids=name_of)
def test_a_command_works_as_it_stands(reader: Newcomer, command: Command) -> None:
    check(reader, command)


@pytest.mark.parametrize("command", SERVED, ids=name_of)
def test_a_command_works_beside_the_service(reader_who_serves: Newcomer, command: Command) -> None:
    if command.bare == SERVE:
        return  # it runs
    if DEPLOYED in command.text:
        reader_who_serves.once("make deploy")
    check(reader_who_serves, command)


def test_ctrl_c_ends_the_service(reader_who_serves: Newcomer) -> None:
    said = reader_who_serves.stop()
    assert said.index("stopping, which takes some seconds") < said.index("go on at the next start")


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_newcomer_makes_the_environment(tmp_path: Path, site: VideoServer) -> None:
    """The same with the environment that `make` installs; needs a package index and 3 GB."""
    reader = new_reader(tmp_path, site)
    try:
        demo = reader.run(Command("README.md", 0, "make demo"))
        assert demo.returncode == 0, demo.stderr
        assert Path(demo.stdout.split()[-1]).stat().st_size
        for command in all_commands():
            if not any(word in command.text for word in SERVICE):
                check(reader, command)
    finally:
        shutil.rmtree(reader.clone)  # pytest would keep three of them
