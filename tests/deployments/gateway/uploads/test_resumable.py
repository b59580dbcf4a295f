"""Uploads by tus 1.0 at a real gateway: cut, killed, wrong, hostile."""

import base64
import hashlib
import os
import shutil
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import httpx
import pytest

from deployments.gateway.app import create_app
from deployments.gateway.auth import digest
from deployments.gateway.prefect_api import PrefectApi
from deployments.gateway.uploads import sending
from deployments.gateway.uploads.protocol import BODY_TYPE, REFERENCE, VERSION
from deployments.gateway.uploads.sending import FileSender
from seedvr2_core.errors import InvalidRequestError
from tasks.settings import Settings
from tasks.sources.download import KEEP_FREE_BYTES
from tasks.sources.uploads import find_upload
from tests.kits.http.gateway import GatewayProcess, served
from tests.kits.http.s3 import Line, line_to
from tests.kits.server import eventually

VIDEO = hashlib.shake_256(b"resumable").digest(3_000_000)
SHA256 = hashlib.sha256(VIDEO).hexdigest()
TUS = {"Tus-Resumable": VERSION}
TOKENS = ("first-token", "second-token")
NO_PREFECT = "http://127.0.0.1:1/api"
"""Uploads ask Prefect for nothing."""


@contextmanager
def opened(settings: Settings, token: str = "") -> Iterator[httpx.Client]:
    with served(create_app(settings, PrefectApi(NO_PREFECT))) as url:
        headers = {**TUS, **({"Authorization": f"Bearer {token}"} if token else {})}
        with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
            yield client


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        work_dir=tmp_path / "work",
        gateway_tokens=tuple(digest(token) for token in TOKENS),
        fetch_max_bytes=10_000_000,
        gateway_quota_bytes=20_000_000,
    )


@pytest.fixture
def client(settings: Settings) -> Iterator[httpx.Client]:
    with opened(settings, TOKENS[0]) as client:
        yield client


def metadata(**values: str) -> str:
    return ",".join(f"{k} {base64.b64encode(v.encode()).decode()}" for k, v in values.items())


def begin(client: httpx.Client, length: int = len(VIDEO), **values: str) -> str:
    headers = {"Upload-Length": str(length), "Upload-Metadata": metadata(**values)}
    answer = client.post("/uploads", headers=headers)
    assert answer.status_code == 201, answer.text
    return "/" + answer.headers["location"]


def append(client: httpx.Client, at: str, offset: int, data: bytes, **more: str) -> httpx.Response:
    headers = {"Upload-Offset": str(offset), "Content-Type": BODY_TYPE}
    headers |= {name.replace("_", "-"): value for name, value in more.items()}
    return client.patch(at, headers=headers, content=data)


def offset_of(client: httpx.Client, at: str) -> int:
    answer = client.head(at)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    return int(answer.headers["upload-offset"])


def cut(client: httpx.Client, at: str, offset: int, data: bytes) -> socket.socket:
    """Begin a PATCH of the rest, send so many bytes of it, and stop."""
    url = urlsplit(str(client.base_url))
    stream = socket.create_connection((url.hostname, url.port))
    head = f"PATCH {at} HTTP/1.1\r\nHost: {url.netloc}\r\nTus-Resumable: {VERSION}\r\n"
    head += f"Authorization: {client.headers.get('Authorization', 'none')}\r\n"
    head += f"Content-Type: {BODY_TYPE}\r\nUpload-Offset: {offset}\r\n"
    head += f"Content-Length: {len(VIDEO) - offset}\r\n\r\n"
    stream.sendall(head.encode() + data)
    return stream


def test_an_upload_in_pieces_becomes_a_video(client: httpx.Client, settings: Settings) -> None:
    assert client.options("/uploads").headers["tus-version"] == VERSION
    at = begin(client, filename="My clip ä.mp4", fingerprint="one")
    assert offset_of(client, at) == 0
    half = append(client, at, 0, VIDEO[:1_000_000])
    assert (half.status_code, half.headers["upload-offset"]) == (204, "1000000")
    assert half.headers["tus-resumable"] == VERSION
    assert REFERENCE not in half.headers
    assert begin(client, filename="My clip ä.mp4", fingerprint="one") == at
    assert begin(client, filename="My clip ä.mp4") != at
    sha1 = base64.b64encode(hashlib.sha1(VIDEO[1_000_000:]).digest()).decode()
    whole = append(client, at, 1_000_000, VIDEO[1_000_000:], Upload_Checksum=f"sha1 {sha1}")
    assert whole.status_code == 204
    reference = unquote(whole.headers[REFERENCE])
    assert reference == f"upload:{SHA256}/My clip ä.mp4"
    assert find_upload(reference, settings).read_bytes() == VIDEO
    told = client.head(at).headers
    assert (told["upload-offset"], told["upload-length"]) == ("3000000", "3000000")
    assert unquote(told[REFERENCE]) == reference, "whoever lost the last answer asks"
    assert client.delete(at).status_code == 204
    assert client.head(at).status_code == 404
    assert find_upload(reference, settings).is_file(), "a job may need it"
    again = begin(client, filename="same.mp4")
    assert append(client, again, 0, VIDEO).status_code == 204
    assert len([p for p in settings.intake_dir.iterdir() if p.is_file()]) == 1


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "silent"])
def test_what_came_before_a_cut_stays(
    client: httpx.Client, settings: Settings, closed: bool
) -> None:
    """Also where the connection is dead and nobody has told the gateway."""
    at = begin(client)
    stream = cut(client, at, 0, VIDEO[:1_234_567])
    if closed:
        stream.close()
    part = settings.intake_dir / "resumable" / f"{at[-32:]}.part"
    eventually(lambda: part.exists() and part.stat().st_size >= 2**20, "bytes came")
    offset = offset_of(client, at)
    assert 2**20 <= offset <= 1_234_567
    assert append(client, at, offset, VIDEO[offset:]).headers[REFERENCE]
    assert (settings.intake_dir / SHA256).read_bytes() == VIDEO
    stream.close()


@pytest.mark.long
def test_a_gateway_that_is_killed_goes_on(settings: Settings, tmp_path: Path) -> None:
    variables = {
        "SEEDVR2_WORK_DIR": str(settings.work_dir),
        "SEEDVR2_FETCH_MAX_BYTES": "10000000",
        "PREFECT_API_URL": NO_PREFECT,
    }
    first = GatewayProcess("--port", "0", **variables)
    with httpx.Client(base_url=first.url, headers=TUS, timeout=60) as client:
        at = begin(client, filename="a.mp4")
        stream = cut(client, at, 0, VIDEO[:2_100_000])
        part = next((settings.intake_dir / "resumable").glob("*.json")).with_suffix(".part")
        eventually(lambda: part.exists() and part.stat().st_size >= 2**21, "bytes came")
        first.process.kill()
        first.process.communicate()
        stream.close()
    second = GatewayProcess("--port", "0", **variables)
    with httpx.Client(base_url=second.url, headers=TUS, timeout=60) as client:
        offset = offset_of(client, at)
        assert offset >= 2**21
        assert append(client, at, offset, VIDEO[offset:]).headers[REFERENCE].startswith("upload:")
    second.end()
    assert (settings.intake_dir / SHA256).read_bytes() == VIDEO


def test_a_kill_before_the_name_is_given(client: httpx.Client, settings: Settings) -> None:
    at = begin(client)
    folder = settings.intake_dir / "resumable"
    (folder / f"{at[-32:]}.part").write_bytes(VIDEO)
    assert client.head(at).headers[REFERENCE].startswith(f"upload:{SHA256}")
    assert (settings.intake_dir / SHA256).read_bytes() == VIDEO


def test_wrong_requests_change_nothing(client: httpx.Client, settings: Settings) -> None:
    at = begin(client)
    assert append(client, at, 0, VIDEO[:1000]).status_code == 204
    wrong = [
        (409, append(client, at, 0, VIDEO)),
        (409, append(client, at, 2000, VIDEO)),
        (413, append(client, at, 1000, VIDEO)),
        (415, append(client, at, 1000, b"x", Content_Type="text/plain")),
        (412, append(client, at, 1000, b"x", Tus_Resumable="0.2.2")),
        (400, append(client, at, 1000, b"x", Upload_Checksum="md5 AAAA")),
        (400, append(client, at, 1000, b"x", Upload_Checksum="sha1 ?")),
        (460, append(client, at, 1000, b"x", Upload_Checksum="sha1 AAAA")),
        (400, client.patch(at, headers={"Content-Type": BODY_TYPE}, content=b"x")),
        (404, append(client, f"/uploads/{'0' * 32}", 0, b"x")),
        (404, client.head("/uploads/..%2f..%2fetc")),
        (405, client.post(at)),
    ]
    assert [answer.status_code for _, answer in wrong] == [status for status, _ in wrong]
    assert offset_of(client, at) == 1000
    longer = client.patch(
        at,
        headers={"Upload-Offset": "1000", "Content-Type": BODY_TYPE},
        content=iter([VIDEO, b"more"]),
    )
    assert longer.status_code == 413
    at = begin(client)
    override = {"X-HTTP-Method-Override": "PATCH", "Upload-Offset": "0", "Content-Type": BODY_TYPE}
    assert client.post(at, headers=override, content=VIDEO).status_code == 204


def test_the_door_knows_size_room_and_quota(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(length: object, **headers: str) -> tuple[int, str]:
        answer = client.post("/uploads", headers={"Upload-Length": str(length), **headers})
        return answer.status_code, answer.text

    assert refused(10_000_001)[0] == 413
    assert refused(0)[0] == 422
    assert refused(-1)[0] == refused("many")[0] == 400
    assert client.post("/uploads", headers={"Upload-Defer-Length": "1"}).status_code == 400
    begin(client, 9_000_000)
    begin(client, 9_000_000)
    status, told = refused(9_000_000)
    assert (status, "may have 20000000 bytes of sent videos" in told) == (507, True)
    usage = SimpleNamespace(free=KEEP_FREE_BYTES + 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert refused(1001)[0] == 507


@pytest.mark.parametrize(
    "value",
    [
        "filename !!!",
        "filename",
        "filename YQ==,filename Yg==",
        "filename " + base64.b64encode(b"x" * 5000).decode(),
        "filename " + base64.b64encode(b"../../etc/passwd\r\nX: y").decode(),
        "filename " + base64.b64encode(b"\xff\x00\xfe").decode(),
        ",,,",
        "a" * 3000,
    ],
)
def test_hostile_metadata(client: httpx.Client, settings: Settings, value: str) -> None:
    headers = {"Upload-Length": "5", "Upload-Metadata": value}
    answer = client.post("/uploads", headers=headers)
    assert answer.status_code in (201, 400)
    if answer.status_code == 201:
        whole = append(client, "/" + answer.headers["location"], 0, b"video")
        name = unquote(whole.headers[REFERENCE]).partition("/")[2]
        assert name.isprintable()
        assert not {"/", "\\", ":"} & set(name)
    assert {path.parent.name for path in settings.work_dir.rglob("*") if path.is_file()} <= {
        "resumable",
        "intake",
        digest(TOKENS[0]),
    }


def test_an_upload_is_its_callers_alone(client: httpx.Client, settings: Settings) -> None:
    at = begin(client, fingerprint="same")
    other = {"Authorization": f"Bearer {TOKENS[1]}"}
    assert client.head(at, headers=other).status_code == 404
    assert append(client, at, 0, b"x", **other).status_code == 404
    assert client.delete(at, headers=other).status_code == 404
    assert client.head(at, headers={"Authorization": ""}).status_code == 401
    answer = client.post(
        "/uploads",
        headers={
            **other,
            "Upload-Length": str(len(VIDEO)),
            "Upload-Metadata": metadata(fingerprint="same"),
        },
    )
    assert "/" + answer.headers["location"] != at
    assert offset_of(client, at) == 0


def test_what_nobody_goes_on_with_is_removed(settings: Settings) -> None:
    hasty = settings.model_copy(update={"gateway_upload_seconds": 100.0})
    with opened(hasty, TOKENS[0]) as client:
        old, young = begin(client), begin(client)
        append(client, old, 0, b"x")
        for path in (settings.intake_dir / "resumable").glob(f"{old[-32:]}.*"):
            os.utime(path, (time.time() - 101,) * 2)
        assert client.head(old).status_code == 410
        assert client.head(old).status_code == 404
        for path in (settings.intake_dir / "resumable").glob(f"{young[-32:]}.*"):
            os.utime(path, (time.time() - 101,) * 2)
    with opened(hasty, TOKENS[0]):
        folder = settings.intake_dir / "resumable"
        eventually(lambda: not list(folder.iterdir()), "the sweep at the start")


@pytest.fixture
def sent(tmp_path: Path) -> Path:
    path = tmp_path / "clip ä.mp4"
    path.write_bytes(VIDEO)
    return path


def send_over(line: Line, file: Path, said: list[str]) -> str | None:
    """Send a file as the command does."""
    headers = {"Authorization": f"Bearer {TOKENS[0]}"}
    with httpx.Client(base_url=line.url, timeout=30, headers=headers) as http:
        refuse = InvalidRequestError
        sender = FileSender(http, say=said.append, refuse=lambda _, told: refuse(str(told)))
        return sender.send(file)


@pytest.mark.parametrize("kind", ["away", "lost", "busy"])
def test_our_client_goes_on(
    client: httpx.Client,
    settings: Settings,
    sent: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    monkeypatch.setattr(sending, "_PIECE_BYTES", 1_000_000)
    monkeypatch.setattr(sending, "_AGAIN_SECONDS", (0.01,))
    said: list[str] = []
    with line_to(str(client.base_url)) as line:
        line.fail(kind, "^(PATCH|HEAD|POST|OPTIONS)", times=1)
        line.fail(kind, "^PATCH", times=2)
        reference = send_over(line, sent, said)
    assert reference == f"upload:{SHA256}/clip ä.mp4"
    assert find_upload(reference, settings).read_bytes() == VIDEO
    assert line.happened == [kind] * 3
    assert said
    assert not [one for one in line.requests if "Bearer" in one]


def test_a_second_command_goes_on_where_the_first_was_stopped(
    client: httpx.Client, sent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "_PIECE_BYTES", 1_000_000)

    def stop(path: Path, offset: int, length: int) -> Iterator[bytes]:
        if offset >= 2_000_000:
            raise KeyboardInterrupt
        yield VIDEO[offset : offset + length]

    with line_to(str(client.base_url)) as line:
        with monkeypatch.context() as first:
            first.setattr(sending, "_piece", stop)
            with pytest.raises(KeyboardInterrupt):
                send_over(line, sent, [])
        line.requests.clear()
        assert send_over(line, sent, [])
        patched = sum(one.startswith("PATCH") for one in line.requests)
        assert patched <= 2, "the last piece, and maybe the end of the one that was stopped"


def test_a_file_that_changes_is_refused_and_old_gateways_are_known(
    client: httpx.Client, sent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with line_to(str(client.base_url)) as line:
        with monkeypatch.context() as changed:
            changed.setattr(sending, "file_sha256", lambda path: "0" * 64)
            with pytest.raises(InvalidRequestError, match="has changed while it was sent"):
                send_over(line, sent, [])
        large = sent.with_name("large.mp4")
        with large.open("wb") as stream:
            stream.truncate(10_000_001)
        with pytest.raises(InvalidRequestError, match="larger than 10000000 bytes"):
            send_over(line, large, [])

    def old(url: str, **_: object) -> httpx.Response:
        return httpx.Response(404, request=httpx.Request("OPTIONS", url))

    with httpx.Client(base_url=str(client.base_url)) as http:
        monkeypatch.setattr(http, "options", old)
        assert FileSender(http, say=print, refuse=lambda a, told: ValueError()).send(sent) is None


def test_two_that_send_one_file_at_once(
    client: httpx.Client, sent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway knows the file again: it is one upload, and each ends the other's requests."""
    monkeypatch.setattr(sending, "_PIECE_BYTES", 500_000)
    with line_to(str(client.base_url)) as line, ThreadPoolExecutor(2) as pool:
        told = list(pool.map(lambda _: send_over(line, sent, []), range(2)))
    assert told == [f"upload:{SHA256}/clip ä.mp4"] * 2


def test_many_at_once(client: httpx.Client, settings: Settings) -> None:
    def one(number: int) -> str:
        data = hashlib.shake_256(bytes([number])).digest(300_000)
        at = begin(client, len(data), filename=f"{number}.mp4")
        assert append(client, at, 0, data[:100_000]).status_code == 204
        whole = append(client, at, 100_000, data[100_000:])
        assert whole.headers[REFERENCE] == f"upload:{hashlib.sha256(data).hexdigest()}/{number}.mp4"
        return at

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(one, range(8)))) == 8
