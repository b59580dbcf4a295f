"""Everything that a GPU has to say, in one command on a bare machine.

Run `make gpu-bench`, or `python -m benchmarks.gpu`, in the repository. It needs torch 2.11 or
newer, numpy, safetensors and Triton, nothing else. In this order it reports: the device, and
whether a child that is confined as in a job reaches it; each kernel of ours, right and how fast;
golden cases in half precision; what moves between host and device, its bits and rates; pieces of a
shot through the production session with the 7B at 1080p and at 720p, fast and plain; the same work
again, taken up, on a card half full, and streamed on a smaller card, bits and peaks compared;
convolutions, and which kernels they become; attention, the first call and the later ones; the 7B
with single steps switched off; the 3B. `--long` adds 4k. On a CPU the tiny model stands in, which
shows that it runs.

A line of JSON is written after each measurement, so a run that is cut keeps what it has, and
`--more` goes on with the parts that are not in the file yet. What fails writes its error and the
next one runs; the exit code tells. After an error that ends a process's use of the card (an illegal
address in a kernel) a new process goes on without what made it, and so it is where a step gives no
sign of life for `--step-seconds` (a kernel that hangs) or the process dies. What no time is left
for is named.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.gpu.watch import Signs, stacks_of, supervise
from seedvr2_core.child.environment import ALLOCATOR
from seedvr2_core.files.process import die_with_parent

SECONDS = 450.0
LONG_SECONDS = 1500.0
STEP_SECONDS = 150.0
"""Without a sign of life. The longest silence is that of loading, and of a window's transformer at
4k without kernels of our own."""


def main() -> int:
    """Measure part after part in a worker, and watch it."""
    options = parse(sys.argv[1:])
    if options.worker is None:
        return supervise(
            options.out,
            lambda skip, left, more, pipe: worker_command(
                options, skip=skip, seconds=left, more=more, pipe=pipe
            ),
            seconds=options.seconds,
            step_seconds=options.step_seconds,
            skip=options.skip,
            more=options.more,
        )
    return work(options)


def work(options: argparse.Namespace) -> int:
    """Measure part after part."""
    die_with_parent(os.getppid())
    signs = Signs(options.worker, stacks_of(options.out))
    signs.step("start")
    # Before torch is loaded: deterministic matrix products, and an allocator as in production.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ.setdefault("PYTORCH_ALLOC_CONF", ALLOCATOR)
    from benchmarks.gpu.report import DeviceLostError, LineReport, finished_parts
    from benchmarks.gpu.sections import run_all

    done = finished_parts(options.out) if options.more else []
    with LineReport(
        options.out,
        began=time.perf_counter(),
        seconds=options.seconds,
        skip=options.skip,
        go_on=options.more,
        signs=signs,
    ) as report:
        try:
            run_all(report, device=options.device, only=options.only, long=options.long, done=done)
        except DeviceLostError as error:
            command = worker_command(
                options,
                skip=[*options.skip, error.attempt],
                seconds=max(0.0, report.seconds_left),
                more=True,
                pipe=options.worker,
            )
            os.execv(sys.executable, command)
        return report.exit_code


def worker_command(
    options: argparse.Namespace, *, skip: Sequence[str], seconds: float, more: bool, pipe: int
) -> list[str]:
    """The command of a process that measures.

    Args:
        options: of the command line.
        skip: steps that it leaves out.
        seconds: that it has.
        more: whether it goes on with the report.
        pipe: descriptor through which it tells its steps.
    """
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(options.out)]
    command += ["--worker", str(pipe), "--device", options.device, "--seconds", f"{seconds:.1f}"]
    command += ["--only", options.only] if options.only else []
    command += ["--long"] if options.long else []
    command += ["--more"] if more else []
    for name in skip:
        command += ["--skip", name]
    return command


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options."""
    summary, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=summary,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("gpu-bench.jsonl"), help="file for the lines")
    add("--device", default="auto", help="cuda:N or cpu")
    add("--only", default="", help="parts to run, with commas between them")
    add("--seconds", type=float, help="after which no part is begun")
    add("--long", action="store_true", help="4k as well")
    add("--more", action="store_true", help="go on with the parts that the file lacks")
    add("--step-seconds", type=float, default=STEP_SECONDS, help="without a sign of life")
    add("--worker", type=int, help=argparse.SUPPRESS)
    add("--skip", action="append", default=[], metavar="PART/NAME", help="leave this out")
    options = parser.parse_args(arguments)
    if options.seconds is None:
        options.seconds = LONG_SECONDS if options.long else SECONDS
    if options.device == "auto":
        options.device = "cuda:0" if Path("/dev/nvidiactl").exists() else "cpu"
    return options


if __name__ == "__main__":
    sys.exit(main())
