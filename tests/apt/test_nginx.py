"""Debian's nginx as a second storage and CDN: DAV behind a key, in front a cache that keeps 404s.

Needs Debian's package `nginx`. It runs from a folder of its own, as nobody where the tests run as
root. It knows neither DESCRIBE nor Checksum: the test's storage hashes what it gets back instead.
"""

import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from seedvr2_core.errors import (
    ForbiddenError,
    NotServedError,
    StorageError,
    StorageRefusedError,
    WrongBytesError,
)
from tasks.schemas import JoinedVideo, StoredVideo
from tasks.storage.base import Stored
from tasks.storage.bunny import BunnyStorage
from tasks.storage.bunny_zone import BunnyZone
from tasks.storage.public import wait_until_served
from tasks.verify import check_described
from tests.kits.http.edge import made_video
from tests.kits.processes import ends_with_us, free_port
from tests.kits.server import eventually

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
KEY = "zone-password-0123456789"
pytestmark = [
    pytest.mark.apt,
    pytest.mark.skipif(NGINX is None, reason="Debian's package nginx is not installed"),
]

CONFIG = """
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  log_format bodies '$request_method $uri $status $content_length';
  access_log {folder}/storage.log bodies;
  types {{ video/mp4 mp4; }}
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  proxy_cache_path {folder}/cache keys_zone=cdn:1m;
  server {{
    listen 127.0.0.1:{storage_port};
    client_max_body_size 0;
    location /zone/ {{
      if ($http_accesskey != "{key}") {{ return 401; }}
      alias {folder}/files/;
      dav_methods PUT DELETE;
      create_full_put_path on;
    }}
    location / {{ access_log off; root {folder}/files; }}
  }}
  server {{
    listen 127.0.0.1:{public_port};
    access_log off;
    location /closed/ {{ return 403; }}
    location / {{
      proxy_pass http://127.0.0.1:{storage_port}/;
      proxy_cache cdn;
      proxy_cache_valid 200 1h;
      proxy_cache_valid 404 5s;
      add_header X-Cache $upstream_cache_status always;
    }}
  }}
}}
"""


class DavStorage(BunnyStorage):
    """Our client; what is stored is read back, as nobody here describes it."""

    def _describe(self, client: httpx.Client, name: str) -> Stored | None:
        answer = self._ask(client, "GET", name, f"reading {name}")
        if answer.status_code == 404:
            return None
        self._check(answer, f"reading {name}")
        digest = hashlib.sha256(answer.content).hexdigest()
        return self._stored(name, len(answer.content), digest)


@dataclass(frozen=True, kw_only=True)
class Nginx:
    """A running nginx: storage and public side."""

    folder: Path
    storage_url: str
    public_url: str

    def storage(self, *, key: str = KEY, folder: str = "out") -> DavStorage:
        """Our client of it."""
        zone = BunnyZone(
            name="zone",
            storage_url=self.storage_url,
            public_url=self.public_url,
            folder=folder,
            key=SecretStr(key),
        )
        return DavStorage(zone)

    def puts(self) -> list[str]:
        """Status and length of every PUT so far."""
        lines = (self.folder / "storage.log").read_text().splitlines()
        return [line.partition(" ")[2].partition(" ")[2] for line in lines if line[:3] == "PUT"]


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code > 0
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def nginx() -> Iterator[Nginx]:
    assert NGINX
    folder = Path(tempfile.mkdtemp(prefix="seedvr2-nginx-"))
    (folder / "files").mkdir()
    storage_port, public_port = free_port(), free_port()
    config = CONFIG.format(
        folder=folder, key=KEY, storage_port=storage_port, public_port=public_port
    )
    (folder / "nginx.conf").write_text(config)
    somebody: dict[str, str] = {}
    if os.geteuid() == 0:
        for path in (folder, folder / "files"):
            shutil.chown(path, "nobody", "nogroup")
        somebody = {"user": "nobody", "group": "nogroup"}
    command = [NGINX, "-p", str(folder), "-e", str(folder / "error.log"), "-c", "nginx.conf"]
    process = subprocess.Popen(command, preexec_fn=ends_with_us(signal.SIGTERM), **somebody)
    try:
        url = f"http://127.0.0.1:{public_port}"
        eventually(lambda: process.poll() is None and answers(url), "nginx's start")
        yield Nginx(folder=folder, storage_url=f"http://127.0.0.1:{storage_port}", public_url=url)
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(folder)


@pytest.fixture
def video(tmp_path: Path, request: pytest.FixtureRequest) -> JoinedVideo:
    """Bytes and a name of the test's own."""
    return made_video(tmp_path, name=f"{request.node.name}.mp4")


def uploaded(storage: DavStorage, video: JoinedVideo) -> StoredVideo:
    """What the upload task makes of it."""
    put = storage.put(video.path, video.path.name, sha256=video.sha256)
    return StoredVideo(
        name=put.name, url=put.url, path=None, sha256=put.sha256, num_bytes=put.num_bytes
    )


def wait_served(stored: StoredVideo, video: JoinedVideo, patience: float = 60) -> list[str]:
    """What verify saw before it was satisfied."""
    seen: list[str] = []
    assert stored.url
    wait_until_served(
        stored.url, video.path, patience=patience, on_wait=lambda error: seen.append(str(error))
    )
    return seen


def test_upload_and_verify(nginx: Nginx, video: JoinedVideo) -> None:
    storage = nginx.storage()
    before = len(nginx.puts())
    stored = uploaded(storage, video)
    check_described(stored, storage.stat(stored.name))
    assert wait_served(stored, video) == []
    kept = nginx.folder / "files" / "out" / stored.name
    assert kept.read_bytes() == video.path.read_bytes()
    assert uploaded(storage, video) == stored
    assert nginx.puts()[before:] == [f"201 {video.num_bytes}"]
    storage.delete(stored.name)
    assert storage.stat(stored.name) is None


def test_a_remembered_404_is_outlasted(nginx: Nginx, video: JoinedVideo) -> None:
    """Whoever asks before the upload spoils the address for five seconds."""
    url = f"{nginx.public_url}/out/{video.path.name}"
    assert httpx.get(url).headers["x-cache"] == "MISS"
    stored = uploaded(nginx.storage(), video)
    assert stored.url == url
    again = httpx.get(url)
    assert (again.status_code, again.headers["x-cache"]) == (404, "HIT")
    seen = wait_served(stored, video)
    assert seen
    assert all("answers 404 Not Found from its cache, though" in told for told in seen)


def test_a_404_that_is_remembered_for_longer_than_we_wait(nginx: Nginx, video: JoinedVideo) -> None:
    url = f"{nginx.public_url}/out/{video.path.name}"
    assert httpx.get(url).status_code == 404
    stored = uploaded(nginx.storage(), video)
    with pytest.raises(NotServedError, match=r"404 Not Found from its cache.* still so after"):
        wait_served(stored, video, patience=0.5)


def test_an_old_copy_in_the_cache(nginx: Nginx, video: JoinedVideo) -> None:
    storage = nginx.storage()
    stored = uploaded(storage, video)
    assert wait_served(stored, video) == []
    content = video.path.read_bytes()[::-1]
    video.path.write_bytes(content)
    storage.delete(stored.name)
    storage.put(video.path, stored.name)
    with pytest.raises(WrongBytesError, match="shows other bytes than were stored"):
        wait_served(stored, video, patience=0.5)


def test_a_closed_door(nginx: Nginx, video: JoinedVideo) -> None:
    stored = uploaded(nginx.storage(folder="closed"), video)
    with pytest.raises(ForbiddenError, match="answers 403 Forbidden though the file is in storage"):
        wait_served(stored, video)


def test_a_wrong_key(nginx: Nginx, video: JoinedVideo) -> None:
    before = nginx.puts()
    with pytest.raises(StorageRefusedError, match="answered 401 Unauthorized"):
        uploaded(nginx.storage(key="another"), video)
    assert nginx.puts() == before


def test_names_with_everything(nginx: Nginx, tmp_path: Path) -> None:
    video = made_video(tmp_path, name="Grüße & 100 % + more (1).mp4")
    stored = uploaded(nginx.storage(folder="a b/c"), video)
    assert wait_served(stored, video) == []
    assert (nginx.folder / "files" / "a b" / "c" / video.path.name).is_file()


def test_a_storage_that_is_away(nginx: Nginx, video: JoinedVideo) -> None:
    zone = BunnyZone(
        name="zone",
        storage_url=f"http://127.0.0.1:{free_port()}",
        public_url=nginx.public_url,
        folder="out",
        key=SecretStr(KEY),
    )
    with pytest.raises(StorageError, match="is away or broke off") as caught:
        DavStorage(zone).put(video.path, video.path.name)
    assert not caught.value.permanent
