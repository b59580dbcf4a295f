"""A stand-in for Google Cloud Storage and Azure Blob Storage, and Azurite where it is installed.

The stand-in speaks the calls that our client makes: Google's XML protocol and Azure's, with
conditional writes, pieces, ranges, metadata and lists. It checks no signature. So it shows that we
send the right calls and understand the answers, and not that Google or Azure would take our key.
Azurite is Microsoft's own emulator, and does check; it is used where `azurite` is on the path.
"""

import base64
import hashlib
import hmac
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import httpx
from pydantic import SecretStr

from tests.kits.http.s3 import Line, line_to
from tests.kits.processes import ends_with_us, free_port
from tests.kits.server import eventually

BUCKET = "videos"
AZURITE = shutil.which("azurite")
ACCOUNT, AZURE_KEY = (
    "devstoreaccount1",
    base64.b64encode(b"a key of thirty-two bytes, longer").decode(),
)


@dataclass(kw_only=True)
class Kept:
    """An object."""

    content: bytes
    headers: dict[str, str]
    """Type and metadata, as they are told."""
    generation: int
    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def tag(self) -> str:
        """Changes with every write."""
        return f'"{hashlib.md5(self.content).hexdigest()}-{self.generation}"'


@dataclass
class Objects:
    """What the stand-in holds; tests may look and change."""

    kept: dict[str, Kept] = field(default_factory=dict)
    pieces: dict[tuple[str, str], bytes] = field(default_factory=dict)
    """By object or upload, and by number or block."""
    begun: dict[str, dict[str, str]] = field(default_factory=dict)
    """Uploads in pieces: their headers."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    count: int = 0

    def put(self, name: str, content: bytes, headers: dict[str, str]) -> Kept:
        """Write an object."""
        self.count += 1
        self.kept[name] = Kept(content=content, headers=headers, generation=self.count)
        return self.kept[name]


@dataclass(frozen=True, kw_only=True)
class ObjectStore:
    """One of the services, reached over a line that may have faults."""

    scheme: str
    storage: str
    objects: Objects
    line: Line
    fields: dict[str, Any]

    @property
    def address(self) -> str:
        """A folder in the bucket."""
        return f"{self.scheme}://{BUCKET}/some/folder"

    def settings(self, **fields: Any) -> dict[str, Any]:
        """Fields of settings with which it is reached."""
        return {**self.fields, **fields}


@contextmanager
def google() -> Iterator[ObjectStore]:
    """Google's protocol."""
    with _served(_Google) as (url, objects), line_to(url) as line:
        key = {
            "type": "service_account",
            "client_email": "worker@example.iam.gserviceaccount.com",
            "private_key_id": "1",
            "private_key": _rsa_key(),
            "gcs_base_url": line.url,
        }
        fields = {"gcs_key": SecretStr(json.dumps(key))}
        yield ObjectStore(scheme="gs", storage="gcs", objects=objects, line=line, fields=fields)


@contextmanager
def azure() -> Iterator[ObjectStore]:
    """Azure's protocol."""
    with _served(_Azure) as (url, objects), line_to(url) as line:
        yield _azure_over(line, objects, AZURE_KEY)


@contextmanager
def azurite(folder: Path) -> Iterator[ObjectStore]:
    """Azure's own emulator."""
    port = free_port()
    where = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder)]
    command = [AZURITE or "azurite", *where, "--silent", "--skipApiVersionCheck"]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(
        command, stdout=quiet, stderr=quiet, preexec_fn=ends_with_us()
    ) as process:
        try:
            known = (
                "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/"
                "K1SZFPTOtr/KBHBeksoGMGw=="
            )  # every Azurite has this account and this key
            with line_to(f"http://127.0.0.1:{port}") as line:
                store = _azure_over(line, Objects(), known)
                eventually(lambda: _made(store, port), "the start of Azurite")
                yield store
        finally:
            process.kill()


def _made(store: ObjectStore, port: int) -> bool:
    """Make the container, which our client cannot: by an address that the account's key signs."""
    end = "2099-01-01T00:00:00Z"
    signed = [ACCOUNT, "rwdlac", "b", "sco", "", end, "", "", "2020-12-06", "", ""]
    key = base64.b64decode(store.fields["azure_key"].get_secret_value())
    digest = hmac.new(key, "\n".join(signed).encode(), hashlib.sha256).digest()
    query = {"restype": "container", "sv": "2020-12-06", "ss": "b", "srt": "sco", "sp": "rwdlac"}
    query |= {"se": end, "sig": base64.b64encode(digest).decode()}
    try:
        url = f"http://127.0.0.1:{port}/{ACCOUNT}/{BUCKET}"
        return httpx.put(url, params=query, timeout=10).status_code in (201, 409)
    except httpx.TransportError:
        return False


def _azure_over(line: Line, objects: Objects, key: str) -> ObjectStore:
    fields = {
        "azure_account": ACCOUNT,
        "azure_key": SecretStr(key),
        "azure_endpoint": f"{line.url}/{ACCOUNT}",
    }
    return ObjectStore(scheme="az", storage="azure", objects=objects, line=line, fields=fields)


@cache
def _rsa_key() -> str:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


@contextmanager
def _served(handler: "type[_Handler]") -> "Iterator[tuple[str, Objects]]":
    objects = Objects()
    bound = type("Bound", (handler,), {"objects": objects})
    server = ThreadingHTTPServer(("127.0.0.1", 0), bound)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", objects
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    """What both protocols share."""

    protocol_version = "HTTP/1.1"
    objects: Objects
    meta = ""
    """How the names of metadata begin."""

    def handle_call(self) -> None:
        """Take a request, and answer it while nobody else changes the objects."""
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        self.query = {k: v[0] for k, v in parse_qs(parts.query, keep_blank_values=True).items()}
        self.bucket, self.name = self.place(unquote(parts.path).lstrip("/"))
        with self.objects.lock:
            status, headers, content = self.answer_to()
        self.send_response_only(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_call

    def place(self, path: str) -> tuple[str, str]:
        """Bucket and name of the object."""
        bucket, _, name = path.partition("/")
        return bucket, name

    def answer_to(self) -> tuple[int, dict[str, str], bytes]:
        raise NotImplementedError

    def told(self) -> dict[str, str]:
        """Type and metadata in the request."""
        given = {k.lower(): v for k, v in self.headers.items()}
        kept = {k: v for k, v in given.items() if k.startswith(self.meta)}
        kind = given.get("x-ms-blob-content-type") or given.get("content-type")
        return {**kept, "Content-Type": kind or "application/octet-stream"}

    def describe(self, kept: Kept) -> dict[str, str]:
        return {
            **kept.headers,
            "ETag": kept.tag,
            "Last-Modified": format_datetime(kept.at, usegmt=True),
            "x-goog-generation": str(kept.generation),
        }

    def read(self) -> tuple[int, dict[str, str], bytes]:
        kept = self.objects.kept.get(self.name)
        if kept is None:
            return 404, {}, b"<Error><Code>NoSuchKey</Code></Error>"
        if (wanted := self.headers.get("If-Match")) and wanted != kept.tag:
            return 412, {}, b""
        headers = self.describe(kept)
        if self.command == "HEAD":
            return 200, {**headers, "Content-Length": str(len(kept.content))}, b""
        if span := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or ""):
            start, stop = int(span[1]), min(int(span[2]) + 1, len(kept.content))
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(kept.content)}"
            return 206, headers, kept.content[start:stop]
        return 200, headers, kept.content

    def found(self) -> list[tuple[str, Kept]]:
        prefix = self.query.get("prefix", "")
        return [(n, k) for n, k in sorted(self.objects.kept.items()) if n.startswith(prefix)]

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


def _xml(outer: str, inner: str, value: str) -> bytes:
    return f"<{outer}><{inner}>{escape(value)}</{inner}></{outer}>".encode()


class _Google(_Handler):
    meta = "x-goog-meta-"

    def answer_to(self) -> tuple[int, dict[str, str], bytes]:
        if self.bucket != BUCKET:
            return 404, {}, b"<Error><Code>NoSuchBucket</Code></Error>"
        signed = "X-Goog-Signature" in self.query
        if not signed and not (self.headers.get("Authorization") or "").startswith("Bearer ey"):
            return 401, {}, b"<Error><Code>AuthenticationRequired</Code></Error>"
        if not self.name:
            rows = "".join(
                f"<Contents><Key>{escape(name)}</Key><Size>{len(kept.content)}</Size>"
                f"<ETag>{escape(kept.tag)}</ETag>"
                f"<LastModified>{kept.at:%Y-%m-%dT%H:%M:%S.000Z}</LastModified></Contents>"
                for name, kept in self.found()
            )
            return 200, {}, f"<ListBucketResult>{rows}</ListBucketResult>".encode()
        if self.command in ("GET", "HEAD"):
            return self.read()
        if self.command == "DELETE":
            return (204 if self.objects.kept.pop(self.name, None) else 404), {}, b""
        return self.write()

    def write(self) -> tuple[int, dict[str, str], bytes]:
        upload = self.query.get("uploadId")
        if "uploads" in self.query:
            upload = f"upload-{len(self.objects.begun)}"
            self.objects.begun[upload] = self.told()
            return 200, {}, _xml("InitiateMultipartUploadResult", "UploadId", upload)
        if upload and self.command == "PUT":
            self.objects.pieces[upload, self.query["partNumber"]] = self.body
            return 200, {"ETag": f'"{hashlib.md5(self.body).hexdigest()}"'}, b""
        if upload:
            numbers = re.findall(r"<PartNumber>(\d+)</PartNumber>", self.body.decode())
            content = b"".join(self.objects.pieces[upload, number] for number in numbers)
            kept = self.objects.put(self.name, content, self.objects.begun[upload])
            return 200, {}, _xml("CompleteMultipartUploadResult", "ETag", kept.tag)
        there = self.objects.kept.get(self.name)
        wanted = self.headers.get("x-goog-if-generation-match")
        if wanted is not None and int(wanted) != (there.generation if there else 0):
            return 412, {}, b"<Error><Code>PreconditionFailed</Code></Error>"
        return 200, self.describe(self.objects.put(self.name, self.body, self.told())), b""


class _Azure(_Handler):
    meta = "x-ms-meta-"

    def place(self, path: str) -> tuple[str, str]:
        return super().place(path.partition("/")[2])

    def answer_to(self) -> tuple[int, dict[str, str], bytes]:
        if self.bucket != BUCKET:
            told = b"<Error><Code>ContainerNotFound</Code></Error>"
            return 404, {"x-ms-error-code": "ContainerNotFound"}, told
        if not (self.headers.get("Authorization") or "sig" in self.query):
            return 403, {}, b"<Error><Code>AuthenticationFailed</Code></Error>"
        match self.query.get("comp"):
            case "list":
                return 200, {}, self.listed()
            case "batch":
                return self.batch()
            case "block":
                self.objects.pieces[self.name, self.query["blockid"]] = self.body
                return 201, {}, b""
        return self.read() if self.command in ("GET", "HEAD") else self.write()

    def write(self) -> tuple[int, dict[str, str], bytes]:
        there = self.objects.kept.get(self.name)
        if self.headers.get("If-None-Match") == "*" and there:
            return 409, {"x-ms-error-code": "BlobAlreadyExists"}, b""
        wanted = self.headers.get("If-Match")
        if wanted and (there is None or there.tag != wanted):
            return 412, {"x-ms-error-code": "ConditionNotMet"}, b""
        content = self.body
        if self.query.get("comp") == "blocklist":
            blocks = re.findall(r"<Uncommitted>([^<]+)</Uncommitted>", self.body.decode())
            content = b"".join(self.objects.pieces[self.name, block] for block in blocks)
        elif self.headers.get("x-ms-blob-type") != "BlockBlob":
            return 400, {"x-ms-error-code": "MissingRequiredHeader"}, b""
        return 201, self.describe(self.objects.put(self.name, content, self.told())), b""

    def listed(self) -> bytes:
        rows = "".join(
            f"<Blob><Name>{escape(name)}</Name><Properties>"
            f"<Last-Modified>{format_datetime(kept.at, usegmt=True)}</Last-Modified>"
            f"<Etag>{escape(kept.tag)}</Etag><Content-Length>{len(kept.content)}</Content-Length>"
            "<Content-Type>x/y</Content-Type></Properties></Blob>"
            for name, kept in self.found()
        )
        blobs = f"<Blobs>{rows}</Blobs>"
        return f"<EnumerationResults>{blobs}<NextMarker/></EnumerationResults>".encode()

    def batch(self) -> tuple[int, dict[str, str], bytes]:
        """Deletes in one request, each answered in a part of its own."""
        parts = []
        for number, path in enumerate(re.findall(rb"DELETE (\S+) HTTP", self.body)):
            name = self.place(unquote(urlsplit(path.decode()).path).lstrip("/"))[1]
            gone = self.objects.kept.pop(name, None) is None
            told = "404 The specified blob does not exist." if gone else "202 Accepted"
            code = "x-ms-error-code: BlobNotFound\r\n" if gone else ""
            parts.append(
                f"--answers\r\nContent-Type: application/http\r\nContent-ID: {number}\r\n\r\n"
                f"HTTP/1.1 {told}\r\n{code}x-ms-version: 2023-11-03\r\nContent-Length: 0\r\n\r\n"
            )
        content = "".join([*parts, "--answers--\r\n"]).encode()
        return 202, {"Content-Type": "multipart/mixed; boundary=answers"}, content
