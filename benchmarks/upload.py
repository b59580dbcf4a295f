"""Upload and verify, compared with curl's PUT of the same file with the same headers.

`python benchmarks/upload.py [--megabytes 300] [--pairs 7] [--json]`

speed   Our storage client does all that the tasks upload and verify do, without Prefect: DESCRIBE,
        PUT, DESCRIBE, then the first and last bytes from the public address. The reference is the
        PUT alone, by curl. Both talk to our edge in a process of its own. The file's digest is
        known, as it is after stitch, and the file is in the page cache. Ours and curl run in turn,
        pair by pair. The figure is our seconds over curl's, the median of all pairs.
memory  Peak resident memory of a process that uploads and verifies the file, over that for a file
        of a tenth of its size.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import SecretStr

from seedvr2_core.files import file_sha256
from tasks.schemas import StoredVideo
from tasks.storage.bunny import BunnyStorage
from tasks.storage.bunny_zone import BunnyZone
from tasks.storage.public import wait_until_served
from tasks.verify import check_described
from tests.kits.hosts.memory import peak_kib

ROOT = Path(__file__).parents[1]
KEY = "key-of-the-benchmark"
ZONE = "bench"


def zone_at(url: str) -> BunnyZone:
    """The edge's zone, as the storage client knows it."""
    return BunnyZone(name=ZONE, storage_url=url, public_url=url, folder="", key=SecretStr(KEY))


@contextmanager
def edge(folder: Path) -> Iterator[str]:
    """Run an edge in a process of its own; yields its address."""
    options = ["--root", str(folder), "--port", "0", "--zone", ZONE, "--parent", str(os.getpid())]
    process = subprocess.Popen(
        [sys.executable, "-m", "deployments.edge", *options],
        env={**os.environ, "SEEDVR2_EDGE_KEY": KEY},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip().partition(": ")[2]
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


def make_file(path: Path, megabytes: int) -> str:
    """Write random bytes; returns their digest. Afterwards the file is in the page cache."""
    with path.open("wb") as stream:
        for _ in range(megabytes):
            stream.write(os.urandom(10**6))
    return file_sha256(path)


def ours(url: str, path: Path, sha256: str) -> None:
    """Do what the tasks upload and verify do."""
    storage = BunnyStorage(zone_at(url), on_bytes=lambda sent, total: None)
    put = storage.put(path, "ours.mp4", sha256=sha256)
    stored = StoredVideo(
        name=put.name, url=put.url, path=None, sha256=put.sha256, num_bytes=put.num_bytes
    )
    check_described(stored, storage.stat(stored.name))
    assert stored.url is not None
    wait_until_served(stored.url, path, patience=100, on_wait=_no_wait)


def _no_wait(seen: Exception) -> None:
    raise SystemExit(f"the edge made verify wait: {seen}")


def curls(url: str, path: Path, sha256: str) -> None:
    """Send the same PUT with curl."""
    headers = {
        "AccessKey": KEY,
        "Checksum": sha256.upper(),
        "Override-Content-Type": "video/mp4",
        "Content-Type": "application/octet-stream",
        "Expect": "",
    }
    given = [part for name, value in headers.items() for part in ("-H", f"{name}: {value}".strip())]
    command = ["curl", "--silent", "--show-error", "--fail", "--output", os.devnull, *given]
    subprocess.run([*command, "--upload-file", path, f"{url}/{ZONE}/curl.mp4"], check=True)


def seconds(work: Callable[[], None]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def speed(url: str, path: Path, sha256: str, pairs: int) -> dict[str, object]:
    """Measure pairs in turn; the figure is the median of their ratios."""
    rows = []
    for k in range(pairs + 1):
        mine = seconds(lambda: ours(url, path, sha256))
        theirs = seconds(lambda: curls(url, path, sha256))
        for name in ("ours.mp4", "curl.mp4"):
            BunnyStorage(zone_at(url)).delete(name)
        if k:  # the first pair warms both sides
            rows.append((mine, theirs))
    return {
        "megabytes": path.stat().st_size // 10**6,
        "ours_seconds": round(statistics.median(row[0] for row in rows), 3),
        "curl_seconds": round(statistics.median(row[1] for row in rows), 3),
        "ratios": [round(a / b, 3) for a, b in rows],
        "median_ratio": round(statistics.median(a / b for a, b in rows), 3),
    }


def peak_of(url: str, path: Path, sha256: str) -> int:
    """Peak resident bytes of a process that uploads and verifies this file."""
    command = [sys.executable, __file__, "--child", url, str(path), sha256]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    BunnyStorage(zone_at(url)).delete("ours.mp4")
    return int(done.stdout)


def memory(url: str, folder: Path, path: Path, sha256: str) -> dict[str, object]:
    """Peak memory for the file and for one of a tenth of its size."""
    small = folder / "small.mp4"
    few = max(1, path.stat().st_size // 10**7)
    peaks = {few: peak_of(url, small, make_file(small, few))}
    peaks[path.stat().st_size // 10**6] = peak_of(url, path, sha256)
    low, high = peaks.values()
    return {
        "peak_mb": {size: round(value / 1e6, 1) for size, value in peaks.items()},
        "ratio": round(high / low, 3),
    }


def child(url: str, path: str, sha256: str) -> int:
    """Upload and verify once, then print this process's peak memory."""
    ours(url, Path(path), sha256)
    print(peak_kib() * 1024)
    return 0


def main() -> int:
    """Print both figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", nargs=3, metavar=("URL", "PATH", "SHA256"))
    arguments = parser.parse_args()
    if arguments.child:
        return child(*arguments.child)
    if shutil.which("curl") is None:
        print("benchmarks/upload.py is left out: it compares with curl, which is not installed")
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "output.mp4"
        sha256 = make_file(path, arguments.megabytes)
        with edge(folder / "edge") as url:
            report = {
                "speed": speed(url, path, sha256, arguments.pairs),
                "memory": memory(url, folder, path, sha256),
            }
    print(json.dumps(report, indent=None if arguments.json else 2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
