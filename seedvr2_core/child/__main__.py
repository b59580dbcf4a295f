"""The child process: probes, restores and joins on request, and dies with its parent.

`python -m seedvr2_core.child PARENT_PID`. Requests are JSON lines on stdin, events JSON lines on
the original stdout (which nothing else can write to), logs go to stderr.

    {"op": "probe", "path": ..., "out": ...}                     -> probed
    {"op": "find_cuts", "path": ..., "info": ..., "device": ..., "detector": ..., "out": ...}
                                                  -> cuts_found
    {"op": "restore", "job_dir": ..., "source": ..., "device": ..., "weights_dir": ...,
     "lock_dir": ..., "segments": [0, ...]}
                                                  -> waiting ..., ready, heartbeat ...,
                                                     restored ..., segment_done ..., idle
    {"op": "join", "job_dir": ..., "source": ..., "out": ..., "metadata": {...}} -> joined
    {"op": "preview", "job_dir": ..., "source": ..., "output": ..., "out": ...}  -> previewed
    {"op": "stop"}                                               -> the process ends

Heartbeats {phase, done, total} come from the threads that do the work, never from a timer.
"""

import json
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NoReturn, TextIO

from seedvr2_core.errors import SeedVR2Error
from seedvr2_core.files.process import die_with_parent
from seedvr2_core.files.records import read_record, write_record
from seedvr2_core.files.space import is_full
from seedvr2_core.planning.plan import CutList, Plan
from seedvr2_core.video.info import VideoInfo

logger = logging.getLogger(__name__)

BEAT_SECONDS = 0.2

Request = Mapping[str, Any]


class Emitter:
    """Writes events to the parent; shared by the working threads."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._last_beat: dict[str, float] = {}

    def emit(self, event: str, **values: object) -> None:
        """Send one event."""
        line = json.dumps({"event": event, **values})
        with self._lock:
            self._stream.write(line + "\n")
            self._stream.flush()

    def beat(self, phase: str, done: int, total: int) -> None:
        """A sign of life; at most five a second and phase are sent."""
        now = time.monotonic()
        if now - self._last_beat.get(phase, 0.0) >= BEAT_SECONDS:
            self._last_beat[phase] = now
            self.emit("heartbeat", phase=phase, done=done, total=total)


def probe(request: Request, emitter: Emitter) -> None:
    """Read every packet of a source and write what was found as JSON."""
    from seedvr2_core.video.probe import probe_video

    info = probe_video(Path(request["path"]), beat=emitter.beat)
    write_record(Path(request["out"]), info)
    emitter.emit("probed", devices=_devices(), cpu_count=len(os.sched_getaffinity(0)))


def find_cuts(request: Request, emitter: Emitter) -> None:
    """Find the cuts of a probed source and write them as JSON."""
    from seedvr2_core.video.cuts import detect_cuts

    info = read_record(Path(request["info"]), VideoInfo)
    path, device = Path(request["path"]), request["device"]
    cuts = detect_cuts(path, info, beat=emitter.beat, device=device)
    write_record(Path(request["out"]), CutList(detector=request["detector"], frames=cuts))
    emitter.emit("cuts_found", num_cuts=len(cuts))


def restore(request: Request, emitter: Emitter) -> None:
    """Make the asked segments of a job, in order."""
    from seedvr2_core.child.restore import restore_segments

    job_dir = Path(request["job_dir"])
    plan = read_record(job_dir / "plan.json", Plan)
    restore_segments(
        plan,
        job_dir,
        source=Path(request["source"]),
        device=request["device"],
        weights_dir=Path(request["weights_dir"]),
        lock_dir=Path(request["lock_dir"]),
        indices=[int(k) for k in request["segments"]],
        events=emitter,
    )
    emitter.emit("idle")


def join(request: Request, emitter: Emitter) -> None:
    """Join the finished segments of a job and carry the source's other streams over."""
    from seedvr2_core.files.space import bytes_needed, check_room, full_disk_told
    from seedvr2_core.job.sidecar import finished_sizes, video_path
    from seedvr2_core.video.join import JoinPart, join_segments

    job_dir = Path(request["job_dir"])
    plan = read_record(job_dir / "plan.json", Plan)
    need = bytes_needed(plan, [], finished_sizes(job_dir, plan))
    check_room(job_dir, need, doing="joining the segments")
    parts = [
        JoinPart(
            path=video_path(job_dir, segment.index),
            first_pts=plan.video.pts[segment.start],
            num_frames=segment.num_frames,
        )
        for segment in plan.segments
    ]
    with full_disk_told("the segments are joined"):
        result = join_segments(
            parts,
            Path(request["source"]),
            plan.video,
            plan.encoder,
            Path(request["out"]),
            metadata=request["metadata"],
            beat=emitter.beat,
        )
    emitter.emit("joined", notes=list(result.notes))


def preview(request: Request, emitter: Emitter) -> None:
    """Draw the before/after picture of a joined job."""
    from seedvr2_core.video.preview import write_preview

    plan = read_record(Path(request["job_dir"]) / "plan.json", Plan)
    source, output = Path(request["source"]), Path(request["output"])
    write_preview(source, plan.video, output, Path(request["out"]))
    emitter.emit("previewed")


OPERATIONS: Mapping[str, Callable[[Request, Emitter], None]] = {
    "probe": probe,
    "find_cuts": find_cuts,
    "restore": restore,
    "join": join,
    "preview": preview,
}


def _devices() -> list[dict[str, object]]:
    """Torch devices of this machine, best first, with the memory that is free on them."""
    cpu: dict[str, object] = {"name": "cpu", "kind": "cpu", "free_bytes": None}
    if not Path("/dev/nvidiactl").exists():
        return [cpu]  # no driver, no GPU: saves importing torch
    import torch

    gpus: list[dict[str, object]] = [
        {
            "name": f"cuda:{i}",
            "kind": torch.cuda.get_device_name(i),
            "free_bytes": torch.cuda.mem_get_info(i)[0],
        }
        for i in range(torch.cuda.device_count())
    ]
    return [*gpus, cpu]


def _read_requests(requests: "SimpleQueue[Request]") -> None:
    """Reader thread: the end of stdin means that nobody waits for us any more."""
    for line in sys.stdin:
        requests.put(json.loads(line))
    os._exit(0)


def _serve(requests: "SimpleQueue[Request]", emitter: Emitter) -> int:
    """Carry out requests until told to stop; an error ends the process."""
    while True:
        request = requests.get()
        if request["op"] == "stop":
            return 0
        try:
            OPERATIONS[request["op"]](request, emitter)
        except SeedVR2Error as error:
            emitter.emit("error", kind=type(error).__name__, message=str(error))
            return 1
        except Exception as error:
            if not (told := _resource_words(error)):
                raise
            emitter.emit("error", kind="ResourceError", message=told)
            return 1


def _resource_words(error: Exception) -> str:
    """One sentence for a full disk or a full device that nobody else could do anything about."""
    if is_full(error):
        return f"the disk is full ({error}); finished segments are kept: make room, run again"
    if type(error).__name__ == "OutOfMemoryError":  # torch's; naming it would load torch
        return f"the device ran out of memory ({error}); free it, or use a smaller resolution"
    return ""


def _own_stdout() -> TextIO:
    """Keep the pipe to the parent for events; whatever prints to stdout goes to the log."""
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return events


def main() -> NoReturn:
    """Entry point of the child."""
    emitter = Emitter(_own_stdout())
    die_with_parent(int(sys.argv[1]))
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    requests: SimpleQueue[Request] = SimpleQueue()
    threading.Thread(target=_read_requests, args=(requests,), daemon=True).start()
    try:
        code = _serve(requests, emitter)
    except BaseException:  # noqa: BLE001 - the parent reads the traceback and the exit code
        traceback.print_exc()
        code = 70
    sys.stderr.flush()
    os._exit(code)  # other threads may sit in a codec; everything worth keeping is on disk


if __name__ == "__main__":
    main()
