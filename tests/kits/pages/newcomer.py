"""Somebody who has just cloned the project and pastes commands from its pages.

They have a home of their own, no activated environment, and no variable of ours set. Their clone
holds what is committed and nothing else.
"""

import os
import re
import signal
import subprocess
import sys
import sysconfig
import tomllib
import venv
from contextlib import suppress
from importlib.metadata import distributions
from pathlib import Path

from tests.kits.pages.commands import Command
from tests.kits.prefect_home import prepare_home
from tests.kits.processes import MARK, ROOT, ends_with_us, marked
from tests.kits.server import eventually

SERVE_PORTS = (8000, 4200, 8001)
"""Gateway, Prefect and edge of `seedvr2 serve`, as the pages name them."""
_JOB = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
_TOKEN = re.compile(r"^token \(.*\): +(\S+)$", re.M)
_EXPORT = re.compile(r"^[\w ]*: (export .+)$", re.M)
_COMMAND_SECONDS = 900.0


def clone_head(target: Path) -> None:
    """Clone what is committed, as `make new-clone` does."""
    subprocess.run(["make", "-s", "new-clone", f"TO={target}"], cwd=ROOT, check=True, timeout=120)


def lend_environment(clone: Path) -> None:
    """Make the clone's `.venv` in a second: it sees this environment's packages, but not our code.

    `make` installs the same packages and writes the same scripts, which takes minutes and
    gigabytes. This environment's `.pth` files do not act in the other one, so the only project
    that it can import is the clone.
    """
    venv.create(clone / ".venv", symlinks=True)
    folder = clone / ".venv" / "bin"
    paths = sysconfig.get_paths(vars={"base": str(clone / ".venv"), "platbase": str(clone)})
    lent = [str(clone), sysconfig.get_paths()["purelib"]]
    Path(paths["purelib"], "lent.pth").write_text("\n".join(lent) + "\n")
    scripts = {
        point.name: point.value
        for distribution in distributions()
        for point in distribution.entry_points
        if point.group == "console_scripts"
    }
    project = tomllib.loads((clone / "pyproject.toml").read_text())["project"]
    for name, value in {**scripts, **project["scripts"]}.items():
        module, _, function = value.partition(":")
        call = function.split("[")[0].strip()
        (folder / name).write_text(
            f"#!{folder / 'python'}\nimport sys\nfrom {module} import {call.split('.')[0]}\n"
            f"sys.exit({call}())\n"
        )
        (folder / name).chmod(0o755)
    (clone / ".venv" / ".installed").touch()


class Newcomer:
    """Runs commands of pages in a clone and remembers what their output tells."""

    def __init__(self, clone: Path, home: Path, filled: dict[str, str], **variables: str) -> None:
        """Start with an empty memory.

        Args:
            clone: where the commands run.
            home: HOME; Prefect's database and the work directory come to lie in it.
            filled: what stands on the pages for something of the reader's own -> what it is here.
            variables: settings of this reader's machine.
        """
        self.clone = clone
        self._home = home
        self._filled = filled
        self._mark = f"newcomer-{os.getpid()}-{id(self)}"
        own = Path(sys.executable).parent
        to_packages = {k: v for k, v in os.environ.items() if k.startswith("PIP_") or "proxy" in k}
        for theirs in (Path.home() / ".config/pip/pip.conf", Path.home() / ".pip/pip.conf"):
            if theirs.is_file():  # where this machine's packages come from: the new home has none
                to_packages.setdefault("PIP_CONFIG_FILE", str(theirs))
        path = [p for p in os.environ["PATH"].split(os.pathsep) if Path(p) != own]
        self.environment = {
            "HOME": str(home),
            "PATH": os.pathsep.join(path),
            "LANG": os.environ.get("LANG", "C.UTF-8"),
            "TMPDIR": os.environ.get("TMPDIR", "/tmp"),
            MARK: self._mark,
            **to_packages,
            **variables,
        }
        self._done: set[str] = set()
        self._exports: list[str] = []
        """Lines that the service told this reader to paste into the shell."""
        self._service: subprocess.Popen[bytes] | None = None
        self._service_log = home / "serve.log"
        prepare_home(home / ".prefect")

    def once(self, text: str) -> None:
        """Run a command that others need, unless it has been run."""
        if text not in self._done:
            self._done.add(text)
            done = self.run(Command("once", 0, text))
            assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"

    def run(self, command: Command) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, with the variables that commands above it in its block set."""
        text = command.text
        for word, value in self._filled.items():
            text = text.replace(word, value)
        variables = self._home / f"{command.page.replace('/', '-')}-{command.block}.sh"
        job = self._home / "job"
        lines = [
            *self._exports,
            f"[ ! -e '{variables}' ] || . '{variables}'",
            f"JOB='{self.environment.get('JOB', '')}'",
            text,
            "code=$?",
            f"declare -p | grep -Ev '^declare -[a-zA-Z-]*r' > '{variables}'",
            f"echo $JOB > '{job}'",  # a command may have put it there instead of printing it
            "exit $code",
        ]
        done = subprocess.run(
            ["bash", "-c", "\n".join(lines)],
            cwd=self.clone,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_COMMAND_SECONDS,
        )
        print(f"{text}\n-> {done.returncode}\n{done.stdout}\n{done.stderr}")
        self._remember(job.read_text() + done.stdout)
        return done

    def serve(self, text: str) -> None:
        """Start the service with a command that lasts until Ctrl-C; wait until it says `ready`."""
        if self._service is not None:
            return
        with self._service_log.open("w") as log:
            self._service = subprocess.Popen(
                ["bash", "-c", f"exec {text}"],
                cwd=self.clone,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=ends_with_us(),
            )
        eventually(self._is_ready, "the service's start")
        self._remember(self._service_log.read_text())

    def stop(self) -> str:
        """Press Ctrl-C in the service's terminal, if it runs; returns what it has said."""
        if self._service is None:
            return ""
        try:
            with suppress(ProcessLookupError):  # it has ended already
                os.killpg(self._service.pid, signal.SIGINT)
            self._service.wait(_COMMAND_SECONDS)
        finally:
            for pid in marked(self._mark):
                os.kill(pid, signal.SIGKILL)
        return self._service_log.read_text()

    def _is_ready(self) -> bool:
        assert self._service is not None
        said = self._service_log.read_text()
        assert self._service.poll() is None, said
        return "ready; Ctrl-C" in said

    def _remember(self, said: str) -> None:
        """Keep what a reader would carry over by hand: a job's id, a token, what to export."""
        if jobs := _JOB.findall(said):
            self.environment["JOB"] = jobs[-1]
        if token := _TOKEN.search(said):
            self.environment["TOKEN"] = token[1]
        self._exports += _EXPORT.findall(said)
