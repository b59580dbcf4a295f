"""upscale.sh against a real gateway and Prefect server; tests change runs through Prefect's API."""

import subprocess
import time
from pathlib import Path
from types import TracebackType

import httpx
import pytest
from prefect.client.schemas.objects import StateType

from deployments.gateway.auth import digest
from tasks.settings import Settings
from tests.kits.http.gateway import (
    URL,
    gateway,
    job_run,
    record_progress,
    record_result,
    set_state,
)
from tests.kits.processes import ROOT, children_of, command_of, environment, free_port
from tests.kits.server import eventually

pytestmark = pytest.mark.usefixtures("on_the_server")


class Script:
    """A running upscale.sh whose output is read line by line."""

    def __init__(
        self, gateway_url: str, *arguments: str, token: str = "", cwd: Path = ROOT
    ) -> None:
        self.process = subprocess.Popen(
            ["bash", str(ROOT / "upscale.sh"), *arguments],
            env=environment(
                {
                    "SEEDVR2_GATEWAY_URL": gateway_url,
                    "SEEDVR2_GATEWAY_TOKEN": token,
                    "SEEDVR2_POLL_SECONDS": "0.2",
                }
            ),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "Script":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def line_with(self, text: str) -> str:
        """Read on until a line holds this text."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if text in line:
                return line.strip()
        raise AssertionError(f"no line with {text!r}; stderr: {self.end()[2]}")

    def job(self) -> str:
        """The job id that it has printed."""
        return self.line_with("Job submitted").split()[-1]

    def end(self) -> tuple[int, str, str]:
        """Exit code and what was still on stdout and stderr."""
        out, err = self.process.communicate(timeout=120)
        return self.process.returncode, out, err


@pytest.mark.long
def test_the_old_screen_from_submission_to_address(client: httpx.Client) -> None:
    with Script(str(client.base_url), URL, "--resolution", "4K") as script:
        job = script.job()
        assert job_run(job).parameters["resolution"] == "4k"
        assert script.line_with("GPU:").endswith("H200")
        script.line_with("pending 0.0%")
        set_state(job, StateType.RUNNING)
        record_progress(job, 42.5)
        assert script.line_with("42.5%").endswith("processing 42.5% restore")
        record_result(job)
        set_state(job, StateType.COMPLETED)
        code, out, err = script.end()
    lines = out.strip().splitlines()
    assert (code, err) == (0, "")
    assert lines[-4].endswith("completed")
    assert lines[-3].split(maxsplit=1)[1] == "a note"
    assert lines[-2].split() == ["URL:", "https://cdn.example/clip_1080p_abc.mp4"]
    assert lines[-1].startswith("Total time:")


@pytest.mark.parametrize(
    ("kind", "word"), [(StateType.FAILED, "failed"), (StateType.CANCELLED, "cancelled")]
)
def test_a_job_that_ends_badly_is_exit_1(client: httpx.Client, kind: StateType, word: str) -> None:
    with Script(str(client.base_url), URL) as script:
        job = script.job()
        assert job_run(job).parameters["resolution"] == "1080p"
        set_state(job, kind, message='no "video"\nat all')
        code, _, err = script.end()
    assert (code, f'has {word}: no "video" at all' in err) == (1, True)


@pytest.mark.parametrize("name", ["-", "-x.mp4", "a{b,c}[1-2].mp4", "it's $HOME.mp4"])
def test_a_file_of_any_name_is_sent(
    client: httpx.Client, settings: Settings, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(name.encode() * 100)
    with Script(str(client.base_url), "-r", "Short:720", "--", name, cwd=tmp_path) as script:
        parameters = job_run(script.job()).parameters
    assert parameters["resolution"] == "short:720"
    sha256 = parameters["video_url"].removeprefix("upload:").partition("/")[0]
    assert (settings.work_dir / "intake" / sha256).read_bytes() == name.encode() * 100


def test_what_a_gateway_says_cannot_steer_the_terminal(client: httpx.Client) -> None:
    with Script(str(client.base_url), URL) as script:
        set_state(script.job(), StateType.FAILED, message="a\x1b[31mb")
        assert "a?[31mb" in script.end()[2]


def test_a_file_is_sent(client: httpx.Client, settings: Settings, tmp_path: Path) -> None:
    clip = tmp_path / "my clip #1 ä.mp4"
    clip.write_bytes(b"video" * 1000)
    with Script(str(client.base_url), str(clip), "--resolution=720p") as script:
        job = script.job()
        reference = job_run(job).parameters["video_url"]
        sha256 = reference.removeprefix("upload:").partition("/")[0]
        assert (settings.work_dir / "intake" / sha256).read_bytes() == clip.read_bytes()
        record_result(job, cdn_url=None, output_path="/work/output/a.mp4")
        set_state(job, StateType.COMPLETED)
        code, out, _ = script.end()
    assert (code, "/work/output/a.mp4" in out) == (0, True)


@pytest.mark.long
def test_a_damaged_video_is_taken_on_request(client: httpx.Client, tmp_path: Path) -> None:
    clip = tmp_path / "cut.mp4"
    clip.write_bytes(b"video that ends early")
    for source in (URL, str(clip)):
        with Script(str(client.base_url), source, "--allow-damaged") as script:
            assert job_run(script.job()).parameters["allow_damaged"] is True
        with Script(str(client.base_url), source) as script:
            assert not job_run(script.job()).parameters.get("allow_damaged", False)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        (URL, "--resolution"),
        (URL, "--resolution", "8k"),
        (URL, "another"),
        (URL, "--frames", "3"),
        ("", "--resolution", "4k"),
    ],
)
def test_wrong_arguments_are_exit_2(arguments: tuple[str, ...]) -> None:
    with Script("http://127.0.0.1:9", *arguments) as script:
        code, out, err = script.end()
    assert (code, out, err[:6]) == (2, "", "usage:")


def test_what_the_gateway_refuses_is_exit_1_in_its_words(client: httpx.Client) -> None:
    with Script(str(client.base_url), "ftp://example.org/a.mp4") as script:
        code, _, err = script.end()
    assert code == 1
    assert "ftp: addresses are not fetched" in err
    assert "HTTP 422" in err


@pytest.mark.long
def test_the_token_comes_from_the_environment(settings: Settings, api_url: str) -> None:
    closed = settings.model_copy(update={"gateway_tokens": (digest("right"),)})
    with gateway(closed, api_url) as client:
        with Script(str(client.base_url), URL, token="wrong") as script:
            assert script.end()[0] == 1
        with Script(str(client.base_url), URL, token="right") as script:
            set_state(script.job(), StateType.COMPLETED)
            assert script.end()[0] == 0


def test_without_a_gateway_it_says_so_at_once(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"video")
    for source in (URL, str(clip)):
        began = time.monotonic()
        with Script("http://127.0.0.1:9", source) as script:
            code, out, err = script.end()
        assert (code, out) == (1, "")
        assert "no gateway answers at http://127.0.0.1:9" in err
        assert "wait for it with --wait" in err
        assert len(err.splitlines()) == 1
        assert time.monotonic() - began < 60, "it has waited"


def test_it_waits_for_a_gateway_that_is_away(settings: Settings, api_url: str) -> None:
    port = free_port()
    with Script(f"http://127.0.0.1:{port}", URL, "--wait") as script:
        eventually(lambda: script.process.poll() is not None or waits(script), "its second try")
        assert script.process.poll() is None, script.end()
        with gateway(settings, api_url, port):
            set_state(script.job(), StateType.COMPLETED)
            assert script.end()[0] == 0


def waits(script: Script) -> bool:
    """Whether it sleeps between two tries."""
    return any(command_of(pid).startswith("sleep") for pid in children_of(script.process.pid))


def test_it_is_shell_that_parses() -> None:
    assert subprocess.run(["bash", "-n", "upscale.sh"], cwd=ROOT, timeout=30).returncode == 0
