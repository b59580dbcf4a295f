"""The command `python -m deployments.gateway`, as a process of its own."""

import base64
import hashlib
import io
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from deployments.gateway.__main__ import print_receiver
from deployments.gateway.auth import digest
from seedvr2_core.errors import InvalidRequestError
from tasks.net.signing import receiver_secret, signature
from tasks.settings import Settings
from tests.kits.hosts.memory import peak_kib
from tests.kits.http.callback import SECRET, documented_check
from tests.kits.http.gateway import VIDEO
from tests.kits.processes import ROOT, ends_with_us, environment

pytestmark = pytest.mark.usefixtures("on_the_server")


def run_gateway(*arguments: str, **changes: str) -> "subprocess.Popen[str]":
    """`python -m deployments.gateway`."""
    return subprocess.Popen(
        [sys.executable, "-m", "deployments.gateway", *arguments],
        env=environment(changes),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=ends_with_us(),
    )


@pytest.fixture
def command(api_url: str, tmp_path: Path) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """The gateway's process and its address, after a killed one has left an unfinished file."""
    left = tmp_path / "intake" / ".upload-0.part"
    left.parent.mkdir()
    left.write_bytes(b"of a killed gateway")
    process = run_gateway(
        "--port", "0", "--parent", str(os.getpid()),
        PREFECT_API_URL=api_url, SEEDVR2_WORK_DIR=str(tmp_path),
    )  # fmt: skip
    assert process.stdout is not None
    try:
        name, _, url = process.stdout.readline().strip().partition(": ")
        assert name == "gateway"
        yield process, url
    finally:
        process.terminate()
        _, told = process.communicate(timeout=60)
    assert "Traceback" not in told
    assert process.returncode in (0, -15)


def test_the_command_serves_in_little_memory(
    command: tuple["subprocess.Popen[str]", str], tmp_path: Path
) -> None:
    process, url = command
    count, block = 64, VIDEO[:600_000] + b"\0" * 448_576
    digest_ = hashlib.sha256(block * count).hexdigest()
    text = base64.b64encode(block * 3)
    with httpx.Client(base_url=url, timeout=120) as client:
        assert client.get("/healthz").status_code == 200
        assert not (tmp_path / "intake" / ".upload-0.part").exists()
        before = peak_kib(process.pid)
        raw = client.put("/upscale/a.mp4", content=iter([block] * count))
        form = client.post("/upscale", files={"video": ("a.mp4", Blocks(block, count))})
        body = [b'{"video_base64":"', *[text] * (count // 3), b'"}']
        json_type = {"Content-Type": "application/json"}
        encoded = client.post("/upscale", content=iter(body), headers=json_type)
        grown = peak_kib(process.pid) - before
    assert [a.status_code for a in (raw, form, encoded)] == [202] * 3
    assert raw.json()["video_url"] == form.json()["video_url"] == f"upload:{digest_}/a.mp4"
    assert grown < 40 * 1024


class Blocks(io.RawIOBase):
    """A large file that is the same block again and again."""

    def __init__(self, block: bytes, count: int) -> None:
        self._block, self._size, self._at = block, len(block) * count, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence] + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        start = self._at % len(self._block)
        piece = self._block[start : start + size] if self._at < self._size else b""
        self._at += len(piece)
        return piece


@pytest.mark.long
@pytest.mark.parametrize(
    ("arguments", "changes", "named"),
    [
        (["--host", "0.0.0.0"], {}, "loopback only"),
        (["--port", "0"], {"PREFECT_API_URL": ""}, "PREFECT_API_URL"),
    ],
)
def test_the_command_refuses_to_start_wrongly(
    arguments: list[str], changes: dict[str, str], named: str
) -> None:
    done = run_gateway(*arguments, **{"PREFECT_API_URL": "http://127.0.0.1:9/api", **changes})
    _, told = done.communicate(timeout=60)
    assert (done.returncode, named in told) == (2, True), told


def test_a_new_token_and_its_digest_belong_together() -> None:
    told, _ = run_gateway("--new-token").communicate(timeout=60)
    token, shown = (line.split()[-1] for line in told.strip().splitlines())
    assert digest(token) == shown


def test_a_receivers_secret_is_the_one_that_signs() -> None:
    process = run_gateway("--receiver", "Example.org", SEEDVR2_CALLBACK_SECRET=SECRET)
    told, _ = process.communicate(timeout=60)
    secret, shown = (line.split()[-1] for line in told.strip().splitlines())
    assert secret == receiver_secret(SecretStr(SECRET), "example.org")
    signed = signature(b"body", SecretStr(SECRET), host="example.org", timestamp=int(time.time()))
    assert f"k={shown}," in signed
    documented_check()(b"body", signed, secret)
    with pytest.raises(InvalidRequestError, match="SEEDVR2_CALLBACK_SECRET"):
        print_receiver("example.org", Settings())
    with pytest.raises(InvalidRequestError, match="expected a host name"):
        print_receiver("https://example.org/", Settings(callback_secret=SecretStr(SECRET)))
