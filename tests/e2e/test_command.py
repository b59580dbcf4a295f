"""The command as people use it: real processes, a real server, real files."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from seedvr2_core.video.probe import probe_video
from tests.kits.processes import children_of, command_line, environment, is_running, run_command

pytestmark = pytest.mark.slow

QUICK = ("--model", "lanczos", "--resolution", "720p", "--preset", "ultrafast")


class _Pages(BaseHTTPRequestHandler):
    """A 404, a web page and a video."""

    def do_GET(self) -> None:
        body = b"<html><body>Please log in</body></html>"
        if self.path.startswith("/clip.mp4"):
            body = (Path(__file__).parents[2] / "deployments/demo/bunny_320x180.mp4").read_bytes()
        self.send_response(404 if self.path == "/missing.mp4" else 200)
        self.send_header("Content-Type", "text/html" if body[:1] == b"<" else "video/mp4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """A web server on loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Pages)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def bad(tmp_path: Path, demo_clip: Path, site: str) -> Callable[[str], list[str]]:
    """Make one kind of bad input and give the arguments for it."""
    files = {
        "text": b"this is not a video\n" * 200,
        "zero bytes": b"",
        "3 KB of a video": demo_clip.read_bytes()[:3000],
        "HLS text": b"#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1:1/a.ts\n#EXT-X-ENDLIST\n",
        "ffconcat text": b"ffconcat version 1.0\nfile /etc/passwd\n",
    }
    clip = str(demo_clip)
    arguments = {
        "missing file": [str(tmp_path / "nothing.mp4")],
        "directory": [str(tmp_path)],
        "404": [f"http://{site}/missing.mp4"],
        "HTML page": [f"http://{site}/page.mp4"],
        "closed port": ["http://127.0.0.1:9/clip.mp4"],
        "ftp": ["ftp://127.0.0.1/clip.mp4"],
        "file URL": [f"file://{clip}"],
        "wrong resolution": [clip, "--resolution", "8k"],
        "wrong model": [clip, "--model", "magic"],
        "overlap too large": [clip, "--batch-size", "21", "--temporal-overlap", "20"],
        "a file for two results": [clip, str(tmp_path / "b.mp4"), "--output", clip],
        "no source": [],
        "output in no directory": [clip, "--output", str(tmp_path / "no" / "out.mp4")],
    }

    def choose(kind: str) -> list[str]:
        if kind in files:
            path = tmp_path / "source.mp4"
            path.write_bytes(files[kind])
            return [str(path)]
        return arguments[kind]

    return choose


@pytest.mark.parametrize(
    "kind",
    [
        *("text", "zero bytes", "3 KB of a video", "HLS text", "ffconcat text"),
        *("missing file", "directory", "404", "HTML page", "closed port", "ftp", "file URL"),
        *(
            "wrong resolution",
            "wrong model",
            "overlap too large",
            "a file for two results",
            "no source",
        ),
        "output in no directory",
    ],
)
def test_bad_input_is_one_clear_sentence(
    bad: Callable[[str], list[str]], kind: str, tmp_path: Path, site: str
) -> None:
    work = tmp_path / "work"
    done = run_command(
        "upscale",
        *bad(kind),
        "--work-dir",
        work,
        timeout=60,
        SEEDVR2_FETCH_ALLOW=f"{site},127.0.0.1:9",
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    helps = [line for line in lines[1:] if line.startswith("what helps: ")]
    assert lines[1:] == helps[:1], done.stderr
    assert lines[0].startswith("error: ")
    assert len(lines[0]) > 30
    assert not (work / "output").exists()


@pytest.mark.long
def test_upscale_of_an_address_prints_the_path_last(
    api_url: str, tmp_path: Path, site: str
) -> None:
    """The output has the name that was asked for; what the address keeps secret is not shown."""
    output = tmp_path / "out" / "mine.mp4"
    output.parent.mkdir()
    url = f"http://{site}/clip.mp4?token=secret-token"
    done = run_command(
        *("upscale", url, *QUICK, "--output", output, "--work-dir", tmp_path / "work"),
        PREFECT_API_URL=api_url,
        SEEDVR2_FETCH_ALLOW=site,
        SEEDVR2_REPORT="true",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(output)]
    assert "75 frames -> 1280x720, lanczos on cpu" in done.stderr
    assert "Traceback" not in done.stderr
    (told,) = (tmp_path / "work" / "jobs").glob("*/result.json")  # what --json prints
    result = json.loads(told.read_text())
    assert (result["frames"], result["status"]) == (75, "completed")
    assert "secret-token" not in done.stdout + done.stderr + told.read_text()
    assert probe_video(output).num_frames == 75
    picture = output.with_name("mine.preview.jpg")
    report = output.with_name("mine.report.html")
    assert set(output.parent.iterdir()) == {picture, output, report, report.with_suffix(".json")}
    assert "secret-token" not in report.read_text()
    assert not (tmp_path / "work" / "output").exists(), "one copy on disk"
    assert (result["filename"], result["output_path"]) == ("mine.mp4", str(output))
    assert (result["source_name"], result["engine"]) == ("clip.mp4", "lanczos")
    for line in (
        f"done: {output}",
        "1280x720, 75 frames, ",
        "made by lanczos from clip.mp4",
        "frames/s",
        f"before and after: {picture}",
        f"report: {report}",
    ):
        assert line in done.stderr


@pytest.mark.long
def test_embedded_server_leaves_nothing_behind(tmp_path: Path, demo_clip: Path) -> None:
    """No API URL: a server of its own, gone afterwards, also when the command is killed."""
    arguments = command_line("upscale", demo_clip, *QUICK, "--work-dir", tmp_path)
    process = subprocess.Popen(
        arguments,
        env=environment(
            {"PREFECT_HOME": str(tmp_path / "prefect"), "SEEDVR2_SEGMENT_SECONDS": "1"}
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 120
    seen: list[int] = []
    while time.monotonic() < deadline and not list(tmp_path.rglob("*.mp4.part")):
        seen = children_of(process.pid)
        assert process.poll() is None
        time.sleep(0.1)
    assert len(seen) >= 3  # the command, its server, a child
    process.kill()
    process.communicate()
    end = time.monotonic() + 15
    while any(map(is_running, seen)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not [pid for pid in seen if is_running(pid)]


def test_an_output_file_needs_the_local_storage(tmp_path: Path, demo_clip: Path) -> None:
    done = run_command(
        *("upscale", demo_clip, "--output", tmp_path / "out.mp4", "--work-dir", tmp_path),
        SEEDVR2_STORAGE="bunny",
    )
    assert done.returncode == 2, done.stderr
    assert "--output needs the local storage" in done.stderr


@pytest.mark.long
def test_plan_shows_without_running(tmp_path: Path, demo_clip: Path) -> None:
    done = run_command(
        *("plan", demo_clip, "--resolution", "1080P", "--model", "span", "--json"),
        *("--work-dir", tmp_path),
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["width"], summary["height"], summary["frames"]) == (1920, 1080, 75)
    assert summary["engine"] == "span"
    assert not (tmp_path / "jobs").exists()


@pytest.mark.long
def test_doctor_tells_what_runs_here(tmp_path: Path) -> None:
    done = run_command("doctor", "--json", "--work-dir", tmp_path)
    report = json.loads(done.stdout)
    assert done.returncode == 0
    assert {"span", "lanczos"} <= set(report["engines"])
    assert {check["name"] for check in report["checks"]} >= {"python", "devices", "work dir"}
    unusable = run_command("doctor", "--work-dir", "/proc/nothing")
    assert unusable.returncode == 1
    assert "FAIL" in unusable.stdout


def test_help_is_quick_and_loads_no_prefect() -> None:
    code = "import sys, deployments.cli.app; assert 'prefect' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert "--temporal-overlap" in run_command("upscale", "--help").stdout
