"""What these tests share: an engine that has our image, and a host that works with it."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kits.containers.docker_host import USER, DockerHost
from tests.kits.containers.engine import Engine, engine
from tests.kits.containers.image import build_image
from tests.kits.http.video_server import VideoServer
from tests.kits.processes import environment
from tests.kits.server import Server


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory, docker_data: Path) -> Iterator[Engine]:
    """An engine that has the image of this checkout."""
    with engine(tmp_path_factory.mktemp("docker"), docker_data) as found:
        build_image(found, tmp_path_factory.mktemp("image"))
        yield found


@pytest.fixture(scope="module")
def host(
    tmp_path_factory: pytest.TempPathFactory, docker: Engine, demo_clip: Path, ffmpeg: Any
) -> Iterator[DockerHost]:
    """Server, pool, deployment and a worker."""
    folder = tmp_path_factory.mktemp("host")
    ffmpeg("-i", demo_clip, "-frames:v", "10", "-an", folder / "short.mp4")
    ffmpeg("-stream_loop", "7", "-i", demo_clip, "-c", "copy", folder / "long.mp4")
    videos = VideoServer()
    videos.offer("/clip.mp4", content=(folder / "short.mp4").read_bytes())
    videos.offer("/long.mp4", content=(folder / "long.mp4").read_bytes())
    for name in ("work", "weights"):
        (folder / name).mkdir()
        os.chown(folder / name, USER, USER)
    variables = {"PREFECT_HOME": str(folder / "prefect")}
    try:
        with Server(environment(variables)) as server:
            made = DockerHost(folder, docker, server, videos)
            made.deploy()
            made.start_worker()
            try:
                yield made
            finally:
                made.kill_worker()
    finally:
        videos.close()
