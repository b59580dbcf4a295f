"""The edge: a real process on loopback, asked as the client of a storage and as a player would."""

import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr, ValidationError

from deployments.edge import create_app
from tasks.settings import Settings
from tests.kits.hosts.memory import peak_kib
from tests.kits.processes import ROOT, environment
from tests.kits.server import eventually

KEY = "storage-key-of-the-test"
VIDEO = hashlib.shake_256(b"edge").digest(300_000)
GROWTH_KIB = 48 * 1024
"""What all tests together may add to the edge's largest size."""
SHA256 = hashlib.sha256(VIDEO).hexdigest()


class EdgeProcess:
    """`python -m deployments.edge` and a client of it."""

    def __init__(self, root: Path, module: str = "deployments.edge") -> None:
        command = [sys.executable, "-m", module, "--root", str(root), "--port", "0"]
        self.process = subprocess.Popen(
            [*command, "--zone", "zone", "--parent", str(os.getpid())],
            env=environment({"SEEDVR2_EDGE_KEY": KEY}),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        name, _, self.url = self.process.stdout.readline().strip().partition(": ")
        assert name == "edge"
        self.client = httpx.Client(base_url=self.url, timeout=60)

    def storage(self, method: str, path: str, key: str = KEY, **options: object) -> httpx.Response:
        """A request on the storage side."""
        headers = {"AccessKey": key, **dict(options.pop("headers", {}))}  # type: ignore[call-overload]
        return self.client.request(method, f"/zone/{path}", headers=headers, **options)  # type: ignore[arg-type]

    def raw(self, text: str) -> bytes:
        """Bytes as they are: clients tidy paths, attackers do not."""
        host, port = self.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(text.encode())
            received = b""
            while piece := connection.recv(65536):
                received += piece
        return received

    def peak_kib(self) -> int:
        """Most memory the process ever held."""
        return peak_kib(self.process.pid)

    def close(self) -> None:
        self.client.close()
        self.process.terminate()
        self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("edge") / "root"


@pytest.fixture(scope="module")
def edge(root: Path) -> Iterator[EdgeProcess]:
    process = EdgeProcess(root)
    at_start = process.peak_kib()
    yield process
    assert process.peak_kib() - at_start < GROWTH_KIB
    process.close()


@pytest.fixture
def stored(edge: EdgeProcess) -> str:
    """A file that was put; its public path."""
    put = edge.storage("PUT", "jobs/a b.mp4", content=VIDEO, headers={"Checksum": SHA256.upper()})
    assert (put.status_code, put.json()["HttpCode"]) == (201, 201)
    return "/jobs/a b.mp4"


def test_what_is_put_is_described_and_served(edge: EdgeProcess, stored: str) -> None:
    told = edge.storage("DESCRIBE", "jobs/a b.mp4").json()
    assert (told["Length"], told["Checksum"]) == (len(VIDEO), SHA256.upper())
    assert (told["ObjectName"], told["Path"]) == ("a b.mp4", "/zone/jobs/")
    assert told["ContentType"] == "video/mp4"
    whole = edge.client.get(stored)
    assert (whole.status_code, whole.content) == (200, VIDEO)
    assert whole.headers["content-type"] == "video/mp4"
    head = edge.client.head(stored)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(VIDEO))
    assert head.headers["accept-ranges"] == "bytes"
    edge.storage("PUT", "jobs/a b.preview.jpg", content=b"\xff\xd8")  # shown on pages of Prefect
    assert edge.client.get("/jobs/a b.preview.jpg").headers["content-type"] == "image/jpeg"


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-99", 0, 100),
        ("bytes=299900-", 299_900, 300_000),
        ("bytes=-65536", 300_000 - 65_536, 300_000),
        ("bytes=299999-999999", 299_999, 300_000),
    ],
)
def test_a_range_is_answered_with_that_part(
    edge: EdgeProcess, stored: str, asked: str, start: int, end: int
) -> None:
    part = edge.client.get(stored, headers={"Range": asked})
    assert (part.status_code, part.content) == (206, VIDEO[start:end])
    assert part.headers["content-range"] == f"bytes {start}-{end - 1}/{len(VIDEO)}"
    assert part.headers["content-length"] == str(end - start)


def test_a_range_beyond_the_end_is_refused(edge: EdgeProcess, stored: str) -> None:
    refused = edge.client.get(stored, headers={"Range": "bytes=300000-"})
    assert refused.status_code == 416
    assert refused.headers["content-range"] == f"bytes */{len(VIDEO)}"


def test_validators_say_whether_it_is_still_the_same_file(edge: EdgeProcess, stored: str) -> None:
    etag = edge.client.head(stored).headers["etag"]
    same = edge.client.get(stored, headers={"Range": "bytes=1-2", "If-Range": etag})
    assert same.status_code == 206
    other = edge.client.get(stored, headers={"Range": "bytes=1-2", "If-Range": '"old"'})
    assert (other.status_code, other.content) == (200, VIDEO)
    assert edge.client.get(stored, headers={"If-None-Match": etag}).status_code == 304


@pytest.mark.parametrize("checksum", ["0" * 64, SHA256, "x", ""], ids=str.__len__)
def test_a_wrong_or_lower_case_checksum_stores_nothing(
    edge: EdgeProcess, root: Path, checksum: str
) -> None:
    put = edge.storage("PUT", "bad.mp4", content=VIDEO, headers={"Checksum": checksum})
    assert put.status_code == 400
    assert edge.storage("DESCRIBE", "bad.mp4").status_code == 404
    assert not list(root.glob(".upload-*"))


@pytest.mark.parametrize("method", ["PUT", "DESCRIBE", "DELETE"])
def test_without_the_key_or_in_another_zone_nothing_is_done(
    edge: EdgeProcess, stored: str, method: str
) -> None:
    assert edge.storage(method, "jobs/a b.mp4", key="wrong").status_code == 401
    assert edge.client.request(method, "/zone/jobs/a b.mp4").status_code == 401
    other = edge.client.request(method, "/other/jobs/a b.mp4", headers={"AccessKey": KEY})
    assert other.status_code == 401
    assert edge.client.get(stored).content == VIDEO


def test_put_replaces_and_the_digest_follows(edge: EdgeProcess) -> None:
    for content in (b"first", b"other"):
        assert edge.storage("PUT", "again.bin", content=content).status_code == 201
        told = edge.storage("DESCRIBE", "again.bin").json()
        assert told["Checksum"] == hashlib.sha256(content).hexdigest().upper()
        assert edge.client.get("/again.bin").content == content


def test_delete_removes_files_and_folders(edge: EdgeProcess) -> None:
    for name in ("tree/one.mp4", "tree/deep/two.mp4", "alone.mp4"):
        assert edge.storage("PUT", name, content=b"x").status_code == 201
    assert edge.storage("DELETE", "alone.mp4").status_code == 200
    assert edge.storage("DELETE", "alone.mp4").status_code == 404
    assert edge.client.get("/alone.mp4").status_code == 404
    assert edge.storage("DELETE", "tree/").status_code == 200
    assert edge.client.get("/tree/deep/two.mp4").status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/../secret",
        "/%2e%2e/secret",
        "/jobs/..%2f..%2fsecret",
        "//etc/passwd",
        "/jobs%5c..%5c..%5csecret",
        "/link/secret",
        "/.hidden",
        "/jobs/%00",
        "/" + "n" * 300,
        "/jobs",
        "/",
    ],
)
def test_nothing_outside_the_folder_is_ever_read(
    edge: EdgeProcess, root: Path, stored: str, path: str
) -> None:
    (root.parent / "secret").write_text("secret")
    (root / ".hidden").write_text("secret")
    if not (root / "link").is_symlink():
        (root / "link").symlink_to(root.parent)
    answer = edge.raw(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 404")
    assert b"secret" not in answer.replace(path.encode(), b"")


@pytest.mark.parametrize(
    "path", ["../escaped", "%2e%2e/escaped", "link/escaped", ".hidden2", "", "folder/", "a//b"]
)
def test_nothing_outside_the_folder_is_ever_written(
    edge: EdgeProcess, root: Path, path: str
) -> None:
    if not (root / "link").is_symlink():
        (root / "link").symlink_to(root.parent)
    answer = edge.raw(
        f"PUT /zone/{path} HTTP/1.1\r\nHost: localhost\r\nAccessKey: {KEY}\r\n"
        "Content-Length: 1\r\nConnection: close\r\n\r\nx"
    )
    assert answer.startswith(b"HTTP/1.1 400")
    assert not (root.parent / "escaped").exists()
    assert not (root / ".hidden2").exists()


@pytest.mark.parametrize("side", ["GET /clip.mp4", "PUT /zone/clip.mp4", "DESCRIBE /zone/clip.mp4"])
def test_a_foreign_host_is_refused_on_both_sides(edge: EdgeProcess, side: str) -> None:
    head = f"{side} HTTP/1.1\r\nHost: evil.test\r\nAccessKey: {KEY}\r\nConnection: close\r\n\r\n"
    answer = edge.raw(head)
    assert answer.startswith(b"HTTP/1.1 421 ")
    assert b"SEEDVR2_ALLOWED_HOSTS" in answer
    assert b"access-control" not in answer.lower()


def test_a_body_that_ends_early_leaves_nothing(edge: EdgeProcess, root: Path) -> None:
    host, port = edge.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(
            f"PUT /zone/cut.mp4 HTTP/1.1\r\nHost: localhost\r\nAccessKey: {KEY}\r\n"
            "Content-Length: 1000000\r\n\r\n".encode()
        )
        connection.sendall(b"x" * 1000)
        # Not before its handler is at work: one that begins later would be missed below.
        eventually(lambda: list(root.glob(".upload-*")), "the upload's beginning")
    eventually(lambda: not list(root.glob(".upload-*")), "the tidying up")
    assert edge.storage("DESCRIBE", "cut.mp4").status_code == 404


def test_memory_does_not_follow_the_size_of_files(edge: EdgeProcess) -> None:
    block, count = b"\0" * 2**20, 96
    before = edge.peak_kib()
    put = edge.storage("PUT", "large.bin", content=iter([block] * count))
    assert put.status_code == 201
    received = 0
    with edge.client.stream("GET", "/large.bin") as answer:
        for piece in answer.iter_bytes():
            received += len(piece)
    assert received == count * 2**20
    assert edge.storage("DESCRIBE", "large.bin").json()["Length"] == received
    assert edge.peak_kib() - before < GROWTH_KIB
    assert edge.storage("DELETE", "large.bin").status_code == 200


def test_without_a_key_of_its_own_nothing_can_be_stored(tmp_path: Path) -> None:
    from starlette.testclient import TestClient

    with TestClient(
        create_app(tmp_path / "root", zone="zone", key=None), base_url="http://localhost"
    ) as client:
        for key in ({}, {"AccessKey": ""}):
            assert client.put("/zone/a.mp4", content=b"x", headers=key).status_code == 401


def test_the_key_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().edge_key is None
    monkeypatch.setenv("SEEDVR2_EDGE_KEY", KEY)
    assert Settings().edge_key == SecretStr(KEY)
    assert KEY not in repr(Settings())
    monkeypatch.setenv("SEEDVR2_EDGE_KEY", "short")
    with pytest.raises(ValidationError, match="edge_key"):
        Settings()


@pytest.mark.slow
def test_faults_live_in_a_program_of_their_own_and_are_off_at_first(
    edge: EdgeProcess, tmp_path: Path
) -> None:
    assert edge.client.get("/.faults").status_code == 404
    faulty = EdgeProcess(tmp_path / "root", module="tests.kits.http.edge_faults")
    try:
        assert faulty.storage("PUT", "a.mp4", content=VIDEO).status_code == 201
        assert faulty.client.get("/a.mp4").content == VIDEO
        switched = faulty.client.put("/.faults", json={"public_status": 503, "refusals": [429]})
        assert switched.json()["faults"]["public_status"] == 503
        assert faulty.client.get("/a.mp4").status_code == 503
        assert faulty.storage("DESCRIBE", "a.mp4").status_code == 429
        assert faulty.storage("DESCRIBE", "a.mp4").status_code == 200
        seen = faulty.client.get("/.faults").json()["seen"]
        assert [(one["method"], one["status"], one["received"]) for one in seen] == [
            *(("PUT", 201, len(VIDEO)), ("GET", 200, 0), ("GET", 503, 0)),
            *(("DESCRIBE", 429, 0), ("DESCRIBE", 200, 0)),
        ]
        assert KEY not in json.dumps(seen)
    finally:
        faulty.close()
