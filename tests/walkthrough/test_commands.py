"""Every command of the pages, literally, in a fresh clone without an activated environment.

Whatever a page shows in a block marked `sh` is run, unless `NOT_RUN` names it with a reason; so a
command that is new on a page is run by itself. Run the file whole: later commands use what earlier
ones left, as they do for a reader.
"""

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kits.http.video_server import VideoServer
from tests.kits.media import ffmpeg
from tests.kits.newcomer import SERVE_PORTS, Newcomer, clone_head, lend_environment
from tests.kits.pages import PAGES, Command, commands_of
from tests.kits.processes import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

NOT_RUN = {
    "make demo": "a minute of work: test_a_newcomer (soak) runs it, and one line of it runs here",
    "make test": "this is it",
    "weights download": "needs 17 GB from the internet; test_weights runs it on small files",
    "weights verify": "needs the 17 GB; test_weights runs it on small files",
    "seedvr2 selfcheck": "needs the 17 GB; tests of deployments/cli run it on small files",
    "docker": "needs a Docker engine",
    "make image": "needs a Docker engine",
    "--type docker": "needs a Docker engine",
    "SEEDVR2_GATEWAY_TOKEN=TOKEN bash upscale.sh": "needs the stack that Docker runs",
    "POSTGRES_PASSWORD=": "a setting of the stack that Docker runs",
}
"""Part of a command -> why it is not run here. test_options.py reads all of these."""

SERVICE = ("make serve", "submit", "status", "logs", "cancel", "curl", "prefect ", "upscale.sh")
"""Words of commands that talk to the service, which `make serve` starts before the first of them."""
DEPLOYED = "h100"
"""A command that names this pool comes after `make deploy`."""
SERVE = "make serve"
OWN_VIDEO = Command("README.md", -1, "make demo VIDEO=my.mp4 RESOLUTION=1080p")
"""It stands inside a sentence."""


def reason_not_to_run(command: Command) -> str | None:
    """Why a command is not run, or None."""
    return next((why for part, why in NOT_RUN.items() if part in command.text), None)


def in_order() -> list[Command]:
    """Commands to run, each once: first those that need no service, then the others.

    A command that stands on several pages is run where it stands first.
    """
    found: dict[str, Command] = {}
    for page in PAGES:
        for command in commands_of(ROOT, page):
            if reason_not_to_run(command) is None:
                found.setdefault(command.bare, command)
    return sorted([*found.values(), OWN_VIDEO], key=needs_service)


def needs_service(command: Command) -> bool:
    """Whether a command talks to the service or starts it."""
    return any(word in command.text for word in SERVICE)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Newcomer]:
    """A newcomer with two small videos in their clone, and one on a web server."""
    folder = tmp_path_factory.mktemp("newcomer")
    clone = folder / "clone"
    clone_head(clone)
    lend_environment(clone)
    picture = ["-f", "lavfi", "-i", "testsrc2=s=64x36:r=25:d=0.2"]
    ffmpeg(*picture, "-f", "lavfi", "-i", "sine=d=0.2", "-c:a", "aac", clone / "my.mp4")
    shutil.copyfile(clone / "my.mp4", clone / "clip.mp4")
    site = VideoServer()
    for name in ("clip.mp4", "a.mp4"):
        site.offer(f"/{name}", content=(clone / "my.mp4").read_bytes())
    filled = {"https://example.org/": site.url("/")}
    reader = Newcomer(clone, folder / "home", filled, SEEDVR2_FETCH_ALLOW=site.host)
    yield reader
    reader.stop()
    site.close()
    shutil.rmtree(folder)


def needs_free_ports(reader: Newcomer) -> None:
    """Skip where the ports that the pages name are somebody else's."""
    if reader.serves:
        return
    for port in SERVE_PORTS:
        with socket.socket() as look:
            if look.connect_ex(("127.0.0.1", port)) == 0:
                pytest.skip(f"port {port}, which the pages name, is in use on this machine")


@pytest.mark.parametrize("command", in_order(), ids=lambda c: f"{Path(c.page).stem}: {c.text[:60]}")
def test_a_command_works_as_it_stands(reader: Newcomer, command: Command) -> None:
    (reader.clone / "restored.mp4").unlink(missing_ok=True)  # each page begins without it
    if needs_service(command):
        needs_free_ports(reader)
        reader.serve(SERVE)
    if command.bare == SERVE:
        return
    if DEPLOYED in command.text:
        reader.once("make deploy")
    done = reader.run(command)
    assert done.returncode == 0, f"{command.text}\n{done.stdout}\n{done.stderr}"


def test_ctrl_c_ends_the_service(reader: Newcomer) -> None:
    if not reader.serves:
        pytest.skip("it was not started")
    assert "go on at the next start" in reader.stop()
