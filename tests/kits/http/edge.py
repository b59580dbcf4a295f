"""An edge with faults on loopback, in this process, and settings that lead to it."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from deployments.edge import create_app
from tasks.schemas import JoinedVideo
from tasks.settings import Settings
from tests.kits.http.edge_faults import Faults, FaultyEdge
from tests.kits.http.gateway import served

KEY = "zone-password-0123456789"
ZONE = "zone"
FOLDER = "out"


@dataclass(frozen=True, kw_only=True)
class Edge:
    """An edge that is running."""

    url: str
    app: FaultyEdge
    root: Path

    def switch(self, **faults: Any) -> None:
        """Switch these faults on and all others off."""
        self.app.faults = Faults(**faults)

    def settings(self, work_dir: Path, **fields: Any) -> Settings:
        """Settings of an installation that stores here."""
        defaults = {
            "work_dir": work_dir,
            "storage": "bunny",
            "bunny_storage_zone": ZONE,
            "bunny_storage_key": SecretStr(KEY),
            "bunny_base_url": self.url,
            "bunny_host": self.url,
            "bunny_root_dir": FOLDER,
            "verify_seconds": 20.0,
        }
        return Settings(**{**defaults, **fields})

    def stored(self) -> dict[str, bytes]:
        """The files in storage: name -> content."""
        folder = self.root / FOLDER
        return {path.name: path.read_bytes() for path in folder.glob("*")}


@contextmanager
def faulty_edge(root: Path) -> Iterator[Edge]:
    """Run an edge until the block ends; at first no fault is on."""
    app = FaultyEdge(create_app(root, zone=ZONE, key=SecretStr(KEY)))
    with served(app) as url:
        yield Edge(url=url, app=app, root=root)


def made_video(folder: Path, size: int = 300_000, name: str = "output.mp4") -> JoinedVideo:
    """Make a job's finished file: random bytes, because a storage does not look into a video."""
    folder.mkdir(parents=True, exist_ok=True)
    content = hashlib.shake_256(name.encode()).digest(size)
    path = folder / name
    path.write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    return JoinedVideo(path=path, sha256=sha256, num_bytes=size, num_frames=75)


def edge_settings(edge: Edge, tmp_path: Path, **fields: Any) -> Settings:
    """Settings of a test whose storage folder bears the name of its own directory."""
    return edge.settings(tmp_path, bunny_root_dir=tmp_path.name, **fields)


def statuses(edge: Edge) -> list[int | None]:
    """What the public address answered, in order."""
    return [seen.status for seen in edge.app.public()]
