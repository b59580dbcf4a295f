"""The samples that an operator copies: nginx takes its file, systemd its units.

Needs Debian's packages `nginx` and `openssl`; systemd's own checker for the units.
"""

import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from tests.kits.processes import ROOT, ends_with_us, free_port
from tests.kits.server import eventually

SAMPLES = ROOT / "deployments" / "samples"
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
SYSTEMD = shutil.which("systemd-analyze")
pytestmark = pytest.mark.apt
AROUND = """
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  {sample}
}}
"""


class _Told(BaseHTTPRequestHandler):
    """Answers with what reached it: method, host, length of the body."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        told = f"{self.command} {self.headers['Host']} {len(body)}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    do_POST = do_PUT = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


@pytest.fixture
def behind() -> Iterator[int]:
    """Port of a server that stands for gateway, edge and Prefect."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Told)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.fixture
def proxy(tmp_path: Path, behind: int) -> Iterator[str]:
    """nginx with the sample and a certificate of its own; yields its address."""
    if NGINX is None:
        pytest.skip("Debian's package nginx is not installed")
    tmp_path.chmod(0o755)
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
         "/CN=example.org", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    port = free_port()
    sample = (SAMPLES / "nginx.conf").read_text()
    sample = sample.replace("/etc/ssl/seedvr2/privkey.pem", str(key))
    sample = sample.replace("/etc/ssl/seedvr2/fullchain.pem", str(certificate))
    sample = sample.replace("listen 443 ssl", f"listen 127.0.0.1:{port} ssl")
    sample = re.sub(r"127\.0\.0\.1:(8000|8001|4200)", f"127.0.0.1:{behind}", sample)
    config = tmp_path / "nginx.conf"
    user = "user root;" if os.getuid() == 0 else ""
    config.write_text(user + AROUND.format(folder=tmp_path, sample=sample))
    command = [NGINX, "-c", str(config), "-p", str(tmp_path)]
    process = subprocess.Popen(command, preexec_fn=ends_with_us(signal.SIGTERM))
    try:
        eventually(lambda: _answers(port), "nginx", seconds=30)
        yield f"https://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def ask(proxy: str, host: str, method: str = "GET", **more: object) -> httpx.Response:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with httpx.Client(verify=context, trust_env=False) as client:
        return client.request(method, proxy, headers={"Host": host}, **more)  # pyright: ignore


def test_the_proxy_passes_on_what_it_should_and_nothing_else(proxy: str) -> None:
    large = b"x" * (3 * 2**20)  # more than nginx takes by itself
    sent = ask(proxy, "gateway.example.org", "PUT", content=large)
    assert sent.text == f"PUT gateway.example.org {len(large)}"
    assert ask(proxy, "videos.example.org").text == "GET videos.example.org 0"
    for method in ("PUT", "DELETE", "POST"):
        assert ask(proxy, "videos.example.org", method).status_code == 403, method
    assert ask(proxy, "prefect.example.org").status_code == 403, "not from everywhere"


@pytest.mark.parametrize("name", ["seedvr2-serve.service", "seedvr2-worker@.service"])
def test_systemd_takes_the_units(name: str, tmp_path: Path) -> None:
    if SYSTEMD is None:
        pytest.skip("systemd-analyze is not installed")
    text = (SAMPLES / name).read_text()
    programs = set(re.findall(r"/opt/seedvr2/\.venv/bin/(\w+)", text))
    assert programs <= {"seedvr2", "prefect"}
    here = str(Path(sys.executable).parent)
    unit = tmp_path / name.replace("@", "@0")
    unit.write_text(text.replace("/opt/seedvr2/.venv/bin", here).replace("docker.service", ""))
    done = subprocess.run(
        [SYSTEMD, "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "Unknown" not in done.stderr, done.stderr
