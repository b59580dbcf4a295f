"""Probe: what the source really is, found by a guarded child that reads every packet."""

import time
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from seedvr2_core.records import read_record
from seedvr2_core.video.info import VideoInfo
from tasks import record
from tasks.guard import Child, Event
from tasks.retry import retryable
from tasks.schemas import FetchedSource, ProbedSource
from tasks.settings import get_settings

STALL_SECONDS = 60.0
LIMIT_SECONDS = 1800.0


def run_operation(request: dict[str, object], *, until: str, doing: str) -> Event:
    """Let a fresh child carry out one request and wait for its closing event.

    Raises:
        SeedVR2Error: what the child reported, that it died, or that a limit was passed.
    """
    child = Child(log=record.current().log)
    deadline = time.monotonic() + LIMIT_SECONDS
    try:
        child.send(request)
        while True:
            event = child.next_event(stall=STALL_SECONDS, deadline=deadline, doing=doing)
            if event["event"] == until:
                return event
    finally:
        child.close()


@task(
    name="probe",
    retries=1,
    retry_delay_seconds=2,
    retry_condition_fn=retryable,
    timeout_seconds=LIMIT_SECONDS + 60,
    persist_result=False,
    cache_policy=NO_CACHE,
)
def probe(source: FetchedSource) -> ProbedSource:
    """Read every packet of the source in a child process.

    Side effects: writes WORK_DIR/probes/<sha256>.json.
    Raises: InvalidVideoError, UnsupportedFormatError (final); child failures (retried once).
    """
    out = get_settings().work_dir / "probes" / f"{source.sha256}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    return probe_source(source, out)


def probe_source(source: FetchedSource, out: Path) -> ProbedSource:
    """Let a child probe the source and write its VideoInfo to `out`."""
    request: dict[str, object] = {"op": "probe", "path": str(source.path), "out": str(out)}
    event = run_operation(request, until="probed", doing="probing the source")
    info = read_record(out, VideoInfo)
    width, height = info.upright_size
    return ProbedSource(
        source=source,
        info_path=out,
        width=width,
        height=height,
        num_frames=info.num_frames,
        duration_seconds=info.duration_seconds,
        devices=tuple(event["devices"]),
        cpu_count=event["cpu_count"],
    )
